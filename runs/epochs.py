"""A run from epoch to epoch: trained, evaluated, saved, told."""

import time
from contextlib import nullcontext

from evaluation import Metrics
from runs.averaging import write_mean
from runs.earlystopping import is_patience_over, kept_epoch, outcome
from runs.interruption import StopRequest
from runs.plot import learning_curves, try_to_write_picture
from runs.runfolder import RunFolder, figures, metrics_row
from runs.trainingrun import TrainingRun
from terminal.errors import UserError
from terminal.progress import about, next_click_bar
from training import Diverged, EpochProgress

SAVE_SECONDS = 600  # how often to save within an epoch where --save_every does not say


def train_epochs(run: TrainingRun, folder: RunFolder) -> None:
    """Train up to the last epoch, or till patience is over; evaluate and save after each, and save within each; then
    average, if asked to.

    Raises:
        UserError: loss or weights became NaN or infinite, or a file cannot be written.
        Interrupted: a signal asked for it; everything is saved.
    """
    p = run.parameters
    events = folder.tensorboard_events(run.history) if p.tensorboard else nullcontext(lambda row: None)
    draws = True
    with StopRequest() as stop, events as add_event:
        folder.write_parameters(vars(p))
        folder.write_metrics(run.history)
        for epoch in range(run.progress.epoch, p.n_epochs):
            _train_and_save_epoch(run, folder, stop)
            trained_at = time.perf_counter()
            metrics, done = run.evaluate() if run.is_evaluated(epoch) else None, run.progress
            of_epoch = figures(metrics, p.eval_sessions)
            run.history.append(metrics_row(run.columns, epoch, done.loss, of_epoch, done.seconds, done.n_clicks))
            path = folder.write_checkpoint(run.checkpoint(epoch, within_epoch=None))
            if p.keep_checkpoints:
                kept = kept_epoch(run.history, p)
                folder.delete_epochs_before(epoch + 1 - max(p.keep_checkpoints, p.average), but=kept)
            folder.write_metrics(run.history)
            add_event(run.history[-1])
            draws = draws and _draw_metrics(run, folder)
            seconds_each = done.seconds + time.perf_counter() - trained_at
            print(f"{_epoch_line(run, metrics, seconds_each)} {path}", flush=True)
            run.progress = EpochProgress(epoch + 1)
            if is_patience_over(run.history, p):
                print(f"no better epoch for {p.patience}: stopped", flush=True)
                break
            stop.raise_if_asked()
        if p.average:
            write_mean(run, folder)
            if p.keep_checkpoints:
                folder.delete_epochs_before(p.n_epochs - p.keep_checkpoints)
    if p.patience:
        print(outcome(run.history, p, folder), flush=True)


def follow(run: TrainingRun) -> int:
    """Train as the first of several processes does (:mod:`faster.ranks`), which evaluates, saves and tells."""
    for epoch in range(run.progress.epoch, run.parameters.n_epochs):
        run.train_epoch()
        run.progress = EpochProgress(epoch + 1)
    return 0


def _train_and_save_epoch(run: TrainingRun, folder: RunFolder, stop: StopRequest) -> None:
    """Train to the end of the epoch and save what evaluation must not lose, for that may take a while, too."""
    saver = _Saver(run, folder, stop)
    with next_click_bar(f"epoch {run.progress.epoch}", run.n_next_clicks, run.progress.n_clicks) as bar:
        try:
            run.train_epoch(saver, bar)
            saver.keep(run.progress)
        except (Diverged, FloatingPointError) as error:
            raise UserError(_what_to_do_about(error, run, folder)) from error


def _what_to_do_about(error: ArithmeticError, run: TrainingRun, folder: RunFolder) -> str:
    p = run.parameters
    causes = {"lr": True, "momentum": p.momentum > 0, "bpreg": p.loss_type == "BPR-max", "sigma": p.sigma > 0}
    flags = ", ".join(f"--{name} (now {getattr(p, name):g})" for name, is_cause in causes.items() if is_cause)
    saved = f"; what was saved before is in {folder.path}" if any(folder.path.glob("*.pt")) else ""
    return f"{error}: lower {flags}{saved}"


def _draw_metrics(run: TrainingRun, folder: RunFolder) -> bool:
    """Draw ``metrics.png``, the learning curves so far; says so if that cannot be, and returns whether it was."""
    return try_to_write_picture(lambda: learning_curves({folder.path.name: run.history}), folder.path / "metrics.png")


def _epoch_line(run: TrainingRun, metrics: Metrics | None, seconds_each: float) -> str:
    done, p = run.progress, run.parameters
    evaluated = f" {' '.join(metrics.line(k) for k in p.k_eval)}{run.sample}" if metrics else ""
    left = (p.n_epochs - 1 - done.epoch) * seconds_each
    times = f"{done.seconds:.1f} s" + (f", {about(left)} left" if left else "")
    return f"epoch {done.epoch} loss: {done.loss:.6f}{evaluated} ({times})"


class _Saver:
    """Saves within an epoch: every so many steps or minutes, and when the run is asked to stop."""

    def __init__(self, run: TrainingRun, folder: RunFolder, stop: StopRequest):
        self.run, self.folder, self.stop = run, folder, stop
        self.every = run.parameters.save_every
        self.saved_at = time.monotonic()

    def is_due(self, step: int) -> bool:
        if self.stop.signal_number is not None:
            return True
        if self.every:
            return step % self.every == 0
        return time.monotonic() - self.saved_at > SAVE_SECONDS

    def keep(self, progress: EpochProgress) -> None:
        self.run.model.check_finite()  # a checkpoint of such weights is of no use to anyone
        self.folder.write_checkpoint(self.run.checkpoint(progress.epoch, progress))
        self.saved_at = time.monotonic()
        self.stop.raise_if_asked()

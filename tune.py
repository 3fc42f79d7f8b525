"""Search for the setting with the best validation MRR@20, with Optuna (``pip install optuna``).

    python tune.py --space spaces/bprmax.txt --preset authors-retailrocket --n_trials 50 --n_jobs 2 --study bprmax.db
    python tune.py --space spaces/bprmax.txt --preset authors-retailrocket --study bprmax.db --confirm 3 --final

Every trial trains on train only and is evaluated on valid after each epoch; hopeless ones are cut off. Trials are kept
in an SQLite file, and the same line goes on from there. ``--confirm`` trains the best settings again, with several
seeds, and ``--final`` measures the chosen one on the test file, which nothing before has read.
"""

import argparse
import io
import multiprocessing
import os
import shlex
import signal
import statistics
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomicfile import make_folder
from errors import FlagParser, UserError, run_script
from interruption import Interrupted, StopRequest
from parameters import PARAMETERS, THEMES, Kind, parse_flags, shown, training_parameters
from preprocessing import DATA_FOLDER, TEST, TRAIN_FULL, TRAIN_ONLY, VALID
from presets import PRESETS
from reproduce import K, spread
from training import Diverged, EpochProgress
from trainingrun import TrainingData, TrainingRun, choose_device

try:
    import optuna
except ImportError:
    optuna = None

PATIENCE = 3  # epochs without a better one after which a trial ends
N_SHOWN, N_CONFIRMED = 10, 5  # the best settings that the table shows, and that --confirm trains again
FINAL_SEEDS = (1, 2, 3)
HEARTBEAT_SECONDS = 15  # a trial that has been silent for four of these has lost its process
SETTINGS = ("model", "loss and negative samples", "optimizer")
TUNABLE = [parameter.name for theme in SETTINGS for parameter in THEMES[theme]] + ["batch_size", "time_sort"]


@dataclass(frozen=True)
class Choice:
    """Some values of a flag; a single one is no choice, but fixed."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return shown(list(self.values))

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included, or some of them, steps apart; log: factors are as likely, not sums."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __contains__(self, value: float) -> bool:
        steps = (value - self.low) / (self.step or 1)
        return self.low <= value <= self.high and (self.step is None or abs(steps - round(steps)) < 1e-6)

    def __str__(self) -> str:
        return f"{self.low} .. {self.high}" + (" log" if self.log else f" step {self.step}" if self.step else "")

    def suggest(self, trial: "optuna.Trial", name: str) -> float:
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return float(f"{value:.3g}")  # what a person would type, and what is trained


Space = dict[str, Choice | Range]


def read_space(path: Path) -> Space:
    """Read a search space: a flag of ``main.py`` a line, and its values, or LOW .. HIGH, LOW .. HIGH log or step X.

    Raises:
        UserError: the file cannot be read, or a line of it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the space {path}: {getattr(error, 'strerror', None) or error}") from error
    space: Space = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name, *words = line.partition("#")[0].replace("..", " .. ").split() or [""]
        try:
            if name in space:
                raise ValueError(f"{name} stands in a line above, too")
            if name:
                space[name] = _dimension(name, words)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
    if not split_space(space)[0]:
        raise UserError(f"{path} leaves nothing to choose")
    return space


def _dimension(name: str, words: list[str]) -> Choice | Range:
    """What a line of a space says of a flag; raises ValueError with what is wrong with it."""
    if name not in TUNABLE:
        if name in PARAMETERS:
            raise ValueError(f"{name} is no setting of the model, the loss or the optimizer, so it is not searched")
        meant = get_close_matches(name, TUNABLE, n=1)
        raise ValueError(f"{name} is no flag of main.py" + (f" (did you mean {meant[0]}?)" if meant else ""))
    kind = PARAMETERS[name].kind
    if ".." in words:
        return _range(name, kind, words)
    if not words:
        raise ValueError(f"{name} has no values; expected some, or LOW .. HIGH")
    values = tuple(kind.parse(word) for word in words)
    if len(set(values)) < len(values):
        raise ValueError(f"{name} has a value twice")
    return Choice(values)


def _range(name: str, kind: Kind, words: list[str]) -> Range:
    if kind.metavar not in ("N", "X"):
        raise ValueError(f"{name} is no number: name its values")
    low, _, high, *rest = words if len(words) >= 3 and words[1] == ".." else ["", "", ""]
    if not high or rest not in ([], ["log"]) and (len(rest) != 2 or rest[0] != "step"):
        raise ValueError(f"expected {name} LOW .. HIGH, then log, or step and a number, or nothing")
    whole_or_not = int if kind.metavar == "N" else float
    range_ = Range(kind.parse(low), kind.parse(high), log=rest == ["log"])
    if rest[:1] == ["step"]:
        try:
            range_ = Range(range_.low, range_.high, step=whole_or_not(rest[1]))
        except ValueError:
            raise ValueError(f"step {rest[1]} is not a {'whole ' if whole_or_not is int else ''}number") from None
    if range_.low >= range_.high:
        raise ValueError(f"{name} goes from {low} to {high}, which is not upwards")
    if range_.log and range_.low <= 0:
        raise ValueError(f"{name} starts at {low}, where there is no logarithm")
    if range_.step is not None and not (range_.step > 0 and range_.high in range_):
        raise ValueError(f"steps of {rest[1]} do not lead from {low} to {high}")
    return range_


class Stopper:
    """A :class:`training.Keeper` that keeps nothing, but ends training between two steps once that is asked for."""

    def __init__(self, is_asked: Callable[[], bool]):
        self.is_asked = is_asked

    def is_due(self, step: int) -> bool:
        return self.is_asked()

    def keep(self, progress: EpochProgress) -> None:
        raise KeyboardInterrupt


def run_jobs(work: Callable[[Any, Stopper], Any], jobs: list[Any], n_jobs: int) -> Iterator[tuple[Any, Any]]:
    """Do some work on every job, here or in ``n_jobs`` processes.

    Yields:
        Each job with the work's result, in the order in which they are done.

    Raises:
        Interrupted: a signal came.
    """
    with StopRequest() as stop:
        try:
            if n_jobs == 1:
                for job in jobs:
                    yield job, work(job, Stopper(lambda: stop.signal_number is not None))
                    stop.raise_if_asked()
            else:
                yield from _run_in_processes(work, jobs, n_jobs, stop)
        except KeyboardInterrupt:
            stop.raise_if_asked()
            raise


def _run_in_processes(
    work: Callable[[Any, Stopper], Any], jobs: list[Any], n_jobs: int, stop: StopRequest
) -> Iterator[tuple[Any, Any]]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    asked = context.Event()
    n_threads = max(1, torch.get_num_threads() // n_jobs)
    with ProcessPoolExecutor(n_jobs, context, _begin_process, (asked, n_threads)) as pool:
        try:
            job_of = {pool.submit(_work_in_process, work, job): job for job in jobs}
            pending = set(job_of)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    yield job_of[future], future.result()
                stop.raise_if_asked()
        except BrokenProcessPool as error:
            raise UserError("a process died, of too little memory perhaps: lower --n_jobs and go on") from error
        finally:
            asked.set()
            pool.shutdown(cancel_futures=True)


_stopper: Stopper | None = None


def _begin_process(asked: "multiprocessing.synchronize.Event", n_threads: int) -> None:
    global _stopper
    _stopper = Stopper(asked.is_set)
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent, which gets them too, asks
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(n_threads)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work_in_process(work: Callable[[Any, Stopper], Any], job: Any) -> Any:
    if _stopper.is_asked():  # the pool hands out a job more than there are processes
        raise KeyboardInterrupt
    return work(job, _stopper)


read_data = lru_cache(maxsize=2)(TrainingData.read)  # once per process; two, for --time_sort


def epochs_of(setting: str, flags: argparse.Namespace, stopper: Stopper, **others: Any) -> Iterator[TrainingRun]:
    """Train a setting (flags of ``main.py``, as is what ``others`` name), yielding the run after every epoch.

    Raises:
        UserError: the setting makes no sense.
        Diverged: a step's loss is NaN or infinite.
    """
    others = {"data_folder": flags.data_folder, "device": flags.device or choose_device(None)} | others
    line = shlex.split(f"{flags.base} {setting}") + [
        word for name, value in others.items() for word in (f"--{name}", str(value))
    ]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # the same words for every trial
        p = training_parameters(parse_flags(line))
        data = read_data(p.data_folder, p.train_data, p.valid_data, p.time_sort)
    run = TrainingRun(p, data=data)
    for epoch in range(p.n_epochs):
        run.progress = EpochProgress(epoch)
        run.train_epoch(stopper)
        yield run


def line_of(flags: dict[str, Any]) -> str:
    """Flags as a command line has them."""
    return " ".join(f"--{name} {shlex.quote(shown(value))}" for name, value in flags.items())


def split_space(space: Space) -> tuple[Space, dict[str, Any]]:
    """The flags of a space that have more than one value, and the value of the others."""
    fixed = {name: each.values[0] for name, each in space.items() if isinstance(each, Choice) and len(each.values) == 1}
    return {name: each for name, each in space.items() if name not in fixed}, fixed


def run_trial(_: int, stopper: Stopper, flags: argparse.Namespace, space: Space) -> str | None:
    """Run the study's next trial: what became of it, in a line, or None where enough have been run."""
    study = open_study(flags.study)
    trials = study.get_trials(deepcopy=False)
    if len(finished(study)) >= flags.n_trials:
        return None
    process = os.getpid() if flags.n_jobs > 1 else 0  # those that begin together must not suggest the same
    seed = int(np.random.SeedSequence((flags.seed, len(trials), process)).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    ended: list[optuna.trial.FrozenTrial] = []
    study.optimize(
        lambda trial: validation_mrr(trial, stopper, flags, space),
        n_trials=1,
        callbacks=[lambda _, trial: ended.append(trial)],
    )
    return described(ended[0])


def validation_mrr(trial: "optuna.Trial", stopper: Stopper, flags: argparse.Namespace, space: Space) -> float:
    """Train what a trial suggests: MRR@20 of its best epoch, whose number and Recall@20 the trial keeps.

    Raises:
        optuna.TrialPruned: it falls behind, its loss diverges, it needs too much memory or makes no sense.
    """
    chosen = {name: each.suggest(trial, name) for name, each in space.items()}
    trial.set_user_attr("setting", line_of(chosen))
    best, best_epoch = -1.0, 0
    try:
        for epoch, run in enumerate(epochs_of(line_of(chosen), flags, stopper, n_epochs=flags.n_epochs)):
            metrics = run.evaluate()
            trial.report(metrics.mrr[K], epoch)
            if metrics.mrr[K] > best:
                best, best_epoch = metrics.mrr[K], epoch
                trial.set_user_attr("n_epochs", epoch + 1)
                trial.set_user_attr("recall", metrics.recall[K])
            if trial.should_prune():
                raise optuna.TrialPruned
            if epoch - best_epoch == PATIENCE:
                break
    except (UserError, Diverged, FloatingPointError, MemoryError, torch.cuda.OutOfMemoryError) as error:
        trial.set_user_attr("problem", str(error) or "out of memory")
        raise optuna.TrialPruned from error
    return best


def described(trial: "optuna.trial.FrozenTrial") -> str:
    """What became of a trial, in a line."""
    attributes = trial.user_attrs
    n_epochs = len(trial.intermediate_values)
    if "problem" in attributes:
        outcome = attributes["problem"]
    else:
        best = max(trial.intermediate_values.values())
        pruned = ", pruned" if trial.state == optuna.trial.TrialState.PRUNED else ""
        outcome = (
            f"MRR@{K} {best:.4f} Recall@{K} {attributes['recall']:.4f}, best of {n_epochs} epochs: "
            f"{attributes['n_epochs']}{pruned} ({trial.duration.total_seconds():.0f} s)"
        )
    return f"trial {trial.number}: {outcome}: {attributes['setting']}"


def open_study(path: Path) -> "optuna.Study":
    """The study of an SQLite file; an empty one where there is none.

    Raises:
        UserError: the file is something else, or cannot be written.
    """
    make_folder(path.parent)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{path}",
                engine_kwargs={"connect_args": {"timeout": 60}},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=4 * HEARTBEAT_SECONDS,
            )
            return optuna.create_study(storage=storage, study_name="GRU4Rec", direction="maximize", load_if_exists=True)
    except Exception as error:  # SQLAlchemy's, which is Optuna's affair
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot keep a study in {path}: {reason}; name another file with --study") from error


def finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Trials that ended by themselves: complete, or pruned."""
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)


def begin_or_go_on(study: "optuna.Study", flags: argparse.Namespace, space: Space) -> None:
    """Give a new study what it is made with, and the base's own setting as first trial; refuse others to an old one.

    Raises:
        UserError: the study was made with something else.
    """
    data = read_data(str(flags.data_folder), TRAIN_ONLY, VALID, True)
    made_with = {
        "train only": f"{len(data.sessions.items):,} clicks in {len(data.sessions):,} sessions",
        "valid": f"{data.valid_sessions.n_transitions:,} next clicks",
        "the base": flags.base,
        "--n_epochs": flags.n_epochs,
    } | {f"the space of {name}": str(each) for name, each in space.items()}
    before = study.user_attrs.get("made_with")
    if before is None:
        study.set_user_attr("made_with", made_with)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            base = vars(training_parameters(parse_flags(shlex.split(flags.base))))
        if all(base[name] in each for name, each in space.items()):
            study.enqueue_trial({name: base[name] for name in space})
        return
    for name in {**before, **made_with}:
        was, now = before.get(name, "none"), made_with.get(name, "none")
        if was != now:
            raise UserError(
                f"{flags.study} was made with another setup: {name} was {was!r} and is {now!r}; "
                "name another file with --study"
            )


def best_trials(study: "optuna.Study", n: int) -> list["optuna.trial.FrozenTrial"]:
    """The best of the complete trials, best first, each setting once."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    best_first = sorted(complete, key=lambda trial: -trial.value)
    return list({trial.user_attrs["setting"]: trial for trial in reversed(best_first)}.values())[::-1][:n]


def print_best(study: "optuna.Study") -> None:
    """The table of the best trials, and which flags mattered."""
    print(f"\ntrial  MRR@{K}  Recall@{K}  epochs  setting")
    for trial in best_trials(study, N_SHOWN):
        attributes = trial.user_attrs
        figures = f"{trial.value:.4f}  {attributes['recall']:9.4f}  {attributes['n_epochs']:6}"
        print(f"{trial.number:5}  {figures}  {attributes['setting']}")
    if len(best_trials(study, N_SHOWN)) == N_SHOWN:  # of fewer nothing can be said
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
        print("importance (PED-ANOVA): " + ", ".join(f"{name} {share:.2f}" for name, share in importances.items()))


def confirm(study: "optuna.Study", flags: argparse.Namespace) -> None:
    """Train the best settings on train only with several seeds; the study keeps Recall and MRR of every epoch."""
    curves = study.user_attrs.get("confirmed", {})
    jobs = [
        (trial.user_attrs["setting"], len(trial.intermediate_values), seed)
        for trial in best_trials(study, N_CONFIRMED)
        for seed in range(1, flags.confirm + 1)
        if str(seed) not in curves.get(trial.user_attrs["setting"], {})
    ]
    for (setting, _, seed), curve in run_jobs(partial(validation_curve, flags=flags), jobs, flags.n_jobs):
        curves.setdefault(setting, {})[str(seed)] = curve
        study.set_user_attr("confirmed", curves)
        print(f"seed {seed}: MRR@{K} {max(curve, default=0):.4f}: {setting}", flush=True)


def validation_curve(job: tuple[str, int, int], stopper: Stopper, flags: argparse.Namespace) -> list[float]:
    """MRR@20 on valid after every epoch of a setting with a seed; nothing if it diverges."""
    setting, n_epochs, seed = job
    try:
        return [run.evaluate().mrr[K] for run in epochs_of(setting, flags, stopper, n_epochs=n_epochs, seed=seed)]
    except (Diverged, FloatingPointError):
        return []


def choose(study: "optuna.Study") -> tuple[str, int]:
    """The best setting and its number of epochs: by the mean of its seeds where some are confirmed."""
    confirmed = study.user_attrs.get("confirmed")
    if not confirmed:
        (best,) = best_trials(study, 1)
        return best.user_attrs["setting"], best.user_attrs["n_epochs"]
    print(f"\nMRR@{K} of the seeds  epochs  setting")
    best = (-1.0, "", 0)
    for setting, curve_of in confirmed.items():
        mean_curve = [statistics.mean(epoch) for epoch in zip(*curve_of.values(), strict=False)] or [0.0]
        n_epochs = int(np.argmax(mean_curve)) + 1
        at_best = [curve[n_epochs - 1] if curve else 0.0 for curve in curve_of.values()]
        print(f"{spread(at_best, '{:.4f}'.format):>19}  {n_epochs:6}  {setting}")
        best = max(best, (mean_curve[n_epochs - 1], setting, n_epochs))
    return best[1:]


def measure(study: "optuna.Study", flags: argparse.Namespace) -> None:
    """Train the chosen setting on train full with several seeds and evaluate each once on the test file, at its end."""
    setting, n_epochs = choose(study)
    line = f"{setting} --n_epochs {n_epochs}"
    print(f"\nchosen: {flags.base} {line}", flush=True)
    finals = study.user_attrs.get("final", {})
    jobs = [(line, seed) for seed in FINAL_SEEDS if str(seed) not in finals.get(line, {})]
    for (_, seed), figures in run_jobs(partial(test_figures, flags=flags), jobs, flags.n_jobs):
        finals.setdefault(line, {})[str(seed)] = figures
        study.set_user_attr("final", finals)
        print(f"seed {seed}: Recall@{K} {figures[0]:.4f} MRR@{K} {figures[1]:.4f}", flush=True)
    if len(finals) > 1:
        print(f"{TEST} has measured {len(finals)} settings of this study; their best is no fair figure")
    recall, mrr = (spread(list(values), "{:.4f}".format) for values in zip(*finals[line].values(), strict=True))
    print(f"{TEST}: Recall@{K} {recall} MRR@{K} {mrr}; with seed {FINAL_SEEDS[0]}:")
    files = line_of({"data_folder": flags.data_folder, "train_data": TRAIN_FULL, "valid_data": TEST})
    print(f"python main.py {files} {flags.base} {line} --seed {FINAL_SEEDS[0]}")


def test_figures(job: tuple[str, int], stopper: Stopper, flags: argparse.Namespace) -> tuple[float, float]:
    """Recall@20 and MRR@20 on the test file of a setting trained on train full with a seed."""
    setting, seed = job
    *_, run = epochs_of(setting, flags, stopper, seed=seed, train_data=TRAIN_FULL, valid_data=TEST)
    metrics = run.evaluate()
    return metrics.recall[K], metrics.mrr[K]


def parse_command_line() -> argparse.Namespace:
    parser = FlagParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data_folder", type=Path, default=DATA_FOLDER, help="prepared files (%(default)s)")
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="what to search, see spaces/")
    parser.add_argument("--preset", choices=PRESETS, metavar="NAME", help="gives what the space does not name")
    parser.add_argument("--study", type=Path, default=Path("study.db"), metavar="FILE", help="trials (%(default)s)")
    parser.add_argument("--n_trials", type=int, default=50, help="trials of the study in all (%(default)s)")
    parser.add_argument("--n_epochs", type=int, default=10, help="most epochs of a trial (%(default)s)")
    parser.add_argument("--n_jobs", type=int, default=1, help="processes side by side (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is suggested (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one, else cpu)")
    parser.add_argument("--confirm", type=int, default=0, metavar="N", help="train the best settings with N seeds more")
    parser.add_argument("--final", action="store_true", help="measure the chosen setting on the test file")
    flags = parser.parse_args()
    for name, least in (("n_trials", 0), ("n_epochs", 1), ("n_jobs", 1), ("seed", 0), ("confirm", 0)):
        if getattr(flags, name) < least:
            raise UserError(f"--{name} {getattr(flags, name)} is below {least}")
    return flags


def main() -> int:
    flags = parse_command_line()
    if optuna is None:
        raise UserError("tune.py needs Optuna: pip install optuna")
    space, fixed = split_space(read_space(flags.space))
    flags.base = line_of(({"preset": flags.preset} if flags.preset else {}) | fixed)
    flags.device = str(choose_device(flags.device))
    try:
        study = open_study(flags.study)
        begin_or_go_on(study, flags, space)
        n_missing = max(0, flags.n_trials - len(finished(study)))
        print(f"{flags.study}: {len(finished(study))} of {flags.n_trials} trials are done", flush=True)
        work = partial(run_trial, flags=flags, space=space)
        for _, line in run_jobs(work, list(range(n_missing)), flags.n_jobs):
            if line:
                print(line, flush=True)
        if not best_trials(study, 1):
            raise UserError("no trial came to its end: widen the space, or raise --n_trials")
        print_best(study)
        if flags.confirm:
            confirm(study, flags)
        if flags.final:
            measure(study, flags)
    except Interrupted as interrupted:
        print(f"stopped by {interrupted}; go on with the same line")
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    run_script(main)

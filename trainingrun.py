"""A training run: put together from parameters, driven epoch by epoch, saved, and taken up again."""

import time
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from compilation import choose_step
from dataset import ItemIndex, NegativeSampler, SessionParallelBatches, Sessions, encode_sessions, read_session_clicks
from device import choose_device, keep_freed_memory, random_state, set_random_state, use_deterministic_algorithms
from errors import UserError, warn
from evaluation import Metrics, evaluate
from interruption import StopRequest
from lossfunction import make_loss_function
from model import GRU4Rec
from optimizer import Optimizer, make_rule
from progress import about, next_click_bar
from restoring import make_model, misfit, restored
from runfolder import RunFolder, metrics_columns, metrics_row
from training import Diverged, EpochProgress, Keeper, train_epoch

SAVE_SECONDS = 600  # how often to save within an epoch where --save_every does not say


@dataclass(frozen=True)
class TrainingData:
    """What a run trains and is evaluated on. Runs can share it: nothing in it changes.

    Attributes:
        index: the items of the training file.
        sessions: those to train on.
        support: ``[n_items]`` int64, how often each item is clicked in them.
        valid_sessions: those to evaluate on.
    """

    index: ItemIndex
    sessions: Sessions
    support: Tensor
    valid_sessions: Sessions

    @classmethod
    def read(cls, data_folder: str, train_data: str, valid_data: str, time_sort: bool) -> "TrainingData":
        """Read what the parameters of these names say.

        Raises:
            UserError: a file is missing or unusable.
        """
        train_file = data_file(data_folder, train_data)
        print(f"reading {train_file}", flush=True)
        clicks = read_session_clicks(train_file)
        index = ItemIndex.of(clicks)
        sessions, _ = encode_sessions(clicks, index, time_sort)
        support = torch.from_numpy(sessions.support(len(index)))
        return cls(index, sessions, support, read_valid_sessions(data_file(data_folder, valid_data), index))


class TrainingRun:
    """Everything that a training run holds. Making one readies the process, too: device, seed, allocator.

    Args:
        parameters: all of them, see :mod:`parameters`.
        checkpoint: what :func:`runfolder.read_checkpoint` gave, to go on from there; None starts anew.
        data: what the parameters' files hold, where that has been read before.

    Raises:
        UserError: parameters, data and checkpoint do not fit together.
    """

    def __init__(
        self, parameters: Namespace, checkpoint: dict[str, Any] | None = None, data: TrainingData | None = None
    ):
        self.parameters = p = parameters
        self.device = choose_device(p.device)
        p.device = str(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        use_deterministic_algorithms(p.deterministic, self.device)
        data = data or TrainingData.read(p.data_folder, p.train_data, p.valid_data, p.time_sort)
        self.index, self.sessions, self.support = data.index, data.sessions, data.support
        self.valid_sessions = data.valid_sessions
        self._refuse_impossible_sizes()

        torch.manual_seed(p.seed)
        self.model = self._restored_model(checkpoint) if checkpoint else make_model(p, len(self.index))
        self.model.to(self.device)
        self.optimizer = Optimizer(
            self.model.network_parameters(),
            self.model.item_tables(),
            make_rule(p.optimizer_type, p.lr, p.momentum, p.eps),
            p.weight_decay,
        )
        self.loss_function = make_loss_function(
            p.loss_type, p.bpreg, p.logq, p.sample_alpha, self.support.to(self.device)
        )
        self.batches = SessionParallelBatches(
            self.sessions, p.batch_size, min_alive=1 if p.n_sample else 2, bptt=p.bptt
        )
        self.sampler = NegativeSampler(self.support.numpy(), p.sample_alpha, p.n_sample, p.seed, self.device)
        n_steps = p.n_epochs * self.sessions.n_next_clicks // p.batch_size
        n_scores = p.batch_size * (p.batch_size + p.n_sample)
        self.step = choose_step(p.compile, self.device, n_steps, n_scores)
        self.progress = EpochProgress(epoch=0)
        self.history: list[dict[str, Any]] = []
        if checkpoint:
            self._go_on_from(checkpoint)

    def describe(self) -> str:
        """What is trained on what, in a line."""
        p = self.parameters
        return (
            f"{p.train_data}: {len(self.sessions.items):,} clicks in {len(self.sessions):,} sessions on "
            f"{len(self.index):,} items, {self.sessions.n_next_clicks:,} next clicks to train on; "
            f"{p.valid_data}: {self.valid_sessions.n_next_clicks:,} to evaluate; device: {self.device}"
        )

    def train(self, folder: RunFolder) -> None:
        """Train up to the last epoch; evaluate and save after each, and save within each.

        Raises:
            UserError: loss or weights became NaN or infinite, or a file cannot be written.
            Interrupted: a signal asked for it; everything is saved.
        """
        events = (
            folder.tensorboard_events(self.history) if self.parameters.tensorboard else nullcontext(lambda row: None)
        )
        draws = True
        with StopRequest() as stop, events as add_event:
            folder.write_parameters(vars(self.parameters))
            folder.write_metrics(self.history)
            for epoch in range(self.progress.epoch, self.parameters.n_epochs):
                self._train_and_save_epoch(folder, stop)
                trained_at = time.perf_counter()
                metrics, done = self.evaluate(), self.progress
                self.history.append(metrics_row(epoch, done.loss, metrics, done.seconds, done.n_clicks))
                path = folder.write_checkpoint(self.checkpoint(epoch, within_epoch=None))
                if self.parameters.keep_checkpoints:
                    folder.delete_epochs_before(epoch + 1 - self.parameters.keep_checkpoints)
                folder.write_metrics(self.history)
                add_event(self.history[-1])
                draws = draws and folder.draw_metrics(self.history)
                seconds_each = done.seconds + time.perf_counter() - trained_at
                print(f"{self._epoch_line(metrics, seconds_each)} {path}", flush=True)
                self.progress = EpochProgress(epoch + 1)
                stop.raise_if_asked()

    def _epoch_line(self, metrics: Metrics, seconds_each: float) -> str:
        done, p = self.progress, self.parameters
        figures = " ".join(metrics.line(k) for k in p.k_eval)
        left = (p.n_epochs - 1 - done.epoch) * seconds_each
        times = f"{done.seconds:.1f} s" + (f", {about(left)} left" if left else "")
        return f"epoch {done.epoch} loss: {done.loss:.6f} {figures} ({times})"

    def train_epoch(self, keeper: Keeper | None = None, bar: tqdm | None = None) -> None:
        """Train to the end of the epoch of ``progress``; nothing is saved but by the keeper.

        Raises:
            Diverged: a step's loss is NaN or infinite.
        """
        train_epoch(
            self.model,
            self.optimizer,
            self.loss_function,
            self.batches,
            self.sampler,
            self.progress,
            keeper,
            bar,
            self.step,
        )

    def evaluate(self) -> Metrics:
        """Recall@K and MRR@K on the validation sessions.

        Raises:
            FloatingPointError: a weight is NaN or infinite.
        """
        return evaluate(self.model, self.valid_sessions, self.parameters.k_eval, self.parameters.tie_breaking)

    def _train_and_save_epoch(self, folder: RunFolder, stop: StopRequest) -> None:
        """Train to the end of the epoch and save what evaluation must not lose, for that may take a while, too."""
        saver = _Saver(self, folder, stop)
        with next_click_bar(f"epoch {self.progress.epoch}", self.sessions.n_next_clicks, self.progress.n_clicks) as bar:
            try:
                self.train_epoch(saver, bar)
                saver.keep(self.progress)
            except (Diverged, FloatingPointError) as error:
                raise UserError(self._what_to_do_about(error, folder)) from error

    def _what_to_do_about(self, error: ArithmeticError, folder: RunFolder) -> str:
        p = self.parameters
        causes = {"lr": True, "momentum": p.momentum > 0, "bpreg": p.loss_type == "BPR-max", "sigma": p.sigma > 0}
        flags = ", ".join(f"--{name} (now {getattr(p, name):g})" for name, is_cause in causes.items() if is_cause)
        saved = f"; what was saved before is in {folder.path}" if any(folder.path.glob("*.pt")) else ""
        return f"{error}: lower {flags}{saved}"

    def checkpoint(self, epoch: int, within_epoch: EpochProgress | None) -> dict[str, Any]:
        """All of :data:`runfolder.CONTENT` but the version."""
        return {
            "parameters": vars(self.parameters),
            "item_ids": self.index.state(),
            "support": self.support,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": epoch,
            "within_epoch": asdict(within_epoch) if within_epoch else None,
            "history": self.history,
            "random_state": random_state(self.device),
        }

    def _refuse_impossible_sizes(self) -> None:
        p = self.parameters
        if p.batch_size > len(self.sessions):
            raise UserError(
                f"--batch_size {p.batch_size} is more than the {len(self.sessions):,} sessions of {p.train_data}"
            )
        refuse_large_cutoffs(p.k_eval, len(self.index))

    def _restored_model(self, checkpoint: dict[str, Any]) -> GRU4Rec:
        p = self.parameters
        model, index = restored(checkpoint, p, p.load_model)
        if not (np.array_equal(index.ids, self.index.ids) and torch.equal(checkpoint["support"], self.support)):
            raise UserError(
                f"{p.load_model} was trained on other clicks than those of {data_file(p.data_folder, p.train_data)}: "
                "name its file with --data_folder and --train_data, or start anew in another --checkpoint_dir"
            )
        return model

    def _go_on_from(self, checkpoint: dict[str, Any]) -> None:
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.history = checkpoint["history"]
            if any(list(row) != metrics_columns(self.parameters.k_eval) for row in self.history):
                raise ValueError("its history has other columns")
            if checkpoint["within_epoch"] is None:
                self.progress = EpochProgress(checkpoint["epoch"] + 1)
            else:
                self.progress = EpochProgress(**checkpoint["within_epoch"])
                if self.progress.epoch != checkpoint["epoch"] or self.progress.step < 0:
                    raise ValueError("it is nowhere within its epoch")
                states = self.progress.hidden
                if isinstance(states, Tensor):  # of a version before --bptt
                    states = [states]
                if len(states) != self.parameters.bptt:
                    raise ValueError(f"it has {len(states)} hidden states for --bptt {self.parameters.bptt}")
                self.progress.hidden = [
                    self.model.initial_hidden(self.parameters.batch_size).copy_(state) for state in states
                ]
            set_random_state(checkpoint["random_state"], self.device)
        except (ValueError, KeyError, AttributeError, TypeError, RuntimeError, OverflowError) as error:
            raise misfit(self.parameters.load_model, error) from error


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


def data_file(folder: str, name: str) -> Path:
    """A prepared file: a name inside the data folder, or a path of its own.

    Raises:
        UserError: there is no such file.
    """
    for path in (Path(folder) / name, Path(name)):
        if path.is_file():
            return path
    there = sorted(path.name for path in Path(folder).glob("*.txt"))
    hint = (
        f"there are {', '.join(there)}" if there else "write it with preprocessing.py, or say where with --data_folder"
    )
    raise UserError(f"no file {Path(folder) / name}: {hint}")


def read_valid_sessions(path: Path, index: ItemIndex) -> Sessions:
    """The sessions to evaluate on; clicks on items that training never saw are dropped, with a warning.

    Raises:
        UserError: the file is unusable, or nothing is left of it.
    """
    sessions, n_dropped = encode_sessions(read_session_clicks(path), index)
    if n_dropped:
        warn(f"{path}: dropped {n_dropped:,} clicks on items that training never saw, or alone in a session after that")
    if len(sessions) == 0:
        raise UserError(f"{path} has no items in common with the training data")
    return sessions


def refuse_large_cutoffs(ks: list[int], n_items: int) -> None:
    """Refuse a K at which every next click is a hit.

    Raises:
        UserError: a K is above the number of items.
    """
    if max(ks) > n_items:
        raise UserError(f"--k_eval {max(ks)} is more than the {n_items:,} items: every next click would be a hit")

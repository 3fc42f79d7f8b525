"""A training run: put together from parameters, driven epoch by epoch, saved, and brought back from a checkpoint."""

import os
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
from errors import UserError, warn
from evaluation import Metrics, evaluate
from interruption import StopRequest
from lossfunction import make_loss_function
from model import GRU4Rec
from optimizer import Optimizer, make_rule
from parameters import checked_parameters
from progress import about, next_click_bar
from runfolder import RunFolder, metrics_columns, metrics_row
from training import (
    Diverged,
    EpochProgress,
    Keeper,
    keep_freed_memory,
    random_state,
    set_random_state,
    train_epoch,
)

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
    """Everything that a training run holds.

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
        self._refuse_misfits(checkpoint)

        torch.manual_seed(p.seed)
        self.model = restored_model(p, checkpoint) if checkpoint else make_model(p, len(self.index))
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
        n_steps = p.n_epochs * self.sessions.n_transitions // p.batch_size
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
            f"{len(self.index):,} items, {self.sessions.n_transitions:,} next clicks to train on; "
            f"{p.valid_data}: {self.valid_sessions.n_transitions:,} to evaluate; device: {self.device}"
        )

    def train(self, folder: RunFolder) -> None:
        """Train up to the last epoch; evaluate and save after each, and save within each.

        Raises:
            UserError: loss or weights became NaN or infinite, or a file cannot be written.
            Interrupted: a signal asked for it; everything is saved.
        """
        folder.write_parameters(vars(self.parameters))
        folder.write_metrics(self.history)
        events = (
            folder.tensorboard_events(self.history) if self.parameters.tensorboard else nullcontext(lambda row: None)
        )
        draws = True
        with StopRequest() as stop, events as add_event:
            for epoch in range(self.progress.epoch, self.parameters.n_epochs):
                self._train_epoch(folder, stop)
                trained_at = time.perf_counter()
                metrics = self.evaluate()
                loss, seconds = self.progress.loss, self.progress.seconds
                self.history.append(metrics_row(epoch, loss, metrics, seconds, self.progress.n_clicks))
                path = folder.write_checkpoint(self.checkpoint(epoch, within_epoch=None))
                folder.write_metrics(self.history)
                add_event(self.history[-1])
                draws = draws and folder.draw_metrics(self.history)
                figures = " ".join(metrics.line(k) for k in self.parameters.k_eval)
                left = (self.parameters.n_epochs - 1 - epoch) * (seconds + time.perf_counter() - trained_at)
                times = f"{seconds:.1f} s" + (f", {about(left)} left" if left else "")
                print(f"epoch {epoch} loss: {loss:.6f} {figures} ({times}) {path}", flush=True)
                self.progress = EpochProgress(epoch + 1)
                stop.raise_if_asked()

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

    def _train_epoch(self, folder: RunFolder, stop: StopRequest) -> None:
        """Train to the end of the epoch and save what evaluation must not lose, for that may take a while, too."""
        saver = _Saver(self, folder, stop)
        with next_click_bar(f"epoch {self.progress.epoch}", self.sessions.n_transitions, self.progress.n_clicks) as bar:
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

    def _refuse_misfits(self, checkpoint: dict[str, Any] | None) -> None:
        p = self.parameters
        if p.batch_size > len(self.sessions):
            raise UserError(
                f"--batch_size {p.batch_size} is more than the {len(self.sessions):,} sessions of {p.train_data}"
            )
        refuse_large_cutoffs(p.k_eval, len(self.index))
        if checkpoint and not (
            np.array_equal(restored_index(self.parameters, checkpoint).ids, self.index.ids)
            and torch.equal(checkpoint["support"], self.support)
        ):
            raise UserError(
                f"{p.load_model} was trained on other clicks than those of {data_file(p.data_folder, p.train_data)}: "
                "name its file with --data_folder and --train_data"
            )

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
            raise UserError(f"{self.parameters.load_model} does not fit together: {error}") from error


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


def choose_device(name: str | None) -> torch.device:
    """The named device, or CUDA where there is one that works, else the CPU.

    Raises:
        UserError: there is no such device here, or it does not work.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(name or ("cuda" if n_gpus else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {name} is no device; expected cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device {name} is not supported; expected cpu, cuda or cuda:N")
    if (device.index or 0) >= n_gpus:
        raise UserError(f"--device {name} is not here: PyTorch sees {n_gpus} CUDA devices; use --device cpu")
    try:
        _use(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if name is None and "no kernel image" in reason:
            warn(f"PyTorch {torch.__version__} was built without this GPU's kernels ({reason}): going on with the CPU")
            return torch.device("cpu")
        raise UserError(f"{device} cannot be used ({reason}); choose another with --device cuda:N or cpu") from error
    return device


def _use(device: torch.device) -> None:
    """Have a device do something: PyTorch counts GPUs as available that its build is too new, or too old, for."""
    torch.zeros(1, device=device).add_(1)
    if device.index is not None:
        torch.cuda.set_device(device)  # a compiler saves and restores the random state of the current one


def use_deterministic_algorithms(wanted: bool, device: torch.device) -> None:
    """Make CUDA add in a fixed order, so that a run repeats to the last bit; the CPU does so anyway."""
    if wanted and device.type == "cpu":
        warn("--deterministic has no effect on the CPU, where every run repeats to the last bit")
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads it


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


def make_model(parameters: Namespace, n_items: int) -> GRU4Rec:
    """A model with fresh weights."""
    return GRU4Rec(
        n_items,
        hidden_size=parameters.hidden_size,
        num_layers=parameters.num_layers,
        embedding_dim=parameters.embedding_dim,
        constrained_embedding=parameters.constrained_embedding,
        dropout_input=parameters.dropout_input,
        dropout_hidden=parameters.dropout_hidden,
        reset_gate=parameters.reset_gate,
        final_act=parameters.final_act,
        sigma=parameters.sigma,
    )


def saved_parameters(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The parameters of a checkpoint, each of them checked.

    Raises:
        UserError: one is unknown, or has a value that no flag could give it.
    """
    try:
        return checked_parameters(checkpoint["parameters"])
    except ValueError as error:
        raise UserError(f"{path} does not fit together: {error}") from error


def restored_index(parameters: Namespace, checkpoint: dict[str, Any]) -> ItemIndex:
    """The items of a checkpoint.

    Raises:
        UserError: they are no list of ids, or not as many as its support.
    """
    try:
        index = ItemIndex.from_state(checkpoint["item_ids"])
    except ValueError as error:
        raise UserError(f"{parameters.load_model} does not fit together: {error}") from error
    if checkpoint["support"].shape != (len(index),):
        raise UserError(f"{parameters.load_model} does not fit together: its support is not that of its items")
    return index


def restored_model(parameters: Namespace, checkpoint: dict[str, Any]) -> GRU4Rec:
    """A model with the weights of a checkpoint; its parameters alone cannot make it take memory.

    Raises:
        UserError: the weights are not those of the parameters and the items.
    """
    weights, support = checkpoint["model"], checkpoint["support"]
    n_items = len(restored_index(parameters, checkpoint))
    fits = (
        support.dtype == torch.int64
        and bool((support > 0).all())
        and all(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in weights.values())
        and sum(str(name).startswith("cells.") for name in weights) == 2 * parameters.num_layers
    )
    if fits:
        try:
            with torch.device("meta"):
                model = make_model(parameters, n_items)
            model.load_state_dict(weights, assign=True)
        except (RuntimeError, TypeError, AttributeError):
            fits = False
    if not fits:
        raise UserError(
            f"{parameters.load_model} does not fit together: its weights are not those of its parameters and its items"
        )
    return model


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, for which PyTorch has an exception of its own on CUDA, and none on the CPU.

    Not so an illegal access to memory.
    """
    messages = "out of memory", "not enough memory", "allocate memory"
    said = isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    return said or isinstance(error, MemoryError)

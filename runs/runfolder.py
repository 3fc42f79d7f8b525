"""What a run leaves: ``checkpoint/MMDDHHMM/`` with ``parameter.txt``, ``metrics.csv``, ``metrics.png``, checkpoints.

``model_00000.pt`` … are written at the end of every epoch, ``partial.pt`` within one, until the epoch ends;
``model_mean.pt`` is the mean of the last ones, where that is asked for, and ``mean.csv`` has its figures. A checkpoint
is data: tensors and plain values, loaded with ``weights_only=True`` after its checksum has been verified. It is what
``torch.save`` writes, a zip archive, with the checksum as the archive's comment: ``torch.load`` reads it, too.
"""

import csv
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from evaluation import Metrics
from runs.parameters import shown
from terminal.atomicfile import atomic_write, make_folder, remove_unfinished, write_csv
from terminal.errors import UserError, warn
from terminal.memory import is_out_of_memory

FORMAT_VERSION = 1
PARTIAL, MEAN = "partial.pt", "model_mean.pt"
EXAMPLE = "checkpoint/07240927/model_00009.pt"
CONTENT = {  # what a checkpoint holds, by name and type
    "format_version": int,
    "parameters": dict,  # every parameter of the run
    "item_ids": (torch.Tensor, list),  # [n_items] int64, the id of every item index; a list of str if ids are text
    "support": torch.Tensor,  # [n_items] int64, how often each item was clicked in training
    "checksums": dict,  # of the sessions, see trainingdata.TrainingData
    "model": dict,  # state dict
    "optimizer": dict,  # state dict; empty in a mean of several epochs, see average.py
    "epoch": int,  # the epoch that has just ended, from 0; with within_epoch, the one that has not
    "within_epoch": (dict, type(None)),  # how far it has come, see training.EpochProgress
    "history": list,  # a row of metrics.csv per epoch that has ended
    "random_state": dict,  # of dropout, by kind of device
    "grown_from": list,  # what it was before it grew, each time, the first one first, see growing.py
}

ADDED = ("checksums", "grown_from")  # earlier checkpoints of the same format version lack them
READ_AT_ONCE = 2**20  # bytes


class RunFolder:
    """The folder of one run.

    Args:
        path: an existing folder; :meth:`create` makes a new one.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, checkpoint_dir: Path) -> "RunFolder":
        """A new folder, named by the minute; a name that is taken gets a number behind it.

        Raises:
            UserError: it cannot be created.
        """
        make_folder(checkpoint_dir)
        name = time.strftime("%m%d%H%M")
        path, attempt = checkpoint_dir / name, 1
        while True:
            try:
                path.mkdir()
                return cls(path)
            except FileExistsError:
                attempt += 1
                path = checkpoint_dir / f"{name}_{attempt}"
            except OSError as error:
                raise UserError(f"cannot create a run folder in {checkpoint_dir}: {error.strerror}") from error

    def write_parameters(self, parameters: dict[str, Any]) -> None:
        """Write ``parameter.txt``: a line NAME=value for each."""
        with atomic_write(self.path / "parameter.txt") as file:
            file.write(b"".join(map(_parameter_line, parameters.items())))

    def was_run_with_other(self, parameters: dict[str, Any]) -> bool:
        """Whether ``parameter.txt`` has another value of one of these; one that it lacks may have any."""
        try:
            text = b"\n" + (self.path / "parameter.txt").read_bytes()
        except OSError:
            return False
        return any(
            f"\n{name}=".encode() in text and b"\n" + _parameter_line((name, value)) not in text
            for name, value in parameters.items()
        )

    def write_mean_metrics(self, epochs: range, of_mean: dict[str, float]) -> None:
        """Write ``mean.csv``: the figures of the mean of these epochs, by their columns; perhaps there are none."""
        write_csv(self.path / "mean.csv", [{"epochs": _said(epochs)} | of_mean])

    def has_mean_of(self, epochs: range) -> bool:
        """Whether the mean of just these epochs is here, with its figures."""
        try:
            with open(self.path / "mean.csv", newline="") as file:
                (row,) = csv.DictReader(file)
        except (OSError, ValueError):
            return False
        return row.get("epochs") == _said(epochs) and (self.path / MEAN).exists()

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write ``metrics.csv``: a row per epoch, columns as in the first row; nothing without a row."""
        if history:
            write_csv(self.path / "metrics.csv", history)

    @contextmanager
    def tensorboard_events(self, history: list[dict[str, Any]]) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Open a file of TensorBoard events; gives what adds a row of ``metrics.csv`` to it.

        Args:
            history: rows so far. They are written again, for a run that was cut off may have left some of them out, and
                TensorBoard is told to forget what earlier files of this folder say.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            warn("--tensorboard has no effect: TensorBoard is not installed: pip install tensorboard")
            yield lambda row: None
            return

        def add(row: dict[str, Any]) -> None:
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    writer.add_scalar(name, value, row["epoch"])
            writer.flush()

        with closing(SummaryWriter(str(self.path), purge_step=0)) as writer:
            for row in history:
                add(row)
            yield add

    def write_checkpoint(self, checkpoint: dict[str, Any]) -> Path:
        """Write a checkpoint as :func:`write_checkpoint` does. That of an ended epoch replaces the partial one.

        Returns:
            Where it was written.

        Raises:
            UserError: it cannot be written; what was there before still is.
        """
        partial = self.path / PARTIAL
        ended = checkpoint["within_epoch"] is None
        path = self.epoch_path(checkpoint["epoch"]) if ended else partial
        write_checkpoint(path, checkpoint)
        if ended:
            partial.unlink(missing_ok=True)
        return path

    def epoch_path(self, epoch: int) -> Path:
        """Where the checkpoint of an ended epoch is, or will be."""
        return self.path / f"model_{epoch:05d}.pt"

    def delete_epochs_before(self, epoch: int, but: int | None = None) -> None:
        """Delete the checkpoints of epochs that ended before this one, but not that of epoch ``but``."""
        for path in self.path.glob("model_*.pt"):
            number = path.stem.removeprefix("model_")
            if number.isdecimal() and int(number) < epoch and int(number) != but:
                path.unlink(missing_ok=True)


def _parameter_line(parameter: tuple[str, Any]) -> bytes:
    name, value = parameter
    return f"{name}={shown(value)}\n".encode("utf-8", "surrogateescape")


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all: all of ``CONTENT`` but the version.

    Raises:
        UserError: it cannot be written; what was there before still is.
    """
    with atomic_write(path) as file:
        for part in sealed(checkpoint | {"format_version": FORMAT_VERSION}):
            file.write(part)


def _said(epochs: range) -> str:
    return f"{epochs[0]} to {epochs[-1]}"


def column_of(name: str, k: int, n_sessions: int = 0) -> str:
    """The column of a figure, such as ``recall@20``; that of a sample of sessions bears its size.

    So nobody takes ``recall@20 of 500 sessions`` for a recall of all.
    """
    return f"{name}@{k}" + (f" of {n_sessions} sessions" if n_sessions else "")


def figures(metrics: Metrics | None, n_sessions: int = 0) -> dict[str, float]:
    """The figures of an evaluation, on a sample of so many sessions or on all, by the names of their columns."""
    ks = next(iter(metrics.figures.values())) if metrics else ()
    return {column_of(name, k, n_sessions): by_k[k] for k in ks for name, by_k in metrics.figures.items()}


def metrics_columns(ks: Iterable[int], metrics: Iterable[str], n_sessions: int = 0) -> list[str]:
    """The columns of ``metrics.csv``; without any K, those of a run that evaluates nothing."""
    names = tuple(metrics)
    columns = [column_of(name, k, n_sessions) for k in ks for name in names]
    return ["epoch", "train_loss", *columns, "seconds", "clicks_per_second"]


def metrics_row(
    columns: list[str], epoch: int, loss: float, of_epoch: dict[str, float], seconds: float, n_clicks: int
) -> dict[str, Any]:
    """A row of ``metrics.csv``: figures that an epoch does not have are None, and empty in the file."""
    times = {"seconds": round(seconds, 3), "clicks_per_second": round(n_clicks / max(seconds, 1e-9))}
    return dict.fromkeys(columns) | {"epoch": epoch, "train_loss": loss} | of_epoch | times


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, refusing anything but tensors and plain values.

    Returns:
        All of ``CONTENT``.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint of this suite, or of another format version.
    """
    if path.is_dir():
        inside = sorted(path.glob("*.pt")) or sorted(path.glob("*/*.pt"))
        hint = f"name a file in it, such as {inside[-1]}" if inside else "and holds no checkpoint"
        raise UserError(f"{path} is a folder; {hint}")
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: main.py leaves them where it says, such as {EXAMPLE}")
    try:
        with open(path, "rb") as file:
            if not _seal_is_whole(file):
                reason = "its checksum is wrong or missing"
                raise UserError(f"{path} is damaged or not a checkpoint of this suite: {reason}")
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # torch.load fails on foreign content in more ways than it documents
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path} holds something else than tensors and plain values: {reason}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("format_version"), int):
        raise UserError(f"{path} is not a checkpoint of this suite")
    if (version := checkpoint["format_version"]) != FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}, this suite reads version {FORMAT_VERSION}")
    expected = {name: kind for name, kind in CONTENT.items() if name in checkpoint or name not in ADDED}
    if wrong := [name for name, kind in expected.items() if not isinstance(checkpoint.get(name), kind)]:
        raise UserError(f"{path} lacks {', '.join(wrong)}, so it is not a whole checkpoint")
    return checkpoint


def sealed(checkpoint: dict[str, Any]) -> tuple[bytes | memoryview, bytes]:
    """A checkpoint as bytes: a zip archive up to its comment, and the comment, which is the archive's checksum."""
    content = io.BytesIO()  # not the file: torch hides the system's error when it fails to write to one
    torch.save(checkpoint, content)
    archive = content.getbuffer()[:-2]  # the last two bytes are the length of a comment, which is none yet
    return archive, _seal(hashlib.sha256(archive).hexdigest())


def _seal(checksum: str) -> bytes:
    comment = f"sha256:{checksum}".encode()
    return len(comment).to_bytes(2, "little") + comment


def is_mean(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint is a mean of epochs, see :mod:`runs.averaging`: it has no optimizer's state then."""
    return not checkpoint["optimizer"]


def described(checkpoint: dict[str, Any]) -> str:
    """What a checkpoint is: epoch 7, within epoch 7, or the mean of several epochs up to epoch 7."""
    within = "within " if checkpoint["within_epoch"] is not None else ""
    return f"{'the mean of several epochs up to ' if is_mean(checkpoint) else within}epoch {checkpoint['epoch']}"


def _seal_is_whole(file: BinaryIO) -> bool:
    """Whether a file ends with the seal of all that comes before it, which is read in parts: it may be gigabytes."""
    digest = hashlib.sha256()
    n_left = file.seek(0, os.SEEK_END) - len(_seal(digest.hexdigest()))
    file.seek(0)
    while n_left > 0 and (part := file.read(min(n_left, READ_AT_ONCE))):
        digest.update(part)
        n_left -= len(part)
    return file.read(READ_AT_ONCE) == _seal(digest.hexdigest())


def checkpoints_newest_first(checkpoint_dir: Path, parameters: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The usable checkpoints of those runs in a folder that were not run with other parameters than these.

    Those that are not usable are named on stderr; those that other runs delete meanwhile are passed over.
    """
    candidates = []
    for folder in _entries(checkpoint_dir):
        if not RunFolder(folder).was_run_with_other(parameters):
            for path in _entries(folder):
                if path.suffix == ".pt":
                    with suppress(OSError):
                        candidates.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(candidates, reverse=True):
        try:
            yield path, read_checkpoint(path)
        except UserError as error:
            if path.exists():
                warn(str(error))


def remove_unfinished_checkpoints(checkpoint_dir: Path) -> None:
    """Remove what killed processes had begun to write into the runs of a folder, see :mod:`terminal.atomicfile`."""
    for folder in _entries(checkpoint_dir):
        remove_unfinished(folder, "*.pt")


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing where there is none, or none any more."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []

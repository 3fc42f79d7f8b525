"""What a run leaves: ``checkpoint/MMDDHHMM/`` with ``parameter.txt``, ``metrics.csv`` and a checkpoint per epoch.

A checkpoint is data: tensors and plain values, loaded with ``weights_only=True``.
"""

import csv
import io
import time
from pathlib import Path
from typing import Any

import torch

from atomicfile import atomic_write, make_folder
from errors import UserError

FORMAT_VERSION = 1
CONTENT = {  # what a checkpoint holds, by name and type
    "format_version": int,
    "parameters": dict,  # every parameter of the run
    "item_ids": torch.Tensor,  # [n_items] int64, the id of every item index
    "support": torch.Tensor,  # [n_items] int64, how often each item was clicked in training
    "model": dict,  # state dict
    "optimizer": dict,  # state dict
    "epoch": int,  # the epoch that ended with this checkpoint, from 0
    "history": list,  # a row of metrics.csv per epoch, this one included
    "random_state": dict,  # of dropout, by kind of device
}


class RunFolder:
    """The folder of one run.

    Args:
        checkpoint_dir: where to create it. A name that is taken gets a number behind it.

    Raises:
        UserError: it cannot be created.
    """

    def __init__(self, checkpoint_dir: Path):
        make_folder(checkpoint_dir)
        name = time.strftime("%m%d%H%M")
        self.path = checkpoint_dir / name
        attempt = 1
        while True:
            try:
                self.path.mkdir()
                return
            except FileExistsError:
                attempt += 1
                self.path = checkpoint_dir / f"{name}_{attempt}"
            except OSError as error:
                raise UserError(f"cannot create a run folder in {checkpoint_dir}: {error.strerror}") from error

    def write_parameters(self, parameters: dict[str, Any]) -> None:
        """Write ``parameter.txt``: a line NAME=value for each."""

        def shown(value: Any) -> str:
            return " ".join(map(str, value)) if isinstance(value, list) else str(value)

        with atomic_write(self.path / "parameter.txt") as file:
            file.write("".join(f"{name}={shown(value)}\n" for name, value in parameters.items()).encode())

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write ``metrics.csv``: a row per epoch, columns as in the first row."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        with atomic_write(self.path / "metrics.csv") as file:
            file.write(text.getvalue().encode())

    def write_checkpoint(self, checkpoint: dict[str, Any]) -> Path:
        """Write ``model_EEEEE.pt``; ``checkpoint`` holds all of ``CONTENT`` but the version. Returns the path."""
        path = self.path / f"model_{checkpoint['epoch']:05d}.pt"
        with atomic_write(path) as file:
            torch.save({"format_version": FORMAT_VERSION} | checkpoint, file)
        return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, refusing anything but tensors and plain values.

    Returns:
        All of ``CONTENT``.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint of this suite, or of another format version.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load fails on foreign bytes in more ways than it documents
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path} is damaged or not a checkpoint of this suite: {reason}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("format_version"), int):
        raise UserError(f"{path} is not a checkpoint of this suite")
    if (version := checkpoint["format_version"]) != FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}, this suite reads version {FORMAT_VERSION}")
    if wrong := [name for name, kind in CONTENT.items() if not isinstance(checkpoint.get(name), kind)]:
        raise UserError(f"{path} lacks {', '.join(wrong)}, so it is not a whole checkpoint")
    return checkpoint

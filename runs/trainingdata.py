"""What a run trains and is evaluated on: prepared files, read and encoded."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clicks.itemindex import ItemIndex
from dataset import Sessions, encode_sessions, read_session_clicks
from terminal.errors import UserError, warn


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
    """The sessions to evaluate on, with their ids; clicks on items that training never saw are dropped, with a warning.

    Raises:
        UserError: the file is unusable, or nothing is left of it.
    """
    sessions, n_dropped = encode_sessions(read_session_clicks(path), index, keep_ids=True)
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

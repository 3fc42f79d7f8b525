"""What a run trains and is evaluated on: prepared files, read and encoded."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clicks.clickfile import Clicks
from clicks.itemindex import ItemIndex
from dataset import Sessions, encode_sessions, read_session_clicks
from runs.kinds import NO_FILE
from terminal.errors import UserError, warn
from terminal.memory import memory_for

SAMPLE_SEED = 22
READING = "clicks take some 75 bytes each while they are read: free some, or preprocess fewer days with --last_days"


@dataclass(frozen=True)
class TrainingData:
    """What a run trains and is evaluated on. Runs can share it: nothing in it changes.

    Attributes:
        index: the items of the training file, behind those that a model knows already, where it grows.
        sessions: those to train on.
        support: ``[n_items]`` int64, how often each item is clicked in them; 1 where it is not (see docs/growing.md).
        valid_sessions: those to evaluate on; None where nothing is evaluated.
    """

    index: ItemIndex
    sessions: Sessions
    support: Tensor
    valid_sessions: Sessions | None

    @cached_property
    def checksums(self) -> dict[str, str]:
        """What tells these clicks from others: the :func:`checksum` of the sessions to train on and of the others."""
        both = {"train": self.sessions, "valid": self.valid_sessions}
        return {name: checksum(each, self.index) if each else "" for name, each in both.items()}

    @classmethod
    @memory_for(READING)
    def read(
        cls,
        data_folder: str,
        train_data: str,
        valid_data: str,
        time_sort: bool,
        with_times: bool = False,
        known: ItemIndex | None = None,
    ) -> "TrainingData":
        """Read what the parameters of these names say.

        Args:
            with_times: let the sessions have the times of their clicks.
            known: the items of a model that grows, which stay where they are.

        Raises:
            UserError: a file is missing or unusable.
        """
        train_file = data_file(data_folder, train_data)
        print(f"reading {train_file}", flush=True)
        clicks = read_session_clicks(train_file)
        index = known.with_items_of(clicks) if known else ItemIndex.of(clicks)
        sessions, _ = encode_sessions(clicks, index, time_sort, with_times)
        support = torch.from_numpy(np.maximum(sessions.support(len(index)), 1))
        if valid_data == NO_FILE:
            return cls(index, sessions, support, None)
        valid_sessions = read_valid_sessions(data_file(data_folder, valid_data), index, with_times)
        return cls(index, sessions, support, valid_sessions)


def checksum(sessions: Sessions, index: ItemIndex) -> str:
    """A checksum of sessions as they are fed, 16 hexadecimal digits, the same on every machine.

    It covers the item ids in the order of their indices, the length of every session, and the item of every click, in
    the order in which sessions are fed, and the times of the clicks where the sessions have them: all that training,
    evaluation and baselines are told. Session ids, and clicks that are not fed, do not count. 31 million clicks take a
    quarter of a second.
    """
    digest = hashlib.sha256(f"{len(index)} items, {len(sessions)} sessions".encode())
    digest.update("\0".join(index.ids).encode() if index.is_text else index.ids.astype("<i8", copy=False))
    digest.update(np.diff(sessions.offsets).astype("<i8", copy=False))
    digest.update(sessions.items.astype("<i4", copy=False))
    if sessions.times is not None:
        digest.update(sessions.times.astype("<i8", copy=False))
    return digest.hexdigest()[:16]


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


def read_valid_sessions(path: Path, index: ItemIndex, with_times: bool = False) -> Sessions:
    """The sessions to evaluate on, with their ids; clicks on items that training never saw are dropped, with a warning.

    Raises:
        UserError: the file is unusable, or nothing is left of it.
    """
    return valid_sessions(read_session_clicks(path), index, path, with_times)


def valid_sessions(clicks: Clicks, index: ItemIndex, path: Path, with_times: bool = False) -> Sessions:
    """As :func:`read_valid_sessions`, of clicks that have been read from the path."""
    sessions, n_dropped = encode_sessions(clicks, index, with_times=with_times, with_ids=True)
    if n_dropped:
        warn(f"{path}: dropped {n_dropped:,} clicks on items that training never saw, or alone in a session after that")
    if len(sessions) == 0:
        raise UserError(f"{path} has no items in common with the training data")
    return sessions


def sampled(sessions: Sessions, n_sessions: int) -> Sessions:
    """So many of some sessions, in their order; all of them for 0.

    Which ones depends on the two numbers alone, so that all runs that are evaluated on a sample of a file are evaluated
    on the same one.

    Raises:
        UserError: there are no more than these.
    """
    if not n_sessions:
        return sessions
    if n_sessions >= len(sessions):
        raise UserError(f"--eval_sessions {n_sessions} is no sample of {len(sessions):,} sessions: leave it out")
    drawn = np.random.default_rng(SAMPLE_SEED).choice(len(sessions), n_sessions, replace=False)
    return sessions.select(np.sort(drawn))


def of_sample(sample: Sessions, of_all: Sessions) -> str:
    """What to say behind figures that are of a sample of sessions; nothing behind those of all."""
    return "" if len(sample) == len(of_all) else f" on {len(sample):,} of {len(of_all):,} sessions"


def refuse_large_cutoffs(ks: list[int], n_items: int) -> None:
    """Refuse a K at which every next click is a hit.

    Raises:
        UserError: a K is above the number of items.
    """
    if max(ks) > n_items:
        raise UserError(f"--k_eval {max(ks)} is more than the {n_items:,} items: every next click would be a hit")

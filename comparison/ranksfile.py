"""Ranks files: what happened at every next click of an evaluation, a Parquet file that pandas reads as it is.

A row is a next click; the rows of a session are together, in the order of its clicks. Columns: ``SessionID``,
``Position`` of the click that is the input in its session, from 1, ``ItemID``, its item, ``TargetID``, the item that
was clicked next, the ``Rank`` of that one among all items, 1 for the best (a half where ties are counted by half, and
infinite where it got no score), and ``Support``, how often it was clicked in training. Ids are those of the click
files, integers or text. What holds for all rows is in the file's metadata, as JSON under the key ``ranks``:
``version``, ``n_items``, ``tie_breaking``, ``name`` and ``seed``, where there are some, and a ``checksum`` of it all.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from clicks.itemindex import ItemIndex
from dataset import Sessions
from terminal.atomicfile import atomic_write
from terminal.errors import UserError

COLUMNS = ("SessionID", "Position", "ItemID", "TargetID", "Rank", "Support")
METADATA = b"ranks"
ABOUT = {"n_items": int, "tie_breaking": str, "name": str, "seed": int}  # what a file says of all of its rows
VERSION = 1


@dataclass(frozen=True)
class RankedClicks:
    """Next clicks and their ranks, as parallel arrays: session by session, in the order of a session's clicks.

    Attributes:
        session: int64, or str as objects.
        position: int64, how many clicks of the session were seen, 1 at least.
        item: int64, or str as objects, the last of them.
        target: likewise, the item that was clicked next.
        rank: float64, that of the target among all items, 1 for the best; infinite where it got no score.
        support: int64, how often the target was clicked in training.
        n_items: how many items were ranked; None where a file of others does not tell.
        tie_breaking: see :mod:`evaluation`; None likewise.
        name: what ranked them, where it has a name.
        seed: of its training, where it had one.
    """

    session: np.ndarray
    position: np.ndarray
    item: np.ndarray
    target: np.ndarray
    rank: np.ndarray
    support: np.ndarray
    n_items: int | None = None
    tie_breaking: str | None = None
    name: str | None = None
    seed: int | None = None

    @classmethod
    def of(
        cls, ranks: Tensor, sessions: Sessions, index: ItemIndex, support: np.ndarray, **about: Any
    ) -> "RankedClicks":
        """What :func:`evaluation.rank_next_clicks` gave, with the ids of what it ranked.

        Args:
            ranks: of their next clicks, session by session.
            sessions: those that were ranked, with their ids.
            index: the items.
            support: ``[n_items]`` of the items in training.
            about: ``tie_breaking``, ``name``, ``seed``.
        """
        lengths = np.diff(sessions.offsets)
        position = np.arange(len(sessions.items)) - np.repeat(sessions.offsets[:-1], lengths) + 1
        inputs = np.flatnonzero(position < np.repeat(lengths, lengths))
        targets = sessions.items[inputs + 1]
        return cls(
            np.repeat(sessions.ids, lengths - 1),
            position[inputs],
            index.ids[sessions.items[inputs]],
            index.ids[targets],
            ranks.cpu().numpy(),
            np.asarray(support)[targets],
            n_items=len(index),
            **about,
        )

    def __len__(self) -> int:
        return len(self.rank)


def write_ranks(path: Path, ranked: RankedClicks) -> None:
    """Write a ranks file (see the top of this file), whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    about = {name: getattr(ranked, name) for name in ABOUT} | {"version": VERSION, "checksum": _checksum(ranked)}
    is_whole = np.isfinite(ranked.rank).all() and (ranked.rank % 1 == 0).all()
    rank = ranked.rank.astype(np.int64) if is_whole else ranked.rank
    columns = ranked.session, ranked.position, ranked.item, ranked.target, rank, ranked.support
    table = pa.table(dict(zip(COLUMNS, columns, strict=True)))
    content = pa.BufferOutputStream()
    table = table.replace_schema_metadata({METADATA: json.dumps(about)})
    pq.write_table(table, content, compression="zstd")
    with atomic_write(path) as file:
        file.write(content.getvalue())


def read_ranks(path: Path) -> RankedClicks:
    """Read a ranks file, of this suite or of others that have its columns.

    Raises:
        UserError: it is missing or something else, or its rows are not the next clicks of whole sessions.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        table = pq.read_table(pa.BufferReader(content), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is no Parquet file, or a damaged one: {reason}") from error
    try:
        if missing := [name for name in COLUMNS if name not in table.column_names]:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        columns = [_values(table, name) for name in COLUMNS]
        about = _about((table.schema.metadata or {}).get(METADATA))
        checksum = about.pop("checksum", None)
        ranked = RankedClicks(*columns, **about)
        if checksum not in (None, _checksum(ranked)):
            raise ValueError("its checksum is wrong, so it is damaged")
        _refuse_what_cannot_be(ranked)
    except ValueError as error:
        raise UserError(f"{path} is no ranks file, such as main.py --is_eval --ranks writes: {error}") from error
    return ranked


def _values(table: pa.Table, name: str) -> np.ndarray:
    """A column as an array; raises ValueError where it has nulls or values of another kind."""
    column = table[name].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        raise ValueError(f"its column {name} has empty values")
    kind = column.type
    if pa.types.is_integer(kind) or (pa.types.is_floating(kind) and name == "Rank"):
        return column.cast(pa.float64() if name == "Rank" else pa.int64()).to_numpy(zero_copy_only=False)
    if name.endswith("ID") and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return column.to_numpy(zero_copy_only=False).astype(object)
    raise ValueError(f"its column {name} is of the type {kind}")


def _about(metadata: bytes | None) -> dict[str, Any]:
    """What a file says of all of its rows; raises ValueError where that makes no sense."""
    if metadata is None:
        return {}
    about = json.loads(metadata)
    if not isinstance(about, dict) or about.pop("version", None) != VERSION:
        raise ValueError(f"its metadata are not of version {VERSION}")
    kinds = ABOUT | {"checksum": str}
    if wrong := [name for name, value in about.items() if type(value) not in (kinds.get(name), type(None))]:
        raise ValueError(f"its metadata have an unknown or unusable {', '.join(wrong)}")
    return about


def _checksum(ranked: RankedClicks) -> str:
    """Of all that a file says; Parquet itself has none."""
    digest = hashlib.sha256(json.dumps([getattr(ranked, name) for name in ABOUT]).encode())
    for column in (ranked.session, ranked.position, ranked.item, ranked.target, ranked.rank, ranked.support):
        digest.update(json.dumps(column.tolist()).encode() if column.dtype == object else column.tobytes())
    return digest.hexdigest()


def _refuse_what_cannot_be(ranked: RankedClicks) -> None:
    """Raise ValueError, with the row, where rows are not the next clicks of whole sessions with their ranks."""
    if len(ranked) == 0:
        raise ValueError("it holds no next clicks")
    if ranked.item.dtype != ranked.target.dtype:
        raise ValueError("its ItemID are integers and its TargetID text, or the other way round")
    most = np.inf if ranked.n_items is None else ranked.n_items
    _refuse(~((ranked.rank >= 1) & ((ranked.rank <= most) | np.isinf(ranked.rank))), "its rank is none")
    _refuse(ranked.support < 0, "its support is negative")
    goes_on = np.zeros(len(ranked), dtype=np.bool_)
    goes_on[1:] = ranked.session[1:] == ranked.session[:-1]
    expected = np.ones(len(ranked), dtype=np.int64)
    expected[1:] += np.where(goes_on[1:], ranked.position[:-1], 0)
    _refuse(ranked.position != expected, "its position does not follow that of the row before")
    begins = np.flatnonzero(~goes_on)
    is_again = np.zeros(len(ranked), dtype=np.bool_)
    is_again[begins] = pd.Series(ranked.session[begins]).duplicated().to_numpy()
    _refuse(is_again, "its session stands in two places")
    is_other = np.zeros(len(ranked), dtype=np.bool_)
    is_other[1:] = goes_on[1:] & (ranked.item[1:] != ranked.target[:-1])
    _refuse(is_other, "its item is not the target of the row before")


def _refuse(is_wrong: np.ndarray, reason: str) -> None:
    if is_wrong.any():
        raise ValueError(f"row {1 + int(is_wrong.argmax())}: {reason}")

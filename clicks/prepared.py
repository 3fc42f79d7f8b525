"""The prepared folder: the four files of a protocol, and the record that says how they were made.

The record, ``preprocessing.json``, has the command, the data set, the protocol, what each step left, and the size and
checksum of each file. It takes its place before the files do: files that were not written together are found out.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from clicks.clickfile import Clicks, session_offsets, write_clicks
from terminal.atomicfile import write_together
from terminal.errors import UserError

TRAIN_FULL, TEST = "recSys15TrainFull.txt", "recSys15Test.txt"
TRAIN_ONLY, VALID = "recSys15TrainOnly.txt", "recSys15Valid.txt"
RECORD = "preprocessing.json"
DATA_FOLDER = Path("data/preprocessed_data")
READ_AT_ONCE = 2**20  # bytes


@dataclass(frozen=True)
class Size:
    """How much there is; ``items`` is None where a paper gives no number."""

    clicks: int
    sessions: int
    items: int | None

    def __str__(self) -> str:
        on_items = "" if self.items is None else f" on {self.items:,} items"
        return f"{self.clicks:,} clicks in {self.sessions:,} sessions{on_items}"


def size_of(clicks: Clicks) -> Size:
    """Count clicks, sessions and items; the clicks of a session lie together."""
    return Size(len(clicks), len(session_offsets(clicks.session)) - 1, len(pd.unique(clicks.item)))


@dataclass(frozen=True)
class Record:
    """How the files of a folder were made.

    Attributes:
        command: the command line.
        dataset: the data set's name in :mod:`clicks.datasets`; None for a log of another kind.
        changes: the flags that differ from the data set's own, as a command line has them; empty if none does.
        protocol: in a line, see :class:`clicks.protocol.Protocol`.
        steps: what each step left: ``step``, ``clicks``, ``sessions``, ``items``.
        files: by name: ``clicks``, ``sessions``, ``items``, ``bytes``, ``sha256``.
    """

    command: str
    dataset: str | None
    changes: str
    protocol: str
    steps: list[dict[str, Any]]
    files: dict[str, dict[str, Any]]

    def is_of(self, dataset: str) -> bool:
        """Whether the files are a data set's as the figures published on it have them."""
        return self.dataset == dataset and not self.changes


class _Hashed:
    """A file that is written, and the checksum of what was."""

    def __init__(self, file: BinaryIO):
        self.file, self.sha256, self.n_bytes, self.closed = file, hashlib.sha256(), 0, False

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.n_bytes += len(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def write_prepared(folder: Path, files: dict[str, Clicks], sizes: dict[str, Size], record: Record) -> None:
    """Write the files of a folder and their record, which gets their sizes and checksums: all of them or none.

    Raises:
        UserError: one cannot be written.
    """
    with write_together() as open_file:
        for name, clicks in files.items():
            with open_file(folder / name) as file:
                hashed = _Hashed(file)
                write_clicks(hashed, clicks)
            record.files[name] = asdict(sizes[name]) | {"bytes": hashed.n_bytes, "sha256": hashed.sha256.hexdigest()}
        with open_file(folder / RECORD) as file:
            file.write((json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n").encode())


def read_record(folder: Path) -> Record | None:
    """How the files of a folder were made; None where nothing says so.

    Raises:
        UserError: the record is damaged.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_bytes())
        record = Record(**{name: content[name] for name in Record.__annotations__})
        if not isinstance(record.dataset, str | None):
            raise TypeError
        if not all(isinstance(file["bytes"], int) and len(file["sha256"]) == 64 for file in record.files.values()):
            raise TypeError
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: run preprocessing.py again, or delete it to use the files as they are"
        ) from error
    return record


def is_prepared(folder: Path, dataset: str) -> bool:
    """Whether a folder has all files of a data set, changed or not, as far as its record and their sizes say."""
    try:
        record = read_record(folder)
    except UserError:
        return False
    return record is not None and record.dataset == dataset and not _of_another_size(folder, record, there=False)


def refuse_mixture(path: Path) -> None:
    """Refuse a prepared file that is not the one that the record beside it tells of, or that lies beside such a file.

    The sizes of all files are compared, and the checksum of this one. Without a record, anything will do.

    Raises:
        UserError: a file is another than the record's, or the record is damaged.
    """
    record = read_record(path.parent)
    if record is None or path.name not in record.files:
        return
    foreign = _of_another_size(path.parent, record)
    if not foreign and path.exists() and _sha256(path) != record.files[path.name]["sha256"]:
        foreign = [path]
    if foreign:
        raise UserError(
            f"{' and '.join(map(str, foreign))} and {path.parent / RECORD} do not belong together, as if writing the "
            f"files had been cut off: run `{record.command}` again, or delete {RECORD} to use the files as they are"
        )


def _of_another_size(folder: Path, record: Record, there: bool = True) -> list[Path]:
    """The files that have another size than the record says; those that are not there at all only if asked."""
    sizes = {folder / name: file["bytes"] for name, file in record.files.items()}
    return [path for path, size in sizes.items() if (path.stat().st_size != size if path.exists() else not there)]


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while content := file.read(READ_AT_ONCE):
                sha256.update(content)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return sha256.hexdigest()

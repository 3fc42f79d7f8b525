"""Files that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from terminal.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the block ends without an exception.

    A reader sees the old file or the new one, never a half; after an exception the old one is still there.

    Raises:
        UserError: the file cannot be written (no such folder, no permission, no space).
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(unfinished, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            _flush_folder(path.parent)
        finally:
            with suppress(OSError):
                unfinished.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the same columns as a CSV file with a header, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def make_folder(path: Path) -> Path:
    """Create a folder and its parents; an existing one is fine.

    Raises:
        UserError: the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {error.strerror or error}") from error
    return path


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut; not every system can open a folder, and none needs to."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

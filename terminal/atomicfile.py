"""Files that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

import csv
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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
    with write_together() as open_file, open_file(path) as file:
        yield file


@contextmanager
def write_together() -> Iterator[Callable[[Path], AbstractContextManager[BinaryIO]]]:
    """Files that take their places together, when the block ends without an exception.

    Gives what opens them, one after another, as :func:`atomic_write` does. All are whole on the disk before the first
    takes its place, so that a full disk leaves all places as they were. Then they are renamed one by one, the last
    first: a file that tells what the others are is there before them, and gives them away if the process is killed
    between two renames.

    Raises:
        UserError: a file cannot be written (no such folder, no permission, no space).
    """
    unfinished: dict[Path, Path] = {}

    @contextmanager
    def open_file(path: Path) -> Iterator[BinaryIO]:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder")
        with _said_of(path):
            unfinished[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            with open(unfinished[path], "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())

    try:
        yield open_file
        for path in reversed(unfinished):
            with _said_of(path):
                os.replace(unfinished[path], path)
                _flush_folder(path.parent)
    finally:
        for left in unfinished.values():
            with suppress(OSError):
                left.unlink()


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Say of an error of the system which file it befell."""
    try:
        yield
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

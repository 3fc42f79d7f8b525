"""Files that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

import csv
import glob
import io
import os
import platform
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from terminal.errors import UserError

try:
    import fcntl
except ImportError:  # not Unix
    fcntl = None

HOST = re.sub(r"[^\w-]", "-", platform.node())[:64] or "unknown"
A_DAY = 86_400  # seconds


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the block ends without an exception.

    A reader sees the old file or the new one, never a half; after an exception the old one is still there. A symbolic
    link stays, and what it leads to is replaced. What is no file but a device or a pipe, or is what this process prints
    to, is not replaced but written to, as it comes.

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
    unfinished: dict[Path, Path] = {}  # by the place that each is to take

    @contextmanager
    def open_file(path: Path) -> Iterator[BinaryIO]:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder")
        with _said_of(path), _written_to(path) or _unfinished(path, unfinished) as file:
            yield file

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
    except BrokenPipeError:  # the reader went away, which a script ends by in its own way
        raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _written_to(path: Path) -> BinaryIO | None:
    """The file to write to where ``path`` is there and must not be replaced."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    for descriptor in (1, 2):  # as /dev/stdout: opened anew, what both write would overwrite each other
        with suppress(OSError):
            if os.path.samestat(status, os.fstat(descriptor)):
                sys.stdout.flush()
                return os.fdopen(os.dup(descriptor), "wb")
    return None if stat.S_ISREG(status.st_mode) else open(path, "wb")


@contextmanager
def _unfinished(path: Path, unfinished: dict[Path, Path]) -> Iterator[BinaryIO]:
    """Open a file beside the place that it is to take, with the permissions of what is there, and note it."""
    path = Path(os.path.realpath(path))  # a symbolic link stays
    remove_unfinished(path.parent, glob.escape(path.name))
    unfinished[path] = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")
    with open(unfinished[path], "wb") as file:
        _lock(file)
        with suppress(OSError):  # there was nothing, or the disk knows no permissions
            shutil.copymode(path, unfinished[path])
        yield file
        file.flush()
        os.fsync(file.fileno())


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove what processes that were killed had begun to write into a folder.

    It is in the file ``.NAME.HOST.PID.tmp``, of versions before this one ``.NAME.PID.tmp``, which a living process has
    locked. It is removed if nobody holds the lock and, since not all disks that hosts share tell of their locks,

    - it is of this host, and no process here has that number (other than this one, to which it came again);
    - or it is of another host, or of one that it does not name, and has not been written to for a day.

    Where a disk knows no locks, it stays.

    Args:
        folder: where to look; those within it are left alone.
        name: a pattern, such as ``*.pt``.
    """
    for path in folder.glob(f".{name}.*.tmp") if fcntl else ():
        if parts := re.search(r"\.([\w-]+)\.(\d+)\.tmp$", path.name):
            with suppress(OSError):  # it is gone already; or this is not for us to do
                here = parts[1] == HOST
                is_old = time.time() - path.stat().st_mtime > A_DAY
                if (not _is_alive(int(parts[2])) if here else is_old) and not _is_locked(path):
                    path.unlink()


def _is_alive(pid: int) -> bool:
    """Whether a process of this host, other than this one, has this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed or the process ends, where the disk can."""
    if fcntl:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(path: Path) -> bool:
    """Whether someone holds the lock of a file, or nobody can say."""
    try:
        with open(path, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


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

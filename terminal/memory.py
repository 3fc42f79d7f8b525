"""How much memory there is, and the sentence that a script ends with when that does not suffice."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from terminal.errors import UserError

try:
    import resource
except ImportError:  # not Unix
    resource = None

A_GUESS = 8 * 2**30  # where the system does not say
GROUPS_OF_PROCESS, CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory_there_is() -> int:
    """Bytes that this process may have: all of the machine's, or what a limit leaves it.

    Not what is free at the moment: what follows from it must be the same in every run on a machine.
    """
    return min([_of_the_machine(), *_of_control_groups(), *_of_ulimit()])


def _of_the_machine() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return A_GUESS


def _of_control_groups() -> Iterator[int]:
    """The limits of containers and batch systems on Linux: of the process's group and of all groups around it."""
    try:
        lines = GROUPS_OF_PROCESS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = CONTROL_GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = CONTROL_GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = root / group.lstrip("/")  # which a container does not see: it has its own limit at the root
        for folder in (inner, *inner.parents):
            with suppress(OSError, ValueError):  # no such group; or "max", which is no limit
                yield int((folder / name).read_text())
            if folder == root:
                break


def _of_ulimit() -> Iterator[int]:
    if resource:
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            limit, _ = resource.getrlimit(kind)
            if limit != resource.RLIM_INFINITY:
                yield limit


def give_back_freed_memory() -> None:
    """Give back to the system what Arrow and the C library keep of freed memory, scattered over many small pieces."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, for which PyTorch has an exception of its own on CUDA, and none on the CPU.

    Not so an illegal access to memory.
    """
    messages = "out of memory", "not enough memory", "allocate memory", "bad_alloc", "ALLOC_FAILED"
    said = isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    return said or isinstance(error, MemoryError)


@contextmanager
def memory_for(what_to_do: str) -> Iterator[None]:
    """Have a script whose memory runs out within end with what to do about it.

    Raises:
        UserError: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"out of memory: {what_to_do}" + (f" ({reason})" if reason else "")) from error

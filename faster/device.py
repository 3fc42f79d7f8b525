"""The device of a run: which one, its random numbers, its memory, and whether it repeats to the last bit."""

import ctypes
import os
import sys
from contextlib import suppress

import torch
from torch import Tensor

from terminal.errors import UserError, warn


def choose_device(name: str | None) -> torch.device:
    """The named device, or CUDA where there is one that works, else the CPU.

    Raises:
        UserError: there is no such device here, or it does not work.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(name or ("cuda" if n_gpus else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {name} is no device; expected cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device {name} is not supported; expected cpu, cuda or cuda:N")
    if (device.index or 0) >= n_gpus:
        raise UserError(f"--device {name} is not here: PyTorch sees {n_gpus} CUDA devices; use --device cpu")
    try:
        _use(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if name is None and "no kernel image" in reason:
            warn(f"PyTorch {torch.__version__} was built without this GPU's kernels ({reason}): going on with the CPU")
            return torch.device("cpu")
        raise UserError(f"{device} cannot be used ({reason}); choose another with --device cuda:N or cpu") from error
    return device


def _use(device: torch.device) -> None:
    """Have a device do something: PyTorch counts GPUs as available that its build is too new, or too old, for."""
    torch.zeros(1, device=device).add_(1)
    if device.index is not None:
        torch.cuda.set_device(device)  # a compiler saves and restores the random state of the current one


def use_deterministic_algorithms(wanted: bool, device: torch.device) -> None:
    """Make CUDA add in a fixed order, so that a run repeats to the last bit; the CPU does so anyway."""
    if wanted and device.type == "cpu":
        warn("--deterministic has no effect on the CPU, where every run repeats to the last bit")
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads it


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the random numbers of dropout, by kind of device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Go on from a :func:`random_state`, of which a run on another kind of device has a part only."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def renew_generator(device: torch.device) -> None:
    """Have dropout draw on, from where it is, after a CUDA graph's capture that failed.

    PyTorch (2.11, at least) leaves the state of the device's generator "capturing" then, and refuses to draw from it.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    generator.graphsafe_set_state(generator.clone_state())


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, where it is glibc.

    By default it gives blocks of a few hundred kilobytes back to the system and takes them again, page by page, in
    every step: with 2,048 negatives that costs a third of a step's time on a CPU.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(mmap_threshold, 32 * 2**20)
            libc.mallopt(trim_threshold, 2**30)

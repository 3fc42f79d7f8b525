"""Work on many jobs, here or in processes side by side, that Ctrl-C and SIGTERM end between two training steps."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from runs.interruption import StopRequest
from terminal.errors import UserError
from terminal.flags import COUNT, FlagParser
from training import EpochProgress


class Stopper:
    """A :class:`training.Keeper` that keeps nothing, but ends training once that is asked for."""

    def __init__(self, is_asked: Callable[[], bool]):
        self.is_asked = is_asked

    def is_due(self, step: int) -> bool:
        return self.is_asked()

    def keep(self, progress: EpochProgress) -> None:
        raise KeyboardInterrupt


Work = Callable[[Any, Stopper], Any]  # what is done with a job; it must be picklable where there are several processes


def add_job_flags(parser: FlagParser, jobs: str) -> None:
    """The flags of a script whose jobs may run side by side."""
    parser.add_argument(
        "--n_jobs",
        type=COUNT,
        default=1,
        help=f"{jobs} side by side, each with a GPU of its own where there are several (%(default)s)",
    )
    parser.add_argument(
        "--n_threads",
        type=COUNT,
        help="threads of each of them on a CPU (default: its share); with the same number, figures are the same to the "
        "last bit whatever --n_jobs",
    )


def own_device(device: str | None) -> str | None:
    """A device for the job that this process does: that of the flag or, where any GPU may be meant, one of its own."""
    n_gpus = torch.cuda.device_count() if _slot is not None and device in (None, "cuda") else 0
    return f"cuda:{_slot % n_gpus}" if n_gpus > 1 else device


def run_jobs(work: Work, jobs: list[Any], n_jobs: int, n_threads: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Do the work on every job, ``n_jobs`` at a time.

    Args:
        n_threads: of each job; None for its share of those that PyTorch has.

    Yields:
        A job and what the work gave, in the order in which they are done.

    Raises:
        Interrupted: a signal came.
        UserError: a process died.
    """
    if n_jobs > 1:
        yield from _run_in_processes(work, jobs, n_jobs, n_threads or max(1, torch.get_num_threads() // n_jobs))
        return
    if n_threads:
        torch.set_num_threads(n_threads)
    with StopRequest() as stop:
        for job in jobs:
            try:
                result = work(job, Stopper(lambda: stop.signal_number is not None))
            except KeyboardInterrupt:
                stop.raise_if_asked()
                raise
            yield job, result
            stop.raise_if_asked()


def _run_in_processes(work: Work, jobs: list[Any], n_jobs: int, n_threads: int) -> Iterator[tuple[Any, Any]]:
    context = multiprocessing.get_context("spawn")  # the fork of a process with threads may hang
    stop_asked = context.Event()
    slots = context.Queue()
    for slot in range(n_jobs):
        slots.put(slot)
    with ProcessPoolExecutor(n_jobs, context, _begin_process, (stop_asked, n_threads, slots)) as pool:
        job_of = _submitted(pool, work, jobs)
        pending = set(job_of)
        with StopRequest() as stop:
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in sorted(done, key=lambda future: future.exception() is not None):
                        if not isinstance(future.exception(), KeyboardInterrupt):
                            yield job_of[future], future.result()
                    if stop.signal_number is not None:
                        stop_asked.set()
                        pending = {future for future in pending if not future.cancel()}
                stop.raise_if_asked()
            except BrokenProcessPool as error:
                raise UserError(
                    "a process died, perhaps of too little memory; go on with the same line and a lower --n_jobs"
                ) from error
            finally:
                stop_asked.set()
                pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, work: Work, jobs: list[Any]) -> dict[Future, Any]:
    """Give the pool its jobs, which begins its processes: they inherit that signals are not for them, but for us."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in StopRequest.SIGNALS}
    try:
        return {pool.submit(_work_in_process, work, job): job for job in jobs}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_stopper: Stopper  # of a process of the pool
_slot: int | None = None  # its number among them


def _begin_process(stop_asked: Any, n_threads: int, slots: Any) -> None:
    global _stopper, _slot
    _stopper, _slot = Stopper(stop_asked.is_set), slots.get()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(n_threads)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work_in_process(work: Work, job: Any) -> Any:
    if _stopper.is_asked():  # the pool hands out one job more than it has processes
        raise KeyboardInterrupt
    return work(job, _stopper)

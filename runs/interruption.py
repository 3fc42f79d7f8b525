"""Ctrl-C and SIGTERM as a request that training answers between two steps, when all it has can be saved."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """A run stopped because it was asked to, with everything saved.

    Attributes:
        exit_code: 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


REPEAT_SECONDS = 1.0


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is only noted; one that comes a second later ends the process at once.

    One that comes sooner is the same request: a terminal and a parent process, say, may both send it.

    Attributes:
        signal_number: the signal that came, or None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.noted_at = 0.0

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number, self.noted_at = number, time.monotonic()
        elif time.monotonic() - self.noted_at > REPEAT_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def raise_if_asked(self) -> None:
        """End the run now, if someone asked for it.

        Raises:
            Interrupted: a signal came.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


def run_interruptibly(command: Sequence[str], is_asked: Callable[[], bool] = lambda: False, **how: Any) -> int:
    """Run a command that answers a :class:`StopRequest`: the exit code.

    A signal is passed on to the command, which has all the time that it takes to save.

    Args:
        is_asked: asked now and then; true is as good as SIGTERM.
        how: what else ``subprocess.Popen`` is told.

    Raises:
        Interrupted: a signal came, and the command has ended by it.
    """
    with StopRequest() as stop:
        process = subprocess.Popen(command, **how)
        is_passed_on = False
        while (code := _exit_code_soon(process)) is None:
            if stop.signal_number is None and is_asked():
                stop.signal_number = signal.SIGTERM
            if stop.signal_number is not None and not is_passed_on:
                process.send_signal(stop.signal_number)
                is_passed_on = True
        if code not in (1, 2):  # not by an error
            stop.raise_if_asked()
    return code


def _exit_code_soon(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None

"""Ctrl-C and SIGTERM as a request that training answers between two steps, when all it has can be saved."""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType, TracebackType


class Interrupted(Exception):
    """A run stopped because it was asked to, with everything saved.

    Attributes:
        exit_code: 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is only noted; a second one ends the process at once.

    Attributes:
        signal_number: the signal that came, or None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal_number = number

    def raise_if_asked(self) -> None:
        """End the run now, if someone asked for it.

        Raises:
            Interrupted: a signal came.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)


def run_interruptibly(command: Sequence[str]) -> int:
    """Run a command that answers a :class:`StopRequest`: the exit code.

    A signal is passed on to it, once, and it has all the time that it takes to save.

    Raises:
        Interrupted: a signal came, and the command has ended since.
    """
    with StopRequest() as stop:
        # In a session of its own: a terminal sends Ctrl-C to all of ours, and the command's second one would kill it.
        process = subprocess.Popen(command, start_new_session=True)
        is_passed_on = False
        while True:
            try:
                code = process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if stop.signal_number is not None and not is_passed_on:
                    process.send_signal(stop.signal_number)
                    is_passed_on = True
            else:
                stop.raise_if_asked()
                return code

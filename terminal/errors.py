"""The one exception that stands for a mistake of the user, and how a script reports it.

A mistake (a missing file, a flag that makes no sense) ends a script with one sentence on stderr and exit code 2.
Anything else that goes wrong is a bug of this suite and keeps its traceback. Ctrl-C is neither, not even while PyTorch
loads, which takes a second or more: that is why scripts import this file before all others.
"""

import difflib
import io
import os
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from types import TracebackType


def _report_unhandled(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(INTERRUPTED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


INTERRUPTED = "interrupted"
LISTED = 10
_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_script = getattr(sys.modules["__main__"], "__file__", None)
if _script and os.path.dirname(os.path.realpath(_script)) in (_ROOT, os.path.join(_ROOT, "tools")):
    sys.excepthook = _report_unhandled  # in a process of one of our scripts; those of others are none of our business


def printable(text: str) -> str:
    """A text with what no terminal shows as it is, such as a line end from a file, as Python writes it: ``\\n``."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one sentence, which stays one whatever it cites."""

    def __str__(self) -> str:
        return printable(super().__str__())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at what is spelled much like ``name``, to end a sentence with; nothing where nothing is."""
    meant = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {meant[0]}?)" if meant else ""


def listed(values: Iterable[object]) -> str:
    """The first ten of them, with commas between; those behind are not made into text."""
    first = list(islice(values, LISTED + 1))
    return ", ".join(map(str, first[:LISTED])) + (", …" if len(first) > LISTED else "")


def warn(message: str) -> None:
    """A line on stderr about something that the user should know but need not mend."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and leave the process with its exit code, or with 2 after a :class:`UserError`.

    What a terminal or a pipe has no code for, such as an id in Cyrillic where it knows ASCII alone, is printed as a
    number, \\u0436.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output went away, as in `main.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)

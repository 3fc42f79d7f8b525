"""Flags of a command line: what their text may be, and a parser that reports mistakes in a sentence."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from terminal.errors import UserError, did_you_mean


class FlagParser(argparse.ArgumentParser):
    """A parser that takes flags by their whole names only and reports mistakes as :class:`UserError`.

    Args:
        doc: the docstring of a script, which begins with what it does; None where Python leaves it out (``-OO``).
        options: of ``argparse.ArgumentParser``.
    """

    def __init__(self, doc: str | None = None, **options: Any):
        super().__init__(allow_abbrev=False, **{"description": doc and doc.partition("\n\n")[0]} | options)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        self._line = _with_negative_values(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._line, namespace)

    def error(self, message: str) -> None:
        known = [name for action in self._actions for name in action.option_strings]
        if "expected one argument" in message:
            for flag, value in pairwise(self._line):
                if f"argument {flag}:" in message and re.match("-[^-]", value) and value not in known:
                    message = f"{flag} {value}: what begins with - is joined to its flag by =, as in {flag}={value}"
                    raise UserError(message)
        head, _, unknown = message.partition("unrecognized arguments: ")
        hint = did_you_mean(unknown.split()[0], known) if unknown and not head else ""
        raise UserError(message + (hint or " (see --help)"))


def _with_negative_values(line: Sequence[str]) -> list[str]:
    """A command line whose lists of numbers that begin with a negative one are joined to their flags by =.

    ``argparse`` takes -24 for a value and -24,-25 for a flag.
    """
    joined: list[str] = []
    for word in line:
        if joined and re.fullmatch("--[a-z_0-9]+", joined[-1]) and re.match("-[0-9][^,]*,", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


@dataclass(frozen=True)
class Kind:
    """What the text of a flag may be.

    Attributes:
        parse: text to value; raises ValueError with what was expected.
        metavar: what ``--help`` puts in the value's place.
    """

    parse: Callable[[str], Any]
    metavar: str

    def __call__(self, text: str) -> Any:
        try:
            return self.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error


def number(convert: type, expected: str, accept: Callable[[Any], bool]) -> Kind:
    """What ``convert`` makes a number of, and ``accept`` is true of; ``expected`` says what that is."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
            if accept(value):
                return value
        except ValueError:
            pass
        raise ValueError(f"{text!r} is not {expected}")

    return Kind(parse, "N" if convert is int else "X")


def whole_number(least: int, most: int) -> Kind:
    """A whole number between two, both included."""
    return number(int, f"a whole number from {least} to {most:,}", lambda value: least <= value <= most)


def _parse_switch(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError(f"{text!r} is not true or false, which is all that this switch takes")


COUNT = whole_number(1, 2**31 - 1)
COUNT_OR_ZERO = whole_number(0, 2**31 - 1)
SEED = whole_number(0, 2**63 - 1)
SWITCH = Kind(_parse_switch, "true|false")
MOST = 1e30  # fits into float32 with room to spare
POSITIVE = number(float, "a number above 0 (and at most 1e30)", lambda value: 0 < value <= MOST)
NOT_NEGATIVE = number(float, "a number from 0 to 1e30", lambda value: 0 <= value <= MOST)

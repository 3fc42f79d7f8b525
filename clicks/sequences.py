"""Clicks that the field already has as sequences: a session a line, its item ids separated by blanks or by commas.

No line says when a click was: the order of the lines stands for it. Sessions are numbered by their lines, from 1, and
clicks come a millisecond after another.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from clicks.clickfile import Clicks
from clicks.delimited import LONGEST_LINE, lines
from clicks.integerids import with_integer_ids
from clicks.textkinds import excerpt, is_plain_text
from terminal.errors import UserError

LOOKED_AT = 1000  # lines
_ODD_BLANK = re.compile(r"[^\S \t]")  # as Python, but no other tool, cuts a line at


def separator_of_sequences(path: Path) -> str | None:
    """What separates the items of a file's sessions, a comma or a blank; None where the file need not be sessions.

    Lines that all have the same number of values can be a table without a header as well, and words be prose.
    """
    first = list(islice((line.strip() for line in lines(path) if line.strip()), LOOKED_AT))
    separator = "," if any("," in line for line in first) else " "
    sessions = [_items(line, separator) for line in first]
    items = [item for session in sessions for item in session]
    if sum(bool(re.search("[0-9]", item)) for item in items) * 2 < len(items) or any('"' in item for item in items):
        return None
    lengths = {len(session) for session in sessions}
    is_one_session = len(first) == 1 and separator == " " and lengths != {1}
    return separator if len(lengths) > 1 or is_one_session else None


def read_sequences(path: Path, separator: str) -> tuple[Clicks, str]:
    """The clicks of a file, and in words as what it was read.

    Raises:
        UserError: a line is no session, or the file holds no clicks.
    """
    lengths: list[int] = []
    numbers: list[int] = []

    def all_items() -> Iterator[str]:
        for number, session in _sessions(path, separator):
            numbers.append(number)
            lengths.append(len(session))
            yield from session

    codes, names = pd.factorize(pd.Series(all_items(), dtype=object))
    if len(codes) == 0:
        raise UserError(f"{path} holds no clicks")
    session = np.repeat(np.array(numbers), lengths)
    clicks = Clicks(
        session, codes.astype(np.int64), np.arange(len(codes)), item_names=pa.array(list(names), pa.large_string())
    )
    with_what = "commas" if separator == "," else "blanks"
    return with_integer_ids(clicks), f"a session a line, items with {with_what} between, in the order of the lines"


def _sessions(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines(path), start=1):
        if not line.strip(" \t"):
            continue
        if odd := _ODD_BLANK.search(line):
            raise UserError(f"{path}, line {number}: {excerpt(odd[0])} is no blank between items: put a space there")
        session = _items(line.strip(), separator)
        for item in session:
            if not is_plain_text(item) or len(item) > LONGEST_LINE or re.search(r'[\s":]', item):
                what = "what is between two commas" if separator == "," else "what is between two blanks"
                raise UserError(f"{path}, line {number}: {excerpt(item)} is no item id: expected one, {what}")
        yield number, session


def _items(line: str, separator: str) -> list[str]:
    return [item.strip() for item in line.split(",")] if separator == "," else line.split()

"""Prepared clicks in whatever form the field has them: told from each other by looking, and read.

The prepared format of :mod:`clicks.clickfile` is read silently; as what any other file was read is said in a line.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from clicks.clickfile import PREPARED_COLUMNS, Clicks, read_clicks, session_offsets
from clicks.delimited import first_line
from clicks.opening import PARQUET, kind_of
from clicks.parquetfile import read_parquet
from clicks.sequences import read_sequences, separator_of_sequences
from clicks.table import read_table, separator_of
from clicks.textkinds import excerpt
from terminal.errors import UserError


def read_prepared_clicks(path: Path) -> Clicks:
    """Read prepared clicks in the order of their file.

    Raises:
        UserError: the file is missing, empty, of no form that is known, or a line of it is no click.
    """
    if kind_of(path) == PARQUET:
        return _said(path, *read_parquet(path))
    header = first_line(path)
    if is_own_format(header):
        return read_clicks(path)
    if separator := separator_of(header):
        return _said(path, *read_table(path, header, separator))
    if separator := separator_of_sequences(path):
        return _said(path, *read_sequences(path, separator))
    raise unclear(path, header)


def is_own_format(header: str) -> bool:
    """Whether a header is that of the prepared format, or lacks nothing but times."""
    names = [name.strip('"') for name in header.split(",")]
    return set(PREPARED_COLUMNS[:2]) <= set(names)


def unclear(path: Path, header: str) -> UserError:
    """The refusal of a file of no form that is known."""
    return UserError(
        f"{path}, line 1: {excerpt(header)} is neither a header with {', '.join(PREPARED_COLUMNS)} nor, with the lines "
        "after it, clearly a session a line: give the file such a header, or make it with preprocessing.py"
    )


def _said(path: Path, clicks: Clicks, words: str) -> Clicks:
    """The clicks, after a line about them on stderr."""
    n_apart = len(session_offsets(clicks.session)) - 1 - len(pd.unique(clicks.session))
    together = clicks.session[1:] == clicks.session[:-1]
    goes_back = bool(np.any(together & (clicks.time[1:] < clicks.time[:-1])))
    order = "; sessions lie apart" if n_apart else "; times go back within sessions" if goes_back else ""
    print(
        f"{path}: read as {words}{order + ', so the clicks are sorted' if order else ''}", file=sys.stderr, flush=True
    )
    return clicks

"""Next clicks in groups: by position, by the length of their session, by the target's popularity, by repetition."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from comparison.ranksfile import RankedClicks

ALL = "all"
POSITIONS = (1, 2, 3, 4, 5, 10)  # where groups begin
LENGTHS = (2, 3, 4, 5, 10)
N_QUANTILES = 4


class Group(NamedTuple):
    """Some of the next clicks.

    Attributes:
        by: what they are grouped by.
        label: what they have in common.
        mask: which they are.
    """

    by: str
    label: str
    mask: np.ndarray


def groups_of(ranked: RankedClicks) -> list[Group]:
    """All next clicks as a group, then those of every breakdown that has more than one, without empty ones."""
    breakdowns = (
        _in_ranges("position in the session", ranked.position, POSITIONS),
        _in_ranges("clicks of the session", session_lengths(ranked), LENGTHS),
        _in_ranges("clicks of the target in training", ranked.support, _quantiles(ranked.support), closed=True),
        _by_repetition(ranked),
    )
    groups = [Group(ALL, "", np.ones(len(ranked), dtype=np.bool_))]
    for breakdown in breakdowns:
        filled = [group for group in breakdown if group.mask.any()]
        groups += filled if len(filled) > 1 else []
    return groups


def session_starts(ranked: RankedClicks) -> np.ndarray:
    """The row of each session's first next click."""
    return np.flatnonzero(ranked.position == 1)


def session_lengths(ranked: RankedClicks) -> np.ndarray:
    """How many clicks the session of each next click has, that of the last target included."""
    n_next_clicks = np.diff(np.append(session_starts(ranked), len(ranked)))
    return np.repeat(n_next_clicks + 1, n_next_clicks)


def is_repeated(ranked: RankedClicks) -> np.ndarray:
    """Whether each target was clicked before in its session."""
    session = np.cumsum(ranked.position == 1) - 1
    codes, items = pd.factorize(np.concatenate((ranked.item, ranked.target)))
    item, target = np.split(codes, 2)
    clicked, first_row = np.unique(session * len(items) + item, return_index=True)
    wanted = session * len(items) + target
    place = np.minimum(np.searchsorted(clicked, wanted), len(clicked) - 1)
    return (clicked[place] == wanted) & (first_row[place] <= np.arange(len(ranked)))


def _in_ranges(by: str, values: np.ndarray, begins: tuple[int, ...], closed: bool = False) -> Iterator[Group]:
    """A group for the values from each of ``begins`` on to below the next; from the last on, or closed: up to it."""
    last = int(values.max())
    for low, below in zip(begins, (*begins[1:], last + 1 if closed else None), strict=True):
        if below is None:
            yield Group(by, f"{low:,} and more", values >= low)
        else:
            label = f"{low:,}" if below == low + 1 else f"{low:,} to {below - 1:,}"
            yield Group(by, label, (values >= low) & (values < below))


def _quantiles(values: np.ndarray) -> tuple[int, ...]:
    """Where groups of about as many values each begin, a value in one of them alone."""
    shares = np.arange(N_QUANTILES) / N_QUANTILES
    return tuple(np.unique(np.quantile(values, shares, method="inverted_cdf")).astype(int).tolist())


def _by_repetition(ranked: RankedClicks) -> Iterator[Group]:
    repeated = is_repeated(ranked)
    yield Group("target clicked before in the session", "no", ~repeated)
    yield Group("target clicked before in the session", "yes", repeated)

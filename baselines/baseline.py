"""What every baseline is: fitted on the model's sessions, and ranked by the model's evaluator.

A baseline gives each item a score after every click. Where one of paper [1] has nothing to say of two items (no
co-occurrence, no transition, not in the session), the more popular one ranks higher: otherwise most items would tie,
and the rank of the next click would be whatever is made of ties. The others say of such items that they have no score,
which is a miss however ties are counted.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dataset import Sessions, Step, ranges
from evaluation import BATCH_SIZE, Metrics, metrics_of_ranks, rank_by_every_tie_breaking, rows_at_once
from terminal.flags import Kind

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """A number that a baseline takes: its default, what its text may be, and what it means."""

    default: float
    kind: Kind
    help: str


class Baseline(ABC):
    """A recommender that is fitted in one go.

    Args:
        sessions: the training sessions.
        n_items: number of items; every one was clicked.
        settings: values of the class's ``settings``, where not their defaults.

    Attributes:
        p: all settings.
        is_seeded: it is fitted by random numbers, and takes the argument ``seed``.
    """

    settings: ClassVar[dict[str, Setting]] = {}
    is_seeded = False

    def __init__(self, sessions: Sessions, n_items: int, **settings: float):
        self.p = SimpleNamespace(**{name: each.default for name, each in self.settings.items()} | settings)
        support = torch.from_numpy(sessions.support(n_items))
        self.popularity = support / (support.max() + 1)  # [n_items], from 0 to below 1

    @abstractmethod
    def scores(self, step: Step) -> Tensor:
        """Take the current click of every live lane and score all items: ``[b, n_items]``, the higher the better.

        An item without a score has -inf.
        """

    def evaluate(self, sessions: Sessions, ks: Iterable[int] = (20,), tie_breaking: str = "standard") -> Metrics:
        """Recall@K and MRR@K on sessions, see :mod:`evaluation`."""
        return self.evaluate_by_every_tie_breaking(sessions, ks)[tie_breaking]

    def evaluate_by_every_tie_breaking(self, sessions: Sessions, ks: Iterable[int] = (20,)) -> dict[str, Metrics]:
        """The same for each of :data:`evaluation.TIE_BREAKING`."""
        return {way: metrics_of_ranks(ranks, ks) for way, ranks in self.ranks(sessions).items()}

    def ranks(self, sessions: Sessions) -> dict[str, Tensor]:
        """Ranks of all next clicks for each of :data:`evaluation.TIE_BREAKING`, session by session."""
        return rank_by_every_tie_breaking(self.scores, sessions, CPU, rows_at_once(len(self.popularity), CPU))


def lanes_of(step: Step) -> np.ndarray:
    """Which lanes the rows of a step are, ``[b]``."""
    return np.arange(len(step.inputs)) if isinstance(step.lanes, slice) else step.lanes.numpy()


class PerLane:
    """A row of numbers for every lane, zero when a session begins."""

    def __init__(self, n_columns: int):
        self.rows = torch.zeros(0, n_columns)

    def add(self, step: Step, columns: Tensor | slice, amount: Tensor | float) -> Tensor:
        """Add to some columns of the step's lanes, and return their rows ``[b, n_columns]``."""
        lanes = torch.from_numpy(lanes_of(step))
        if (n_new := int(lanes[-1]) + 1 - len(self.rows)) > 0:
            self.rows = torch.cat((self.rows, self.rows.new_zeros(n_new, self.rows.shape[1])))
        self.rows[lanes[step.starts]] = 0
        self.rows[lanes, columns] += amount
        return self.rows[lanes]


class ClicksOfLanes:
    """Where in the sessions every lane is, for a baseline that needs more of them than their current clicks.

    A step does not say so, but sessions are dealt in order: of the lanes that begin one, each has the next in line.
    """

    def __init__(self, sessions: Sessions):
        self.offsets = sessions.offsets
        self.n_begun = 0
        self.first = np.zeros(BATCH_SIZE, dtype=np.int64)
        self.current = np.zeros(BATCH_SIZE, dtype=np.int64)

    def of(self, step: Step) -> tuple[np.ndarray, np.ndarray]:
        """Take the next step: where in ``items`` and ``times`` the first and the current click of its lanes are."""
        lanes = lanes_of(step)
        self.current[lanes] += 1
        begin = lanes[step.starts.numpy()]
        self.current[begin] = self.first[begin] = self.offsets[self.n_begun : self.n_begun + len(begin)]
        self.n_begun += len(begin)
        return self.first[lanes], self.current[lanes]


class NextFromCurrent(Baseline):
    """A baseline that scores by the current item alone: a sparse matrix [n_items, n_items] of scores.

    Attributes:
        starts, columns, values: row i has ``values[starts[i]:starts[i + 1]]`` in these columns.
        others: what an item scores that is not in the row: a number, or ``[n_items]``.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    others: Tensor

    def keep(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, others: Tensor) -> None:
        """Keep the entries of the matrix, those of a row together and rows in order."""
        self.starts = torch.from_numpy(np.searchsorted(rows, np.arange(len(self.popularity) + 1)))
        self.columns = torch.from_numpy(columns.astype(np.int64))
        self.values = torch.from_numpy(values.astype(np.float32))
        self.others = others

    def scores(self, step: Step) -> Tensor:
        starts, ends = self.starts[step.inputs].numpy(), self.starts[step.inputs + 1].numpy()
        row = np.repeat(np.arange(len(starts)), ends - starts)
        place = torch.from_numpy(ranges(starts, ends - starts))
        scores = self.others.expand(len(starts), len(self.popularity)).clone()
        scores[torch.from_numpy(row), self.columns[place]] = self.values[place]
        return scores


class NextOrPopular(NextFromCurrent):
    """One of which only the order of its positive scores matters, popularity deciding between equal ones.

    So it is kept as whole numbers: 1, 2, … along a row, from the lowest score up; an item that is not in the row has
    its popularity, which is below 1.
    """

    def __init__(self, sessions: Sessions, n_items: int):
        super().__init__(sessions, n_items)
        matrix = self.fit(sessions, n_items).tocoo()
        popularity = self.popularity.numpy()[matrix.col]
        order = np.lexsort((popularity, matrix.data, matrix.row))
        row, score, popularity = matrix.row[order], matrix.data[order], popularity[order]
        higher = np.ones(len(row), dtype=np.int64)
        higher[1:] = (row[1:] != row[:-1]) | (score[1:] != score[:-1]) | (popularity[1:] != popularity[:-1])
        position = np.cumsum(higher)
        starts = np.searchsorted(row, row)
        self.keep(row, matrix.col[order], position - (position - higher)[starts], self.popularity)

    @abstractmethod
    def fit(self, sessions: Sessions, n_items: int) -> sp.spmatrix:
        """The matrix; row i holds the scores after a click on i, absent ones are zero."""

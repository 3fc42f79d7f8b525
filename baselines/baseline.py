"""What every baseline is: fitted on the model's sessions, and ranked by the model's evaluator.

A baseline gives each item a score after every click. Where it has nothing to say of two items (no co-occurrence, no
transition, not in the session), the more popular one ranks higher: otherwise most items would tie, and the rank of the
next click would be whatever ``--tie_breaking`` makes of that.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dataset import Sessions, Step
from evaluation import Metrics, metrics_of_ranks, rank_next_clicks, rows_at_once

CPU = torch.device("cpu")


class Baseline(ABC):
    """A recommender that is fitted in one go.

    Args:
        sessions: the training sessions.
        n_items: number of items; every one was clicked.

    Attributes:
        is_seeded: it is fitted by random numbers, and takes the argument ``seed``.
    """

    is_seeded = False

    def __init__(self, sessions: Sessions, n_items: int):
        support = torch.from_numpy(sessions.support(n_items))
        self.popularity = support / (support.max() + 1)  # [n_items], from 0 to below 1

    @abstractmethod
    def scores(self, step: Step) -> Tensor:
        """Take the current click of every live lane and score all items: ``[b, n_items]``, the higher the better."""

    def evaluate(self, sessions: Sessions, ks: Iterable[int] = (20,), tie_breaking: str = "standard") -> Metrics:
        """Recall@K and MRR@K on sessions, see :mod:`evaluation`."""
        n_rows = rows_at_once(len(self.popularity), CPU)
        return metrics_of_ranks(rank_next_clicks(self.scores, sessions, tie_breaking, CPU, n_rows), ks)


class PerLane:
    """A row of numbers for every lane, zero when a session begins."""

    def __init__(self, n_columns: int):
        self.rows = torch.zeros(0, n_columns)

    def add(self, step: Step, columns: Tensor | slice, amount: Tensor | float) -> Tensor:
        """Add to some columns of the step's lanes, and return their rows ``[b, n_columns]``."""
        lanes = torch.arange(len(step.inputs)) if isinstance(step.lanes, slice) else step.lanes
        if (n_new := int(lanes[-1]) + 1 - len(self.rows)) > 0:
            self.rows = torch.cat((self.rows, self.rows.new_zeros(n_new, self.rows.shape[1])))
        self.rows[lanes[step.starts]] = 0
        self.rows[lanes, columns] += amount
        return self.rows[lanes]


class NextFromCurrent(Baseline):
    """A baseline that scores by the current item alone: a sparse matrix [n_items, n_items] of positive scores.

    Only their order matters. It is kept as whole numbers: 1, 2, … along a row, from the lowest score up, the popularity
    deciding between equal ones; an item that is not in the row has its popularity, which is below 1.
    """

    def __init__(self, sessions: Sessions, n_items: int):
        super().__init__(sessions, n_items)
        matrix = self.fit(sessions, n_items).tocoo()
        popularity = self.popularity.numpy()[matrix.col]
        order = np.lexsort((popularity, matrix.data, matrix.row))
        row, score, popularity = matrix.row[order], matrix.data[order], popularity[order]
        starts = np.searchsorted(row, np.arange(n_items + 1))
        higher = np.ones(len(row), dtype=np.int64)
        higher[1:] = (row[1:] != row[:-1]) | (score[1:] != score[:-1]) | (popularity[1:] != popularity[:-1])
        position = np.cumsum(higher)
        self.starts = torch.from_numpy(starts)
        self.columns = torch.from_numpy(matrix.col[order].astype(np.int64))
        self.values = torch.from_numpy((position - (position - higher)[starts[row]]).astype(np.float32))

    @abstractmethod
    def fit(self, sessions: Sessions, n_items: int) -> sp.spmatrix:
        """The matrix; row i holds the scores after a click on i, absent ones are zero."""

    def scores(self, step: Step) -> Tensor:
        inputs = step.inputs
        scores = self.popularity.repeat(len(inputs), 1)
        n_stored = self.starts[inputs + 1] - self.starts[inputs]
        row = torch.repeat_interleave(torch.arange(len(inputs)), n_stored)
        first = torch.cumsum(n_stored, 0) - n_stored
        place = torch.arange(len(row)) - first[row] + self.starts[inputs][row]
        scores[row, self.columns[place]] = self.values[place]
        return scores

"""The baselines of paper [1], fitted on the same sessions and ranked by the same evaluator as the model.

Every baseline gives each item a score after every click. Where it has nothing to say of two items (no co-occurrence, no
transition, not in the session), the more popular one ranks higher: otherwise most items would tie, and the rank of the
next click would be whatever ``--tie_breaking`` makes of that.

Papers: [1] Hidasi et al., ICLR 2016, "Experiments"; Rendle et al., BPR, UAI 2009 (for BPR-MF).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset import Sessions, Step
from evaluation import BATCH_SIZE, Metrics, metrics_of_ranks, rank_next_clicks

ITEM_CHUNK = 2048  # items whose co-occurrences are counted at a time


class Baseline(ABC):
    """A recommender that is fitted in one go.

    Args:
        sessions: the training sessions.
        n_items: number of items; every one was clicked.
    """

    def __init__(self, sessions: Sessions, n_items: int):
        support = torch.from_numpy(sessions.support(n_items))
        self.popularity = support / (support.max() + 1)  # [n_items], from 0 to below 1

    @abstractmethod
    def scores(self, step: Step) -> Tensor:
        """Take the current click of every live lane and score all items: ``[b, n_items]``, the higher the better."""

    def evaluate(self, sessions: Sessions, ks: Iterable[int] = (20,), tie_breaking: str = "standard") -> Metrics:
        """Recall@K and MRR@K on sessions, see :mod:`evaluation`."""
        return metrics_of_ranks(rank_next_clicks(self.scores, sessions, tie_breaking, torch.device("cpu")), ks)


class _PerLane:
    """A row of numbers for every lane, zero when a session begins."""

    def __init__(self, n_columns: int):
        self.rows = torch.zeros(BATCH_SIZE, n_columns)

    def add(self, step: Step, columns: Tensor | slice, amount: Tensor | float) -> Tensor:
        """Add to some columns of the step's lanes, and return their rows ``[b, n_columns]``."""
        lanes = torch.arange(len(step.inputs)) if isinstance(step.lanes, slice) else step.lanes
        self.rows[lanes[step.starts]] = 0
        self.rows[lanes, columns] += amount
        return self.rows[lanes]


class Popularity(Baseline):
    """POP ([1], "Baselines"): the items most clicked in training, always the same."""

    def scores(self, step: Step) -> Tensor:
        return self.popularity.expand(len(step.inputs), -1)


class SessionPopularity(Baseline):
    """S-POP ([1], "Baselines"): the items most clicked in the session so far, ties broken by popularity in training."""

    def __init__(self, sessions: Sessions, n_items: int):
        super().__init__(sessions, n_items)
        self.counts = _PerLane(n_items)

    def scores(self, step: Step) -> Tensor:
        return self.counts.add(step, step.inputs, 1) + self.popularity


class _NextFromCurrent(Baseline):
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


class ItemKNN(_NextFromCurrent):
    r"""Item-KNN ([1], "Baselines"): the items most similar to the current one.

    The similarity of items i and j is the cosine of their sessions, regularized against coincidences between rare
    items: :math:`c_{ij} / \sqrt{(n_i + \lambda)(n_j + \lambda)}` with c the number of sessions that have both and n the
    number that have one. As in the authors' code, :math:`\lambda = 20` and the 100 most similar items of each are kept.
    """

    regularization = 20.0
    n_neighbours = 100

    def fit(self, sessions: Sessions, n_items: int) -> sp.spmatrix:
        session_of = np.repeat(np.arange(len(sessions), dtype=np.int32), np.diff(sessions.offsets))
        ones = np.ones(len(sessions.items), dtype=np.int32)
        occurs = sp.csr_matrix((ones, (session_of, sessions.items)), shape=(len(sessions), n_items))
        occurs.data[:] = 1  # a session has an item or it has not, however often
        n_sessions = np.asarray(occurs.sum(axis=0)).ravel()
        weight = 1 / np.sqrt(n_sessions + self.regularization)
        by_item = occurs.T.tocsr()
        return sp.vstack(
            [
                self._neighbours(by_item[first : first + ITEM_CHUNK] @ occurs, first, weight)
                for first in range(0, n_items, ITEM_CHUNK)
            ]
        )

    def _neighbours(self, co_occurrences: sp.csr_matrix, first_item: int, weight: np.ndarray) -> sp.csr_matrix:
        """The most similar items of the items from ``first_item`` on, from their rows of co-occurrence counts."""
        counts = co_occurrences.tocoo()
        row, column = counts.row, counts.col
        similarity = counts.data * weight[row + first_item] * weight[column]
        other = column != row + first_item
        row, column, similarity = row[other], column[other], similarity[other]
        order = np.lexsort((-similarity, row))
        row, column, similarity = row[order], column[order], similarity[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = rank < self.n_neighbours
        return sp.csr_matrix((similarity[kept], (row[kept], column[kept])), shape=co_occurrences.shape)


class MarkovChain(_NextFromCurrent):
    """A first-order Markov chain: the items that most often came right after the current one."""

    def fit(self, sessions: Sessions, n_items: int) -> sp.spmatrix:
        follows = np.ones(len(sessions.items) - 1, dtype=np.bool_)
        follows[sessions.offsets[1:-1] - 1] = False  # the last click of a session leads nowhere
        current, following = sessions.items[:-1][follows], sessions.items[1:][follows]
        counts = sp.csr_matrix((np.ones(len(current), dtype=np.int64), (current, following)), shape=(n_items, n_items))
        return counts.multiply(1 / np.maximum(counts.sum(axis=1), 1))


class BPRMF(Baseline):
    r"""BPR-MF ([1], "Baselines"; Rendle et al. 2009): matrix factorization of sessions and items under the BPR loss.

    A session that training never saw has no factors of its own: its factors are the mean of those of its items so far.
    Stochastic gradient descent on :math:`-\ln \sigma(u_s \cdot (v_i - v_j))` over all clicks i of sessions s in random
    order, a mini-batch at a time, with j drawn uniformly from all items. Settings as in the authors' code: 100 factors,
    ten passes, learning rate 0.01 for every click, no regularization, factors start normal with deviation 0.05.
    """

    n_factors, n_epochs, learning_rate, initial_deviation, batch_size = 100, 10, 0.01, 0.05, 4096

    def __init__(self, sessions: Sessions, n_items: int, seed: int = 22):
        super().__init__(sessions, n_items)
        self.factors = self._fit(sessions, n_items, torch.Generator().manual_seed(seed))
        self.sums = _PerLane(self.n_factors + 1)  # of the factors of a session's items, and how many they are

    def _fit(self, sessions: Sessions, n_items: int, generator: torch.Generator) -> Tensor:
        items = torch.from_numpy(sessions.items.astype(np.int64))
        session_of = torch.from_numpy(np.repeat(np.arange(len(sessions)), np.diff(sessions.offsets)))
        of_sessions = torch.randn(len(sessions), self.n_factors, generator=generator) * self.initial_deviation
        of_items = torch.randn(n_items, self.n_factors, generator=generator) * self.initial_deviation
        for _ in range(self.n_epochs):
            for clicks in torch.randperm(len(items), generator=generator).split(self.batch_size):
                session, item = session_of[clicks], items[clicks]
                negative = torch.randint(n_items, item.shape, generator=generator)
                user, difference = of_sessions[session], of_items[item] - of_items[negative]
                step = self.learning_rate * F.sigmoid(-(user * difference).sum(dim=1, keepdim=True))
                of_sessions.index_add_(0, session, step * difference)
                of_items.index_add_(0, item, step * user)
                of_items.index_add_(0, negative, -step * user)
        return of_items

    def scores(self, step: Step) -> Tensor:
        ones = torch.ones(len(step.inputs), 1)
        sums, counts = self.sums.add(step, slice(None), torch.cat((self.factors[step.inputs], ones), dim=1)).split(
            (self.n_factors, 1), dim=1
        )
        return (sums / counts) @ self.factors.T


BASELINES = {
    "POP": Popularity,
    "S-POP": SessionPopularity,
    "Item-KNN": ItemKNN,
    "BPR-MF": BPRMF,
    "Markov chain": MarkovChain,
}

"""The baselines of paper [1]: POP, S-POP, Item-KNN, BPR-MF; and a Markov chain.

Papers: [1] Hidasi et al., ICLR 2016, "Experiments"; Rendle et al., BPR, UAI 2009 (for BPR-MF).
"""

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.baseline import Baseline, NextOrPopular, PerLane
from dataset import Sessions, Step

ITEM_CHUNK = 2048  # items whose co-occurrences are counted at a time


class Popularity(Baseline):
    """POP ([1], "Baselines"): the items most clicked in training, always the same."""

    def scores(self, step: Step) -> Tensor:
        return self.popularity.expand(len(step.inputs), -1)


class SessionPopularity(Baseline):
    """S-POP ([1], "Baselines"): the items most clicked in the session so far, ties broken by popularity in training."""

    def __init__(self, sessions: Sessions, n_items: int):
        super().__init__(sessions, n_items)
        self.counts = PerLane(n_items)

    def scores(self, step: Step) -> Tensor:
        return self.counts.add(step, step.inputs, 1) + self.popularity


class ItemKNN(NextOrPopular):
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


class MarkovChain(NextOrPopular):
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
    ten passes, learning rate 0.01 for every click, no regularization, factors start uniform in ±0.05.
    """

    n_factors, n_epochs, learning_rate, initial_limit, batch_size = 100, 10, 0.01, 0.05, 4096
    is_seeded = True

    def __init__(self, sessions: Sessions, n_items: int, seed: int = 22):
        super().__init__(sessions, n_items)
        self.factors = self._fit(sessions, n_items, torch.Generator().manual_seed(seed))
        self.sums = PerLane(self.n_factors + 1)  # of the factors of a session's items, and how many they are

    def _fit(self, sessions: Sessions, n_items: int, generator: torch.Generator) -> Tensor:
        items = torch.from_numpy(sessions.items.astype(np.int64))
        session_of = torch.from_numpy(np.repeat(np.arange(len(sessions)), np.diff(sessions.offsets)))
        of_sessions, of_items = (
            torch.empty(n, self.n_factors).uniform_(-self.initial_limit, self.initial_limit, generator=generator)
            for n in (len(sessions), n_items)
        )
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

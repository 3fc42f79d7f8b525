"""Sequential rules: what came soon after an item comes after it again.

Paper: Kamehkhosh, Jannach & Ludewig, A Comparison of Frequent Pattern Techniques and a Deep Learning Method for
Session-Based Recommendation, RecTemp 2017.
"""

import numpy as np
import scipy.sparse as sp
import torch

from baselines.baseline import NextFromCurrent, Setting
from dataset import Sessions
from terminal.flags import COUNT


class SequentialRules(NextFromCurrent):
    """SR: a rule a → b weighs 1 / distance for every time that b is clicked after a in a session, not too far behind.

    After a click on a, the heaviest rules of a score their b by their weights; of equal ones at the cut, those of more
    popular b are kept. Other items have no score.
    """

    settings = {
        "steps": Setting(8, COUNT, "clicks that b is after a, at most"),
        "rules": Setting(20, COUNT, "rules of an item that are kept"),
    }

    def __init__(self, sessions: Sessions, n_items: int, **settings: float):
        super().__init__(sessions, n_items, **settings)
        weights = self._weights(sessions, n_items).tocoo()
        weight = weights.data.astype(np.float32)  # in which sums are equal that differ by rounding alone
        order = np.lexsort((-self.popularity.numpy()[weights.col], -weight, weights.row))
        row = weights.row[order]
        order = order[np.arange(len(row)) - np.searchsorted(row, row) < self.p.rules]
        self.keep(weights.row[order], weights.col[order], weight[order], torch.tensor(-torch.inf))

    def _weights(self, sessions: Sessions, n_items: int) -> sp.csr_matrix:
        """The weights of all rules: ``[n_items, n_items]``, row a, column b."""
        items, offsets = sessions.items, sessions.offsets
        left = np.repeat(offsets[1:], np.diff(offsets)) - np.arange(
            len(items)
        )  # clicks of the session from this one on
        weights = sp.csr_matrix((n_items, n_items))
        for distance in range(1, min(self.p.steps, int(left.max()) - 1) + 1):
            a = np.flatnonzero(left > distance)
            shares = np.full(len(a), 1 / distance)
            weights += sp.csr_matrix((shares, (items[a], items[a + distance])), shape=weights.shape)
        return weights

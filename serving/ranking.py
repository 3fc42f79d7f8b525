"""From hidden states to lists of items: by the model's scores, or by popularity where a session has no click yet."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from clicks.itemindex import ItemIndex
from model import GRU4Rec
from serving.selection import Selection, listed_ids, mask_of

POPULAR = "popular"
FALLBACKS = (POPULAR,)


class Ranking:
    """A model, its items, and which of them may be recommended.

    Args:
        model: with its trained weights.
        index: the items that it knows.
        support: ``[n_items]`` int64, clicks of each in training; None where popular items are not asked for.
        allowed: ``[n_items]`` bool, which items may be recommended.
        bonus: of what a session has clicked, see :func:`model.remind`.
    """

    def __init__(
        self, model: GRU4Rec, index: ItemIndex, support: np.ndarray | None, allowed: np.ndarray, bonus: float = 0.0
    ):
        self.model, self.index, self.support, self.bonus = model, index, support, bonus
        self.selection = Selection.of(model, allowed)

    def among(self, candidates: Iterable[int | str] | None, exclude: Iterable[int | str] | None) -> "Ranking":
        """As :meth:`serving.recommender.Recommender.among`."""
        allowed = self.selection.allowed
        if candidates is not None:
            allowed = allowed & mask_of(self.index, listed_ids(candidates, "candidates"))
        if exclude is not None:
            allowed = allowed & ~mask_of(self.index, listed_ids(exclude, "exclude"))
        if not allowed.any():
            raise ValueError("no item that the model knows may be recommended")
        return Ranking(self.model, self.index, self.support, allowed, self.bonus)

    def known(self, ids: Iterable[int | str], what: str) -> np.ndarray:
        """Item indices of those ids that the model knows, int32; ``what`` and errors as in :func:`listed_ids`."""
        ids = listed_ids(ids, what)
        known = self.index.encode(ids) if len(ids) else np.zeros(0, dtype=np.int32)
        return known[known >= 0]

    def check_k(self, k: int) -> None:
        """Make sure that there are k items.

        Raises:
            ValueError: k is not from 1 to the number of items.
        """
        if not 1 <= k <= len(self.index):
            raise ValueError(f"k is {k}, expected 1 to {len(self.index)}, the number of items")

    def best(
        self,
        hidden: Tensor,
        k: int,
        without: tuple[np.ndarray, np.ndarray] | None,
        begun: np.ndarray,
        fallback: str | None,
        clicked: Sequence[Sequence[int]] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item ids and scores, ``[n, k]`` each, for the top layer's hidden states ``[n, H]``.

        Args:
            without: as in :meth:`serving.selection.Selection.best`.
            begun: ``[n]`` bool, which sessions have a click; to the others goes what ``fallback`` names.
            fallback: one of ``FALLBACKS``; None for scores of minus infinity.
            clicked: the item indices that each session has clicked, in order, for reminders.

        Raises:
            ValueError: there is no such fallback, or popular items are asked for and there is no support.
        """
        if fallback not in (None, *FALLBACKS):
            raise ValueError(f"fallback is {fallback!r}, expected {' or '.join(map(repr, FALLBACKS))}")
        reminded = _before_the_current(clicked) if self.bonus else None
        items, scores = self.selection.best(hidden, k, without, reminded, self.bonus)
        if not begun.all():
            scores[~begun] = -np.inf
            if fallback is not None:
                items[~begun], scores[~begun] = self._popular(k)
        return self.index.ids[items], scores

    def _popular(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.support is None:
            raise ValueError("popular items need the support that a checkpoint has: see Recommender.load")
        return self.selection.most(self.support, k)


def _before_the_current(clicked: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The number of each session, for every item that it clicked but the last one, and these items."""
    items = [np.asarray(each, dtype=np.int64) for each in clicked]
    items = [each[each != each[-1]] if len(each) else each for each in items]
    return np.repeat(np.arange(len(items)), list(map(len, items))), np.concatenate(items)


def pairs(ids: np.ndarray, scores: np.ndarray) -> list[tuple[int | str, float]]:
    """Pairs of item id and score, less those whose score is minus infinity."""
    return [(item, s) for item, s in zip(ids.tolist(), scores.tolist(), strict=True) if np.isfinite(s)]

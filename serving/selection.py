"""Which items may be recommended: scores of these alone, and the best of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clicks.delimited import lines
from clicks.itemindex import ItemIndex
from clicks.textkinds import excerpt, is_integer
from model import GRU4Rec, score
from terminal.errors import UserError, listed, warn

COPIED_UP_TO = 1 / 4  # of all items: to copy their rows and score them takes less time than to score all, even once
HEADER = "ItemID"


@dataclass(frozen=True)
class Selection:
    """The items that may be recommended, and what gives their scores.

    Of a few items, rows are copied and scored by themselves; of many, all are scored, those that are left out with a
    bias of minus infinity.

    Attributes:
        output_rows: ``[C, H]``, rows of the output embedding: of the selected items, or of all.
        bias: ``[C]``.
        items: ``[C]`` int64 ascending item indices of these rows; None where they are all items.
        allowed: ``[n_items]`` bool.
    """

    output_rows: Tensor
    bias: Tensor
    items: Tensor | None
    allowed: np.ndarray

    @classmethod
    @torch.no_grad()
    def of(cls, model: GRU4Rec, allowed: np.ndarray) -> "Selection":
        """The selection of the items for which ``allowed`` ``[n_items]`` is true."""
        rows, bias = model.output_embedding.detach(), model.output_bias.detach()
        if allowed.all():
            return cls(rows, bias, None, allowed)
        if allowed.sum() <= COPIED_UP_TO * len(allowed):
            items = torch.from_numpy(np.flatnonzero(allowed)).to(bias.device)
            return cls(rows.index_select(0, items), bias.index_select(0, items), items, allowed)
        return cls(rows, bias.masked_fill(~torch.from_numpy(allowed).to(bias.device), -torch.inf), None, allowed)

    def best(
        self,
        hidden: Tensor,
        k: int,
        without: tuple[np.ndarray, np.ndarray] | None = None,
        reminded: tuple[np.ndarray, np.ndarray] | None = None,
        bonus: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items with the best scores.

        Args:
            hidden: ``[n, H]`` the top layer's hidden state of each session.
            k: how many.
            without: rows of ``hidden``, and an item index for each of these, that is left out of this row's items.
            reminded: rows and item indices likewise, whose scores gain ``bonus``, once, see :func:`model.remind`.

        Returns:
            Item indices int64 and scores float32, ``[n, k]`` each, best first; where too few items are left, the score
            is minus infinity, and the index is any.
        """
        scores = score(hidden, self.output_rows, self.bias)
        if reminded is not None:
            places = self._places(*reminded)
            scores[places] = scores[places] + bonus
        if without is not None:
            scores[self._places(*without)] = -torch.inf
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        items = best.indices if self.items is None else self.items[best.indices]
        return _filled_up(items.cpu().numpy(), best.values.cpu().numpy(), k)

    def _places(self, row: np.ndarray, item: np.ndarray) -> tuple[Tensor, Tensor]:
        """Row and column of the scores of items, less those that are not selected."""
        row, item = (torch.from_numpy(part.astype(np.int64)).to(self.bias.device) for part in (row, item))
        if self.items is None:
            return row, item
        column = torch.searchsorted(self.items, item).clamp_(max=max(len(self.items) - 1, 0))
        is_there = self.items.take(column) == item if len(self.items) else item < 0
        return row[is_there], column[is_there]

    def rows(self) -> np.ndarray:
        """``[C]`` the item index of each row of ``output_rows``."""
        return np.flatnonzero(self.allowed) if self.items is not None else np.arange(len(self.allowed))

    def most(self, support: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The items with the largest support, ``[k]`` item indices and their support as float32, as :meth:`best`."""
        items = np.flatnonzero(self.allowed)
        items = items[np.argsort(-support[items], kind="stable")[:k]]
        return _filled_up(items, support[items].astype(np.float32), k)


def read_ids(path: Path, index: ItemIndex) -> list[str]:
    """The item ids of a file that has one a line; a first line ``ItemID`` is its header. Unknown ones are warned of.

    Raises:
        UserError: the file cannot be read, or the model's ids are integers, and one of these is not.
    """
    ids = []
    for number, line in enumerate(lines(path), 1):
        if line and not (number == 1 and line == HEADER):
            if not index.is_text and not is_integer(line):
                raise UserError(f"{path}, line {number}: {excerpt(line)} is not an item id, expected an integer")
            ids.append(line if index.is_text else str(int(line)))
    unknown = [ids[place] for place in np.flatnonzero(index.encode(ids) < 0)] if ids else []
    if unknown:
        warn(f"{path}: the model does not know {len(unknown):,} of {len(ids):,} items: {listed(unknown)}")
    return ids


def listed_ids(ids: Iterable[int | float | str | None], what: str) -> np.ndarray | list[int | float | str | None]:
    """Ids from a list, a generator, an array, or whatever else has several.

    Args:
        ids: the ids.
        what: they are, for a message.

    Raises:
        ValueError: it is a lone id, which is not taken for a list of one, or there are lists in place of ids.
    """
    if hasattr(ids, "tolist") and not (isinstance(ids, np.ndarray) and ids.ndim == 1):
        ids = ids.tolist()  # a tensor's elements, or the number of an array that has no dimension
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise ValueError(f"{what} is {ids!r}, where a list of ids is expected, such as [{ids!r}]")
    if isinstance(ids, np.ndarray) and ids.dtype != object:
        return ids
    ids = [each.item() if getattr(each, "ndim", None) == 0 else each for each in ids]  # of NumPy or PyTorch
    if inner := [each for each in ids if isinstance(each, Iterable) and not isinstance(each, str)]:
        raise ValueError(f"{what} has {inner[0]!r} in the place of an id: give a list of integers or of str")
    return ids


def mask_of(index: ItemIndex, ids: Sequence[int | str]) -> np.ndarray:
    """Which items are among ``ids``: ``[n_items]`` bool. Ids that the index does not have are passed over."""
    mask = np.zeros(len(index), dtype=np.bool_)
    if len(ids):
        known = index.encode(ids)
        mask[known[known >= 0]] = True
    return mask


def _filled_up(items: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and scores ``[…, at most k]`` with as many of score minus infinity behind them as k lacks."""
    if (n_missing := k - items.shape[-1]) == 0:
        return items, scores
    behind = [(0, 0)] * (items.ndim - 1) + [(0, n_missing)]
    return np.pad(items, behind), np.pad(scores, behind, constant_values=-np.inf)

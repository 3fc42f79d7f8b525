"""The item index: which row of the model's tables belongs to which item id."""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from clicks.clickfile import Clicks
from clicks.textkinds import is_integer


class ItemIndex:
    """Item ids and their positions, the item indices: rows of the model's tables.

    Ids are integers or text. The two meet by their text: 12 and "12" are one id, "012" is another.

    Args:
        ids: ``[n_items]`` integers or str, no id twice; ``ids[index]`` is the id of an item index.

    Attributes:
        ids: int64, or str as objects.
        is_text: which of the two.
    """

    def __init__(self, ids: np.ndarray):
        ids = np.asarray(ids)
        self.is_text = not np.issubdtype(ids.dtype, np.integer)
        self.ids = ids.astype(object if self.is_text else np.int64, copy=False)
        self._lookup = pd.Index(self.ids, dtype=self.ids.dtype)

    @classmethod
    def of(cls, clicks: Clicks) -> "ItemIndex":
        """The items of a training set, in the order in which they first appear."""
        items = pd.unique(clicks.item)
        return cls(items if clicks.item_names is None else _as_objects(clicks.item_names)[items])

    @classmethod
    def from_state(cls, state: Tensor | list[str]) -> "ItemIndex":
        """The index that gave a :meth:`state`.

        Raises:
            ValueError: it is something else.
        """
        if isinstance(state, list):
            is_whole = all(isinstance(item, str) for item in state) and len(set(state)) == len(state) > 0
        else:
            is_whole = state.dtype == torch.int64 and state.dim() == 1 and len(state.unique()) == len(state) > 0
        if not is_whole:
            raise ValueError("its items are no list of ids")
        return cls(np.array(state, dtype=object) if isinstance(state, list) else state.numpy())

    def with_items_of(self, clicks: Clicks) -> "ItemIndex":
        """These items, and behind them those of clicks that are not among them, in the order of their first clicks.

        Item indices stay what they are. Integer ids stay integers, unless a new id is none: then all become text.
        """
        theirs = ItemIndex.of(clicks).ids
        new = theirs[self.encode(theirs) < 0].tolist()
        if self.is_text:
            return ItemIndex(np.array([*self.ids, *map(str, new)], dtype=object))
        if all(_is_plain_integer(str(item)) for item in new):
            return ItemIndex(np.array([*self.ids.tolist(), *map(int, new)], dtype=np.int64))
        return ItemIndex(np.array([*map(str, self.ids.tolist()), *map(str, new)], dtype=object))

    def state(self) -> Tensor | list[str]:
        """The ids as a checkpoint holds them: an int64 tensor, or a list of str."""
        return self.ids.tolist() if self.is_text else torch.from_numpy(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, ids: np.ndarray | Iterable[int | float | str]) -> np.ndarray:
        """Item indices of item ids, int32; -1 for an id that is not in the index. A whole float is its integer."""
        is_array = isinstance(ids, np.ndarray)
        if is_array and not self.is_text and np.issubdtype(ids.dtype, np.integer) and np.can_cast(ids.dtype, np.int64):
            return self._lookup.get_indexer(ids).astype(np.int32)
        each = (_text_of(item) for item in (ids.tolist() if is_array else ids))  # one array would round to float64
        code, texts = pd.factorize(np.fromiter(each, dtype=object))
        if self.is_text:
            index = self._places_of(texts)
        else:
            index = np.full(len(texts), -1)
            same = [place for place, text in enumerate(texts) if _is_plain_integer(text)]
            index[same] = self._lookup.get_indexer(np.array([int(texts[place]) for place in same], dtype=np.int64))
        return index[code].astype(np.int32)

    def _places_of(self, texts: np.ndarray) -> np.ndarray:
        try:
            return self._lookup.get_indexer(texts)
        except UnicodeEncodeError:  # broken encoding, which no id of a file has
            index = np.full(len(texts), -1)
            whole = [place for place, text in enumerate(texts) if not re.search("[\ud800-\udfff]", text)]
            index[whole] = self._lookup.get_indexer(texts[whole])
            return index

    def encode_clicks(self, clicks: Clicks) -> np.ndarray:
        """Item indices of clicks, int32; -1 where the item is not in the index."""
        if clicks.item_names is None:
            return self.encode(clicks.item)
        return self.encode(_as_objects(clicks.item_names))[clicks.item]


def _is_plain_integer(text: str) -> bool:
    """Whether a text is that of an integer id: "12" is, "012" is not."""
    return is_integer(text) and str(int(text)) == text


def _text_of(item: int | float | str) -> str:
    is_whole = isinstance(item, float | np.floating) and float(item).is_integer()
    return str(int(item) if is_whole else item)


def _as_objects(names: pa.LargeStringArray) -> np.ndarray:
    return names.to_numpy(zero_copy_only=False)

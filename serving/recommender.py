"""A trained model that recommends items for sessions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clicks.itemindex import ItemIndex
from model import GRU4Rec, score
from runs.restoring import restored_for_evaluation
from runs.runfolder import read_checkpoint
from terminal.errors import UserError


class Recommender:
    """A trained model that recommends items for sessions.

    Args:
        model: with its trained weights.
        index: the items that it knows.

    Raises:
        FloatingPointError: a weight is NaN or infinite.
    """

    def __init__(self, model: GRU4Rec, index: ItemIndex):
        model.check_finite()
        self.model = model.eval()
        self.index = index

    @classmethod
    def load(cls, path: str | Path, device: str | None = None) -> "Recommender":
        """The model of a checkpoint.

        Args:
            path: the checkpoint.
            device: cpu, cuda or cuda:N; None for CUDA where there is one, else the CPU.

        Raises:
            UserError: the checkpoint is unusable, or there is no such device.
        """
        path = Path(path)
        _, model, index = restored_for_evaluation(read_checkpoint(path), path, {"device": device})
        try:
            return cls(model, index)
        except FloatingPointError as error:
            raise UserError(f"{path} cannot recommend: {error}") from error

    def recommend(
        self, items: Sequence[int | str], k: int = 20, exclude_seen: bool = False
    ) -> list[tuple[int | str, float]]:
        """The items that are most likely to be clicked next, best first.

        Args:
            items: ids of the items clicked so far, in order; those that the model does not know are passed over.
            k: how many to recommend.
            exclude_seen: leave out the items of ``items``.

        Returns:
            At most k pairs of item id (int, or str where the ids of the training clicks are text) and score.

        Raises:
            ValueError: the model knows none of the items, or k is not from 1 to the number of items.
        """
        known = self.index.encode(items)
        known = known[known >= 0]
        if len(known) == 0:
            raise ValueError("the model knows none of these items")
        ids, scores = self.recommend_batch([known], k, exclude_seen)
        return [(item, s) for item, s in zip(ids[0].tolist(), scores[0].tolist(), strict=True) if np.isfinite(s)]

    @torch.no_grad()
    def recommend_batch(
        self, sessions: Sequence[np.ndarray], k: int, exclude_seen: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Recommendations for several sessions at once.

        Args:
            sessions: item indices of each session, one at least.
            k: how many to recommend.
            exclude_seen: leave out the items of a session from its recommendations.

        Returns:
            Item ids and scores, ``[n_sessions, k]`` each; where too few items are left, the score is minus infinity.

        Raises:
            ValueError: k is not from 1 to the number of items.
        """
        if not 1 <= k <= len(self.index):
            raise ValueError(f"k is {k}, expected 1 to {len(self.index)}, the number of items")
        scores = score(self._last_hidden(sessions), self.model.output_embedding, self.model.output_bias)
        if exclude_seen:
            row = torch.from_numpy(np.repeat(np.arange(len(sessions)), [len(session) for session in sessions]))
            seen = torch.from_numpy(np.concatenate(sessions).astype(np.int64))
            scores[row.to(scores.device), seen.to(scores.device)] = -torch.inf
        best = scores.topk(k, dim=1)
        return self.index.ids[best.indices.cpu().numpy()], best.values.cpu().numpy()

    def _last_hidden(self, sessions: Sequence[np.ndarray]) -> Tensor:
        """The top layer's hidden state after each session, ``[n_sessions, H]``; all sessions advance side by side."""
        lengths = np.array([len(session) for session in sessions])
        longest_first = np.argsort(-lengths, kind="stable")  # those that still go on are the first rows
        hidden = self.model.initial_hidden(len(sessions))
        clicks = torch.from_numpy(np.concatenate(sessions).astype(np.int64)).to(hidden.device)
        begins = torch.from_numpy((np.cumsum(lengths) - lengths)[longest_first]).to(hidden.device)
        starts = torch.zeros(len(sessions), dtype=torch.bool, device=hidden.device)
        for position in range(lengths.max()):
            n_going = int((lengths > position).sum())
            inputs = clicks.take(begins[:n_going] + position)
            hidden[:, :n_going] = self.model.feed(inputs, hidden[:, :n_going], starts[:n_going])
        last = torch.empty_like(hidden[-1])
        last[torch.from_numpy(longest_first).to(hidden.device)] = hidden[-1]
        return last

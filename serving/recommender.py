"""A trained model that recommends items: for the clicks of a session, among all items or some, or like another one."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clicks.itemindex import ItemIndex
from model import GRU4Rec
from runs.restoring import restored_for_evaluation
from runs.runfolder import read_checkpoint
from serving.livesession import LiveSession, LiveSessions
from serving.ranking import Ranking, pairs
from terminal.errors import UserError


class Recommender:
    """A trained model that recommends items for sessions.

    Args:
        model: with its trained weights.
        index: the items that it knows.
        support: ``[n_items]`` int64, clicks of each in training; None where popular items are not asked for.
        bonus: of what a session has clicked, see :func:`model.remind`.

    Raises:
        FloatingPointError: a weight is NaN or infinite.
    """

    def __init__(self, model: GRU4Rec, index: ItemIndex, support: np.ndarray | None = None, bonus: float = 0.0):
        model.check_finite()
        self.model = model.eval()
        self.index = index
        self.ranking = Ranking(model, index, support, np.ones(len(index), dtype=np.bool_), bonus)

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
        checkpoint = read_checkpoint(path)
        parameters, model, index = restored_for_evaluation(checkpoint, path, {"device": device})
        try:
            return cls(model, index, checkpoint["support"].cpu().numpy(), parameters.remind)
        except FloatingPointError as error:
            raise UserError(f"{path} cannot recommend: {error}") from error

    def among(
        self, candidates: Iterable[int | str] | None = None, exclude: Iterable[int | str] | None = None
    ) -> "Recommender":
        """The same model, which recommends some items only: make it once, for as long as these are in stock.

        All items may be clicked, as before.

        Args:
            candidates: the ids that may be recommended; None for all that may be now.
            exclude: ids that may not.

        Raises:
            ValueError: that leaves no item that the model knows.
        """
        restricted = copy.copy(self)
        restricted.ranking = self.ranking.among(candidates, exclude)
        return restricted

    def recommend(
        self,
        items: Iterable[int | str],
        k: int = 20,
        exclude_seen: bool = False,
        candidates: Iterable[int | str] | None = None,
        exclude: Iterable[int | str] | None = None,
        fallback: str | None = None,
    ) -> list[tuple[int | str, float]]:
        """The items that are most likely to be clicked next, best first.

        Args:
            items: ids of the items clicked so far, in order; those that the model does not know are passed over.
            k: how many to recommend.
            exclude_seen: leave out the items of ``items``.
            candidates: as in :meth:`among`, for this once.
            exclude: likewise.
            fallback: "popular": where the model knows none of the items, those that were clicked most in training,
                each with how often that was as its score.

        Returns:
            At most k pairs of item id (int, or str where the ids of the training clicks are text) and score.

        Raises:
            ValueError: the model knows none of the items, and there is no fallback; k is not from 1 to the number of
                items; no item may be recommended; or a lone id stands where a list of them is expected.
        """
        recommender = self if candidates is None and exclude is None else self.among(candidates, exclude)
        known = self.ranking.known(items, "items")
        if len(known) == 0 and fallback is None:
            raise ValueError("the model knows none of these items")
        ids, scores = recommender.recommend_batch([known], k, exclude_seen, fallback)
        return pairs(ids[0], scores[0])

    @torch.no_grad()
    def recommend_batch(
        self, sessions: Sequence[np.ndarray], k: int, exclude_seen: bool = False, fallback: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Recommendations for several sessions at once.

        Args:
            sessions: item indices of each session; one at least, where there is no fallback.
            k: how many to recommend.
            exclude_seen: leave out the items of a session from its recommendations.
            fallback: "popular": for a session without items as in :meth:`recommend`.

        Returns:
            Item ids and scores, ``[n_sessions, k]`` each; where too few items are left, the score is minus infinity.

        Raises:
            ValueError: k is not from 1 to the number of items, or a session is empty, and there is no fallback.
        """
        self.ranking.check_k(k)
        lengths = np.array([len(session) for session in sessions])
        if fallback is None and not lengths.all():
            raise ValueError("a session has no items")
        begun = np.flatnonzero(lengths)
        hidden = self.model.initial_hidden(len(sessions))[-1]
        if len(begun):
            hidden[torch.from_numpy(begun).to(hidden.device)] = self._last_hidden([sessions[row] for row in begun])
        seen = (np.repeat(np.arange(len(sessions)), lengths), np.concatenate(sessions)) if exclude_seen else None
        return self.ranking.best(hidden, k, seen, lengths > 0, fallback, sessions)

    def similar(self, item: int | str, k: int = 20) -> list[tuple[int | str, float]]:
        """The items whose output vectors point where that of ``item`` points, most similar first.

        Of the two item tables that a model may have, that of the outputs says which items are recommended after the
        same clicks, and every input mode has it.

        Returns:
            At most k pairs of item id and cosine, ``item`` itself left out.

        Raises:
            ValueError: the model does not know the item, or k is not from 1 to the number of items.
        """
        self.ranking.check_k(k)
        (place,) = self.index.encode([item]).tolist()
        if place < 0:
            raise ValueError(f"the model does not know the item {item!r}")
        selected, vector = self.ranking.selection, self.model.output_embedding.detach()[place]
        lengths = torch.linalg.vector_norm(selected.output_rows, dim=1) * torch.linalg.vector_norm(vector)
        cosines = (selected.output_rows.mv(vector) / lengths.clamp_(min=torch.finfo(lengths.dtype).tiny)).cpu().numpy()
        rows = selected.rows()
        cosines[~selected.allowed[rows] | (rows == place)] = -np.inf
        best = np.argsort(-cosines, kind="stable")[:k]
        return pairs(self.index.ids[rows[best]], cosines[best])

    def session(self, state: np.ndarray | None = None, clicked: Iterable[int | str] = ()) -> LiveSession:
        """A session as it happens, from its beginning, or from where another one was.

        Args:
            state: :attr:`~serving.livesession.LiveSession.state` of the other one.
            clicked: what it had clicked, which matters where the model was trained with ``--remind``.
        """
        return LiveSession(self.ranking, state, clicked)

    def sessions(self, n: int) -> LiveSessions:
        """``n`` sessions as they happen, side by side, from their beginning."""
        return LiveSessions(self.ranking, n)

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

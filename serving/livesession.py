"""Sessions as they happen: the hidden state is kept, so that a click costs one step however many came before it."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from serving.ranking import Ranking, pairs
from serving.selection import listed_ids


class LiveSessions:
    """Several sessions side by side, each with its hidden state.

    Recommendations are those that :meth:`serving.recommender.Recommender.recommend` gives for all clicks of a session,
    up to rounding. A session whose state is zero has not begun.

    Args:
        ranking: whose model is fed, and which says what may be recommended.
        n: how many sessions.
    """

    def __init__(self, ranking: Ranking, n: int):
        self._ranking = ranking
        self._hidden = ranking.model.initial_hidden(n)
        self._clicked: list[list[int]] = [[] for _ in range(n)]

    def __len__(self) -> int:
        return self._hidden.shape[1]

    @property
    def state(self) -> np.ndarray:
        """``[L, n, H]`` float32, a copy of the hidden states: all that is to be kept of the sessions.

        What is assigned to it takes their place; ValueError where it has another shape, or is not finite.
        """
        return self._hidden.cpu().numpy().copy()

    @state.setter
    def state(self, state: np.ndarray) -> None:
        state = np.asarray(state, dtype=np.float32)
        if state.shape != self._hidden.shape:
            raise ValueError(f"the state's shape is {state.shape}, expected {tuple(self._hidden.shape)}")
        if not np.isfinite(state).all():
            raise ValueError("the state holds NaN or infinite values")
        self._hidden = torch.from_numpy(state.copy()).to(self._hidden.device)

    @property
    def clicked(self) -> list[list[int | str]]:
        """The ids that each session has clicked, in order, and the model knows: for reminders, kept beside the state.

        What is assigned to it takes their place; ValueError where it is not of as many sessions.
        """
        return [self._ranking.index.ids[places].tolist() for places in self._clicked]

    @clicked.setter
    def clicked(self, clicked: Sequence[Iterable[int | str]]) -> None:
        if len(clicked) != len(self):
            raise ValueError(f"clicks of {len(clicked)} sessions, expected {len(self)}")
        self._clicked = [self._ranking.known(ids, "clicked").tolist() for ids in clicked]

    @property
    def has_begun(self) -> np.ndarray:
        """``[n]`` bool, which sessions have had a click that the model knows."""
        return self._hidden.any(dim=2).any(dim=0).cpu().numpy()

    @torch.no_grad()
    def click(self, ids: Iterable[int | str | None]) -> np.ndarray:
        """Go on by a click of each session.

        Args:
            ids: ``n`` item ids; None for a session that stays as it is, as one does whose item the model does not know.

        Returns:
            ``[n]`` bool, which sessions went on.

        Raises:
            ValueError: there are not as many ids as sessions, or something is no id.
        """
        ids = listed_ids(ids, "what is clicked")
        if len(ids) != len(self):
            raise ValueError(f"{len(ids)} clicks for {len(self)} sessions; give None for those that do not click")
        clicking = np.flatnonzero([item is not None for item in ids])
        known = np.full(len(ids), -1, dtype=np.int64)
        if len(clicking):
            known[clicking] = self._ranking.index.encode([ids[row] for row in clicking])
        going = known >= 0
        if going.any():
            rows = torch.from_numpy(np.flatnonzero(going)).to(self._hidden.device)
            inputs = torch.from_numpy(known[going]).to(self._hidden.device)
            fed = self._ranking.model.feed(inputs, self._hidden[:, rows], torch.zeros_like(rows))
            self._hidden[:, rows] = fed
            for row in np.flatnonzero(going).tolist():
                self._clicked[row].append(int(known[row]))
        return going

    @torch.no_grad()
    def recommend(
        self, k: int = 20, exclude: Sequence[Iterable[int | str]] | None = None, fallback: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What each session is likely to click next.

        Args:
            k: how many items.
            exclude: for each session the ids that are not recommended to it, such as those that it has clicked.
            fallback: "popular": for a session that has not begun as in
                :meth:`serving.recommender.Recommender.recommend`.

        Returns:
            Item ids and scores, ``[n, k]`` each, best first; where too few items are left, or a session has not begun
            and there is no fallback, the score is minus infinity.

        Raises:
            ValueError: k is not from 1 to the number of items, or ``exclude`` is not of as many sessions.
        """
        self._ranking.check_k(k)
        without = None
        if exclude is not None:
            if len(exclude) != len(self):
                raise ValueError(f"exclude is of {len(exclude)} sessions, expected {len(self)}")
            known = [self._ranking.known(ids, "exclude") for ids in exclude]
            without = np.repeat(np.arange(len(self)), list(map(len, known))), np.concatenate(known)
        return self._ranking.best(self._hidden[-1], k, without, self.has_begun, fallback, self._clicked)


class LiveSession:
    """One session as it happens.

    Args:
        ranking: as in :class:`LiveSessions`.
        state: ``[L, H]`` of another one, to go on from; None for the beginning.
        clicked: the ids that the other one has clicked.

    Raises:
        ValueError: the state has another shape, or is not finite.
    """

    def __init__(self, ranking: Ranking, state: np.ndarray | None = None, clicked: Iterable[int | str] = ()):
        self._sessions = LiveSessions(ranking, 1)
        self._sessions.clicked = [clicked]
        if state is not None:
            self.state = state

    @property
    def state(self) -> np.ndarray:
        """``[L, H]`` float32, the hidden state, as in :attr:`LiveSessions.state`."""
        return self._sessions.state[:, 0]

    @state.setter
    def state(self, state: np.ndarray) -> None:
        self._sessions.state = np.asarray(state)[:, None]

    @property
    def clicked(self) -> list[int | str]:
        """The ids that were clicked, as in :attr:`LiveSessions.clicked`."""
        return self._sessions.clicked[0]

    def click(self, item: int | str) -> bool:
        """Go on by a click; whether the model knows the item, without which the session stays as it is."""
        return bool(self._sessions.click([item])[0])

    def recommend(
        self, k: int = 20, exclude: Iterable[int | str] = (), fallback: str | None = None
    ) -> list[tuple[int | str, float]]:
        """What is likely to be clicked next: at most k pairs of item id and score, best first.

        Args:
            k: how many items.
            exclude: ids that are not recommended, such as those that were clicked.
            fallback: "popular": before the first click as in :meth:`serving.recommender.Recommender.recommend`.

        Raises:
            ValueError: k is not from 1 to the number of items; or no item that the model knows was clicked, and there
                is no fallback.
        """
        if fallback is None and not self._sessions.has_begun[0]:
            raise ValueError("no item that the model knows was clicked")
        ids, scores = self._sessions.recommend(k, [exclude], fallback)
        return pairs(ids[0], scores[0])

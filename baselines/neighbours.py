"""Neighbours: sessions like the current one tell what comes next. VS-KNN, STAN and V-STAN.

A session's *candidates* are the training sessions that share an item with its clicks so far; of too many, those whose
last click is the most recent. Its *neighbours* are the k most similar candidates. Where equally similar ones, of which
VS-KNN has many, are too many, lots decide that were drawn once. The items of the neighbours have scores, other items
have none. An item counts at the last position at which the current session, or the neighbour, has it.

Papers: VS-KNN: Ludewig & Jannach, Evaluation of Session-based Recommendation Algorithms, UMUAI 2018. STAN: Garg, Gupta,
Malhotra, Vig & Shroff, Sequence and Time Aware Neighborhood for Session-based Recommendations, SIGIR 2019. V-STAN:
Ludewig, Mauro, Latifi & Jannach, Empirical Analysis of Session-based Recommendation Algorithms, UMUAI 2020.
"""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from baselines.baseline import Baseline, ClicksOfLanes, Setting
from dataset import Sessions, Step, ranges
from terminal.flags import COUNT, NOT_NEGATIVE, POSITIVE

DAY = 86_400_000  # in milliseconds


class TrainingSessions:
    """The training sessions, numbered from the one whose last click is the oldest to the most recent.

    Args:
        sessions: with times.
        sample: how many sessions of an item matter, the most recent: a session that is not among those of one of its
            items is not among those of several items together either.

    Attributes:
        last_click: ``[n_sessions]`` int64, when, in milliseconds.
        lot: ``[n_sessions]`` int32, a random order of them.
        offsets, items, positions: session s has the items ``items[offsets[s]:offsets[s + 1]]``, each once, at these
            positions, which count from 1.
        starts, with_item: item i is in the sessions ``with_item[starts[i]:starts[i + 1]]``, of which there are at most
            ``sample``, in ascending order.
    """

    def __init__(self, sessions: Sessions, n_items: int, sample: int):
        last_click = sessions.times[sessions.offsets[1:] - 1]
        order = np.argsort(last_click, kind="stable")
        self.last_click = last_click[order]
        self.lot = np.random.default_rng(seed=0).permutation(len(order)).astype(np.int32)
        by_item = _positions_by_item(sessions.select(order), n_items)
        by_session = by_item.tocsr()
        self.offsets, self.items, self.positions = by_session.indptr, by_session.indices, by_session.data
        n_sessions = np.minimum(np.diff(by_item.indptr), sample)
        self.with_item = by_item.indices[ranges(by_item.indptr[1:] - n_sessions, n_sessions)]
        self.starts = np.concatenate(([0], np.cumsum(n_sessions)))

    def __len__(self) -> int:
        return len(self.last_click)


def _positions_by_item(sessions: Sessions, n_items: int) -> sp.csc_matrix:
    """The last position of every item in every session that has it: ``[n_sessions, n_items]`` int32."""
    lengths = np.diff(sessions.offsets)
    position = ranges(np.ones_like(lengths), lengths).astype(np.int32)
    shape = len(sessions), n_items
    clicks = sp.csr_matrix((position, sessions.items, sessions.offsets), shape=shape).tocsc()
    is_last = np.ones(len(position), dtype=np.bool_)  # of the clicks on an item in a session, which are in order
    is_last[:-1] = clicks.indices[1:] != clicks.indices[:-1]
    is_last[clicks.indptr[1:-1] - 1] = True
    starts = np.concatenate(([0], np.cumsum(is_last)))[clicks.indptr]
    return sp.csc_matrix((clicks.data[is_last], clicks.indices[is_last], starts), shape=shape)


class Neighbours(NamedTuple):
    """The n neighbours of a session, and their E items.

    Attributes:
        similarity: ``[n]``.
        ago: ``[n]`` int, how many clicks ago the current session had the last of the items that it shares; 0: just now.
        last_shared: ``[n]`` int, the last position at which the neighbour has one of these items.
        of: ``[E]`` int, whose item each of the following is.
        items, positions: ``[E]`` int32.
    """

    similarity: np.ndarray
    ago: np.ndarray
    last_shared: np.ndarray
    of: np.ndarray
    items: np.ndarray
    positions: np.ndarray


class SessionNeighbours(Baseline):
    """What VS-KNN, STAN and V-STAN have in common: candidates, neighbours, and that scores are sums over these."""

    def __init__(self, sessions: Sessions, n_items: int, **settings: float):
        super().__init__(sessions, n_items, **settings)
        self.known = TrainingSessions(sessions, n_items, self.p.sample)

    @abstractmethod
    def weights(self, ago: np.ndarray, n_clicks: int) -> np.ndarray:
        """What items weigh that a session of so many clicks had so many clicks ago: ``[m]``."""

    @abstractmethod
    def similarity(self, shared: np.ndarray, weights: np.ndarray, candidates: np.ndarray, time: int) -> np.ndarray:
        """How similar candidates are to the current session: ``[C]``.

        Args:
            shared: ``[C]``, the sum of the weights of the items that a candidate shares with it.
            weights: ``[m]``, of all of its distinct items.
            candidates: ``[C]``, numbers of training sessions.
            time: of the current click.
        """

    @abstractmethod
    def contributions(self, neighbours: Neighbours) -> np.ndarray:
        """What each of the neighbours' items gets from its neighbour: ``[E]``."""

    def ranks(self, sessions: Sessions) -> dict[str, Tensor]:
        self.sessions, self.clicks = sessions, ClicksOfLanes(sessions)
        return super().ranks(sessions)

    def scores(self, step: Step) -> Tensor:
        scores = np.full((len(step.inputs), len(self.popularity)), -np.inf)
        for row, first, current in zip(scores, *self.clicks.of(step), strict=True):
            neighbours = self.neighbours(self.sessions.items[first : current + 1], self.sessions.times[current])
            sums = np.bincount(neighbours.items, self.contributions(neighbours), minlength=len(row))
            row[neighbours.items] = sums[neighbours.items]
        return torch.from_numpy(scores)

    def neighbours(self, clicks: np.ndarray, time: int) -> Neighbours:
        """The neighbours of a session after these clicks, the last of them at this time."""
        ago_of: dict[int, int] = {}
        for ago, item in enumerate(reversed(clicks.tolist())):
            ago_of.setdefault(item, ago)
        items, ago = (np.fromiter(each, np.int64) for each in (ago_of, ago_of.values()))
        weights = self.weights(ago, len(clicks))
        candidates, shared, last = self._candidates(items, weights)
        similarity = self.similarity(shared, weights, candidates, time)
        nearest = _nearest(similarity, self.p.k, self.known.lot[candidates])

        starts, ends = (self.known.offsets[candidates[nearest] + after] for after in (0, 1))
        entries = ranges(starts, ends - starts)
        of_neighbours, positions = self.known.items[entries], self.known.positions[entries]
        is_shared = np.zeros(len(self.popularity), dtype=np.bool_)
        is_shared[items] = True
        first = np.cumsum(ends - starts) - (ends - starts)
        return Neighbours(
            similarity[nearest],
            ago[last[nearest]],
            np.maximum.reduceat(np.where(is_shared[of_neighbours], positions, 0), first),
            np.repeat(np.arange(len(nearest)), ends - starts),
            of_neighbours,
            positions,
        )

    def _candidates(self, items: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The candidates of a session with these distinct items, the one that it had last first.

        Returns:
            ``[C]`` each: their numbers, ascending; the sums of the weights of the items that they share with the
            session; the first of these items, as its place in ``items``.
        """
        sample = self.p.sample
        with_item = [self.known.with_item[self.known.starts[item] : self.known.starts[item + 1]] for item in items]
        oldest = max((each[0] for each in with_item if len(each) == sample), default=0)  # as so many are more recent
        n_bits = len(items).bit_length()
        pairs = np.concatenate(  # of session and item, as one number each, which sort fast
            [(each[each.searchsorted(oldest) :].astype(np.int64) << n_bits) + i for i, each in enumerate(with_item)]
        )
        pairs.sort()
        sessions, place = pairs >> n_bits, pairs & ((1 << n_bits) - 1)
        first = np.flatnonzero(np.diff(sessions, prepend=-1))[-sample:]
        return sessions[first], np.add.reduceat(weights[place], first), place[first]


def _nearest(similarity: np.ndarray, k: int, lot: np.ndarray) -> np.ndarray:
    """The places of the k highest, ascending; of equal ones at the cut, those with the lowest lots."""
    if len(similarity) <= k:
        return np.arange(len(similarity))
    cut = np.partition(similarity, -k)[-k]
    is_nearest = similarity > cut
    equal = np.flatnonzero(similarity == cut)
    by_lot = equal[np.argsort(lot[equal])]
    is_nearest[by_lot[: k - is_nearest.sum()]] = True
    return np.flatnonzero(is_nearest)


class VSKNN(SessionNeighbours):
    """VS-KNN: the later a shared item came, the more it counts.

    A neighbour's similarity is the sum of the positions at which the current session had the shared items. (The paper
    divides it by the numbers of the session's clicks and distinct items, which are the same for all neighbours; without
    that, it is a whole number, and equal where it should be.) An item's score is the sum over the neighbours that have
    it of similarity / s, where s is 1 if the neighbour has the last click, 2 if not that but the one before, and so on.
    """

    settings = {
        "k": Setting(100, COUNT, "neighbours"),
        "sample": Setting(1000, COUNT, "candidates, the most recent sessions"),
    }

    def weights(self, ago: np.ndarray, n_clicks: int) -> np.ndarray:
        return (n_clicks - ago).astype(np.float64)

    def similarity(self, shared: np.ndarray, weights: np.ndarray, candidates: np.ndarray, time: int) -> np.ndarray:
        return shared

    def contributions(self, neighbours: Neighbours) -> np.ndarray:
        return (neighbours.similarity / (neighbours.ago + 1))[neighbours.of]


class STAN(SessionNeighbours):
    r"""STAN: shared items count less by the click, neighbours by the day, and their items by the distance from these.

    With a the number of clicks since the current session had an item, :math:`w = e^{-a / \lambda_{spw}}`. A neighbour's
    similarity is the sum of w over the shared items, divided by the root of the sum of w² over all distinct items of
    the session and by the root of the number of distinct items of the neighbour, times
    :math:`e^{-d / \lambda_{snh}}`, d the days from its last click to the current one. An item's score is the sum over
    the neighbours that have it of similarity times :math:`e^{-|q - q^*| / \lambda_{inh}}`, q its position there and
    :math:`q^*` the last position there of a shared item.
    """

    settings = {
        "k": Setting(1000, COUNT, "neighbours"),
        "sample": Setting(10_000, COUNT, "candidates, the most recent sessions"),
        "lambda_spw": Setting(0.5, POSITIVE, "clicks after which a shared item weighs 1/e"),
        "lambda_snh": Setting(20.0, POSITIVE, "days after which a neighbour weighs 1/e"),
        "lambda_inh": Setting(0.5, POSITIVE, "clicks from a shared item at which a neighbour's item weighs 1/e"),
    }

    def weights(self, ago: np.ndarray, n_clicks: int) -> np.ndarray:
        return np.exp(-ago / self.p.lambda_spw)

    def similarity(self, shared: np.ndarray, weights: np.ndarray, candidates: np.ndarray, time: int) -> np.ndarray:
        n_items = self.known.offsets[candidates + 1] - self.known.offsets[candidates]
        days = (time - self.known.last_click[candidates]) / DAY
        return shared / (np.sqrt((weights**2).sum()) * np.sqrt(n_items)) * np.exp(-days / self.p.lambda_snh)

    def contributions(self, neighbours: Neighbours) -> np.ndarray:
        distance = np.abs(neighbours.positions - neighbours.last_shared[neighbours.of])
        return neighbours.similarity[neighbours.of] * np.exp(-distance / self.p.lambda_inh)


class VSTAN(STAN):
    r"""V-STAN: STAN in which rare items, and those of neighbours that have a recent click, score higher.

    An item's score is STAN's times :math:`1 + \lambda_{idf} \ln(\text{sessions} / \text{clicks on the item})`, with
    every neighbour's similarity multiplied by :math:`e^{-a' / \lambda_{ipw}}`, a' the number of clicks since the
    current session had an item that the neighbour has.
    """

    settings = STAN.settings | {
        "k": Setting(2000, COUNT, "neighbours"),
        "lambda_spw": Setting(4.0, POSITIVE, STAN.settings["lambda_spw"].help),
        "lambda_ipw": Setting(1.0, POSITIVE, "clicks since the last shared item after which a neighbour weighs 1/e"),
        "lambda_idf": Setting(2.0, NOT_NEGATIVE, "how much more rare items score"),
    }

    def __init__(self, sessions: Sessions, n_items: int, **settings: float):
        super().__init__(sessions, n_items, **settings)
        self.rarity = 1 + self.p.lambda_idf * np.log(len(sessions) / sessions.support(n_items))

    def contributions(self, neighbours: Neighbours) -> np.ndarray:
        of_neighbours = np.exp(-neighbours.ago / self.p.lambda_ipw)
        return super().contributions(neighbours) * of_neighbours[neighbours.of] * self.rarity[neighbours.items]

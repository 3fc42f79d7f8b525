"""How well a model predicts: the rank of every next click among all items, and the metrics that follow.

Definitions ([1], "Experiments"): a session is fed click by click from a zero hidden state, and the next click is ranked
among all items of the training set. Recall@K is the share of next clicks that rank at K or better, MRR@K the mean of
1 / rank, with 0 beyond K, NDCG@K that of 1 / log2(1 + rank). Means are over next clicks, all of them, whatever the
batch size. Two metrics look at what is recommended instead, the K items that score best after a click: Coverage@K is
the share of all items that are ever recommended, Popularity@K the mean popularity of what is, both as [2] has them.

Papers: [1] Hidasi et al., ICLR 2016; [2] Ludewig & Jannach, Evaluation of Session-based Recommendation Algorithms,
UMUAI 2018 (session-rec).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataset import SessionParallelBatches, Sessions, Step
from model import GRU4Rec, remind
from terminal.memory import memory_there_is

TIE_BREAKING = ("standard", "conservative", "median")
NOTICEABLE = 0.001  # difference between figures that differ in how ties are counted
BATCH_SIZE = 256  # sessions side by side, at most; the result does not depend on it
SHARE_OF_MEMORY = 1 / 4  # that rows of scores may take,
BYTES_PER_SCORE = 16  # of which a score of the hungriest recommender, S-POP, takes so many, copies included
COMPARED_AT_ONCE = {"cpu": 2**18, "cuda": 2**26}  # scores; fewer stay in the second-level cache of a CPU
METRICS = {"recall": "Recall", "mrr": "MRR", "ndcg": "NDCG", "coverage": "Coverage", "popularity": "Popularity"}
DEFAULT_METRICS = ("recall", "mrr")
GAINS: dict[str, Callable[[Tensor], Tensor]] = {  # what a next click at a rank, K or better, counts in a metric
    "recall": torch.ones_like,
    "mrr": lambda ranks: 1 / ranks,
    "ndcg": lambda ranks: 1 / torch.log2(1 + ranks),
}


def rows_at_once(n_items: int, device: torch.device, most: int = BATCH_SIZE) -> int:
    """How many rows of scores of all items there may be at once: as many as memory has room for, a power of two.

    Args:
        n_items: the length of a row.
        device: where the scores are.
        most: a power of two, too.
    """
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else memory_there_is()
    n_rows = int(memory * SHARE_OF_MEMORY) // (BYTES_PER_SCORE * n_items)
    return min(most, 2 ** (max(n_rows, 1).bit_length() - 1))


@dataclass(frozen=True)
class Metrics:
    """Figures by metric, then by K, and over how many next clicks.

    Attributes:
        figures: of the metrics that were asked for, in their order; names as in ``METRICS``.
        n_next_clicks: how many were ranked.
    """

    figures: dict[str, dict[int, float]]
    n_next_clicks: int

    @property
    def recall(self) -> dict[int, float]:
        """Recall@K by K."""
        return self.figures["recall"]

    @property
    def mrr(self) -> dict[int, float]:
        """MRR@K by K."""
        return self.figures["mrr"]

    def line(self, k: int) -> str:
        """As the scripts print it: ``Recall@20: 0.558720 MRR@20: 0.223296``."""
        return " ".join(f"{METRICS[name]}@{k}: {by_k[k]:.6f}" for name, by_k in self.figures.items())


class TopLists:
    """What was recommended so far: which items the K best of a click's scores ever had, and how popular they were.

    Where items tie at the end of a list, which of them is in it is left to ``torch.topk``.

    Args:
        ks: the lengths K of the lists.
        support: ``[n_items]`` how often each item was clicked in training; an item's popularity is its support divided
            by the largest.
        device: where the scores will be.
    """

    def __init__(self, ks: Iterable[int], support: Tensor, device: torch.device):
        self.ks = tuple(ks)
        self.popularity = (support.double() / support.max()).to(device)
        self.is_recommended = {k: torch.zeros(len(support), dtype=torch.bool, device=device) for k in self.ks}
        self.total_popularity = {k: torch.zeros((), dtype=torch.float64, device=device) for k in self.ks}
        self.n_lists = 0

    def add(self, scores: Tensor) -> None:
        """Take the lists of some clicks: ``[b, n_items]`` scores."""
        best = scores.topk(max(self.ks), dim=1).indices
        for k in self.ks:
            self.is_recommended[k][best[:, :k].flatten()] = True
            self.total_popularity[k] += self.popularity[best[:, :k]].mean(dim=1).sum()
        self.n_lists += len(scores)

    def figures(self, name: str) -> dict[int, float]:
        """``coverage`` or ``popularity`` by K."""
        if name == "coverage":
            return {k: is_recommended.double().mean().item() for k, is_recommended in self.is_recommended.items()}
        return {k: total.item() / self.n_lists for k, total in self.total_popularity.items()}


def top_lists(
    metrics: Sequence[str], ks: Iterable[int], support: Tensor | None, device: torch.device
) -> TopLists | None:
    """What the metrics need beside ranks; None where they need nothing, so that nothing is sorted in vain.

    Raises:
        ValueError: they need the support of the items, and there is none.
    """
    if all(name in GAINS for name in metrics):
        return None
    if support is None:
        raise ValueError(f"{' and '.join(metrics)} need the support of the items")
    return TopLists(ks, support, device)


def ranks_of_targets(scores: Tensor, targets: Tensor, tie_breaking: str = "standard") -> Tensor:
    """The rank of each row's target among all scores of the row, 1 for the best.

    Args:
        scores: ``[b, n_items]``; -inf is no score: a target without one ranks at infinity, and no K reaches it.
        targets: ``[b]`` int64, a column for each row.
        tie_breaking: of items that score as high as the target, "standard" ranks none above it, "conservative" all, and
            "median" half of them.

    Returns:
        ``[b]`` float64 ranks (half ranks with "median").
    """
    if tie_breaking not in TIE_BREAKING:
        raise ValueError(f"tie_breaking is {tie_breaking!r}, expected one of {', '.join(TIE_BREAKING)}")
    if tie_breaking == "median":
        best, worst = (ranks_of_targets(scores, targets, way) for way in ("standard", "conservative"))
        return (best + worst) / 2
    target_scores = scores.gather(1, targets[:, None])
    if tie_breaking == "standard":
        ranks = _count(torch.gt, scores, target_scores) + 1
    else:
        ranks = _count(torch.ge, scores, target_scores)
    return ranks.masked_fill_(target_scores.squeeze(1) == -torch.inf, torch.inf)


def _count(compare: Callable[[Tensor, Tensor], Tensor], scores: Tensor, target_scores: Tensor) -> Tensor:
    """How many scores of each row compare with its target's: ``[b]`` float64.

    Some rows at a time: to count booleans, PyTorch makes integers of them, which take as much as the scores.
    """
    n_rows = max(1, COMPARED_AT_ONCE[scores.device.type] // scores.shape[1])
    parts = zip(scores.split(n_rows), target_scores.split(n_rows), strict=True)
    return torch.cat([compare(some, of_target).sum(dim=1, dtype=torch.int32) for some, of_target in parts]).double()


def gains_of_ranks(name: str, ranks: Tensor, k: int) -> Tensor:
    """What each next click counts in recall, mrr or ndcg at K, by its float64 rank; the mean of that is the metric."""
    return torch.where(ranks <= k, GAINS[name](ranks), 0)


def metrics_of_ranks(
    ranks: Tensor, ks: Iterable[int], metrics: Sequence[str] = DEFAULT_METRICS, lists: TopLists | None = None
) -> Metrics:
    """Metrics of ranks, for every K.

    Args:
        ranks: of all next clicks.
        ks: cutoffs; those of ``lists``.
        metrics: names as in ``METRICS``.
        lists: what :func:`top_lists` gave, full of what was recommended.

    Raises:
        ValueError: there are no ranks.
    """
    if len(ranks) == 0:
        raise ValueError("no next clicks to evaluate")
    ranks = ranks.double().sort().values  # a sum depends on the order, and that of the sessions is no matter
    ks = tuple(ks)
    figures = {
        name: {k: gains_of_ranks(name, ranks, k).mean().item() for k in ks} if name in GAINS else lists.figures(name)
        for name in metrics
    }
    return Metrics(figures, len(ranks))


def tie_breaking_to_report(metrics: dict[str, Metrics]) -> str:
    """By which of ``TIE_BREAKING`` to report figures that are given for each: where they differ noticeably, median.

    "standard" flatters what gives many items the same score: a constant would be right always.
    """
    best, worst = metrics["standard"].figures, metrics["conservative"].figures
    differences = [best[name][k] - worst[name][k] for name in best for k in best[name]]
    return "median" if max(differences) > NOTICEABLE else "standard"


def rank_next_clicks(
    score_step: Callable[[Step], Tensor],
    sessions: Sessions,
    tie_breaking: str,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    lists: TopLists | None = None,
) -> Tensor:
    """Ranks of all next clicks of ``sessions``, session by session, whatever the order in which batches reach them.

    Args:
        score_step: called with every step in order; returns the scores ``[b, n_items]`` of its live lanes, for which
            it may keep a state.
        lists: is told all scores.

    Returns:
        ``[n_next_clicks]`` float64, on the device.
    """
    (ranks,) = _ranks_by((tie_breaking,), score_step, sessions, device, batch_size, lists)
    return ranks


def rank_by_every_tie_breaking(
    score_step: Callable[[Step], Tensor], sessions: Sessions, device: torch.device, batch_size: int = BATCH_SIZE
) -> dict[str, Tensor]:
    """The ranks of :func:`rank_next_clicks` for each of ``TIE_BREAKING``, of scores that are computed once."""
    best, worst = _ranks_by(("standard", "conservative"), score_step, sessions, device, batch_size)
    return {"standard": best, "conservative": worst, "median": (best + worst) / 2}


def _ranks_by(
    ways: Sequence[str],
    score_step: Callable[[Step], Tensor],
    sessions: Sessions,
    device: torch.device,
    batch_size: int,
    lists: TopLists | None = None,
) -> list[Tensor]:
    """The ranks of :func:`rank_next_clicks` for some ways to break ties."""
    n_lanes = min(batch_size, len(sessions))
    ranks: list[list[Tensor]] = [[] for _ in ways]
    for block in SessionParallelBatches(sessions, n_lanes):
        block = block.to(device)
        for step in map(block.step, range(len(block))):
            scores = score_step(step)
            for way, so_far in zip(ways, ranks, strict=True):
                so_far.append(ranks_of_targets(scores, step.targets, way))
            if lists is not None:
                lists.add(scores)
    order = _session_order(sessions, n_lanes).to(device)
    return [torch.cat(each)[order] for each in ranks]


def _session_order(sessions: Sessions, n_lanes: int) -> Tensor:
    """Where session-parallel batches of so many lanes reach each next click, session by session: ``[n_next_clicks]``.

    Batches of the same sessions, their clicks numbered, tell which click they reach when.
    """
    numbered = Sessions(np.arange(len(sessions.items)), sessions.offsets)
    blocks = SessionParallelBatches(numbered, n_lanes)
    return torch.cat([block.step(k).inputs for block in blocks for k in range(len(block))]).argsort()


@contextmanager
def scores_of(model: GRU4Rec, n_lanes: int, bonus: float = 0.0) -> Iterator[Callable[[Step], Tensor]]:
    """What scores all items after every click, by a model; it comes back in the mode (training or not) that it had.

    Args:
        bonus: of what the session has clicked, see :func:`model.remind`.

    Raises:
        FloatingPointError: a weight of the model is NaN or infinite, and its ranks would mean nothing.
    """
    model.check_finite()
    hidden = model.initial_hidden(n_lanes)
    n_items, device = len(model.output_bias), hidden.device
    clicked = torch.zeros(n_lanes, n_items, dtype=torch.bool, device=device) if bonus else None

    def score_step(step: Step) -> Tensor:
        scores, hidden[:, step.lanes] = model.score_all(step.inputs, hidden[:, step.lanes], step.starts)
        return scores if clicked is None else remind(scores, _clicked_by(step, clicked), step.inputs, bonus)

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield score_step
    finally:
        model.train(was_training)


def _clicked_by(step: Step, clicked: Tensor) -> Tensor:
    """What the live lanes' sessions have clicked so far, ``[b, n_items]``; noted in ``clicked``, that of all lanes."""
    so_far = clicked[step.lanes].masked_fill(step.starts[:, None], False).scatter_(1, step.inputs[:, None], True)
    clicked[step.lanes] = so_far
    return so_far


def rank_by_model(
    model: GRU4Rec,
    sessions: Sessions,
    tie_breaking: str = "standard",
    batch_size: int | None = None,
    lists: TopLists | None = None,
    bonus: float = 0.0,
) -> Tensor:
    """As :func:`rank_next_clicks`, by a model.

    Args:
        bonus: of what a session has clicked, see :func:`model.remind`.
        batch_size: sessions side by side; None for what there is memory for.

    Raises:
        FloatingPointError: a weight of the model is NaN or infinite.
    """
    device = model.output_bias.device
    batch_size = batch_size or rows_at_once(len(model.output_bias), device)
    with scores_of(model, min(batch_size, len(sessions)), bonus) as score_step:
        return rank_next_clicks(score_step, sessions, tie_breaking, device, batch_size, lists)


def evaluate(
    model: GRU4Rec,
    sessions: Sessions,
    ks: Iterable[int] = (20,),
    tie_breaking: str = "standard",
    batch_size: int | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    support: Tensor | None = None,
    bonus: float = 0.0,
) -> Metrics:
    """Metrics of a model.

    Args:
        bonus: of what a session has clicked, see :func:`model.remind`.
        batch_size: sessions side by side; None for what there is memory for.
        support: ``[n_items]`` of the items in training, for coverage and popularity.

    Raises:
        FloatingPointError: a weight of the model is NaN or infinite.
        ValueError: a metric needs ``support``, and there is none.
    """
    ks = tuple(ks)
    lists = top_lists(metrics, ks, support, model.output_bias.device)
    ranks = rank_by_model(model, sessions, tie_breaking, batch_size, lists, bonus)
    return metrics_of_ranks(ranks, ks, metrics, lists)

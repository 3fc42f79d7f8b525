"""How well a model predicts: the rank of every next click among all items, Recall@K and MRR@K.

Definitions ([1], "Experiments"): a session is fed click by click from a zero hidden state, and the next click is ranked
among all items of the training set. Recall@K is the share of next clicks that rank at K or better, MRR@K the mean of
1 / rank, with 0 beyond K. Means are over next clicks, all of them, whatever the batch size.

Paper: [1] Hidasi et al., ICLR 2016.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dataset import SessionParallelBatches, Sessions, Step
from model import GRU4Rec

TIE_BREAKING = ("standard", "conservative", "median")
NOTICEABLE = 0.001  # difference between figures that differ in how ties are counted
BATCH_SIZE = 256  # sessions side by side; the score matrix has this many rows, and the result does not depend on it


@dataclass(frozen=True)
class Metrics:
    """Recall@K and MRR@K, by K, and over how many next clicks."""

    recall: dict[int, float]
    mrr: dict[int, float]
    n_next_clicks: int

    def line(self, k: int) -> str:
        """As the scripts print it: ``Recall@20: 0.558720 MRR@20: 0.223296``."""
        return f"Recall@{k}: {self.recall[k]:.6f} MRR@{k}: {self.mrr[k]:.6f}"


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
    above = scores > target_scores if tie_breaking == "standard" else scores >= target_scores
    ranks = above.sum(dim=1, dtype=torch.int32).double()  # int32: in half the time of int64
    if tie_breaking == "standard":
        ranks += 1
    return ranks.masked_fill_(target_scores.squeeze(1) == -torch.inf, torch.inf)


def metrics_of_ranks(ranks: Tensor, ks: Iterable[int]) -> Metrics:
    """Recall@K and MRR@K of ranks, for every K.

    Raises:
        ValueError: there are no ranks.
    """
    if len(ranks) == 0:
        raise ValueError("no next clicks to evaluate")
    ranks = ranks.double()
    hits = {k: ranks <= k for k in ks}
    recall = {k: hit.double().mean().item() for k, hit in hits.items()}
    mrr = {k: torch.where(hit, 1 / ranks, 0).mean().item() for k, hit in hits.items()}
    return Metrics(recall, mrr, len(ranks))


def tie_breaking_to_report(metrics: dict[str, Metrics]) -> str:
    """By which of ``TIE_BREAKING`` to report figures that are given for each: where they differ noticeably, median.

    "standard" flatters what gives many items the same score: a constant would be right always.
    """
    best, worst = metrics["standard"], metrics["conservative"]
    differences = [best.recall[k] - worst.recall[k] for k in best.recall] + [
        best.mrr[k] - worst.mrr[k] for k in best.mrr
    ]
    return "median" if max(differences) > NOTICEABLE else "standard"


def rank_next_clicks(
    score_step: Callable[[Step], Tensor],
    sessions: Sessions,
    tie_breaking: str,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Ranks of all next clicks of ``sessions``, in the order in which session-parallel batches reach them.

    Args:
        score_step: called with every step in order; returns the scores ``[b, n_items]`` of its live lanes, for which
            it may keep a state.
    """
    scored = _scored_steps(score_step, sessions, device, batch_size)
    return torch.cat([ranks_of_targets(scores, targets, tie_breaking) for scores, targets in scored])


def rank_by_every_tie_breaking(
    score_step: Callable[[Step], Tensor], sessions: Sessions, device: torch.device, batch_size: int = BATCH_SIZE
) -> dict[str, Tensor]:
    """The ranks of :func:`rank_next_clicks` for each of ``TIE_BREAKING``, of scores that are computed once."""
    scored = _scored_steps(score_step, sessions, device, batch_size)
    extremes = [[ranks_of_targets(*each, way) for way in ("standard", "conservative")] for each in scored]
    best, worst = (torch.cat(ranks) for ranks in zip(*extremes, strict=True))
    return {"standard": best, "conservative": worst, "median": (best + worst) / 2}


def _scored_steps(
    score_step: Callable[[Step], Tensor], sessions: Sessions, device: torch.device, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The scores and the targets of every step."""
    for block in SessionParallelBatches(sessions, min(batch_size, len(sessions))):
        block = block.to(device)
        for step in map(block.step, range(len(block))):
            yield score_step(step), step.targets


@torch.no_grad()
def evaluate(
    model: GRU4Rec,
    sessions: Sessions,
    ks: Iterable[int] = (20,),
    tie_breaking: str = "standard",
    batch_size: int = BATCH_SIZE,
) -> Metrics:
    """Recall@K and MRR@K of a model. The model comes back in the mode (training or not) that it had.

    Raises:
        FloatingPointError: a weight of the model is NaN or infinite, and its ranks would mean nothing.
    """
    model.check_finite()
    hidden = model.initial_hidden(min(batch_size, len(sessions)))

    def score_step(step: Step) -> Tensor:
        scores, hidden[:, step.lanes] = model.score_all(step.inputs, hidden[:, step.lanes], step.starts)
        return scores

    was_training = model.training
    model.eval()
    try:
        ranks = rank_next_clicks(score_step, sessions, tie_breaking, hidden.device, batch_size)
    finally:
        model.train(was_training)
    return metrics_of_ranks(ranks, ks)

"""How well a model predicts: the rank of every next click among all items, Recall@K and MRR@K.

Definitions ([1], "Experiments"): a session is fed click by click from a zero hidden state, and the next click is ranked
among all items of the training set. Recall@K is the share of next clicks that rank at K or better, MRR@K the mean of
1 / rank, with 0 beyond K. Means are over next clicks, all of them, whatever the batch size.

Paper: [1] Hidasi et al., ICLR 2016.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dataset import SessionParallelBatches, Sessions, Step
from model import GRU4Rec
from terminal.memory import memory_there_is

TIE_BREAKING = ("standard", "conservative", "median")
BATCH_SIZE = 256  # sessions side by side, at most; the result does not depend on it
SHARE_OF_MEMORY = 1 / 4  # that rows of scores may take,
BYTES_PER_SCORE = 16  # of which a score of the hungriest recommender, S-POP, takes so many, copies included
COMPARED_AT_ONCE = {"cpu": 2**18, "cuda": 2**26}  # scores; fewer stay in the second-level cache of a CPU


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
        scores: ``[b, n_items]``.
        targets: ``[b]`` int64, a column for each row.
        tie_breaking: of items that score as high as the target, "standard" ranks none above it, "conservative" all, and
            "median" half of them.

    Returns:
        ``[b]`` float64 ranks (half ranks with "median").
    """
    better = _count(torch.gt, scores, targets)
    if tie_breaking == "standard":
        return better + 1
    at_least_as_good = _count(torch.ge, scores, targets)
    if tie_breaking == "conservative":
        return at_least_as_good
    if tie_breaking == "median":
        return (better + 1 + at_least_as_good) / 2
    raise ValueError(f"tie_breaking is {tie_breaking!r}, expected one of {', '.join(TIE_BREAKING)}")


def _count(compare: Callable[[Tensor, Tensor], Tensor], scores: Tensor, targets: Tensor) -> Tensor:
    """How many scores of each row compare with its target's: ``[b]`` float64.

    Some rows at a time: to count booleans, PyTorch makes int64 of them, which take twice as much as the scores.
    """
    n_rows = max(1, COMPARED_AT_ONCE[scores.device.type] // scores.shape[1])
    parts = zip(scores.split(n_rows), scores.gather(1, targets[:, None]).split(n_rows), strict=True)
    return torch.cat([compare(some, of_target).sum(dim=1) for some, of_target in parts]).double()


def metrics_of_ranks(ranks: Tensor, ks: Iterable[int]) -> Metrics:
    """Recall@K and MRR@K of ranks, for every K.

    Raises:
        ValueError: there are no ranks.
    """
    if len(ranks) == 0:
        raise ValueError("no next clicks to evaluate")
    ranks = ranks.double().sort().values  # a sum depends on the order, and that of the clicks on how many go at once
    hits = {k: ranks <= k for k in ks}
    recall = {k: hit.double().mean().item() for k, hit in hits.items()}
    mrr = {k: torch.where(hit, 1 / ranks, 0).mean().item() for k, hit in hits.items()}
    return Metrics(recall, mrr, len(ranks))


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
    ranks = []
    for block in SessionParallelBatches(sessions, min(batch_size, len(sessions))):
        block = block.to(device)
        for step in map(block.step, range(len(block))):
            ranks.append(ranks_of_targets(score_step(step), step.targets, tie_breaking))
    return torch.cat(ranks)


@torch.no_grad()
def evaluate(
    model: GRU4Rec,
    sessions: Sessions,
    ks: Iterable[int] = (20,),
    tie_breaking: str = "standard",
    batch_size: int | None = None,
) -> Metrics:
    """Recall@K and MRR@K of a model. The model comes back in the mode (training or not) that it had.

    Args:
        batch_size: sessions side by side; None for what there is memory for.

    Raises:
        FloatingPointError: a weight of the model is NaN or infinite, and its ranks would mean nothing.
    """
    model.check_finite()
    n_items, device = len(model.output_bias), model.output_bias.device
    batch_size = batch_size or rows_at_once(n_items, device)
    hidden = model.initial_hidden(min(batch_size, len(sessions)))

    def score_step(step: Step) -> Tensor:
        scores, hidden[:, step.lanes] = model.score_all(step.inputs, hidden[:, step.lanes], step.starts)
        return scores

    was_training = model.training
    model.eval()
    try:
        ranks = rank_next_clicks(score_step, sessions, tie_breaking, device, batch_size)
    finally:
        model.train(was_training)
    return metrics_of_ranks(ranks, ks)

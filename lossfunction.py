r"""The losses, each a function of the scores of a mini-batch.

All of them take ``scores`` ``[b, M]``: row i is a lane, columns 0 … b-1 are the targets of the b lanes, so column i is
lane i's own, and the rest are the additional negatives. They return the loss of every lane, ``[b]``; a step's loss is
their sum divided by the batch size. Below, :math:`r_i` is a lane's score of its target, :math:`r_j` that of a negative
(any other column), N = M - 1 the number of negatives and :math:`s_j` the softmax over the negatives only.

Papers: [1] Hidasi et al., ICLR 2016; [2] Hidasi & Karatzoglou, CIKM 2018.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LossFunction = Callable[[Tensor, Tensor], Tensor]  # scores [b, M] and their items [M] to the loss of every lane [b]


def top1(scores: Tensor) -> Tensor:
    r"""TOP1 ([1], "Ranking loss"): :math:`\frac{1}{N} \sum_j \sigma(r_j - r_i) + \sigma(r_j^2)`."""
    target, is_target = _targets(scores)
    per_item = torch.sigmoid(scores - target) + torch.sigmoid(scores.square())
    return per_item.masked_fill(is_target, 0).sum(dim=1) / _n_negatives(scores)


def bpr(scores: Tensor) -> Tensor:
    r"""BPR ([1], "Ranking loss"): :math:`-\frac{1}{N} \sum_j \ln \sigma(r_i - r_j)`."""
    target, is_target = _targets(scores)
    return -F.logsigmoid(target - scores).masked_fill(is_target, 0).sum(dim=1) / _n_negatives(scores)


def cross_entropy(scores: Tensor, log_correction: Tensor | None = None) -> Tensor:
    r"""Cross-entropy ([2], "Categorical cross-entropy"): :math:`-\ln \mathrm{softmax}(r)_i`, the softmax taken over the
    target and its negatives.

    Args:
        scores: ``[b, M]``, see the top of this file.
        log_correction: ``[M]``, subtracted from every row of scores; see :func:`logq_correction`.
    """
    _n_negatives(scores)
    if log_correction is not None:
        scores = scores - log_correction
    return -_targets(F.log_softmax(scores, dim=1))[0].squeeze(1)


def top1_max(scores: Tensor) -> Tensor:
    r"""TOP1-max ([2], "Ranking-max loss"): :math:`\sum_j s_j \left(\sigma(r_j - r_i) + \sigma(r_j^2)\right)`."""
    target, is_target = _targets(scores)
    per_item = torch.sigmoid(scores - target) + torch.sigmoid(scores.square())
    return (_log_softmax_of_negatives(scores, is_target).exp() * per_item).sum(dim=1)


def bpr_max(scores: Tensor, bpreg: float) -> Tensor:
    r"""BPR-max ([2], "BPR-max with score regularization"):
    :math:`-\ln \sum_j s_j \sigma(r_i - r_j) + \lambda \sum_j s_j r_j^2`.

    Args:
        scores: ``[b, M]``, see the top of this file.
        bpreg: :math:`\lambda`, the weight of the score regularization.
    """
    target, is_target = _targets(scores)
    log_s = _log_softmax_of_negatives(scores, is_target)
    ranking = -torch.logsumexp(log_s + F.logsigmoid(target - scores), dim=1)
    return ranking + bpreg * (log_s.exp() * scores.square()).sum(dim=1)


def logq_correction(log_support: Tensor, n_targets: int, sample_alpha: float, logq: float) -> Tensor:
    r"""The logQ correction of cross-entropy: :math:`q \ln P(j)` of every column, to be subtracted from its scores.

    P is how likely an item is to be a column, up to a factor: its support as another lane's target, support^alpha as an
    additional negative (the sampled-softmax correction as in the authors' code).

    Args:
        log_support: ``[M]`` logarithm of how often the item of each column was clicked in training.
        n_targets: how many columns are targets of lanes; they come first.
        sample_alpha: the sampler's exponent.
        logq: q, 0 for no correction, 1 for all of it.
    """
    targets, negatives = log_support.split((n_targets, len(log_support) - n_targets))
    return logq * torch.cat((targets, sample_alpha * negatives))


def make_loss_function(name: str, bpreg: float, logq: float, sample_alpha: float, support: Tensor) -> LossFunction:
    """The named loss with its settings bound.

    Args:
        name: one of ``LOSSES``.
        support: ``[n_items]`` how often each item was clicked in training.
    """
    if name == "CrossEntropy" and logq > 0:
        log_support = support.float().log()

        def corrected_cross_entropy(scores: Tensor, items: Tensor) -> Tensor:
            columns = log_support.index_select(0, items)
            return cross_entropy(scores, logq_correction(columns, len(scores), sample_alpha, logq))

        return corrected_cross_entropy
    if name == "BPR-max":
        return lambda scores, items: bpr_max(scores, bpreg)
    loss_of_scores = LOSSES[name]
    return lambda scores, items: loss_of_scores(scores)


LOSSES = {"TOP1": top1, "BPR": bpr, "CrossEntropy": cross_entropy, "TOP1-max": top1_max, "BPR-max": bpr_max}


def _targets(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the lanes' own targets, ``[b, 1]``, and the mask ``[b, M]`` of where they stand."""
    n_lanes, n_columns = scores.shape
    lane, column = torch.arange(n_lanes, device=scores.device), torch.arange(n_columns, device=scores.device)
    is_target = column == lane[:, None]
    # A masked sum, and not a diagonal: torch.compile (2.13, CPU) loses gradients that are written into one.
    return torch.where(is_target, scores, 0).sum(dim=1, keepdim=True), is_target


def _n_negatives(scores: Tensor) -> int:
    if scores.shape[1] < 2:
        raise ValueError("a loss needs at least one negative: two lanes, or additional samples")
    return scores.shape[1] - 1


def _log_softmax_of_negatives(scores: Tensor, is_target: Tensor) -> Tensor:
    r""":math:`\ln s_j`; minus infinity at the target."""
    _n_negatives(scores)
    return F.log_softmax(scores.masked_fill(is_target, -torch.inf), dim=1)

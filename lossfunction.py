r"""The losses, each a function of the scores of a mini-batch.

A mini-batch scores every item once, and counts it as often as it is there: a loss takes the scores ``[b, C]`` of b
lanes for the C items of :class:`dataset.Columns`, and returns the loss of every lane, ``[b]``; a step's loss is their
sum divided by the batch size. Below, :math:`r_i` is a lane's score of its target and :math:`r_j` that of a negative:
another lane's target, or an additional sample. An item that is several of them is several negatives, :math:`n_j` many.
N is the number of a lane's negatives, at least one, and :math:`s_j` the softmax over them.

Papers: [1] Hidasi et al., ICLR 2016; [2] Hidasi & Karatzoglou, CIKM 2018.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset import Columns

LossFunction = Callable[[Tensor, Columns], Tensor]


def top1(scores: Tensor, columns: Columns) -> Tensor:
    r"""TOP1 ([1], "Ranking loss"): :math:`\frac{1}{N} \sum_j \sigma(r_j - r_i) + \sigma(r_j^2)`."""
    target, is_target = _targets(scores, columns)
    return _mean_of_negatives(_top1_of_items(scores, target), columns, is_target)


def bpr(scores: Tensor, columns: Columns) -> Tensor:
    r"""BPR ([1], "Ranking loss"): :math:`-\frac{1}{N} \sum_j \ln \sigma(r_i - r_j)`."""
    target, is_target = _targets(scores, columns)
    return -_mean_of_negatives(F.logsigmoid(target - scores), columns, is_target)


def cross_entropy(scores: Tensor, columns: Columns, correction: tuple[Tensor, Tensor] | None = None) -> Tensor:
    r"""Cross-entropy ([2], "Categorical cross-entropy"): :math:`-\ln \mathrm{softmax}(r)_i`, the softmax taken over the
    target and its negatives.

    Args:
        correction: what is subtracted from scores, ``[C]`` from that of an item as a target and ``[C]`` from that of an
            item as a sample; see :func:`logq_correction`.
    """
    if correction is None:
        log_n = log_weight = columns.n_all.log()
    else:
        as_target, as_sample = correction
        log_n = torch.logaddexp(columns.n_targets.log() - as_target, columns.n_samples.log() - as_sample)
        log_weight = log_n + as_target
    # A column weighs as much as so many targets, because its softmax is that of all occurrences of its item.
    log_softmax, _ = _targets(F.log_softmax(scores + log_n, dim=1), columns)
    return log_weight[columns.target] - log_softmax.squeeze(1)


def top1_max(scores: Tensor, columns: Columns) -> Tensor:
    r"""TOP1-max ([2], "Ranking-max loss"): :math:`\sum_j s_j \left(\sigma(r_j - r_i) + \sigma(r_j^2)\right)`."""
    target, is_target = _targets(scores, columns)
    n_s = _log_softmax_of_negatives(scores, columns, is_target).exp()
    return (n_s * _top1_of_items(scores, target)).sum(dim=1)


def bpr_max(scores: Tensor, columns: Columns, bpreg: float) -> Tensor:
    r"""BPR-max ([2], "BPR-max with score regularization"):
    :math:`-\ln \sum_j s_j \sigma(r_i - r_j) + \lambda \sum_j s_j r_j^2`.

    Args:
        bpreg: :math:`\lambda`, the weight of the score regularization.
    """
    target, is_target = _targets(scores, columns)
    log_n_s = _log_softmax_of_negatives(scores, columns, is_target)
    ranking = -torch.logsumexp(log_n_s + F.logsigmoid(target - scores), dim=1)
    return ranking + bpreg * (log_n_s.exp() * scores.square()).sum(dim=1)


def logq_correction(log_support: Tensor, sample_alpha: float, logq: float) -> tuple[Tensor, Tensor]:
    r"""The logQ correction of cross-entropy: :math:`q \ln P`, to be subtracted from a score.

    P is how likely an item is to be in a mini-batch, up to a factor: its support as the target of a lane, support^alpha
    as an additional negative (the sampled-softmax correction as in the authors' code).

    Args:
        log_support: the logarithm of how often each item was clicked in training, of any shape.
        sample_alpha: the sampler's exponent.
        logq: q, 0 for no correction, 1 for all of it.

    Returns:
        That of each item as a target, and as a sample.
    """
    return logq * log_support, logq * (sample_alpha * log_support)


def make_loss_function(name: str, bpreg: float, logq: float, sample_alpha: float, support: Tensor) -> LossFunction:
    """The named loss with its settings bound.

    Args:
        name: one of ``LOSSES``.
        support: ``[n_items]`` how often each item was clicked in training.
    """
    if name == "CrossEntropy" and logq > 0:
        log_support = support.float().log()

        def corrected_cross_entropy(scores: Tensor, columns: Columns) -> Tensor:
            of_columns = log_support.index_select(0, columns.items)
            return cross_entropy(scores, columns, logq_correction(of_columns, sample_alpha, logq))

        return corrected_cross_entropy
    if name == "BPR-max":
        return lambda scores, columns: bpr_max(scores, columns, bpreg)
    return LOSSES[name]


LOSSES = {"TOP1": top1, "BPR": bpr, "CrossEntropy": cross_entropy, "TOP1-max": top1_max, "BPR-max": bpr_max}


def _targets(scores: Tensor, columns: Columns) -> tuple[Tensor, Tensor]:
    """Scores of the lanes' own targets, ``[b, 1]``, and the mask ``[b, C]`` of where they stand."""
    is_target = torch.arange(scores.shape[1], device=scores.device) == columns.target[:, None]
    # A masked sum, and no gather: torch.compile (2.13, CPU) loses gradients that are written into a few places.
    return torch.where(is_target, scores, 0).sum(dim=1, keepdim=True), is_target


def _top1_of_items(scores: Tensor, target: Tensor) -> Tensor:
    r""":math:`\sigma(r_j - r_i) + \sigma(r_j^2)` of every item."""
    return torch.sigmoid(scores - target) + torch.sigmoid(scores.square())


def _mean_of_negatives(per_item: Tensor, columns: Columns, is_target: Tensor) -> Tensor:
    r""":math:`\frac{1}{N} \sum_j n_j x_j` of every lane; its target is a negative once less than it is there."""
    n_all = columns.n_all
    return (per_item * (n_all - is_target.to(n_all.dtype))).sum(dim=1) / (n_all.sum() - 1)


def _log_softmax_of_negatives(scores: Tensor, columns: Columns, is_target: Tensor) -> Tensor:
    r""":math:`\ln n_j s_j`; minus infinity where an item is no negative."""
    n_all = columns.n_all
    log_n = torch.where(is_target, (n_all - 1).log(), n_all.log())
    return F.log_softmax(scores + log_n, dim=1)

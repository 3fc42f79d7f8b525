"""Every loss against float64 NumPy written lane by lane from the papers, against gradcheck, and at extreme scores."""

import numpy as np
import pytest
import torch

import lossfunction
from faster.minibatch import Columns


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def lane_by_lane(loss_of_lane):
    """A reference over a matrix of scores from one over (target score, scores of the negatives)."""

    def reference(scores):
        return np.array([loss_of_lane(row[i], np.delete(row, i)) for i, row in enumerate(scores)])

    return reference


BPREG = 0.7
REFERENCES = {
    "top1": lane_by_lane(lambda ri, rj: np.mean(sigmoid(rj - ri) + sigmoid(rj**2))),
    "bpr": lane_by_lane(lambda ri, rj: -np.mean(np.log(sigmoid(ri - rj)))),
    "cross_entropy": lane_by_lane(lambda ri, rj: -np.log(np.exp(ri) / (np.exp(ri) + np.exp(rj).sum()))),
    "top1_max": lane_by_lane(lambda ri, rj: np.sum(softmax(rj) * (sigmoid(rj - ri) + sigmoid(rj**2)))),
    "bpr_max": lane_by_lane(
        lambda ri, rj: -np.log(np.sum(softmax(rj) * sigmoid(ri - rj))) + BPREG * np.sum(softmax(rj) * rj**2)
    ),
}
LOSSES = {name: getattr(lossfunction, name) for name in REFERENCES}
LOSSES["bpr_max"] = lambda scores, columns: lossfunction.bpr_max(scores, columns, BPREG)


def distinct_columns(shape):
    """No item twice, those of the lanes' targets first."""
    n_lanes, n_items = shape
    is_target = (torch.arange(n_items) < n_lanes).double()
    return Columns(torch.arange(n_items), torch.arange(n_lanes), is_target, 1 - is_target)


SHAPES = [(1, 2), (2, 2), (5, 5), (4, 19), (1, 30)]


def random_scores(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_formula_of_the_paper(name, shape):
    scores = random_scores(shape)
    np.testing.assert_allclose(
        LOSSES[name](scores, distinct_columns(shape)).numpy(), REFERENCES[name](scores.numpy()), rtol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_value(name, shape):
    columns = distinct_columns(shape)
    assert torch.autograd.gradcheck(lambda scores: LOSSES[name](scores, columns), random_scores(shape).requires_grad_())


@pytest.mark.parametrize(("name", "logq"), [*((name, 0.0) for name in LOSSES), ("cross_entropy", 0.8)])
def test_an_item_counts_as_often_as_it_is_there(name, logq):
    """Several lanes have one target, samples are targets, others come twice, and a column is nothing at all."""
    targets, samples, alpha = [3, 1, 3, 4], [1, 5, 5, 5, 3, 2], 0.5
    items = [0, 1, 2, 3, 4, 5, 7]  # 0 and 7 are neither
    columns = Columns(
        torch.tensor(items),
        torch.tensor([items.index(item) for item in targets]),
        torch.tensor([targets.count(item) for item in items]).double(),
        torch.tensor([samples.count(item) for item in items]).double(),
    )
    scores = random_scores((4, len(items))).requires_grad_()
    spread = scores[:, [items.index(item) for item in targets + samples]]
    if logq:
        support = torch.tensor([5.0, 1.0, 7.0, 2.0, 9.0, 3.0, 8.0], dtype=torch.float64)
        loss = lossfunction.cross_entropy(scores, columns, lossfunction.logq_correction(support.log(), alpha, logq))
        support_of = dict(zip(items, support.tolist(), strict=True))
        probability = [support_of[item] for item in targets] + [support_of[item] ** alpha for item in samples]
        spread = spread - logq * torch.tensor(probability, dtype=torch.float64).log()
    else:
        loss = LOSSES[name](scores, columns)
    np.testing.assert_allclose(loss.detach().numpy(), REFERENCES[name](spread.detach().numpy()), rtol=1e-12)
    every_item_by_itself = distinct_columns(spread.shape)
    (expected,) = torch.autograd.grad(LOSSES[name](spread, every_item_by_itself).sum(), scores)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert (gradient[:, [0, -1]] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [1e4, -1e4])
def test_extreme_scores_stay_finite(name, target):
    """Among them those of a target that is a sample, too, and of an item that is nothing at all."""
    scores = torch.full((3, 8), -target)
    scores.fill_diagonal_(target)
    scores.requires_grad_()
    n_samples = torch.tensor([1.0, 0, 0, 1, 2, 1, 1, 0])
    columns = Columns(torch.arange(8), torch.arange(3), (torch.arange(8) < 3).float(), n_samples)
    loss = LOSSES[name](scores, columns)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("alpha", "logq"), [(0.5, 1.0), (0.5, 8.0), (30.0, 1.0), (0.0, 1e30), (1e30, 1e30)])
def test_no_logq_correction_overflows(alpha, logq):
    support = torch.tensor([1e7, 1, 1e7, 3, 1e7])
    columns = Columns(
        torch.arange(5), torch.arange(2), torch.tensor([1.0, 1, 0, 0, 0]), torch.tensor([0.0, 1, 1, 1, 0])
    )
    scores = torch.randn(2, 5, requires_grad=True)
    loss = lossfunction.cross_entropy(scores, columns, lossfunction.logq_correction(support.log(), alpha, logq))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_target_lowers_the_loss(name):
    scores = random_scores((3, 9)).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](scores, distinct_columns(scores.shape)).sum(), scores)
    assert (gradient.diagonal() < 0).all()


def test_top1_and_bpr_do_not_depend_on_how_often_the_negatives_are_repeated():
    scores, once = random_scores((1, 9)), distinct_columns((1, 9))
    thrice = once._replace(n_samples=3 * once.n_samples)
    for name in ("top1", "bpr"):
        torch.testing.assert_close(LOSSES[name](scores, thrice), LOSSES[name](scores, once))

"""Every loss against float64 NumPy written lane by lane from the papers, against gradcheck, and at extreme scores."""

import numpy as np
import pytest
import torch

import lossfunction


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
LOSSES["bpr_max"] = lambda scores: lossfunction.bpr_max(scores, BPREG)
SHAPES = [(1, 2), (2, 2), (5, 5), (4, 19), (1, 30)]


def random_scores(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_formula_of_the_paper(name, shape):
    scores = random_scores(shape)
    np.testing.assert_allclose(LOSSES[name](scores).numpy(), REFERENCES[name](scores.numpy()), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_value(name, shape):
    assert torch.autograd.gradcheck(LOSSES[name], random_scores(shape).requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [1e4, -1e4])
def test_extreme_scores_stay_finite(name, target):
    scores = torch.full((3, 8), -target)
    scores.fill_diagonal_(target)
    scores.requires_grad_()
    loss = LOSSES[name](scores)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_target_lowers_the_loss(name):
    scores = random_scores((3, 9)).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](scores).sum(), scores)
    assert (gradient.diagonal() < 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_without_negatives_there_is_no_loss(name):
    with pytest.raises(ValueError, match="negative"):
        LOSSES[name](torch.zeros(1, 1))


def test_top1_and_bpr_do_not_depend_on_how_often_the_negatives_are_repeated():
    scores = random_scores((1, 9))
    repeated = torch.cat((scores, scores[:, 1:]), dim=1)
    for name in ("top1", "bpr"):
        torch.testing.assert_close(LOSSES[name](repeated), LOSSES[name](scores))


def test_logq_subtracts_the_log_of_each_columns_probability():
    scores, support = random_scores((2, 6)), torch.tensor([5.0, 1.0, 7.0, 2.0, 9.0, 3.0], dtype=torch.float64)
    q, alpha = 0.8, 0.5
    probability = np.concatenate((support[:2].numpy(), support[2:].numpy() ** alpha))
    correction = lossfunction.logq_correction(support.log(), 2, alpha, q)
    expected = REFERENCES["cross_entropy"](scores.numpy() - q * np.log(probability))
    np.testing.assert_allclose(lossfunction.cross_entropy(scores, correction).numpy(), expected, rtol=1e-12)

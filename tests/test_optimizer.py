"""The rules against torch.optim, and sampled rows against a loop over rows in NumPy."""

import numpy as np
import pytest
import torch

from model import Rows
from optimizer import Optimizer, adadelta, adagrad, adam, rmsprop, sgd

LIKE_TORCH = {
    "sgd": (sgd(0.1), lambda p, wd: torch.optim.SGD(p, 0.1, weight_decay=wd)),
    "sgd momentum": (sgd(0.1, 0.7), lambda p, wd: torch.optim.SGD(p, 0.1, momentum=0.7, weight_decay=wd)),
    "rmsprop": (rmsprop(0.1, eps=1e-3), lambda p, wd: torch.optim.RMSprop(p, 0.1, eps=1e-3, weight_decay=wd)),
    "rmsprop momentum": (
        rmsprop(0.1, 0.7, 1e-3),
        lambda p, wd: torch.optim.RMSprop(p, 0.1, eps=1e-3, momentum=0.7, weight_decay=wd),
    ),
    "adadelta": (adadelta(0.1, 1e-3), lambda p, wd: torch.optim.Adadelta(p, 0.1, eps=1e-3, weight_decay=wd)),
    "adam": (adam(0.1, 1e-3), lambda p, wd: torch.optim.Adam(p, 0.1, eps=1e-3, weight_decay=wd)),
}
ALL_RULES = {name: rule for name, (rule, _) in LIKE_TORCH.items()} | {
    "adagrad": adagrad(0.1),
    "adagrad momentum": adagrad(0.1, 0.7),
}


def make_optimizer(rule, weight, weight_decay=0.0, n_items=6):
    table = torch.zeros(n_items, 3, dtype=weight.dtype)
    return Optimizer({"w": weight}, {"t": table}, rule, weight_decay), table


def step_on_rows(optimizer, table, index, grad):
    index = torch.as_tensor(index)
    network_grads = [torch.zeros_like(weight) for weight in optimizer.network.values()]
    optimizer.step([Rows("t", index, table[index])], [grad], network_grads)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("name", LIKE_TORCH)
def test_rules_are_those_of_torch(name, weight_decay):
    rule, make_theirs = LIKE_TORCH[name]
    ours = torch.randn(4, 5, dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    optimizer, _ = make_optimizer(rule, ours, weight_decay)
    their_optimizer = make_theirs([theirs], weight_decay)
    for _ in range(20):
        theirs.grad = torch.randn(4, 5, dtype=torch.float64)
        optimizer.step([], [], [theirs.grad])
        their_optimizer.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*[Ss]parse:UserWarning")  # of PyTorch 2.11, about its own sparse tensors
def test_sampled_adam_is_sparse_adam():
    table = torch.randn(6, 3)
    theirs = torch.nn.Parameter(table.clone())
    optimizer = Optimizer({}, {"t": table}, adam(0.1, 1e-10))  # so small that it does not matter where it stands
    their_optimizer = torch.optim.SparseAdam([theirs], 0.1, eps=1e-10)
    for _ in range(20):
        index, grad = torch.randperm(6)[:4], torch.randn(4, 3)
        theirs.grad = torch.sparse_coo_tensor(index[None], grad, (6, 3), check_invariants=True)
        their_optimizer.step()
        step_on_rows(optimizer, table, index, grad)
    torch.testing.assert_close(table, theirs.detach())


@pytest.mark.parametrize("momentum", [0.0, 0.4])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adagrad_on_sampled_rows_row_by_row(momentum, weight_decay):
    """A loop over rows: eps under the root, state that changes only where a row occurs."""
    rng = np.random.default_rng(0)
    lr, eps = 0.2, 1e-6
    expected = rng.normal(size=(6, 3))
    table = torch.from_numpy(expected.copy())
    optimizer = Optimizer({}, {"t": table}, adagrad(lr, momentum, eps), weight_decay)
    squares, velocity = np.zeros((6, 3)), np.zeros((6, 3))
    for _ in range(30):
        index, grad = rng.permutation(6)[: rng.integers(1, 6)], rng.normal(size=(6, 3))
        step_on_rows(optimizer, table, index, torch.from_numpy(grad[index]))
        for row in index.tolist():
            g = grad[row] + weight_decay * expected[row]
            squares[row] += g**2
            velocity[row] = momentum * velocity[row] - lr * g / np.sqrt(squares[row] + eps)
            expected[row] += velocity[row]
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ALL_RULES)
def test_a_row_with_all_others_absent_is_updated_like_a_whole_parameter(name):
    whole, table = torch.ones(1, 3), torch.ones(6, 3)
    optimizer = Optimizer({"w": whole}, {"t": table}, ALL_RULES[name])
    for _ in range(5):
        grad = torch.randn(1, 3)
        optimizer.step([Rows("t", torch.tensor([4]), table[[4]])], [grad], [grad])
    torch.testing.assert_close(table[4:5], whole)
    assert (table[[0, 1, 2, 3, 5]] == 1).all()
    assert (whole != 1).all()


@pytest.mark.parametrize("name", ["adagrad momentum", "sgd momentum", "rmsprop momentum"])
def test_momentum_has_an_effect(name):
    without = name.removesuffix(" momentum")
    weights = []
    for rule in (ALL_RULES[name], ALL_RULES[without]):
        weight = torch.ones(2, 2)
        optimizer, _ = make_optimizer(rule, weight)
        for _ in range(3):
            optimizer.step([], [], [torch.ones(2, 2)])
        weights.append(weight)
    assert (weights[0] < weights[1]).all()


@pytest.mark.parametrize("name", ALL_RULES)
def test_state_survives_saving(name, tmp_path):
    def run(n_steps, optimizer, weight, table, generator):
        for _ in range(n_steps):
            rows = Rows("t", torch.tensor([3, 1]), table[[3, 1]])
            grads = torch.randn(2, 3, generator=generator), torch.randn(2, 2, generator=generator)
            optimizer.step([rows], [grads[0]], [grads[1]])

    generator = torch.Generator().manual_seed(0)
    weight = torch.ones(2, 2)
    optimizer, table = make_optimizer(ALL_RULES[name], weight)
    run(3, optimizer, weight, table, generator)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    weight2 = weight.clone()
    optimizer2, table2 = make_optimizer(ALL_RULES[name], weight2)
    table2.copy_(table)
    optimizer2.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    generator_state = generator.get_state()
    run(3, optimizer, weight, table, generator)
    generator.set_state(generator_state)
    run(3, optimizer2, weight2, table2, generator)
    assert torch.equal(weight, weight2)
    assert torch.equal(table, table2)


def test_state_of_another_rule_is_refused():
    weight = torch.ones(2, 2)
    saved = make_optimizer(adagrad(0.1, 0.5), weight)[0].state_dict()
    with pytest.raises(ValueError, match="does not fit"):
        make_optimizer(adagrad(0.1), weight)[0].load_state_dict(saved)

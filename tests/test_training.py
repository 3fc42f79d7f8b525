"""The loop around a step: what it may touch, what it reports, and that it learns."""

import copy

import numpy as np
import pytest
import torch
from conftest import feed_of, make_sessions
from torch.utils._python_dispatch import TorchDispatchMode

from dataset import Block, Columns, NegativeSampler, SessionParallelBatches
from evaluation import evaluate
from faster.cudagraph import GraphedStep
from faster.minibatch import MiniBatchMaker
from lossfunction import LOSSES, make_loss_function
from model import GRU4Rec
from optimizer import OPTIMIZERS, Optimizer, adagrad, make_rule, sgd
from training import Diverged, EpochProgress, train_epoch, training_step

CPU = torch.device("cpu")
MODES = ({}, {"embedding_dim": 4}, {"constrained_embedding": True})
MODES_AND_BPTT = [(MODES[0], 1), (MODES[1], 3), (MODES[2], 1), (MODES[2], 3)]


def make_training(sessions, n_items, *, loss="CrossEntropy", lr=0.1, n_sample=4, mode=None, dropout_hidden=0.0, bptt=1):
    torch.manual_seed(0)
    model = GRU4Rec(n_items, hidden_size=8, final_act="softmax", dropout_hidden=dropout_hidden, **(mode or {}))
    support = sessions.support(n_items)
    batches = SessionParallelBatches(sessions, 4, 1 if n_sample else 2, block_steps=16, bptt=bptt)
    return (
        model,
        Optimizer(model.network_parameters(), model.item_tables(), adagrad(lr, 0.1)),
        make_loss_function(loss, 1.0, 0.0, 0.5, torch.from_numpy(support)),
        feed_of(model, batches, NegativeSampler(support, 0.5, n_sample, 1, CPU)),
    )


def run_epoch(training, epoch=0):
    progress = EpochProgress(epoch)
    train_epoch(*training, progress)
    return progress


def cycles(n_sessions=200, n_items=12):
    """Sessions that walk round a circle of items: whoever learns anything predicts all of it."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, n_items, n_sessions), rng.integers(2, 9, n_sessions)
    return [[int(i) % n_items for i in range(s, s + n)] for s, n in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize("mode", MODES, ids=["one-hot", "separate", "shared"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_in_every_mode(loss, mode):
    sessions, _ = make_sessions(cycles())
    training = make_training(sessions, 12, loss=loss, mode=mode, lr=0.2)
    results = [run_epoch(training, epoch) for epoch in range(6)]
    assert results[-1].loss < results[0].loss
    assert results[0].n_clicks == sessions.n_next_clicks
    chance = 1 / 12
    assert evaluate(training[0], sessions, (1,)).recall[1] > (8 * chance if loss == "TOP1" else 0.95)


def test_reported_loss_is_the_mean_over_next_clicks():
    sessions, _ = make_sessions(cycles(30))
    model, optimizer, _, feed = make_training(sessions, 12)
    seen = []

    def loss_function(scores, columns):
        loss = scores.logsumexp(dim=1) - scores[:, columns.target].diagonal()
        seen.extend(loss.tolist())
        return loss

    result = run_epoch((model, optimizer, loss_function, feed))
    assert len(seen) == result.n_clicks == sessions.n_next_clicks
    assert result.loss == pytest.approx(np.mean(seen), rel=1e-5)


def block_of(clicks, first_step=0):
    """A block of the given inputs and targets ``[2, K, B]``; no lane begins a session."""
    _, n_steps, n_lanes = clicks.shape
    starts, lanes = torch.zeros(n_steps, n_lanes), torch.arange(n_lanes).expand(n_steps, -1)
    return Block(first_step, [n_lanes] * n_steps, torch.cat((clicks, torch.stack((starts, lanes)).long())))


class LargestNewTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation allocates, tables and their views aside."""

    def __init__(self, known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("mode", MODES, ids=["one-hot", "separate", "shared"])
@pytest.mark.parametrize(
    ("loss", "rule"), [*((loss, "Adagrad") for loss in LOSSES), *(("TOP1", r) for r in OPTIMIZERS)]
)
@pytest.mark.parametrize("repeated", [False, True], ids=["distinct", "repeated"])
def test_nothing_in_a_step_is_as_large_as_the_number_of_items(repeated, loss, rule, mode):
    n_items = 50_000
    model = GRU4Rec(n_items, hidden_size=8, dropout_input=0.1, dropout_hidden=0.1, final_act="softmax", **mode)
    optimizer = Optimizer(model.network_parameters(), model.item_tables(), make_rule(rule, 0.1, 0.1, 1e-6), 0.1)
    loss_function = make_loss_function(loss, 1.0, 1.0, 0.5, torch.ones(n_items))
    states = [tensor for state in optimizer.state.values() for tensor in state]
    maker = MiniBatchMaker(n_items, model.shared, CPU, repeated)
    block, negatives = block_of(torch.randint(n_items, (2, 1, 4))), torch.randint(n_items, (1, 16))
    with LargestNewTensor([*model.parameters(), maker.place_of, *states]) as seen:
        (batch,) = maker.mini_batches(block, negatives)
        training_step(model, optimizer, loss_function, batch, model.initial_hidden(4), 4)
    assert 0 < seen.largest < n_items / 50


class Keeper:
    """Keeps a deep copy of everything after the given steps."""

    def __init__(self, model, optimizer, steps):
        self.model, self.optimizer, self.steps = model, optimizer, steps
        self.kept = []

    def is_due(self, step):
        return step in self.steps

    def keep(self, progress):
        everything = self.model.state_dict(), self.optimizer.state_dict(), progress, torch.get_rng_state()
        self.kept.append(copy.deepcopy(everything))


@pytest.mark.parametrize(("mode", "bptt"), MODES_AND_BPTT)
def test_an_epoch_goes_on_from_any_step_as_if_it_had_not_stopped(mode, bptt):
    assert_that_an_epoch_goes_on(mode, bptt, lambda: training_step)


@pytest.mark.parametrize(("mode", "bptt"), MODES_AND_BPTT)
def test_so_it_does_on_a_gpu(mode, bptt, as_on_a_gpu):
    assert_that_an_epoch_goes_on(mode, bptt, lambda: GraphedStep(training_step))


def assert_that_an_epoch_goes_on(mode, bptt, make_step):
    sessions, _ = make_sessions(cycles(60))
    whole = make_training(sessions, 12, mode=mode, dropout_hidden=0.5, bptt=bptt)
    keeper = Keeper(whole[0], whole[1], steps=(1, 15, 16, 17, 31, 40, 47, 48, 60, 10**9))
    progress = EpochProgress(2)
    train_epoch(*whole, progress, keeper, step=make_step())
    assert len(keeper.kept) > 6
    keeper.steps = (progress.step,)
    keeper.keep(progress)  # after the last step, nothing is left to do
    for weights, state, kept, random_state in keeper.kept:
        rest = make_training(sessions, 12, mode=mode, dropout_hidden=0.5, bptt=bptt)
        rest[0].load_state_dict(weights)
        rest[1].load_state_dict(state)
        torch.set_rng_state(random_state)
        train_epoch(*rest, kept, step=make_step())
        assert (kept.step, kept.n_clicks, kept.total_loss) == (progress.step, progress.n_clicks, progress.total_loss)
        assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), rest[0].parameters(), strict=True))


@pytest.mark.parametrize(("mode", "bptt"), MODES_AND_BPTT)
@pytest.mark.parametrize(("loss", "rule"), [*((loss, "Adagrad") for loss in LOSSES), ("TOP1", "Adam")])
def test_repeated_rows_train_as_distinct_ones(loss, rule, mode, bptt, monkeypatch):
    """Of twelve items in mini-batches of four lanes and nine negatives, most are there several times."""
    sessions, _ = make_sessions(cycles(60))

    def trained(repeated):
        monkeypatch.setattr("faster.minibatch.MiniBatchMaker", lambda *others, **_: MiniBatchMaker(*others, repeated))
        model, _, loss_function, feed = make_training(sessions, 12, loss=loss, n_sample=9, mode=mode, bptt=bptt)
        rule_of_optimizer = make_rule(rule, 0.05, 0.2, 1e-6)
        optimizer = Optimizer(model.network_parameters(), model.item_tables(), rule_of_optimizer, weight_decay=0.01)
        progress = run_epoch((model, optimizer, loss_function, feed))
        return progress.loss, [*model.parameters(), *(tensor for state in optimizer.state.values() for tensor in state)]

    (loss_of_distinct, distinct), (loss_of_repeated, repeated) = trained(False), trained(True)
    assert loss_of_repeated == pytest.approx(loss_of_distinct, rel=1e-5)
    for ours, theirs in zip(repeated, distinct, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bptt", [1, 2, 50])
@pytest.mark.parametrize(
    "mode", [*MODES, {"embedding_dim": 4, "num_layers": 2}], ids=["one-hot", "separate", "shared", "two layers"]
)
def test_gradients_flow_back_through_the_last_clicks_of_a_session(mode, bptt):
    """Against whole tables, one lane at a time: 50 clicks are more than any session has, so that nothing is cut off."""
    sessions, _ = make_sessions(cycles(12))
    model, _, loss_function, feed = make_training(sessions, 12, mode=mode, bptt=bptt)
    expected = copy.deepcopy(model)
    carried = [None] * 4  # of each lane: items of its session so far, and the hidden states before each of them
    for block in SessionParallelBatches(sessions, 4, block_steps=16):
        negatives = feed.sampler.draw(len(block), 0, block.first_step)
        for k, (inputs, targets, starts, _) in enumerate(map(block.step, range(len(block)))):
            loss = 0
            for lane, item, target, is_start in zip(block.lanes[k], inputs, targets, starts, strict=False):
                if is_start:
                    carried[lane] = [], [expected.initial_hidden(1)]
                items, states = carried[lane]
                items.append(item)
                first = max(len(items) - bptt, 0)
                hidden = states[first]
                for earlier in items[first:]:
                    hidden = expected.feed(earlier[None], hidden, torch.tensor([False]))
                states.append(hidden.detach())
                scores = expected.output_embedding @ hidden[-1, 0] + expected.output_bias
                scored = torch.cat((target[None], targets[targets != target], negatives[k]))
                n_same_targets = (targets == target).sum() - 1
                scored = torch.cat((scored, target.expand(n_same_targets)))
                loss = loss - scores[scored].log_softmax(0)[0] / 4
            gradients = torch.autograd.grad(loss, list(expected.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient

    initial = copy.deepcopy(model)
    optimizer = Optimizer(model.network_parameters(), model.item_tables(), sgd(0.1))
    run_epoch((model, optimizer, loss_function, feed))
    for ours, theirs, before in zip(model.parameters(), expected.parameters(), initial.parameters(), strict=True):
        assert not torch.equal(ours, before)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_hidden_state_carries_no_graph():
    sessions, _ = make_sessions(cycles(20))
    model, optimizer, loss_function, _ = make_training(sessions, 12)
    clicks, negatives = torch.arange(8).reshape(2, 1, 4), torch.arange(8, 12)[None]
    (batch,) = MiniBatchMaker(12, model.shared, CPU).mini_batches(block_of(clicks), negatives)
    _, hidden = training_step(model, optimizer, loss_function, batch, model.initial_hidden(4), 4)
    assert not hidden.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_epoch_and_names_the_step(bad):
    sessions, _ = make_sessions(cycles())
    model, optimizer, _, feed = make_training(sessions, 12)
    steps = []

    def loss_function(scores, columns):
        steps.append(None)
        return scores.sum(dim=1) * (bad if len(steps) == 21 else 0)

    with pytest.raises(Diverged, match="at step 20 of epoch 3"):
        run_epoch((model, optimizer, loss_function, feed), epoch=3)


def test_support_corrects_cross_entropy_only_when_asked():
    scores, support = torch.randn(2, 4), torch.tensor([1, 10, 100, 1000])
    columns = Columns(
        torch.tensor([0, 3, 1, 2]), torch.tensor([0, 1]), torch.tensor([1.0, 1, 0, 0]), torch.tensor([0.0, 0, 1, 1])
    )
    plain = make_loss_function("CrossEntropy", 1.0, 0.0, 0.5, support)(scores, columns)
    corrected = make_loss_function("CrossEntropy", 1.0, 1.0, 0.5, support)(scores, columns)
    log_p = torch.tensor([1, 1000, 10**0.5, 100**0.5]).log()
    expected = torch.nn.functional.cross_entropy(scores - log_p, torch.arange(2), reduction="none")
    torch.testing.assert_close(corrected, expected)
    assert not torch.allclose(plain, corrected)


class SameNegatives:
    """Draws on the CPU whatever the device, so that two devices train on the same negatives."""

    def __init__(self, support, device):
        self.sampler, self.device = NegativeSampler(support, 0.5, 4, 1, CPU), device

    def draw(self, n_steps, epoch, first_step):
        return self.sampler.draw(n_steps, epoch, first_step).to(self.device)


@pytest.mark.cuda
@pytest.mark.parametrize("mode", MODES, ids=["one-hot", "separate", "shared"])
@pytest.mark.parametrize("loss", LOSSES)
def test_cuda_trains_like_the_cpu(loss, mode):
    sessions, _ = make_sessions(cycles())
    support = sessions.support(12)
    results = []
    for device in (CPU, torch.device("cuda")):
        model, _, _, feed = make_training(sessions, 12, loss=loss, mode=mode)
        feed = feed_of(model.to(device), feed.batches, SameNegatives(support, device))
        optimizer = Optimizer(model.network_parameters(), model.item_tables(), adagrad(0.1, 0.1))
        loss_function = make_loss_function(loss, 1.0, 1.0, 0.5, torch.from_numpy(support).to(device))
        progress = run_epoch((model, optimizer, loss_function, feed))
        results.append((progress.loss, evaluate(model, sessions, (1,)), model.cpu().state_dict()))
    (cpu_loss, cpu_metrics, cpu_weights), (cuda_loss, cuda_metrics, cuda_weights) = results
    assert cpu_loss == pytest.approx(cuda_loss, rel=1e-4)
    assert cpu_metrics.recall[1] == pytest.approx(cuda_metrics.recall[1], abs=0.01)
    for name in cpu_weights:
        torch.testing.assert_close(cuda_weights[name], cpu_weights[name], rtol=0, atol=1e-3)

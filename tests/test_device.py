"""What runs on a GPU, without one: on PyTorch's *meta* device, whose tensors have a shape and no values.

A watch sees every operation, and refuses those that a GPU would refuse, or be slow at: tensors of the host beside those
of the device; anything of the host in what a CUDA graph captures. It notes where the host would wait for the device,
and answers in its place.
"""

import itertools

import numpy as np
import pytest
import torch
from conftest import feed_of, make_sessions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dataset import NegativeSampler, SessionParallelBatches
from evaluation import COMPARED_AT_ONCE, METRICS, evaluate
from faster.cudagraph import GraphedStep
from faster.fasterstep import FasterStep
from faster.minibatch import MiniBatchMaker
from lossfunction import LOSSES, make_loss_function
from model import GRU4Rec
from optimizer import OPTIMIZERS, Optimizer, make_rule
from recommend import Recommender
from training import EpochProgress, train_epoch, training_step

META = torch.device("meta")
MODES = {"one-hot": {}, "separate": {"embedding_dim": 4}, "shared": {"constrained_embedding": True}}
COPIES = {"aten::_to_copy", "aten::copy_"}
# How many elements they give depends on values, so the host waits for these.
OF_UNKNOWN_SIZE = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::bincount"}
BY_INDEX = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
N_LANES = 3


class Watch(TorchDispatchMode):
    """Watches all operations, the meta device standing for a GPU.

    Attributes:
        n_captures: how often a graph was captured.
        n_uploads: copies from pinned memory that nothing waits for.
        waits: the names of the operations for which the host waits, while it may.
        capturing: nothing of the host is allowed now.
        excused: waits are not noted now.
        operations: the name, shapes and numbers of every operation since the list was emptied.
    """

    def __init__(self):
        super().__init__()
        self.n_captures, self.n_uploads, self.waits, self.operations = 0, 0, [], []
        self.capturing = self.excused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, given = func._schema.name, tree_leaves((args, kwargs))
        inputs = [leaf for leaf in given if isinstance(leaf, torch.Tensor)]
        self.operations.append((name, [leaf.shape if isinstance(leaf, torch.Tensor) else leaf for leaf in given]))
        if name == "aten::_local_scalar_dense" and inputs[0].is_meta:
            self.wait(name)
            return 1
        if (
            name in OF_UNKNOWN_SIZE
            or name in BY_INDEX
            and any(index is not None and index.dtype == torch.bool for index in args[1])
        ):
            assert not inputs[0].is_meta, f"{name}, whose size depends on values of the device"
        if name in COPIES and kwargs.get("device", META).type == "cpu" and inputs[0].is_meta:
            self.wait(f"{name} to the host")
            return torch.ones(inputs[0].shape, dtype=kwargs.get("dtype") or inputs[0].dtype)
        result = func(*args, **kwargs)
        kinds = {leaf.device.type for leaf in [*inputs, *tree_leaves(result)] if isinstance(leaf, torch.Tensor)}
        assert not (self.capturing and "cpu" in kinds), f"{name} with a tensor of the host in a CUDA graph"
        if kinds == {"cpu", "meta"}:
            assert name in COPIES, f"{name} of tensors of the host and of the device"
            source = args[1] if name == "aten::copy_" else args[0]
            assert source.device.type == "cpu", f"{name} into a tensor of the host"
            if getattr(source, "is_pinned_here", False) and kwargs.get("non_blocking"):
                self.n_uploads += 1
            else:
                self.wait(f"{name} to the device")
        return result

    def wait(self, name):
        """Note that the host waits for an operation."""
        assert not self.capturing, f"{name}: the host waits within a CUDA graph"
        if not self.excused:
            self.waits.append(name)


def pinned(tensor):
    tensor = tensor.clone()
    tensor.is_pinned_here = True
    return tensor


@pytest.fixture
def watch(monkeypatch):
    """A watch, and what asks for CUDA takes the meta device for it."""
    watch = Watch()

    def captured(run, device):
        watch.capturing, watch.n_captures = True, watch.n_captures + 1
        try:
            run()
        finally:
            watch.capturing = False
        return lambda: None

    def checked(*arguments):  # of the first steps of a run, for which the host may wait
        watch.excused = True
        try:
            return check(*arguments)
        finally:
            watch.excused = False

    def made(make):  # a tensor of numbers of the host, which no operation shows
        def made(data, *, device=None, **settings):
            if device is not None and torch.device(device) == META:
                watch.wait(make.__name__)
            return make(data, device=device, **settings)

        return made

    check = FasterStep._checked
    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, made(getattr(torch, name)))
    monkeypatch.setattr(FasterStep, "_checked", checked)
    monkeypatch.setattr("faster.cudagraph.captured", captured)
    for file in ("fasterstep", "cudagraph"):
        monkeypatch.setattr(f"faster.{file}.CHECKED_STEPS", 1)
    monkeypatch.setattr(GraphedStep, "n_warm_up", 1)
    monkeypatch.setattr(GraphedStep, "n_at_once", 2)
    monkeypatch.setattr(
        "faster.minibatch.MiniBatchMaker", lambda *others, repeated: MiniBatchMaker(*others, repeated=True)
    )
    monkeypatch.setitem(COMPARED_AT_ONCE, "meta", 2**26)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.is_meta))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    return watch


def make_parts(loss, rule, mode, n_items, support, **settings):
    """Model, optimizer and loss function on the device."""
    with META:
        model = GRU4Rec(n_items, hidden_size=8, **MODES[mode], **settings)
    optimizer = Optimizer(model.network_parameters(), model.item_tables(), make_rule(rule, 0.1, 0.1, 1e-6), 0.01)
    return model, optimizer, make_loss_function(loss, 1.0, 1.0, 0.5, torch.from_numpy(support).to(META))


def make_feed(model, sessions, support, bptt):
    sampler = NegativeSampler(support, 0.5, 4, 1, torch.device("cpu"))  # the meta device has no generators
    sampler.threshold, sampler.alias = sampler.threshold.to(META), sampler.alias.to(META)
    return feed_of(model, SessionParallelBatches(sessions, N_LANES, block_steps=3, bptt=bptt), sampler)


def storages(model, optimizer):
    tensors = [*model.parameters(), optimizer.step_number, *itertools.chain(*optimizer.state.values())]
    return [tensor.untyped_storage()._cdata for tensor in tensors]


ROUND_THE_MODES = list(zip(itertools.cycle(MODES), itertools.cycle((1, 2)), range(5), strict=False))
CASES = [
    *((loss, "Adagrad", mode, bptt) for loss, (mode, bptt, _) in zip(LOSSES, ROUND_THE_MODES, strict=True)),
    *(("CrossEntropy", rule, "shared", 1) for rule in OPTIMIZERS if rule not in ("Adagrad", "SparseAdam")),
    ("BPR-max", "Adagrad", "shared", 2),
]


@pytest.mark.parametrize(("loss", "rule", "mode", "bptt"), CASES)
def test_an_epoch_on_a_device_waits_once_a_block(loss, rule, mode, bptt, watch, capsys):
    sessions, index = make_sessions([[1, 2, 3, 1, 4, 2], [2, 3, 4, 1], [3, 1, 2, 4], [4, 3, 1], [2, 1, 4, 2]])
    support = sessions.support(len(index))
    parts = make_parts(loss, rule, mode, len(index), support, num_layers=bptt, dropout_input=0.2, dropout_hidden=0.3)
    feed = make_feed(parts[0], sessions, support, bptt)
    blocks, before = list(feed.batches), storages(*parts[:2])
    operations_of_steps = []

    def step(model, optimizer, loss_function, batch, *others):
        watch.operations.clear()
        result = training_step(model, optimizer, loss_function, batch, *others)
        if len(batch.columns.target) == N_LANES:
            operations_of_steps.append(list(watch.operations))
        return result

    graphed = GraphedStep(step)
    with watch:
        train_epoch(*parts, feed, EpochProgress(0), step=graphed)
    assert capsys.readouterr().err == ""
    assert graphed.step not in (None, step)
    assert watch.n_captures == 2  # of one step, and of two
    assert watch.n_uploads == len(blocks) > 1
    assert watch.waits == ["aten::_to_copy to the host"] * len(blocks)  # for its losses
    assert storages(*parts[:2]) == before  # a graph goes on with the tensors that it has captured
    # No shape and no number depends on the step, so that the graph of one is right for all.
    assert len(operations_of_steps) > 2
    assert all(operations == operations_of_steps[0] for operations in operations_of_steps)


@pytest.mark.parametrize("mode", ["one-hot", "shared"])
def test_an_evaluation_on_a_device_waits_as_often_however_many_steps_it_has(mode, watch):
    waits = []
    for n_clicks in (1, 3):
        sessions, index = make_sessions([[1, 2, 3, 4] * n_clicks, [1, 4, 2], [2, 1], [3, 2, 4, 1] * n_clicks])
        support = torch.from_numpy(sessions.support(len(index)))
        model, _, _ = make_parts("TOP1", "SGD", mode, len(index), support.numpy())
        watch.waits, watch.n_uploads = [], 0
        with watch:
            evaluate(model, sessions, (1, 3), "median", 2, tuple(METRICS), support)
        waits.append(len(watch.waits))
        assert watch.n_uploads == len(list(SessionParallelBatches(sessions, 2)))
    assert waits[0] == waits[1]


@pytest.mark.parametrize("mode", ["separate"])
def test_recommending_on_a_device_waits_as_often_however_long_sessions_are(mode, watch):
    sessions, index = make_sessions([[1, 2, 3, 4]])
    model, _, _ = make_parts("TOP1", "SGD", mode, len(index), sessions.support(len(index)))
    waits = []
    for n_clicks in (1, 6):
        watch.waits = []
        with watch:
            recommender = Recommender(model, index)
            recommender.recommend_batch([np.arange(3)] * 2 + [np.zeros(n_clicks, np.int64)] * 2, 2, exclude_seen=True)
        waits.append(len(watch.waits))
    assert waits[0] == waits[1] > 0

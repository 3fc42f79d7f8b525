"""Steps in CUDA graphs, one and many: all but the graph itself on a CPU, and the graph where there is one."""

import contextlib
import itertools
import random

import pytest
import torch
from conftest import feed_of, make_sessions, needs_compiler
from test_compilation import CPU, make_parts, random_mini_batches, run
from test_training import Keeper, cycles
from torch.utils._triton import has_triton

from dataset import NegativeSampler, SessionParallelBatches
from faster import cudagraph
from faster.compilation import CompiledStep
from faster.cudagraph import GraphedStep, captured
from lossfunction import LOSSES
from training import EpochProgress, take_steps, train_epoch, training_step

GRAPHED = [
    ("CrossEntropy", {"constrained_embedding": True, "final_act": "softmax"}, False),
    ("BPR-max", {"num_layers": 2}, False),
    pytest.param("BPR-max", {"constrained_embedding": True}, True, marks=needs_compiler),
]


@pytest.mark.parametrize(("loss", "settings", "is_compiled"), GRAPHED)
def test_graphed_steps_compute_the_same(loss, settings, is_compiled, as_on_a_gpu, capsys):
    """All but the CUDA graph itself, on the CPU: what is copied into its buffers, and what comes out of them."""
    plain, graphed = (make_parts(loss, dropout_input=0.2, dropout_hidden=0.3, **settings) for _ in range(2))
    mini_batches = random_mini_batches(30, plain[0].shared, repeated=True)
    expected = run(training_step, plain, mini_batches)
    step = GraphedStep(CompiledStep() if is_compiled else training_step)
    tolerance = 1e-4 if is_compiled else 0
    assert run(step, graphed, mini_batches) == pytest.approx(expected, rel=tolerance)
    assert step.step is not step.reference
    assert capsys.readouterr().err == ""
    for ours, theirs in zip(plain[0].parameters(), graphed[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def make_run(loss="CrossEntropy", n_sessions=60, n_lanes=4, block_steps=16, bptt=1, device=CPU, **settings):
    """Model, optimizer, loss function, and the mini-batches of sessions of twelve items."""
    sessions, _ = make_sessions(cycles(n_sessions))
    parts = make_parts(loss, device=device, n_items=12, **settings)
    batches = SessionParallelBatches(sessions, n_lanes, block_steps=block_steps, bptt=bptt)
    return *parts, feed_of(parts[0], batches, NegativeSampler(sessions.support(12), 0.5, 3, 1, device))


def noted(many):
    """How often a step takes many at once, in a graph: a list that grows."""
    calls, take = [], cudagraph._Graph.__call__
    many.setattr(cudagraph._Graph, "__call__", lambda graph, *those: calls.append(len(those[0])) or take(graph, *those))
    return calls


@pytest.mark.parametrize("seed", range(12))
def test_many_steps_at_once_are_those_one_by_one_to_the_last_bit(seed, as_on_a_gpu, capsys, monkeypatch):
    """With blocks, portions and saves of random lengths; taken up again from every save."""
    draw = random.Random(seed)
    loss, settings = draw.choice(GRAPHED[:2])[:2]
    how = {"loss": loss, "block_steps": draw.randint(3, 40), "bptt": draw.choice((1, 2, 5)), "dropout_hidden": 0.3}
    at_once, n_saves = draw.randint(2, 9), draw.randint(0, 4)
    saves = sorted(draw.sample(range(1, 60), n_saves))
    monkeypatch.setattr(GraphedStep, "n_at_once", at_once)
    calls = noted(monkeypatch)
    kept = []
    for step in (training_step, GraphedStep(training_step)):
        whole = make_run(**how, **settings)
        keeper = Keeper(*whole[:2], steps=saves)
        progress = EpochProgress(0)
        train_epoch(*whole, progress, keeper, step=step)
        keeper.keep(progress)
        kept.append(keeper.kept)
    assert set(calls) <= {1, at_once}
    assert_equal(*kept)
    assert [each[2].step for each in kept[0][:-1]] == saves
    for weights, state, progress, random_state in kept[1][:-1]:
        rest = make_run(**how, **settings)
        rest[0].load_state_dict(weights)
        rest[1].load_state_dict(state)
        torch.set_rng_state(random_state)
        train_epoch(*rest, progress, step=GraphedStep(training_step))
        keeper = Keeper(*rest[:2], steps=())
        keeper.keep(progress)
        assert_equal(keeper.kept, kept[0][-1:])
    assert capsys.readouterr().err == ""


def assert_equal(ours, theirs):
    for (weights, optimizer, progress, numbers), others in zip(ours, theirs, strict=True):
        assert all(torch.equal(weights[name], others[0][name]) for name in weights)
        for name, state in optimizer["state"].items():
            assert all(map(torch.equal, state, others[1]["state"][name]))
        assert optimizer["step_number"] == others[1]["step_number"]
        assert (progress.step, progress.total_loss) == (others[2].step, others[2].total_loss)
        assert all(map(torch.equal, progress.hidden, others[2].hidden))
        assert torch.equal(numbers, others[3])


@pytest.mark.parametrize(
    ("saves", "portions"),
    [
        ((), [16, 16, 16, 16]),  # of which the first is taken singly: its steps are compared with plain ones
        ((48,), [16, 16, 16, 16]),
        ((33, 60), [16, 16, 1, 16, *[1] * 11, *[1] * 4]),
        (range(70), [1] * 64),
    ],
)
def test_many_steps_are_taken_at_once_where_nothing_is_due_between(saves, portions, as_on_a_gpu, monkeypatch):
    whole = make_run(n_sessions=80, block_steps=64)
    step, taken = GraphedStep(training_step), []
    take_many = step.take_many
    step.take_many = lambda parts, batches, *others: taken.append(len(batches)) or take_many(parts, batches, *others)
    monkeypatch.setattr(
        "training.take_steps",
        lambda step, parts, batches, *others: taken.append(len(batches)) or take_steps(step, parts, batches, *others),
    )
    train_epoch(*whole, EpochProgress(0), Keeper(*whole[:2], saves), step=step)
    assert taken[: len(portions)] == portions


@pytest.mark.parametrize("n_at_once", [1, 4])
@pytest.mark.parametrize("broken", ["fails", "computes something else", "leaves the hidden state as it is"])
def test_a_graph_that_does_not_work_is_replaced(broken, n_at_once, as_on_a_gpu, capsys, monkeypatch):
    """That of one step, or that of many, in their first replay or a later one that is checked."""
    monkeypatch.setattr(GraphedStep, "n_at_once", 4)
    results = []
    for step in (training_step, GraphedStep(training_step)):
        whole = make_run("BPR-max", dropout_hidden=0.3)
        if step is not training_step:
            break_graphs(broken, n_at_once, whole[0], monkeypatch)
        torch.manual_seed(2)
        keeper, progress = Keeper(*whole[:2], steps=(40,)), EpochProgress(0)
        train_epoch(*whole, progress, keeper, step=step)
        keeper.keep(progress)
        results.append(keeper.kept)
    assert_equal(*results)
    assert capsys.readouterr().err.count("goes on without, slower") == 1
    assert step.step is step.reference


def break_graphs(broken, n_at_once, model, monkeypatch):
    """Break the graphs of so many steps."""
    call, counter = cudagraph._Graph.__call__, itertools.count()

    def broken_call(graph, batches, states):
        if len(batches) != n_at_once or next(counter) != (1 if n_at_once == 1 else 0):
            return call(graph, batches, states)
        losses, new_states = call(graph, batches, states)
        if broken == "fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        if broken == "leaves the hidden state as it is":
            return losses, states
        with torch.no_grad():
            model.output_bias[batches[-1].scored_rows[0]] += 1
        return losses, new_states

    monkeypatch.setattr(cudagraph._Graph, "__call__", broken_call)


class Generator:
    """A device's generator, whose state can be left capturing."""

    def __init__(self, capturing=False):
        self.capturing = capturing

    def clone_state(self):
        return Generator()

    def graphsafe_set_state(self, other):
        self.capturing = other.capturing


@pytest.fixture
def cuda_stand_in(monkeypatch):
    """What captures ask of ``torch.cuda``, for three devices: a capture that fails leaves the generator capturing."""
    generators, streams, current = [Generator() for _ in range(3)], [], ["of training"]

    @contextlib.contextmanager
    def graph(graph, stream):
        _, index = current[0] = stream
        generators[index].capturing = True
        yield
        generators[index].capturing = False

    @contextlib.contextmanager
    def restored(wanted):
        before = current[0]
        try:
            yield
        finally:
            current[0] = before

    def new_stream(device):
        streams.append(("a stream", device.index))
        return streams[-1]

    cudagraph._capture_stream.cache_clear()
    monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: type("Graph", (), {"replay": lambda self: None})())
    monkeypatch.setattr("torch.cuda.device", contextlib.nullcontext)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: current[0])
    monkeypatch.setattr("torch.cuda.current_device", lambda: 2)
    monkeypatch.setattr("torch.cuda.stream", restored)
    monkeypatch.setattr("torch.cuda.graph", graph)
    monkeypatch.setattr("torch.cuda.Stream", new_stream)
    monkeypatch.setattr("torch.cuda.default_generators", generators)
    yield generators, streams, current
    cudagraph._capture_stream.cache_clear()


def test_a_capture_that_fails_leaves_generator_and_stream_to_training(cuda_stand_in):
    generators, _, current = cuda_stand_in
    for device, index in (("cuda:1", 1), ("cuda:0", 0)):

        def run(index=index):
            assert generators[index].capturing
            raise RuntimeError("operation not permitted when stream is capturing")

        with pytest.raises(RuntimeError, match="not permitted"):
            captured(run, torch.device(device))
        assert not any(generator.capturing for generator in generators)
        assert current == ["of training"]


def test_all_captures_of_a_device_have_one_stream(cuda_stand_in):
    _, streams, current = cuda_stand_in
    seen = []
    for device in ("cuda:0", "cuda:1", "cuda:0", "cuda:1"):
        captured(lambda: seen.append(current[0]), torch.device(device))
    assert [index for _, index in streams] == [0, 1]
    assert seen == streams * 2


@pytest.mark.cuda
def test_on_cuda_training_goes_on_after_a_capture_that_failed(capsys):
    """For what waits for the device cannot be captured, and dropout draws all the time."""

    def waiting_step(*arguments):
        loss, hidden = training_step(*arguments)
        loss.item()
        return loss, hidden

    cuda, results = torch.device("cuda"), []
    for step in (training_step, GraphedStep(waiting_step)):
        whole = make_run("BPR-max", device=cuda, dropout_input=0.2, dropout_hidden=0.3)
        torch.manual_seed(2)
        progress = EpochProgress(0)
        train_epoch(*whole, progress, step=step)
        results.append((progress.total_loss, torch.cuda.get_rng_state(cuda)))
    (expected, numbers_expected), (loss, numbers) = results
    assert step.step is waiting_step
    assert capsys.readouterr().err.count("goes on without, slower") == 1
    assert loss == pytest.approx(expected, rel=1e-3)
    assert torch.equal(numbers, numbers_expected)


@pytest.mark.cuda
def test_on_cuda_many_steps_in_a_graph_draw_the_numbers_of_single_ones(capsys):
    cuda, results = torch.device("cuda"), []
    for n_at_once in (1, 16):
        whole = make_run(device=cuda, n_sessions=2000, block_steps=500, dropout_input=0.2, dropout_hidden=0.3)
        step = GraphedStep(training_step)
        step.n_at_once = n_at_once
        torch.manual_seed(2)
        progress = EpochProgress(0)
        train_epoch(*whole, progress, step=step)
        assert (step.graph_of_many is None) == (n_at_once == 1)
        results.append((progress.total_loss, torch.cuda.get_rng_state(cuda)))
    (expected, numbers_expected), (loss, numbers) = results
    assert capsys.readouterr().err == ""
    assert loss == pytest.approx(expected, rel=1e-3)
    assert torch.equal(numbers, numbers_expected)


@pytest.mark.cuda
@pytest.mark.parametrize(
    "is_compiled",
    [False, pytest.param(True, marks=pytest.mark.skipif(not has_triton(), reason="needs Triton"))],
    ids=["plain", "compiled"],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_cuda_graph_computes_what_plain_steps_do_for_a_thousand_steps(loss, is_compiled, capsys):
    cuda, settings = torch.device("cuda"), {"constrained_embedding": True, "dropout_input": 0.2, "dropout_hidden": 0.3}
    plain, graphed = (make_parts(loss, device=cuda, **settings) for _ in range(2))
    mini_batches = random_mini_batches(1000, shared=True, repeated=True, device=cuda)
    expected = run(training_step, plain, mini_batches)
    step = GraphedStep(CompiledStep() if is_compiled else training_step)
    assert run(step, graphed, mini_batches) == pytest.approx(expected, rel=1e-3)
    assert step.step is not step.reference
    assert capsys.readouterr().err == ""
    for ours, theirs in zip(plain[0].parameters(), graphed[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)

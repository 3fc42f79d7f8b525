"""The compiled step: that it computes the same, is checked, and gives way where it does not work."""

import gc
import itertools
import weakref

import pytest
import torch
from conftest import needs_compiler
from test_training import LargestNewTensor

from dataset import Block
from faster.compilation import CompiledStep, choose_step
from faster.cudagraph import GraphedStep
from faster.device import random_state
from faster.fasterstep import CHECKED_STEPS, Touched
from faster.minibatch import MiniBatchMaker
from lossfunction import make_loss_function
from model import GRU4Rec
from optimizer import Optimizer, adagrad
from training import training_step

CPU = torch.device("cpu")
N_ITEMS, N_LANES, N_SAMPLE = 300, 8, 64


def make_parts(loss, lr=0.1, momentum=0.3, weight_decay=0.0, bpreg=0.7, device=CPU, n_items=N_ITEMS, **settings):
    torch.manual_seed(0)
    model = GRU4Rec(n_items, hidden_size=12, **settings).train().to(device)
    optimizer = Optimizer(model.network_parameters(), model.item_tables(), adagrad(lr, momentum), weight_decay)
    support = torch.arange(1, n_items + 1, device=device)
    return model, optimizer, make_loss_function(loss, bpreg, 1.0, 0.5, support)


def random_mini_batches(n_steps, shared, repeated=False, device=CPU, bptt=1, n_items=N_ITEMS, n_sample=N_SAMPLE):
    generator = torch.Generator().manual_seed(1)
    clicks = torch.randint(n_items, (bptt + 1, n_steps, N_LANES), generator=generator)
    starts = (torch.rand(bptt, n_steps, N_LANES, generator=generator) < 0.2).long()
    lanes = torch.arange(N_LANES).expand(1, n_steps, -1)
    block = Block(0, [N_LANES] * n_steps, torch.cat((clicks, starts, lanes)))
    negatives = torch.randint(n_items, (n_steps, n_sample), generator=generator)
    maker = MiniBatchMaker(n_items, shared, device, repeated)
    return list(maker.mini_batches(block.to(device), negatives.to(device)))


def run(step, parts, mini_batches):
    torch.manual_seed(2)
    hidden, losses = parts[0].initial_hidden(N_LANES), []
    for batch in mini_batches:
        loss, hidden = step(*parts, batch, hidden, N_LANES)
        losses.append(loss.item())
    return losses


# The losses that one compiled test in make test does not reach, and the third input mode, are in make test-long.
CASES = [
    ("CrossEntropy", {"constrained_embedding": True, "final_act": "softmax"}, ()),
    ("BPR-max", {"final_act": "elu-0.5"}, pytest.mark.long),
    ("TOP1-max", {"embedding_dim": 7, "final_act": "elu-1"}, pytest.mark.long),
    ("TOP1", {"num_layers": 2}, pytest.mark.long),
    ("BPR", {"constrained_embedding": True}, pytest.mark.long),
]
BPTT = {"CrossEntropy": 3, "BPR": 3}  # that gradients flow back through; otherwise 1


@needs_compiler
@pytest.mark.parametrize(("loss", "settings"), [pytest.param(*case[:2], marks=case[2], id=case[0]) for case in CASES])
def test_compiled_steps_compute_the_same_with_several_threads_too(loss, settings, capsys):
    settings = settings | {"dropout_input": 0.2, "dropout_hidden": 0.3}
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        plain, compiled = make_parts(loss, **settings), make_parts(loss, **settings)
        # Of two blocks, the second one shorter, as at the end of an epoch.
        mini_batches = [
            batch
            for n_steps in (50, 10)
            for batch in random_mini_batches(n_steps, plain[0].shared, bptt=BPTT.get(loss, 1))
        ]
        expected = run(training_step, plain, mini_batches)
        step = CompiledStep()
        assert run(step, compiled, mini_batches) == pytest.approx(expected, rel=1e-3)
    finally:
        torch.set_num_threads(n_threads)
    assert step.step is not training_step
    assert "slower" not in capsys.readouterr().err  # what PyTorch says itself depends on its build
    for ours, theirs in zip(plain[0].parameters(), compiled[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)


@needs_compiler
@pytest.mark.long
def test_a_compiled_run_goes_on_as_if_it_had_not_stopped():
    def last_state(steps_of_processes):
        model, optimizer, loss_function = make_parts("BPR-max", dropout_hidden=0.3)
        hidden = model.initial_hidden(N_LANES)
        torch.manual_seed(2)
        for mini_batches in steps_of_processes:
            step = CompiledStep()
            for batch in mini_batches:
                _, hidden = step(model, optimizer, loss_function, batch, hidden, N_LANES)
        return [*model.parameters(), hidden]

    mini_batches = random_mini_batches(40, shared=False)
    whole, cut = last_state([mini_batches]), last_state([mini_batches[:23], mini_batches[23:]])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole, cut, strict=True))


@pytest.mark.parametrize("wrong_by", [0.05, float("nan")])
@pytest.mark.parametrize("wrong_step", range(CHECKED_STEPS))
def test_a_step_that_computes_something_else_is_found_and_replaced(wrong_step, wrong_by, capsys):
    plain, parts = make_parts("BPR-max", dropout_hidden=0.3), make_parts("BPR-max", dropout_hidden=0.3)
    mini_batches = random_mini_batches(CHECKED_STEPS + 2, plain[0].shared)
    expected = run(training_step, plain, mini_batches)
    step, counter = CompiledStep(), itertools.count()

    def wrong(model, *others):
        result = training_step(model, *others)
        if next(counter) == wrong_step:
            with torch.no_grad():
                model.output_embedding[others[2].scored_rows[-1]] += wrong_by
        return result

    step.step = wrong
    assert run(step, parts, mini_batches) == expected
    assert "it computes something else" in capsys.readouterr().err
    for ours, theirs in zip(plain[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_check_that_runs_out_of_memory_leaves_the_step_to_be_taken_once(capsys, monkeypatch):
    plain, parts = make_parts("BPR-max", dropout_hidden=0.3), make_parts("BPR-max", dropout_hidden=0.3)
    mini_batches = random_mini_batches(CHECKED_STEPS, plain[0].shared)
    expected = run(training_step, plain, mini_batches)
    copies, counter = Touched.copies, itertools.count()

    def no_second_copies(touched):
        if next(counter) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return copies(touched)

    monkeypatch.setattr(Touched, "copies", no_second_copies)
    assert run(CompiledStep(), parts, mini_batches) == expected
    assert "slower: CUDA out of memory" in capsys.readouterr().err
    for ours, theirs in zip(plain[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("settings", [{}, {"embedding_dim": 4, "num_layers": 2}, {"constrained_embedding": True}])
@pytest.mark.parametrize("repeated", [False, True], ids=["distinct", "repeated"])
def test_a_check_undoes_all_that_a_step_changes(repeated, settings):
    """Against copies of everything."""
    parts = make_parts("CrossEntropy", **settings)
    model, optimizer, _ = parts
    mini_batches = random_mini_batches(3, model.shared, repeated)
    run(training_step, parts, mini_batches)
    everything = [*model.parameters(), optimizer.step_number, *itertools.chain(*optimizer.state.values())]
    before = [tensor.detach().clone() for tensor in everything]
    touched = Touched(parts, mini_batches)
    copies, random = touched.copies(), random_state(CPU)
    torch.rand(3)
    run(training_step, parts, mini_batches)
    assert not any(torch.equal(ours, theirs) for ours, theirs in zip(everything, before, strict=True))
    touched.put(copies, random)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(everything, before, strict=True))
    assert torch.equal(torch.get_rng_state(), random["cpu"])


def test_a_check_copies_no_table():
    n_items = 100_000
    parts = make_parts("CrossEntropy", n_items=n_items)
    mini_batches = random_mini_batches(CHECKED_STEPS, shared=False, n_items=n_items)
    step = CompiledStep()
    step.step = training_step
    step.reference = lambda *arguments: training_step(*arguments)
    with LargestNewTensor([*parts[0].parameters(), *itertools.chain(*parts[1].state.values())]) as seen:
        run(step, parts, mini_batches)
    assert step.n_checked == CHECKED_STEPS
    assert 0 < seen.largest < n_items / 10


@pytest.fixture
def programs(monkeypatch):
    """All that is compiled: traced and guarded as always, but run operation by operation, for compiling takes long."""
    compiled, programs = torch.compile, []

    def backend(graph, inputs):
        programs.append(graph)
        return graph

    def traced(step, fullgraph, options):
        options = {"guard_filter_fn": options["guard_filter_fn"]}
        return compiled(step, fullgraph=fullgraph, backend=backend, options=options)

    monkeypatch.setattr("torch.compile", traced)
    return programs


@needs_compiler
def test_programs_of_two_models_are_not_mistaken_for_each_other(programs):
    """Their guards on the model and the optimizer are left out: the rate is a number in a program."""
    mini_batches = random_mini_batches(CHECKED_STEPS + 2, shared=False)
    rates = (0.1, 0.01)
    expected = [run(training_step, make_parts("CrossEntropy", lr=lr), mini_batches) for lr in rates]
    pairs = [(CompiledStep(), make_parts("CrossEntropy", lr=lr)) for lr in rates]
    hidden, losses = [parts[0].initial_hidden(N_LANES) for _, parts in pairs], ([], [])
    for batch in mini_batches:
        for i, (step, parts) in enumerate(pairs):
            loss, hidden[i] = step(*parts, batch, hidden[i], N_LANES)
            losses[i].append(loss.item())
    assert all(step.step is not training_step for step, _ in pairs)
    for ours, theirs in zip(losses, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@needs_compiler
def test_a_program_does_not_keep_its_model():
    parts = make_parts("CrossEntropy")
    step = CompiledStep()
    run(step, parts, random_mini_batches(CHECKED_STEPS, shared=False))
    assert step.step is not training_step
    model = weakref.ref(parts[0])
    del parts, step
    gc.collect()
    assert model() is None


@needs_compiler
@pytest.mark.long
def test_a_mini_batch_beyond_the_sizes_of_a_program_gets_another_one():
    """With PyTorch 2.13, what is compiled for fewer than 4096 rows is for no more of them."""
    plain, compiled = (make_parts("CrossEntropy", n_items=20_000) for _ in range(2))
    sizes = [64] * CHECKED_STEPS + [64, 6000, 64, 6000, 6000, 64]
    mini_batches = [random_mini_batches(1, plain[0].shared, n_items=20_000, n_sample=size)[0] for size in sizes]
    step = CompiledStep()
    assert run(step, compiled, mini_batches) == pytest.approx(run(training_step, plain, mini_batches), rel=1e-4)
    assert step.step is not training_step


@needs_compiler
def test_sizes_need_no_other_program_but_strides_do(programs):
    """A program for starts in a row has computed something else, silently, from every second of twice as many."""
    mini_batches = random_mini_batches(CHECKED_STEPS + 3, shared=False)
    parts, step = make_parts("CrossEntropy"), CompiledStep()
    assert len({len(batch.scored_rows) for batch in mini_batches}) > 3
    run(step, parts, mini_batches[:-1])
    assert len(programs) == 1
    every_second = torch.zeros(1, 2 * N_LANES, dtype=torch.bool)[:, ::2]
    run(step, parts, [mini_batches[-1]._replace(starts=every_second)])
    assert len(programs) == 2
    run(step, parts, mini_batches)
    assert len(programs) == 2


def test_a_step_is_of_one_model():
    batch, hidden = random_mini_batches(1, shared=False)[0], torch.zeros(1, N_LANES, 12)
    step = GraphedStep(training_step)
    step(*make_parts("CrossEntropy"), batch, hidden, N_LANES)
    with pytest.raises(AssertionError, match="of one model"):
        step(*make_parts("CrossEntropy"), batch, hidden, N_LANES)


def test_without_a_compiler_training_goes_on_and_says_so_once(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    plain, parts = make_parts("TOP1"), make_parts("TOP1")
    mini_batches = random_mini_batches(6, plain[0].shared)
    expected = run(training_step, plain, mini_batches)
    with torch._inductor.config.patch({"cpp.cxx": ("/no/such/compiler",), "fx_graph_cache": False}):
        assert run(CompiledStep(), parts, mini_batches) == expected
    assert capsys.readouterr().err.count("goes on without, slower") == 1


@needs_compiler
def test_auto_compiles_where_that_saves_more_time_than_it_takes():
    assert choose_step("auto", CPU, n_steps=20_000, n_scores=10_000) is training_step
    assert choose_step("off", CPU, n_steps=10**6, n_scores=10_000) is training_step
    assert isinstance(choose_step("auto", CPU, n_steps=60_000, n_scores=10_000), CompiledStep)
    assert isinstance(choose_step("auto", CPU, n_steps=20_000, n_scores=10**6), CompiledStep)
    assert isinstance(choose_step("on", CPU), CompiledStep)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_where_compiling_cannot_work_only_on_says_so(mode, capsys, monkeypatch):
    monkeypatch.setattr("faster.compilation.why_not_compiled", lambda device: "there is no C++ compiler g++")
    assert choose_step(mode, CPU, n_steps=10**7) is training_step
    assert choose_step(mode, torch.device("cuda"), n_steps=10**7).reference is training_step
    assert capsys.readouterr().err.count("slower: there is no C++ compiler g++") == (2 if mode == "on" else 0)


def test_on_cuda_every_step_but_the_plain_one_is_captured(monkeypatch):
    monkeypatch.setattr("faster.compilation.why_not_compiled", lambda device: None)
    cuda = torch.device("cuda")
    assert choose_step("off", cuda, n_steps=10**7) is training_step
    for mode, n_steps, is_compiled in (("auto", 20_000, False), ("auto", 10**6, True), ("on", 1, True)):
        step = choose_step(mode, cuda, n_steps, n_scores=10_000)
        assert isinstance(step, GraphedStep)
        assert isinstance(step.reference, CompiledStep) == is_compiled

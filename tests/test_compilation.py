"""The compiled step: that it computes the same, is checked, and gives way where it does not work."""

import gc
import itertools
import weakref

import pytest
import torch
from conftest import needs_compiler
from torch.utils._triton import has_triton

from dataset import Block
from faster import compilation
from faster.compilation import CHECKED_STEPS, CompiledStep, GraphedStep, choose_step
from faster.minibatch import MiniBatchMaker
from lossfunction import LOSSES, make_loss_function
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
    ("BPR-max", {"final_act": "elu-0.5"}, ()),
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
    assert capsys.readouterr().err == ""
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
    copies, counter = compilation._copies, itertools.count()

    def no_second_copies(tensors):
        if next(counter) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return copies(tensors)

    monkeypatch.setattr("faster.compilation._copies", no_second_copies)
    assert run(CompiledStep(), parts, mini_batches) == expected
    assert "slower: CUDA out of memory" in capsys.readouterr().err
    for ours, theirs in zip(plain[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@needs_compiler
def test_a_program_is_called_without_pytorchs_checks_but_for_sizes_and_strides(monkeypatch):
    parts, mini_batches = make_parts("CrossEntropy"), random_mini_batches(CHECKED_STEPS + 1, shared=False)
    step, calls = CompiledStep(), []
    run(step, parts, mini_batches[:CHECKED_STEPS])
    program = step.step

    def direct(inputs, program=program.program):
        calls.append("program")
        return program(inputs)

    def checked(*arguments):
        calls.append("PyTorch")
        return training_step(*arguments)

    monkeypatch.setattr(program, "program", direct)
    monkeypatch.setattr(program, "compiled", checked)
    every_second = torch.zeros(1, 2 * N_LANES, dtype=torch.bool)[:, ::2]
    *others, batch = mini_batches
    run(step, parts, [*others, batch._replace(starts=every_second), batch])
    assert calls == ["program"] * CHECKED_STEPS + ["PyTorch", "program"]
    with pytest.raises(AssertionError, match="of one model"):
        step(*make_parts("CrossEntropy"), batch, parts[0].initial_hidden(N_LANES), N_LANES)


@needs_compiler
def test_a_program_does_not_keep_its_model():
    parts = make_parts("CrossEntropy")
    step = CompiledStep()
    run(step, parts, random_mini_batches(CHECKED_STEPS, shared=False))
    assert step.step.program is not None
    model = weakref.ref(parts[0])
    del parts, step
    gc.collect()
    assert model() is None


@needs_compiler
@pytest.mark.long
def test_a_mini_batch_beyond_the_sizes_of_a_program_gets_another_one(monkeypatch):
    """With PyTorch 2.13, what is compiled for fewer than 4096 rows is for no more of them."""
    plain, compiled = (make_parts("CrossEntropy", n_items=20_000) for _ in range(2))
    sizes = [64] * CHECKED_STEPS + [64, 6000, 64, 6000, 6000, 64]
    mini_batches = [random_mini_batches(1, plain[0].shared, n_items=20_000, n_sample=size)[0] for size in sizes]
    n_programs, check = itertools.count(), compilation._check

    def counted(*arguments):
        next(n_programs)
        return check(*arguments)

    monkeypatch.setattr("faster.compilation._check", counted)
    assert run(CompiledStep(), compiled, mini_batches) == pytest.approx(
        run(training_step, plain, mini_batches), rel=1e-4
    )
    assert next(n_programs) == 2


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


@pytest.mark.parametrize("broken", ["fails", "computes something else", "leaves the hidden state as it is"])
def test_a_graph_that_does_not_work_is_replaced(broken, as_on_a_gpu, capsys, monkeypatch):
    plain, parts = (make_parts("BPR-max", dropout_hidden=0.3) for _ in range(2))
    mini_batches = random_mini_batches(CHECKED_STEPS * 3, plain[0].shared, repeated=True)
    expected = run(training_step, plain, mini_batches)
    counter = itertools.count()

    def captured(run, device):
        loss = torch.zeros(())

        def replay():
            if broken == "fails" and next(counter) == 1:
                raise RuntimeError("operation not permitted when stream is capturing")
            loss.copy_(run())
            with torch.no_grad():
                if broken == "computes something else" and next(counter) == 1:
                    parts[0].output_bias[mini_batches[0].scored_rows[0]] += 1

        return replay, loss

    def without_hidden(graph, *arguments):
        graph.replay()
        return graph.loss.clone(), arguments[-2]

    monkeypatch.setattr("faster.compilation.captured", captured)
    if broken == "leaves the hidden state as it is":
        monkeypatch.setattr("faster.compilation._Graph.__call__", without_hidden)
    step = GraphedStep(training_step)
    assert run(step, parts, mini_batches) == expected
    assert capsys.readouterr().err.count("goes on without, slower") == 1
    for ours, theirs in zip(plain[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
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

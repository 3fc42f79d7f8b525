"""Faster training steps: compiled to one program, captured in a CUDA graph; where that computes the same."""

import gc
import itertools
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dataset import MiniBatch
from faster.compiler import why_not_compiled
from faster.device import random_state, set_random_state
from faster.minibatch import moved_to
from lossfunction import LossFunction
from model import GRU4Rec
from optimizer import Optimizer
from terminal.errors import warn
from training import TrainingStep, training_step

Parts = tuple[GRU4Rec, Optimizer, LossFunction]  # those arguments of a step that stay the same
MODES = ("auto", "on", "off")
WORTH_IT = 30.0  # seconds that compiling must save; it takes some fifteen of them
# About how many it saves in a step, and for every score in it: on a CPU with two threads; on CUDA, a guess.
SAVED = {"cpu": (0.7e-3, 10e-9), "cuda": (0.1e-3, 0.0)}
CHECKED_STEPS = 4  # the first ones run both ways: PyTorch 2.13 has compiled losses to wrong gradients
# Of the largest change that a step makes to a tensor; Adagrad enlarges the rounding of small gradients.
TOLERANCE = 0.01
OPTIONS = {"fallback_random": True}  # dropout as without compilation
CPU_OPTIONS = OPTIONS | {
    # By default a value that two loops read is computed in both of them: the exponentials of BPR-max, again and again.
    "realize_reads_threshold": 1,
    "realize_opcount_threshold": 8,
    "cpp_wrapper": True,  # the program around the loops in C++, too
    "size_asserts": False,
}


def choose_step(mode: str, device: torch.device, n_steps: int = 0, n_scores: int = 0) -> TrainingStep:
    """:func:`training.training_step`, or a faster way to take the same step.

    Args:
        mode: one of ``MODES``. "on" compiles the step, and "auto" does where the run is long enough; on CUDA, both then
            capture it in a CUDA graph. Where compiling cannot work, "on" says so, and "auto" does without.
        n_steps: about how many steps the run has.
        n_scores: about how many scores a step has.
    """
    if mode == "off":
        return training_step
    in_step, for_score = SAVED[device.type]
    is_worth_it = n_steps * (in_step + for_score * n_scores) >= WORTH_IT
    why_not = why_not_compiled(device)
    if why_not is not None and mode == "on":
        warn(f"the training step is not compiled, so training is slower: {why_not}")
    step = CompiledStep() if why_not is None and (mode == "on" or is_worth_it) else training_step
    return GraphedStep(step) if device.type == "cuda" else step


class FasterStep(ABC):
    """A faster way to take a step, made when it is first called.

    Where that fails, or where its first steps do not compute what the reference does, it says so and the reference
    takes over. Steps of fewer than B lanes, of which an epoch has a few at its end, are the reference's, too.

    Args:
        reference: what it must compute the same as.
    """

    name: str
    n_warm_up = 0  # steps that the reference takes first

    def __init__(self, reference: TrainingStep) -> None:
        self.reference = reference
        self.parts: Parts | None = None  # those of all its steps
        self.step: TrainingStep | None = None
        self.n_checked = 0

    def __call__(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """As :func:`training.training_step`, whose arguments it takes."""
        model, optimizer, loss_function, batch, hidden, batch_size = arguments
        parts = model, optimizer, loss_function
        self.parts = self.parts or parts
        assert all(ours is theirs for ours, theirs in zip(self.parts, parts, strict=True)), "a step is of one model"
        if self.step is self.reference or not self._fits(batch, batch_size):
            return self.reference(*parts, batch, hidden, batch_size)
        if self.n_warm_up > 0:
            self.n_warm_up -= 1
            return self.reference(*parts, batch, hidden, batch_size)
        if self.n_checked == CHECKED_STEPS:
            return self.step(*parts, batch, hidden, batch_size)
        self.n_checked += 1
        hidden = hidden.clone()  # a graph overwrites the state that it gave last
        try:
            return self._checked_step(parts, batch, hidden, batch_size)
        except Exception as error:  # there are many ways to fail, with or without a compiler
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            warn(f"{self.name} does not work here, so training goes on without, slower: {reason}")
            self.step = self.reference
            return self.reference(*parts, batch, hidden, batch_size)

    def _fits(self, batch: MiniBatch, batch_size: int) -> bool:
        """Whether it can take the step of this mini-batch."""
        return len(batch.columns.target) == batch_size

    @abstractmethod
    def _make(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> TrainingStep:
        """The faster step; may raise whatever it likes."""

    def _checked_step(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """A step both ways from the same state, which is left as the faster one makes it; that is made if need be.

        Raises:
            ArithmeticError: they differ by more than rounding does. The state is as before then, as after any failure.
        """
        model, optimizer, _ = parts
        arguments = *parts, batch, hidden, batch_size
        state = [*model.parameters(), optimizer.step_number, *itertools.chain(*optimizer.state.values())]
        before, before_random = _copies(state), random_state(hidden.device)
        try:
            expected = _copies([*self.reference(*arguments), *state])
            _put(state, before)
            set_random_state(before_random, hidden.device)
            self.step = self.step or self._make(parts, batch, hidden, batch_size)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's, about its own affairs
                result = self.step(*arguments)
            changes_from = [*(torch.zeros_like(tensor) for tensor in result), *before]
            for got, wanted, was in zip([*result, *state], expected, changes_from, strict=True):
                if not (got - wanted).abs().max() <= TOLERANCE * (wanted - was).abs().max() + 1e-6:  # nor NaN
                    raise ArithmeticError("it computes something else")
        except Exception:
            _put(state, before)
            set_random_state(before_random, hidden.device)
            raise
        return result


class CompiledStep(FasterStep):
    """:func:`training.training_step` as one compiled program.

    Steps with a single row are not compiled either: PyTorch would compile once more for them.
    """

    name = "the compiled training step"

    def __init__(self) -> None:
        super().__init__(training_step)

    def _fits(self, batch: MiniBatch, batch_size: int) -> bool:
        return super()._fits(batch, batch_size) and min(len(batch.input_rows), len(batch.scored_rows)) > 1

    def _make(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> TrainingStep:
        print("compiling the training step (--compile off does without)", flush=True)
        return _Program(parts) if hidden.device.type == "cpu" else _compiled(backend="inductor", options=OPTIONS)

    def _checked_step(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        if batch.packed is None:
            # Nothing else would notice if PyTorch took a size for a constant, so it must fail.
            for tensor in (batch.input_rows, batch.scored_rows, batch.columns.n_targets, batch.columns.n_samples):
                torch._dynamo.mark_dynamic(tensor, 0)
        return super()._checked_step(parts, batch, hidden, batch_size)


class GraphedStep(FasterStep):
    """A training step captured in a CUDA graph: the host starts all kernels of a step by one call.

    Args:
        reference: what is captured, after it has run for some steps and compiled what it wants to.
    """

    name = "the CUDA graph of the training step"

    n_warm_up = CHECKED_STEPS  # the reference may be compiled

    def _make(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> TrainingStep:
        try:
            return _Graph(self.reference, parts, batch, hidden, batch_size)
        except RuntimeError as error:
            raise error.__context__ or error from None  # what broke the capture, not what PyTorch says at its end


class _Graph:
    """One step in a graph, which reads its mini-batch and hidden state from buffers and leaves its results in others.

    Args:
        step: the step.
        parts: model, optimizer and loss function of all steps.
        batch, hidden, batch_size: the other arguments of the first step.
    """

    def __init__(self, step: TrainingStep, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int):
        self.packed, self.hidden = batch.packed.clone(), hidden.clone()
        batch = moved_to(self.packed, batch)

        def run() -> Tensor:
            loss, hidden = step(*parts, batch, self.hidden, batch_size)
            self.hidden.copy_(hidden)
            return loss

        self.replay, self.loss = captured(run, hidden.device)

    def __call__(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        *_, batch, hidden, _ = arguments
        self.packed.copy_(batch.packed)
        if hidden.data_ptr() != self.hidden.data_ptr():
            self.hidden.copy_(hidden)
        self.replay()
        return self.loss.clone(), self.hidden


def captured(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """A function that does on the device what ``run`` does, and the tensor that has the result of ``run`` then.

    Each capture has a stream of its own here. PyTorch would use one stream for all of them: it belongs to the first
    device, the graphs would share its cuBLAS workspace, and training would go on in it after a capture that failed.
    """
    gc.collect()  # a graph that nobody uses any more must not be freed during the capture
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.device(device),
        torch.cuda.stream(torch.cuda.current_stream(device)),
        torch.cuda.graph(graph, stream=torch.cuda.Stream(device)),
    ):
        result = run()
    return graph.replay, result


class _Program:
    """The compiled step of one model, called without what PyTorch does before it comes to the program.

    That is a tenth of a step on a CPU: PyTorch looks up all tensors of the model and the optimizer, makes sure that
    they are what they were, and hands them from wrapper to wrapper. But only the mini-batch and the hidden state are
    new. Where their sizes or strides are not those that the program was compiled for, the step goes PyTorch's way.

    Args:
        parts: model, optimizer and loss function of all steps.
    """

    def __init__(self, parts: Parts):
        self.parts = parts
        compile_step = weakref.WeakMethod(self._compile)  # PyTorch keeps its compilers, and must not keep the model
        self.compiled = _compiled(backend=lambda graph, inputs: compile_step()(graph, inputs))
        self.program: Callable[[list[Any]], Sequence[Tensor]] | None = None  # the one that was compiled last
        self.read: Callable[[dict[str, Any]], list[Any]]  # its inputs, from the local variables of a step
        self.fits: Callable[[list[Any]], bool]  # whether it was compiled for such inputs
        self.numbers: dict[int, Tensor]  # the program takes numbers as tensors: which inputs, and where to put them

    def __call__(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        *_, batch, hidden, _ = arguments
        if self.program is not None:
            inputs = self.read({"batch": batch, "hidden": hidden})
            if self.fits(inputs):
                for place, tensor in self.numbers.items():
                    inputs[place] = tensor.fill_(inputs[place])
                with torch.no_grad():
                    loss, hidden, *_ = self.program(inputs)
                return loss, hidden
        return self.compiled(*arguments)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Have PyTorch compile what it traced of a step, and note the program."""
        # Imported here: it takes a second, and not every run compiles.
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        programs = []

        def compile_program(*arguments: Any, **settings: Any) -> Any:
            programs.append(compile_fx_inner(*arguments, **settings))
            return programs[-1]

        with torch._functorch.config.patch(enable_autograd_cache=False):  # it would not ask for the program
            compiled = compile_fx(graph, inputs, inner_compile=compile_program, config_patches=CPU_OPTIONS)
        placeholders = graph.graph.find_nodes(op="placeholder")
        sources = [node.meta["grapharg"].source.name for node in placeholders]
        examples = [node.meta["example_value"] for node in placeholders]
        is_new = [source.startswith(("L['batch']", "L['hidden']")) for source in sources]
        self.read = _reader(sources, is_new, self.parts)
        self.fits = _check(examples, is_new)
        self.numbers = {
            place: torch.zeros((), dtype=torch.int64)
            for place, example in enumerate(examples)
            if isinstance(example, torch.SymInt)
        }
        (self.program,) = programs
        return compiled


def _reader(sources: list[str], is_new: list[bool], parts: Parts) -> Callable[[dict[str, Any]], list[Any]]:
    """A function that evaluates ``sources``, expressions as ``L['batch'].input_rows`` of a step's local variables L.

    Those that are not new in every step are evaluated now.
    """
    names = {"L": dict(zip(("model", "optimizer", "loss_function"), parts, strict=True))}
    expressions = []
    for number, (source, new) in enumerate(zip(sources, is_new, strict=True)):
        if not new:
            names[f"_{number}"] = eval(source, names)
        expressions.append(source if new else f"_{number}")
    return eval(f"lambda L: [{', '.join(expressions)}]", names)


def _check(examples: list[Any], is_new: list[bool]) -> Callable[[list[Any]], bool]:
    """A function that tells whether a program is right for inputs, by their sizes and strides.

    Args:
        examples: the inputs that it was compiled for, with symbols for sizes that may differ; but PyTorch may have
            taken for granted that one of them is at most 4096, say.
        is_new: which of them are new in every step.
    """
    shapes = torch._guards.detect_fake_mode(examples).shape_env
    conditions = shapes.produce_guards_expression(list(itertools.compress(examples, is_new)), ignore_static=False)
    # Where in its storage a tensor begins does not matter: programs get its address.
    conditions = [condition for condition in conditions.split(" and ") if "storage_offset" not in condition]
    code = compile(" and ".join(conditions), "<sizes and strides>", "eval")
    return lambda inputs: shapes.evaluate_guards_expression(code, list(itertools.compress(inputs, is_new)))


def _compiled(**settings: Any) -> TrainingStep:
    torch._dynamo.reset()  # what was compiled for earlier runs of this process is of no use for this one
    torch._dynamo.config.trace_autograd_ops = True  # the step calls torch.autograd.grad itself
    torch.fx.experimental._config.use_duck_shape = False  # two sizes that are equal now may differ in the next step
    return torch.compile(training_step, fullgraph=True, **settings)


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _put(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)

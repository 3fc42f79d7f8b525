"""The training step as one compiled program, and which of the faster ways a run takes its steps."""

import re
from types import FunctionType

import torch
from torch import Tensor

from dataset import MiniBatch
from faster.compiler import why_not_compiled
from faster.cudagraph import GraphedStep
from faster.fasterstep import FasterStep
from terminal.errors import warn
from training import Parts, TrainingStep, training_step

MODES = ("auto", "on", "off")
WORTH_IT = 30.0  # seconds that compiling must save; it takes some fifteen of them
# About how many it saves in a step, and for every score in it: on a CPU with two threads; on CUDA, a guess.
SAVED = {"cpu": (0.7e-3, 10e-9), "cuda": (0.1e-3, 0.0)}
OPTIONS = {
    "cpu": {
        # By default a value that two loops read is computed in both of them: the exponentials of BPR-max, again and
        # again.
        "realize_reads_threshold": 1,
        "realize_opcount_threshold": 8,
        "cpp_wrapper": True,  # the program around the loops in C++, too
        "size_asserts": False,
    },
    "cuda": {"combo_kernels": True},  # loops that do not depend on each other in one kernel
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
        return compiled_step(hidden.device.type)

    def _checked_step(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        if batch.packed is None:
            # Nothing else would notice if PyTorch took a size for a constant, so it must fail.
            for tensor in (batch.input_rows, batch.scored_rows, batch.columns.n_targets, batch.columns.n_samples):
                torch._dynamo.mark_dynamic(tensor, 0)
        return super()._checked_step(parts, batch, hidden, batch_size)


def compiled_step(kind: str) -> TrainingStep:
    """:func:`training.training_step`, compiled when it is called first, for a kind of device and one model.

    Of all that PyTorch looks at before every call, only the tensors that are new in every step are left. Model,
    optimizer and loss function are the same, see :class:`FasterStep`; to look at them again would take a tenth of a
    step on a CPU.
    """
    torch._dynamo.reset()  # what was compiled for earlier runs of this process is of no use for this one
    torch._dynamo.config.trace_autograd_ops = True  # the step calls torch.autograd.grad itself
    torch._dynamo.config.record_runtime_overhead = False  # which costs time even where nobody records it
    torch.fx.experimental._config.use_duck_shape = False  # two sizes that are equal now may differ in the next step
    there_are = torch._inductor.list_options()
    options = {name: value for name, value in OPTIONS[kind].items() if name in there_are}
    options |= {"fallback_random": True, "guard_filter_fn": _guards_of_what_is_new}  # dropout as without compilation
    # PyTorch keeps programs by code, and would take that of another model for this one's.
    step = FunctionType(training_step.__code__.replace(), training_step.__globals__, training_step.__name__)
    return torch.compile(step, fullgraph=True, options=options)


def _guards_of_what_is_new(guards: list) -> list[bool]:
    """Which of PyTorch's guards to keep, by their kind and the local variable that they are on."""
    is_new = re.compile(r"(L\[')?(batch|hidden)\b").match
    return [
        guard.guard_type == "SHAPE_ENV" or guard.guard_type == "TENSOR_MATCH" and bool(is_new(guard.name))
        for guard in guards
    ]

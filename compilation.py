"""The training step as one compiled program, where PyTorch can make one that computes the same."""

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from errors import warn
from training import TrainingStep, training_step

MODES = ("auto", "on", "off")
WORTH_IT = 30_000  # steps; compiling takes some ten seconds, and saves about a millisecond a step
CHECKED_STEPS = 4  # the first ones run both ways: PyTorch 2.13 has compiled losses to wrong gradients
# Of the largest change that a step makes to a tensor; Adagrad enlarges the rounding of small gradients.
TOLERANCE = 0.01
CPU_OPTIONS = {
    # By default a value that two loops read is computed in both of them: the exponentials of BPR-max, again and again.
    "realize_reads_threshold": 1,
    "realize_opcount_threshold": 8,
    "size_asserts": False,
}


def _kept_guards(guards: Sequence[Any]) -> list[bool]:
    """Which guards PyTorch keeps, of what it looks at before every step: not those of modules, and not those of hooks
    and other attributes that an object does not have. None of that changes within a run, and it took 2 % of a step.
    """
    absences = ("NOT_PRESENT_IN_GENERIC_DICT", "EMPTY_NN_MODULE_HOOKS_DICT")
    return [not guard.is_global and guard.guard_type not in absences for guard in guards]


OPTIONS = {
    "fallback_random": True,  # dropout as without compilation
    "guard_filter_fn": _kept_guards,
}


def choose_step(mode: str, n_steps: int, device: torch.device) -> TrainingStep:
    """:func:`training.training_step`, or the same step compiled.

    Args:
        mode: one of ``MODES``; "auto" compiles on a CPU where the run is long enough.
        n_steps: about how many steps the run has.
    """
    if mode == "off" or (mode == "auto" and (device.type != "cpu" or n_steps < WORTH_IT)):
        return training_step
    return CompiledStep()


class CompiledStep:
    """:func:`training.training_step`, compiled when it is first called.

    Where that fails, or where the first steps do not compute what they do without, it says so and goes on without.
    Not compiled are steps of fewer than B lanes, of which an epoch has a few at its end, and those with a single row,
    for which PyTorch would compile once more.
    """

    def __init__(self) -> None:
        self.step: TrainingStep | None = None
        self.n_checked = 0

    def __call__(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """As :func:`training.training_step`, whose arguments it takes."""
        *_, batch, hidden, batch_size = arguments
        n_rows = min(len(batch.input_rows), len(batch.scored_rows))
        if self.step is training_step or hidden.shape[1] < batch_size or n_rows < 2:
            return training_step(*arguments)
        if self.n_checked == CHECKED_STEPS:
            return self.step(*arguments)
        if self.n_checked == 0:
            print("compiling the training step (--compile off does without)", flush=True)
        self.n_checked += 1
        try:
            self.step = self.step or _compiled(hidden.device)
            return self._checked_step(*arguments)
        except Exception as error:  # there are many ways to fail, with or without a compiler
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            warn(f"the compiled training step does not work here, so training goes on without, slower: {reason}")
            self.step = training_step
            return training_step(*arguments)

    def _checked_step(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """A step both ways from the same state, which is left as the compiled one makes it.

        Raises:
            ArithmeticError: they differ by more than rounding does. The state is as before then, as after any failure.
        """
        model, optimizer, _, batch, hidden, _ = arguments
        state = [*model.parameters(), optimizer.step_number, *itertools.chain(*optimizer.state.values())]
        before, random_state = _copies(state), _random_state(hidden.device)
        expected = _copies([*training_step(*arguments), *state])
        _put(state, before)
        _set_random_state(random_state, hidden.device)
        for tensor in (batch.input_rows, batch.scored_rows, batch.columns.n_targets, batch.columns.n_samples):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's, about its own affairs
                result = self.step(*arguments)
            changes_from = [*(torch.zeros_like(tensor) for tensor in result), *before]
            for got, wanted, was in zip([*result, *state], expected, changes_from, strict=True):
                if not (got - wanted).abs().max() <= TOLERANCE * (wanted - was).abs().max() + 1e-6:  # nor NaN
                    raise ArithmeticError("it computes something else")
        except Exception:
            _put(state, before)
            _set_random_state(random_state, hidden.device)
            raise
        return result


def _compiled(device: torch.device) -> TrainingStep:
    torch._dynamo.reset()  # what was compiled for earlier runs of this process is of no use for this one
    torch._dynamo.config.trace_autograd_ops = True
    torch.fx.experimental._config.use_duck_shape = False  # two sizes that are equal now may differ in the next step
    options = OPTIONS | (CPU_OPTIONS if device.type == "cpu" else {})
    return torch.compile(training_step, fullgraph=True, options=options)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _put(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)

"""A faster way to take a training step, and the check of its first steps: they must compute what plain ones do."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dataset import MiniBatch
from faster.device import random_state, set_random_state
from terminal.errors import warn
from training import Parts, TrainingStep

CHECKED_STEPS = 4  # the first ones run both ways: PyTorch 2.13 has compiled losses to wrong gradients
# Of the largest change that a step makes to a tensor; Adagrad enlarges the rounding of small gradients.
TOLERANCE = 0.01


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
        self._refuse_others(parts)
        if self.step is self.reference or not self._fits(batch, batch_size):
            return self.reference(*parts, batch, hidden, batch_size)
        if self.n_warm_up > 0:
            self.n_warm_up -= 1
            return self.reference(*parts, batch, hidden, batch_size)
        if self.n_checked == CHECKED_STEPS:
            return self.step(*parts, batch, hidden, batch_size)
        self.n_checked += 1
        return self._checked_step(parts, batch, hidden.clone(), batch_size)  # a graph overwrites what it gave last

    def _refuse_others(self, parts: Parts) -> None:
        self.parts = self.parts or parts
        assert all(ours is theirs for ours, theirs in zip(self.parts, parts, strict=True)), "a step is of one model"

    def _fits(self, batch: MiniBatch, batch_size: int) -> bool:
        """Whether it can take the step of this mini-batch."""
        return len(batch.columns.target) == batch_size

    @abstractmethod
    def _make(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> TrainingStep:
        """The faster step; may raise whatever it likes."""

    def _checked_step(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """A step both ways, see :meth:`_checked`; the faster one is made if need be."""
        arguments = *parts, batch, hidden, batch_size

        def faster() -> tuple[Tensor, Tensor]:
            self.step = self.step or self._make(parts, batch, hidden, batch_size)
            return self.step(*arguments)

        return self._checked(faster, lambda: self.reference(*arguments), parts, [batch])

    def _checked(
        self, faster: Callable[[], tuple], reference: Callable[[], tuple], parts: Parts, batches: Sequence[MiniBatch]
    ) -> tuple:
        """What the steps of some mini-batches give, taken both ways from the same state.

        That is left as the faster way makes it, or, where this fails or differs by more than rounding does, as the
        reference does, which takes all further steps then.
        """
        try:
            return _compared(faster, reference, Touched(parts, batches))
        except Exception as error:  # there are many ways to fail, with or without a compiler
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            warn(f"{self.name} does not work here, so training goes on without, slower: {reason}")
            self.step = self.reference
            return reference()


class Touched:
    """What the steps of some mini-batches read and change: the network, rows of the item tables, random numbers.

    Whole tables, and as many tensors of the optimizer's state, may be most of the memory that there is.

    Args:
        parts: the model, whose tables have the rows, and the optimizer.
        batches: the mini-batches, which name the rows.
    """

    def __init__(self, parts: Parts, batches: Sequence[MiniBatch]):
        model, optimizer, _ = parts
        self.device = optimizer.step_number.device
        self.whole = [optimizer.step_number]
        for name, weight in optimizer.network.items():
            self.whole += [weight, *optimizer.state[name]]
        self.in_part = []
        rows_of_batches = [model.look_up(batch) for batch in batches]
        for rows in zip(*rows_of_batches, strict=True):
            name, index = rows[0].table, torch.cat([each.index for each in rows])
            self.in_part += [(tensor, index) for tensor in (optimizer.tables[name], *optimizer.state[name])]

    def copies(self) -> list[Tensor]:
        """Copies of all tensors and rows."""
        rows = [tensor.detach().index_select(0, index) for tensor, index in self.in_part]
        return [tensor.detach().clone() for tensor in self.whole] + rows

    @torch.no_grad()
    def put(self, copies: list[Tensor], random: dict[str, Tensor]) -> None:
        """Make everything what it was: what :meth:`copies` and :func:`faster.device.random_state` gave."""
        n = len(self.whole)
        for tensor, copy in zip(self.whole, copies[:n], strict=True):
            tensor.copy_(copy)
        for (tensor, index), rows in zip(self.in_part, copies[n:], strict=True):
            tensor.index_copy_(0, index, rows)
        set_random_state(random, self.device)


def _compared(faster: Callable[[], tuple], reference: Callable[[], tuple], touched: Touched) -> tuple:
    """What ``faster`` gives, after ``reference`` has been run from the same state.

    Raises:
        ArithmeticError: they differ by more than rounding does. The state is as before then, as after any failure.
    """
    before, before_random = touched.copies(), random_state(touched.device)
    try:
        expected = [tensor.clone() for tensor in _tensors(reference())] + touched.copies()
        touched.put(before, before_random)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, about its own affairs
            result = faster()
        changes_from = [torch.zeros_like(tensor) for tensor in _tensors(result)] + before
        for got, wanted, was in zip([*_tensors(result), *touched.copies()], expected, changes_from, strict=True):
            if not (got - wanted).abs().max() <= TOLERANCE * (wanted - was).abs().max() + 1e-6:  # nor NaN
                raise ArithmeticError("it computes something else")
    except Exception:
        touched.put(before, before_random)
        raise
    return result


def _tensors(result: tuple) -> list[Tensor]:
    """Losses and hidden states, of one step or of several."""
    return [tensor for part in result for tensor in ([part] if isinstance(part, Tensor) else part)]

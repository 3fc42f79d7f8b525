"""Training steps in CUDA graphs: the host starts all kernels of a step, or of many, by one call."""

import gc
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dataset import MiniBatch
from faster.device import renew_generator
from faster.fasterstep import CHECKED_STEPS, FasterStep
from faster.minibatch import unpack_as
from training import Parts, TrainingStep, take_steps

STEPS_AT_ONCE = 16  # in one graph; a graph of one step does what is left over


class GraphedStep(FasterStep):
    """A training step captured in a CUDA graph, and a second graph of many steps.

    Args:
        reference: what is captured, after it has run for some steps and compiled what it wants to.
    """

    name = "the CUDA graph of the training step"
    n_at_once = STEPS_AT_ONCE

    n_warm_up = CHECKED_STEPS  # the reference may be compiled

    def __init__(self, reference: TrainingStep) -> None:
        super().__init__(reference)
        self.graph_of_many: _Graph | None = None

    def take_many(
        self, parts: Parts, batches: Sequence[MiniBatch], states: list[Tensor], batch_size: int
    ) -> tuple[Sequence[Tensor], list[Tensor]]:
        """As :func:`training.take_steps`, of ``n_at_once`` mini-batches of all lanes; the same to the last bit."""
        self._refuse_others(parts)
        if self.n_checked < CHECKED_STEPS or self.step is self.reference:
            return take_steps(self, parts, batches, states, batch_size)
        if self.graph_of_many is not None:
            return self.graph_of_many(batches, states)
        states = [state.clone() for state in states]  # a graph overwrites those that it gave last

        def in_a_graph() -> tuple[Sequence[Tensor], list[Tensor]]:
            self.graph_of_many = _graph(self.reference, parts, batches, states, batch_size)
            return self.graph_of_many(batches, states)

        def one_by_one() -> tuple[Sequence[Tensor], list[Tensor]]:
            return take_steps(self.reference, parts, batches, states, batch_size)

        return self._checked(in_a_graph, one_by_one, parts, batches)

    def _make(self, parts: Parts, batch: MiniBatch, hidden: Tensor, batch_size: int) -> TrainingStep:
        graph = _graph(self.reference, parts, [batch], [hidden], batch_size)

        def step(*arguments: Any) -> tuple[Tensor, Tensor]:
            *_, batch, hidden, _ = arguments
            (loss,), (hidden,) = graph([batch], [hidden])
            return loss, hidden

        return step


class _Graph:
    """Steps in a graph, which reads mini-batches and hidden states from buffers and leaves its results in others.

    Args:
        step: the step.
        parts: model, optimizer and loss function of all steps.
        batches, states, batch_size: the first ones, as :func:`training.take_steps` has them.
    """

    def __init__(
        self, step: TrainingStep, parts: Parts, batches: Sequence[MiniBatch], states: list[Tensor], batch_size: int
    ):
        self.packed, self.states = torch.stack([batch.packed for batch in batches]), torch.stack(states)
        self.losses = self.states.new_zeros(len(batches))
        batches = unpack_as(self.packed, batches[0])

        def run() -> None:
            losses, states = take_steps(step, parts, batches, list(self.states.unbind()), batch_size)
            torch.stack(losses, out=self.losses)
            self.states.copy_(torch.stack(states))

        self.replay = captured(run, self.states.device)

    def __call__(self, batches: Sequence[MiniBatch], states: list[Tensor]) -> tuple[Sequence[Tensor], list[Tensor]]:
        torch.cat([batch.packed for batch in batches], out=self.packed.view(-1))
        if states[-1].data_ptr() != self.states[-1].data_ptr():
            self.states.copy_(torch.stack(states))
        self.replay()
        return self.losses.clone().unbind(), list(self.states.unbind())


def _graph(*arguments: Any) -> _Graph:
    try:
        return _Graph(*arguments)
    except RuntimeError as error:
        raise error.__context__ or error from None  # what broke the capture, not what PyTorch says at its end


def captured(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A function that does on the device what ``run`` does.

    All captures of a device have one stream, which no other has: each stream has a cuBLAS workspace of its own, for
    good. That of PyTorch belongs to the first device, and training would go on in it after a capture that failed.
    """
    gc.collect()  # a graph that nobody uses any more must not be freed during the capture
    graph = torch.cuda.CUDAGraph()
    try:
        with (
            torch.cuda.device(device),
            torch.cuda.stream(torch.cuda.current_stream(device)),
            torch.cuda.graph(graph, stream=_capture_stream(device)),
        ):
            run()
    except BaseException:
        renew_generator(device)
        raise
    return graph.replay


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)

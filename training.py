"""The training loop: what a step does, and an epoch of steps."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from tqdm import tqdm

from dataset import Block, MiniBatch
from lossfunction import LossFunction
from model import GRU4Rec
from optimizer import Optimizer

TrainingStep = Callable[[GRU4Rec, Optimizer, LossFunction, MiniBatch, Tensor, int], tuple[Tensor, Tensor]]


Parts = tuple[GRU4Rec, Optimizer, LossFunction]  # those arguments of a step that stay the same


class Diverged(ArithmeticError):
    """The loss became NaN or infinite."""

    def __init__(self, epoch: int, step: int, loss: float):
        super().__init__(f"the loss became {loss} at step {step} of epoch {epoch}")


@dataclass
class EpochProgress:
    """How far an epoch has come: what training needs, beside the model and the optimizer, to go on from there.

    Attributes:
        epoch: its number, from 0.
        step: mini-batches done.
        hidden: the T last hidden states ``[L, B, H]`` of all lanes, the oldest first; None before the first step.
        total_loss: sum of the losses of all next clicks so far.
        n_clicks: next clicks so far.
        seconds: wall time so far.
    """

    epoch: int
    step: int = 0
    hidden: list[Tensor] | None = None
    total_loss: float = 0.0
    n_clicks: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The mean loss of a next click."""
        return self.total_loss / max(self.n_clicks, 1)


class Feed(Protocol):
    """Who has the mini-batches of every epoch, such as :class:`faster.minibatch.MiniBatches`.

    Attributes:
        n_lanes: B, how many sessions go side by side.
        bptt: T, how many of its last clicks a step is told of every lane.
    """

    n_lanes: int
    bptt: int

    def blocks(self, epoch: int, from_step: int) -> Iterator[tuple[Block, Iterator[MiniBatch]]]:
        """The blocks of an epoch from the one that holds ``from_step``, each with its mini-batches from there on."""


@runtime_checkable
class ManySteps(Protocol):
    """A training step that can be taken many times in one call, such as :class:`faster.cudagraph.GraphedStep`.

    Attributes:
        n_at_once: how many times.
    """

    n_at_once: int

    def take_many(
        self, parts: Parts, batches: Sequence[MiniBatch], states: list[Tensor], batch_size: int
    ) -> tuple[Sequence[Tensor], list[Tensor]]:
        """As :func:`take_steps`, of ``n_at_once`` mini-batches, whose lanes are all."""


class Keeper(Protocol):
    """Someone who saves an epoch's progress now and then."""

    def is_due(self, step: int) -> bool:
        """Save once this step is done? Asked after every step, and, where many are taken at once, before them, too."""

    def keep(self, progress: EpochProgress) -> None:
        """Save. May raise to end training."""


def training_step(
    model: GRU4Rec,
    optimizer: Optimizer,
    loss_function: LossFunction,
    batch: MiniBatch,
    hidden: Tensor,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Forward, backward and update on one mini-batch.

    Gradients flow back through the T last clicks that the mini-batch tells, and end there: the hidden state before them
    is a constant input.

    Args:
        batch: of b live lanes.
        hidden: ``[L, b, H]`` the hidden state of the live lanes, as it was T steps ago.
        batch_size: B; the loss is the sum over live lanes divided by it, also when b < B.

    Returns:
        The step's loss, and the next hidden state ``[L, b, H]``.
    """
    rows = model.look_up(batch)
    scores, hidden = model(rows, batch.input_place, hidden, batch.starts)
    loss = loss_function(scores, batch.columns).sum() / batch_size
    gradients = torch.autograd.grad(loss, [values for _, _, values, _ in rows] + list(optimizer.network.values()))
    optimizer.step(rows, gradients[: len(rows)], gradients[len(rows) :])
    return loss.detach(), hidden.detach()


def take_steps(
    step: TrainingStep, parts: Parts, batches: Sequence[MiniBatch], states: list[Tensor], batch_size: int
) -> tuple[Sequence[Tensor], list[Tensor]]:
    """Steps one after another.

    Args:
        states: the T last hidden states ``[L, B, H]`` of all lanes, the oldest first.
        batch_size: B.

    Returns:
        The loss of each step, and the T last hidden states then.
    """
    losses = []
    for batch in batches:
        oldest, *newer = states
        loss, hidden = step(*parts, batch, oldest[:, batch.lanes], batch_size)
        losses.append(loss)
        if hidden.shape[1] < batch_size:
            hidden = states[-1].index_copy(1, batch.lanes, hidden)
        elif newer:
            hidden = hidden.clone()  # a CUDA graph overwrites what it gave last
        states = [*newer, hidden]
    return losses, states


def train_epoch(
    model: GRU4Rec,
    optimizer: Optimizer,
    loss_function: LossFunction,
    feed: Feed,
    progress: EpochProgress,
    keeper: Keeper | None = None,
    bar: tqdm | None = None,
    step: TrainingStep = training_step,
) -> None:
    """Train on every next click of the sessions once, or on those that ``progress`` has not seen yet.

    The host waits for the device once a block, to look at its losses.

    Args:
        feed: the mini-batches; its lanes are those of the hidden state, its ``bptt`` is how many states are kept.
        progress: where the epoch stands; updated as it goes on.
        keeper: asked after every step whether to save.
        bar: a progress bar of next clicks.
        step: :func:`training_step`, or what :func:`faster.compilation.choose_step` gave.

    Raises:
        Diverged: a step's loss is NaN or infinite.
    """
    model.train()
    parts, batch_size = (model, optimizer, loss_function), feed.n_lanes
    if progress.hidden is None:
        progress.hidden = [model.initial_hidden(batch_size)] * feed.bptt
    ledger = _Ledger(progress, batch_size, bar)
    losses = []  # of the steps that are not accounted for yet; they stay on the device
    blocks = feed.blocks(progress.epoch, progress.step)
    current = next(blocks, None)
    while current is not None:
        block, mini_batches = current
        for batches in _portions(list(mini_batches), step, progress.step, keeper):
            taken = step.take_many if len(batches) > 1 else partial(take_steps, step)
            losses_of_portion, progress.hidden = taken(parts, batches, progress.hidden, batch_size)
            losses.extend(losses_of_portion)
            if keeper is not None and keeper.is_due(progress.step + len(losses)):
                ledger.settle(block, losses)
                keeper.keep(progress)
        current = next(blocks, None)  # while a GPU still works on this block
        ledger.settle(block, losses)


def _portions(
    batches: list[MiniBatch], step: TrainingStep, n_steps: int, keeper: Keeper | None
) -> Iterator[list[MiniBatch]]:
    """The mini-batches of a block one by one, or as many as the step takes at once, where nothing is due between.

    Args:
        n_steps: how many steps of the epoch are done.
    """
    n_at_once = step.n_at_once if isinstance(step, ManySteps) else 1
    done = 0
    while done < len(batches):
        portion = batches[done : done + n_at_once]
        are_all_alive = isinstance(portion[-1].lanes, slice)
        between = range(n_steps + done + 1, n_steps + done + n_at_once) if keeper is not None else ()
        if len(portion) < n_at_once or not are_all_alive or any(keeper.is_due(n) for n in between):
            portion = portion[:1]
        yield portion
        done += len(portion)


class _Ledger:
    """Adds steps to the epoch's progress."""

    def __init__(self, progress: EpochProgress, batch_size: int, bar: tqdm | None):
        self.progress, self.batch_size, self.bar = progress, batch_size, bar
        self.settled_at = time.perf_counter()

    def settle(self, block: Block, losses: list[Tensor]) -> None:
        """Account for the losses of the block's next steps, and empty the list."""
        if not losses:
            return
        progress, begin = self.progress, self.progress.step - block.first_step
        end = begin + len(losses)
        for step, loss in enumerate(torch.stack(losses).tolist(), start=progress.step):
            if not math.isfinite(loss):
                raise Diverged(progress.epoch, step, loss)
            # One by one: the sum must not depend on where an interruption cut the block.
            progress.total_loss += loss * self.batch_size
        losses.clear()
        n_clicks = sum(block.alive[begin:end])
        progress.step += end - begin
        progress.n_clicks += n_clicks
        now = time.perf_counter()
        progress.seconds += now - self.settled_at
        self.settled_at = now
        if self.bar is not None:
            self.bar.update(n_clicks)
            self.bar.set_postfix(loss=f"{progress.loss:.4f}", refresh=False)

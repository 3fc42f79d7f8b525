"""The training loop: what a step does, and an epoch of steps."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from dataset import Block, MiniBatch
from lossfunction import LossFunction
from model import GRU4Rec
from optimizer import Optimizer

TrainingStep = Callable[[GRU4Rec, Optimizer, LossFunction, MiniBatch, Tensor, int], tuple[Tensor, Tensor]]


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


class Keeper(Protocol):
    """Someone who saves an epoch's progress now and then."""

    def is_due(self, step: int) -> bool:
        """Asked after every step: save now?"""

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
    batch_size = feed.n_lanes
    if progress.hidden is None:
        progress.hidden = [model.initial_hidden(batch_size)] * feed.bptt
    ledger = _Ledger(progress, batch_size, bar)
    losses = []  # of the steps that are not accounted for yet; they stay on the device
    blocks = feed.blocks(progress.epoch, progress.step)
    current = next(blocks, None)
    while current is not None:
        block, mini_batches = current
        for batch in mini_batches:
            oldest, *newer = progress.hidden
            loss, hidden = step(model, optimizer, loss_function, batch, oldest[:, batch.lanes], batch_size)
            losses.append(loss)
            if hidden.shape[1] < batch_size:
                hidden = progress.hidden[-1].index_copy(1, batch.lanes, hidden)
            elif newer:
                hidden = hidden.clone()  # a CUDA graph overwrites what it gave last
            progress.hidden = [*newer, hidden]
            if keeper is not None and keeper.is_due(progress.step + len(losses)):
                ledger.settle(block, losses)
                keeper.keep(progress)
        current = next(blocks, None)  # while a GPU still works on this block
        ledger.settle(block, losses)


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

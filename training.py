"""The training loop: what a step does, and an epoch of steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

import lossfunction
from dataset import NegativeSampler, SessionParallelBatches
from model import GRU4Rec
from optimizer import Optimizer

LossFunction = Callable[[Tensor, Tensor], Tensor]  # scores [b, M] and their items [M] to the loss of every lane [b]


class Diverged(ArithmeticError):
    """The loss became NaN or infinite."""

    def __init__(self, epoch: int, step: int, loss: float):
        super().__init__(f"the loss became {loss} at step {step} of epoch {epoch}")
        self.epoch, self.step, self.loss = epoch, step, loss


@dataclass(frozen=True)
class EpochResult:
    """What an epoch of training did.

    Attributes:
        loss: the mean loss of a next click.
        n_clicks: next clicks trained on.
        n_steps: mini-batches.
        seconds: wall time.
    """

    loss: float
    n_clicks: int
    n_steps: int
    seconds: float


def make_loss_function(loss_type: str, bpreg: float, logq: float, sample_alpha: float, support: Tensor) -> LossFunction:
    """The named loss with its settings bound.

    Args:
        loss_type: TOP1, BPR, CrossEntropy, TOP1-max or BPR-max.
        support: ``[n_items]`` how often each item was clicked in training.
    """
    if loss_type == "CrossEntropy" and logq > 0:
        support = support.float()

        def corrected_cross_entropy(scores: Tensor, items: Tensor) -> Tensor:
            correction = lossfunction.logq_correction(support[items], len(scores), sample_alpha, logq)
            return lossfunction.cross_entropy(scores, correction)

        return corrected_cross_entropy
    by_name = {
        "TOP1": lossfunction.top1,
        "BPR": lossfunction.bpr,
        "CrossEntropy": lossfunction.cross_entropy,
        "TOP1-max": lossfunction.top1_max,
        "BPR-max": lambda scores: lossfunction.bpr_max(scores, bpreg),
    }
    loss_of_scores = by_name[loss_type]
    return lambda scores, items: loss_of_scores(scores)


def training_step(
    model: GRU4Rec,
    optimizer: Optimizer,
    loss_function: LossFunction,
    inputs: Tensor,
    items: Tensor,
    starts: Tensor,
    hidden: Tensor,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Forward, backward and update on one mini-batch.

    Gradients do not flow through time: the hidden state is a constant input.

    Args:
        inputs: ``[b]`` the current item of each live lane.
        items: ``[M]`` the lanes' targets, then the additional negatives.
        starts: ``[b]`` bool, lanes that begin a session.
        hidden: ``[L, b, H]`` hidden state of the live lanes.
        batch_size: B; the loss is the sum over live lanes divided by it, also when b < B.

    Returns:
        The step's loss, and the next hidden state ``[L, b, H]``.
    """
    rows = model.look_up(inputs, items)
    scores, hidden = model(rows, hidden, starts)
    loss = loss_function(scores, items).sum() / batch_size
    gradients = torch.autograd.grad(loss, [values for _, _, values in rows] + list(optimizer.network.values()))
    optimizer.step(rows, gradients[: len(rows)], gradients[len(rows) :])
    return loss.detach(), hidden.detach()


def train_epoch(
    model: GRU4Rec,
    optimizer: Optimizer,
    loss_function: LossFunction,
    batches: SessionParallelBatches,
    sampler: NegativeSampler,
    epoch: int,
    progress: tqdm | None = None,
) -> EpochResult:
    """Train on every transition of the sessions once.

    The host waits for the device once a block, to look at its losses.

    Raises:
        Diverged: a step's loss is NaN or infinite.
    """
    model.train()
    batch_size = batches.n_lanes
    hidden = model.initial_hidden(batch_size)
    total_loss, n_clicks, n_steps = 0.0, 0, 0
    began = time.perf_counter()
    for block in batches:
        negatives = sampler.draw(len(block), epoch, block.first_step)
        block = block.to(hidden.device)
        losses = torch.empty(len(block), device=hidden.device)
        for k, n_alive in enumerate(block.alive):
            inputs, targets, starts = block.inputs[k, :n_alive], block.targets[k, :n_alive], block.starts[k, :n_alive]
            lanes = slice(None) if n_alive == batch_size else block.lanes[k, :n_alive]
            losses[k], hidden[:, lanes] = training_step(
                model,
                optimizer,
                loss_function,
                inputs,
                torch.cat((targets, negatives[k])),
                starts,
                hidden[:, lanes],
                batch_size,
            )
        total_loss += batch_size * _checked(losses, epoch, n_steps)
        n_steps += len(block)
        n_clicks += sum(block.alive)
        if progress is not None:
            progress.update(sum(block.alive))
            progress.set_postfix(loss=f"{total_loss / n_clicks:.4f}", refresh=False)
    return EpochResult(total_loss / n_clicks, n_clicks, n_steps, time.perf_counter() - began)


def _checked(losses: Tensor, epoch: int, first_step: int) -> float:
    """The sum of a block's losses."""
    total = losses.double().sum().item()
    if total - total != 0:  # NaN or infinite
        step = int((~torch.isfinite(losses)).nonzero()[0])
        raise Diverged(epoch, first_step + step, losses[step].item())
    return total

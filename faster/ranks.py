"""One run in several processes, each with a GPU: the lanes of a step dealt to them, its gradients summed.

``torchrun`` starts the processes and numbers them: their ranks. All of them lay out the same mini-batches with the same
negatives, and hold all weights. Each scores all items of the step for its own lanes; the sum of what these give to the
gradients is the step's gradient, and all ranks make the same update of it. What is drawn for dropout is drawn for all
lanes by all ranks, so the figures are those of one process. Rank 0 alone evaluates, saves and prints.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from dataset import MiniBatch
from lossfunction import LossFunction
from model import GRU4Rec
from optimizer import Optimizer
from terminal.errors import UserError

PATIENCE = timedelta(days=7)  # of a rank with the others, as while rank 0 evaluates
ENDED = "rank 0 has ended"  # a key of the store that all ranks see
HEAD_START = 3.0  # seconds for rank 0 to tell of a mistake that all ranks meet, before another one does


def n_ranks() -> int:
    """How many processes train together; 1 without ``torchrun``."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ["RANK"]) if n_ranks() > 1 else 0


def device_of_rank(name: str | None) -> str | None:
    """Where a named device may be any GPU, the one with this rank's number on its machine.

    Raises:
        UserError: it names one of them, for all ranks.
    """
    if n_ranks() == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if name not in (None, "cuda"):
        raise UserError(f"torchrun gives every process a GPU of its own: leave --device {name} out, or name cpu")
    return f"cuda:{os.environ['LOCAL_RANK']}"


@contextmanager
def joined_ranks() -> Iterator[None]:
    """While entered, this process is one of the ranks, where ``torchrun`` began it; all end when rank 0 leaves.

    The others print nothing, but a mistake that rank 0 does not meet, too. Signals are for rank 0 alone.
    """
    if n_ranks() == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    store = dist.distributed_c10d._get_default_store()
    if rank() == 0:
        try:
            yield
        finally:
            store.set(ENDED, "")
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # rank 0 saves, and ends us
    threading.Thread(target=_end_with_rank_0, args=(store,), daemon=True).start()
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    except Exception:
        time.sleep(HEAD_START)
        raise
    threading.Event().wait()  # while rank 0 evaluates, till it ends


def _end_with_rank_0(store: dist.Store) -> None:
    try:
        store.wait([ENDED], PATIENCE)
    finally:
        os._exit(0)


def dealt_training_step(
    model: GRU4Rec,
    optimizer: Optimizer,
    loss_function: LossFunction,
    batch: MiniBatch,
    hidden: Tensor,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """As :func:`training.training_step`, together with the other ranks, which are given the same.

    Returns:
        The step's loss and the next hidden state of all lanes.

    Raises:
        UserError: another rank has ended.
    """
    b = hidden.shape[1]
    lanes = lanes_of(rank(), n_ranks(), b)
    rows = model.look_up(batch)
    model.drop = partial(dropout_of_lanes, lanes=lanes, b=b)
    scores, next_hidden = model(rows, batch.input_place[:, lanes], hidden[:, lanes], batch.starts[:, lanes])
    columns = batch.columns._replace(target=batch.columns.target[lanes])
    loss = loss_function(scores, columns).sum() / batch_size
    gradients = torch.autograd.grad(loss, [values for _, _, values, _ in rows] + list(optimizer.network.values()))
    all_hidden = torch.zeros_like(hidden)
    all_hidden[:, lanes] = next_hidden.detach()
    counts = b >= n_ranks() or rank() == 0  # else all ranks have computed the same
    loss, all_hidden, *gradients = summed([loss.detach(), all_hidden, *gradients], counts)
    optimizer.step(rows, gradients[: len(rows)], gradients[len(rows) :])
    return loss, all_hidden


def dropout_of_lanes(x: Tensor, p: float, by_row: bool = False, *, lanes: slice, b: int) -> Tensor:
    """As :func:`model.dropout`, for some of b lanes: the random numbers are drawn for all of them.

    Args:
        x: ``[T * (number of lanes), E]``, for each of T clicks the lanes.
    """
    if p == 0:
        return x
    n_clicks = len(x) // (lanes.stop - lanes.start)
    kept = torch.rand(n_clicks, b, 1 if by_row else x.shape[1], device=x.device)[:, lanes].flatten(0, 1) >= p
    return torch.where(kept, x / (1 - p), 0)


def lanes_of(rank: int, n_ranks: int, b: int) -> slice:
    """Which of b live lanes a rank has; all of them where there are too few to deal."""
    return slice(b * rank // n_ranks, b * (rank + 1) // n_ranks) if b >= n_ranks else slice(0, b)


def summed(tensors: list[Tensor], counts: bool) -> list[Tensor]:
    """Tensors of every rank summed, in one message; those of a rank that does not count are left out."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    if not counts:
        flat.zero_()
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:
        raise UserError("another process of this run has ended: go on from the newest checkpoint") from error
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

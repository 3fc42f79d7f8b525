"""What a training step is fed: sessions, the order of session-parallel mini-batches, negative samples.

Every lane of a mini-batch walks through a session of its own, and a lane whose session has ended takes the next session
in line ([1], "Session-parallel mini-batches"). The order needs no model, so it is laid out ahead as arrays, a block of
many steps at a time.

Papers: [1] Hidasi et al., ICLR 2016; [2] Hidasi & Karatzoglou, CIKM 2018.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapreplace, nlargest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clicks.clickfile import Clicks, session_offsets
from clicks.itemindex import ItemIndex
from clicks.prepared import refuse_mixture
from clicks.recognised import read_prepared_clicks
from preprocessing import drop_short_sessions
from terminal.errors import UserError

BLOCK_STEPS = 512  # a block is a copy to the device: large enough to be rare, small enough to stay in a cache


@dataclass(frozen=True)
class Sessions:
    """Sessions back to back, in the order in which they are fed.

    Attributes:
        items: ``[n_clicks]`` int32, the item index of every click.
        offsets: ``[n_sessions + 1]`` int64; session ``s`` is ``items[offsets[s]:offsets[s + 1]]``, two clicks at least.
        times: ``[n_clicks]`` int64, when every click was, in milliseconds since the epoch (UTC); None where nobody
            asked for it, as the model does not.
        ids: ``[n_sessions]`` int64 or str as objects, the id of each session; None where nobody asks for them.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None
    ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_next_clicks(self) -> int:
        """How many times a click is followed by another of its session: what there is to predict."""
        return len(self.items) - len(self)

    def support(self, n_items: int) -> np.ndarray:
        """How often each item was clicked: ``[n_items]`` int64."""
        return np.bincount(self.items, minlength=n_items)

    def select(self, which: np.ndarray) -> "Sessions":
        """The sessions of these numbers, in this order."""
        lengths = np.diff(self.offsets)[which]
        clicks = ranges(self.offsets[which], lengths)
        times = None if self.times is None else self.times[clicks]
        ids = None if self.ids is None else self.ids[which]
        return Sessions(self.items[clicks], np.concatenate(([0], np.cumsum(lengths))), times, ids)


def read_session_clicks(path: Path) -> Clicks:
    """Read prepared clicks (see :mod:`clicks.recognised`) with every session together, its clicks by time.

    Raises:
        UserError: the file is unusable, another than the folder's record tells of, or has no session of two clicks.
    """
    refuse_mixture(path)
    clicks = drop_short_sessions(read_prepared_clicks(path).sorted())
    if len(clicks) == 0:
        raise UserError(f"{path} holds no session of two clicks, so there is nothing to predict")
    return clicks


def encode_sessions(
    clicks: Clicks, index: ItemIndex, time_sort: bool = True, with_times: bool = False, with_ids: bool = False
) -> tuple[Sessions, int]:
    """Turn clicks (sessions together, by time) into sessions of item indices.

    Clicks on items that the index lacks are dropped, then sessions of one click: a model has no score for such an item.

    Args:
        clicks: as :func:`read_session_clicks` gives them.
        index: the items that the model knows.
        time_sort: feed the oldest session (by its first click) first; otherwise by session id.
        with_times, with_ids: let the sessions have the times of their clicks, and their ids.

    Returns:
        The sessions, and how many clicks were dropped.
    """
    items = index.encode_clicks(clicks)
    kept = clicks
    if (unknown := items < 0).any():
        kept = drop_short_sessions(clicks.select(~unknown))
        items = index.encode_clicks(kept)
    offsets = session_offsets(kept.session)
    ids = kept.session_ids(offsets[:-1]) if with_ids else None
    sessions = Sessions(items, offsets, kept.time if with_times else None, ids)
    if time_sort:
        sessions = sessions.select(np.argsort(kept.time[sessions.offsets[:-1]], kind="stable"))
    return sessions, len(clicks) - len(kept)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start … start + length - 1 for every pair of them, back to back."""
    places = np.arange(lengths.sum())
    places += np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return places


class Step(NamedTuple):
    """The clicks of one mini-batch: the b live lanes, in lane order.

    Attributes:
        inputs: ``[b]`` int64, the item index of each lane's current click.
        targets: ``[b]`` int64, that of its next click.
        starts: ``[b]`` bool, the lane begins a session: its hidden state is zero.
        lanes: ``[b]`` int64, which lane each is; a slice of all while all live, which indexes without a copy.
    """

    inputs: Tensor
    targets: Tensor
    starts: Tensor
    lanes: Tensor | slice


class Block:
    """Consecutive steps of session-parallel mini-batches over ``B`` lanes.

    Args:
        first_step: the step of the epoch that the first row is.
        alive: ``[K]`` how many lanes live in each step, on the host.
        grid: ``[T + 1 + T + 1, K, B]`` int64: inputs, targets, starts and lanes as in :class:`Step`, padded behind the
            live ones. Inputs and starts are those of the T last clicks of each lane's session, the current one last.
            Where the session has fewer, its first click stands in for those before it, and is a start each time, so
            that the hidden state is zero when the session really begins.

    Attributes:
        inputs, starts: ``[T, K, B]``.
        targets, lanes: ``[K, B]``.
    """

    def __init__(self, first_step: int, alive: list[int], grid: Tensor):
        self.first_step = first_step
        self.alive = alive
        self.grid = grid
        bptt = len(grid) // 2 - 1
        self.inputs, (self.targets,), starts, (self.lanes,) = grid.split((bptt, 1, bptt, 1))
        self.starts = starts.bool()

    def __len__(self) -> int:
        return len(self.alive)

    def step(self, k: int) -> Step:
        """Row k, the current click of each lane alone."""
        b = self.alive[k]
        return Step(self.inputs[-1, k, :b], self.targets[k, :b], self.starts[-1, k, :b], self.live_lanes(k))

    def live_lanes(self, k: int) -> Tensor | slice:
        """The lanes of row k."""
        b = self.alive[k]
        return slice(None) if b == self.grid.shape[2] else self.lanes[k, :b]

    def to(self, device: torch.device) -> "Block":
        """This block on a device; to a GPU it is one copy, from pinned memory, that nothing waits for."""
        if device.type == "cpu":
            return self
        return Block(self.first_step, self.alive, self.grid.pin_memory().to(device, non_blocking=True))


class SessionParallelBatches:
    """All mini-batches of an epoch, as :class:`Block` objects.

    Sessions are dealt to lanes 0 … B-1 in order. A lane whose session has no further target takes the next session in
    line at the following step; lanes that finish in one step are refilled in lane order. A lane without a next session
    dies. The epoch ends when fewer than ``min_alive`` lanes live.

    Args:
        sessions: what to feed, in this order.
        n_lanes: B, the size of a mini-batch.
        min_alive: 1, or 2 where the other lanes' targets are the only negatives.
        block_steps: K, how many steps a block has (the last one may have fewer).
        bptt: T, how many of a lane's clicks a block tells in each step: the current one, and those before it.
    """

    def __init__(
        self,
        sessions: Sessions,
        n_lanes: int,
        min_alive: int = 1,
        block_steps: int = BLOCK_STEPS,
        bptt: int = 1,
    ):
        self.sessions = sessions
        self.n_lanes = n_lanes
        self.min_alive = min_alive
        self.block_steps = block_steps
        self.bptt = bptt

    def __iter__(self) -> Iterator[Block]:
        return self.blocks()

    @property
    def n_next_clicks(self) -> int:
        """How many next clicks an epoch has: all of them but those of the lanes that live last, where two must live.

        A second for every five million sessions, where two must.
        """
        if self.min_alive == 1:
            return self.sessions.n_next_clicks
        end_steps = [0] * self.n_lanes  # of the lanes, in the order of a heap; which lane is which does not matter here
        for n_steps in (np.diff(self.sessions.offsets) - 1).tolist():
            heapreplace(end_steps, end_steps[0] + n_steps)
        last, before = nlargest(2, [0, *end_steps])
        return self.sessions.n_next_clicks - (last - before)

    def blocks(self, from_step: int = 0) -> Iterator[Block]:
        """The blocks of an epoch, beginning with the one that holds ``from_step``."""
        # A cell of the grid (step, lane) has the number step * B + lane. The session in line goes to the free cell
        # with the smallest number, which is the earliest step, then the lowest lane: the top of a heap of free cells.
        n_lanes, offsets = self.n_lanes, self.sessions.offsets
        n_steps = np.diff(offsets) - 1
        free_cells = list(range(n_lanes))
        in_line = 0
        running = np.empty((0, 2), dtype=np.int64)  # (session, first cell) of sessions that reach into the next block
        for first_step in range(0, len(self.sessions.items), self.block_steps):
            end_cell = (first_step + self.block_steps) * n_lanes
            first_cells = []
            for cells in (n_steps[in_line : in_line + self.block_steps * n_lanes] * n_lanes).tolist():
                cell = free_cells[0]
                if cell >= end_cell:
                    break
                first_cells.append(cell)
                heapreplace(free_cells, cell + cells)
            dealt = np.arange(in_line, in_line + len(first_cells))
            in_line += len(first_cells)
            running = np.concatenate((running, np.column_stack((dealt, first_cells)).astype(np.int64).reshape(-1, 2)))
            if from_step < first_step + self.block_steps:
                block = self._lay_out(running, first_step)
                if len(block):
                    yield block
                if len(block) < self.block_steps:
                    return
            last_cells = running[:, 1] + n_steps[running[:, 0]] * n_lanes
            running = running[last_cells >= end_cell]

    def _lay_out(self, running: np.ndarray, first_step: int) -> Block:
        """The block of steps from ``first_step`` on, filled by the sessions (session, first cell) in ``running``."""
        n_lanes, offsets, items = self.n_lanes, self.sessions.offsets, self.sessions.items
        session, first_cell = running.T
        start_step = first_cell // n_lanes - first_step  # negative: the session began in an earlier block
        skipped = np.maximum(-start_step, 0)
        end = np.minimum(offsets[session + 1] - offsets[session] - 1, self.block_steps - start_step)
        taken = np.maximum(end - skipped, 0)
        transition = ranges(skipped, taken)
        click = np.repeat(offsets[session], taken) + transition
        cell = np.repeat(first_cell - first_step * n_lanes, taken) + transition * n_lanes

        bptt = self.bptt
        grid = np.zeros((2 * bptt + 2, self.block_steps, n_lanes), dtype=np.int64)
        inputs, (targets,), starts, (lanes,) = np.split(grid, np.cumsum((bptt, 1, bptt)))
        live = np.zeros((self.block_steps, n_lanes), dtype=np.bool_)
        for ago in range(bptt):
            inputs[-1 - ago].flat[cell] = items[click - np.minimum(ago, transition)]
            starts[-1 - ago].flat[cell] = transition <= ago
        targets.flat[cell] = items[click + 1]
        lanes[:] = np.arange(n_lanes)
        live.flat[cell] = True

        alive = live.sum(axis=1)
        if alive[-1] < n_lanes:  # live lanes first; lanes never come back, so this happens at the end of an epoch only
            grid = np.take_along_axis(grid, np.argsort(~live, axis=1, kind="stable")[None], axis=2)
        n_steps = int((alive >= self.min_alive).sum())
        return Block(first_step, alive[:n_steps].tolist(), torch.from_numpy(grid[:, :n_steps]))


def seed_of(seed: int, *place: int) -> int:
    """A seed for PyTorch's generators, 64 bits that depend on a seed and on the numbers of a place.

    NumPy reads a row of numbers as a row of words of 32 bits, in which a seed of two words and a place are another seed
    and another place. So a word behind the first is told to it apart from them.
    """
    further_words = (seed >> 32,) if seed >> 32 else ()
    sequence = np.random.SeedSequence((seed % 2**32, *place), spawn_key=further_words)
    return int(sequence.generate_state(1, np.uint64)[0])


class NegativeSampler:
    """Draws items with probability proportional to support^alpha ([2], "Sampling the output"), with replacement.

    By Walker's alias method (1977), a draw costs one random number and two look-ups however many items there are.
    Negatives of a block depend on (seed, epoch, first step of the block) alone: no state to carry, none to save.

    Args:
        support: ``[n_items]`` how often each item was clicked, all positive.
        alpha: 1 draws by popularity, 0 uniformly.
        n_sample: negatives a step, the same for all of its lanes; 0 for none.
        seed: of all draws.
        device: where the negatives are drawn and stay.
    """

    def __init__(self, support: np.ndarray, alpha: float, n_sample: int, seed: int, device: torch.device):
        self.n_sample = n_sample
        self.seed = seed
        self.generator = torch.Generator(device)
        threshold, alias = alias_table((support / support.max()) ** alpha)  # a share: a large alpha must not overflow
        self.threshold = torch.from_numpy(threshold).to(device)
        self.alias = torch.from_numpy(alias).to(device)

    def draw(self, n_steps: int, epoch: int, first_step: int) -> Tensor:
        """Negatives for ``n_steps`` steps: ``[n_steps, n_sample]`` int64 item indices."""
        self.generator.manual_seed(seed_of(self.seed, epoch, first_step))
        n_items = len(self.threshold)
        # float64: one number serves as column and, its fraction, as coin; float32 would leave the coin too few bits
        uniform = torch.rand(
            n_steps, self.n_sample, dtype=torch.float64, device=self.threshold.device, generator=self.generator
        )
        uniform *= n_items
        column = uniform.long().clamp_(max=n_items - 1)  # rounding may reach n_items
        return torch.where(uniform.frac() < self.threshold.take(column), column, self.alias.take(column))


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias table of a discrete distribution, built as Vose (1991) does.

    Args:
        weights: ``[n]`` float64, not negative, of any sum above 0.

    Returns:
        ``threshold`` [n] float64 and ``alias`` [n] int64: draw a column uniformly; it is the result with probability
        ``threshold[column]``, else ``alias[column]`` is.
    """
    threshold = weights * (len(weights) / weights.sum())
    alias = np.arange(len(weights))
    small = np.flatnonzero(threshold < 1).tolist()
    large = np.flatnonzero(threshold >= 1).tolist()
    while small and large:
        poor, rich = small.pop(), large[-1]
        alias[poor] = rich
        threshold[rich] -= 1 - threshold[poor]
        if threshold[rich] < 1:
            small.append(large.pop())
    threshold[small + large] = 1.0  # what is left differs from 1 by rounding only
    return threshold, alias


class Columns(NamedTuple):
    """The items that a mini-batch scores, each of them counted in one column, however often it is there.

    Attributes:
        items: ``[C]`` int64 item indices.
        target: ``[b]`` int64, the column of each lane's target.
        n_targets: ``[C]`` float32 or int64, how many of the lanes' targets each item is.
        n_samples: ``[C]`` likewise, how many of the additional negatives it is.
    """

    items: Tensor
    target: Tensor
    n_targets: Tensor
    n_samples: Tensor

    @property
    def n_all(self) -> Tensor:
        """``[C]``, how often each item is there."""
        return self.n_targets + self.n_samples


class MiniBatch(NamedTuple):
    """All that one training step needs to know.

    Attributes:
        input_rows: ``[R]`` int64, the rows of the input table that the lanes' inputs take.
        input_place: ``[T, b]`` int64, which of them each lane's last T inputs are, the current one last.
        scored_rows: ``[S]`` int64, the targets and negatives: the rows of the output bias. Where inputs are looked up
            in the output table, ``input_rows`` end with them.
        columns: the columns of the scores: ``scored_rows``, or all ``input_rows`` where these are of the output table;
            an item that is an input alone is scored, too, because with T = 1 that costs less than to leave it out, and
            counted 0.
        starts: ``[T, b]``, true or 1 for inputs that begin a session.
        lanes: which of all lanes these are, see :class:`Step`.
        input_stand_in: ``[R]`` int64, which of ``input_rows`` stands for each of them; None where rows are distinct.
        scored_stand_in: ``[S]`` int64, the same of ``scored_rows``.
        packed: ``[P]`` int64, what all tensors of repeated rows are views of; None where rows are distinct.
    """

    input_rows: Tensor
    input_place: Tensor
    scored_rows: Tensor
    columns: Columns
    starts: Tensor
    lanes: Tensor | slice
    input_stand_in: Tensor | None = None
    scored_stand_in: Tensor | None = None
    packed: Tensor | None = None

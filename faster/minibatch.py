"""The making of mini-batches: clicks and negatives of a step joined, with the rows of the item tables that they take.

An item may be there several times, as an input, a target, a negative. It is a row of the tables once, and the losses
count it. There are two ways to list rows:

- *Distinct*, for a CPU: each once, so that nothing is looked up, scored and updated twice. How many there are differs
  from step to step, and the host must know.
- *Repeated*, for a GPU: item by item as they come, always equally many, and nothing waits for the host. One occurrence
  of an item, its last, stands for all of them; the others are counted 0, and get the gradient of that one, so that they
  write the same new values to the same row.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice, repeat

import torch
from torch import Tensor

from dataset import Block, Columns, MiniBatch, NegativeSampler, SessionParallelBatches


def unpack(
    packed: Tensor, shape: tuple[int, int], n_scored: int, shared: bool, lanes: Iterable[Tensor | slice]
) -> Iterator[MiniBatch]:
    """The mini-batches of S scored items each that :meth:`MiniBatchMaker.mini_batches` packed in rows.

    Args:
        packed: ``[K, P]`` int64, a mini-batch a row. It is split here once, into views.
        shape: T and b.
        shared: inputs are looked up in the output table.
        lanes: of each of them.
    """
    n_inputs, b = shape[0] * shape[1], shape[1]
    n_items = n_inputs + n_scored
    n_rows, n_columns = (n_items, n_items) if shared else (n_inputs, n_scored)
    sizes = (n_items, n_rows, n_scored, n_columns, n_columns, n_inputs)
    items, input_stand_in, scored_stand_in, n_targets, n_samples, starts = packed.split(sizes, dim=1)
    target = input_stand_in[:, n_inputs : n_inputs + b] if shared else scored_stand_in[:, :b]
    input_place = input_stand_in[:, :n_inputs].unflatten(1, shape)
    input_rows, scored_rows = items[:, :n_rows].unbind(), items[:, n_inputs:].unbind()
    columns = map(
        Columns, input_rows if shared else scored_rows, target.unbind(), n_targets.unbind(), n_samples.unbind()
    )
    starts = starts.unflatten(1, shape).unbind()
    rest = (part.unbind() for part in (input_stand_in, scored_stand_in, packed))
    return map(MiniBatch, input_rows, input_place.unbind(), scored_rows, columns, starts, lanes, *rest)


def unpack_as(packed: Tensor, batch: MiniBatch) -> list[MiniBatch]:
    """The mini-batches in the rows of ``packed``, which are laid out as another one is."""
    shape, n_scored = batch.starts.shape, len(batch.scored_rows)
    shared = len(batch.input_rows) == shape.numel() + n_scored
    return list(unpack(packed, shape, n_scored, shared, repeat(batch.lanes)))


class MiniBatches:
    """All mini-batches of every epoch, laid out a block ahead: what :func:`training.train_epoch` is fed.

    Args:
        batches: the clicks; they say how many lanes there are, and how many clicks of a lane a step is told.
        sampler: the additional negatives.
        n_items: number of items.
        shared: inputs are looked up in the output table.
        device: where the mini-batches are wanted.
    """

    def __init__(
        self,
        batches: SessionParallelBatches,
        sampler: NegativeSampler,
        n_items: int,
        shared: bool,
        device: torch.device,
    ):
        self.batches, self.sampler, self.device = batches, sampler, device
        self.n_lanes, self.bptt = batches.n_lanes, batches.bptt
        self.maker = MiniBatchMaker(n_items, shared, device, repeated=device.type == "cuda")

    def blocks(self, epoch: int, from_step: int = 0) -> Iterator[tuple[Block, Iterator[MiniBatch]]]:
        """The blocks of an epoch from the one that holds ``from_step``, each with its mini-batches from there on."""
        for block in self.batches.blocks(from_step):
            negatives = self.sampler.draw(len(block), epoch, block.first_step)
            mini_batches = self.maker.mini_batches(block.to(self.device), negatives)
            yield block, islice(mini_batches, max(from_step - block.first_step, 0), None)


class MiniBatchMaker:
    """Joins clicks and negatives to mini-batches.

    Args:
        n_items: number of items.
        shared: inputs are looked up in the output table.
        device: where the blocks are.
        repeated: list rows with repeats.
    """

    CHUNK = 16  # steps that are looked up at once, each in a table of all items of its own: 5 MB for YooChoose

    def __init__(self, n_items: int, shared: bool, device: torch.device, repeated: bool = False):
        self.shared, self.repeated = shared, repeated
        self.place_of = torch.empty(self.CHUNK, n_items, dtype=torch.int64, device=device)  # scratch

    def mini_batches(self, block: Block, negatives: Tensor) -> Iterator[MiniBatch]:
        """The mini-batches of a block, with ``negatives`` ``[K, n_sample]`` for its steps.

        Raises:
            ValueError: one has no negatives.
        """
        make = self._repeated if self.repeated else self._distinct
        runs = []
        for b, run in groupby(range(len(block)), key=block.alive.__getitem__):
            if b + negatives.shape[1] < 2:
                raise ValueError("a loss needs at least one negative: two lanes, or additional samples")
            numbers = list(run)
            steps = slice(numbers[0], numbers[-1] + 1)
            runs.append(make(block, steps, b, negatives[steps]))
        return chain.from_iterable(runs)

    def _distinct(self, block: Block, steps: slice, b: int, negatives: Tensor) -> Iterable[MiniBatch]:
        inputs, scored = _by_step(block.inputs, steps, b), torch.cat((block.targets[steps, :b], negatives), dim=1)
        n_inputs = inputs.shape[1]
        if self.shared:
            input_rows, place, n_only_input = self.distinct_rows(torch.cat((inputs, scored), dim=1), n_inputs)
            input_place, scored_place = place[:, :n_inputs], place[:, n_inputs:]
            scored_rows = [rows[n:] for rows, n in zip(input_rows, n_only_input, strict=True)]
            column_items = input_rows
        else:
            input_rows, input_place, _ = self.distinct_rows(inputs)
            scored_rows, scored_place, _ = self.distinct_rows(scored)
            column_items = scored_rows
        target, n_columns = scored_place[:, :b], max(map(len, column_items))
        n_targets, n_samples = _counts(target, n_columns), _counts(scored_place[:, b:], n_columns)
        columns = [
            Columns(items, column, targets[: len(items)], samples[: len(items)])
            for items, column, targets, samples in zip(column_items, target, n_targets, n_samples, strict=True)
        ]
        input_place = input_place.unflatten(1, (-1, b))
        starts = _by_step(block.starts, steps, b).unflatten(1, (-1, b))
        lanes = map(block.live_lanes, range(steps.start, steps.stop))
        return map(MiniBatch, input_rows, input_place, scored_rows, columns, starts, lanes)

    def _repeated(self, block: Block, steps: slice, b: int, negatives: Tensor) -> Iterable[MiniBatch]:
        inputs, starts = _by_step(block.inputs, steps, b), _by_step(block.starts, steps, b)
        items = torch.cat((inputs, block.targets[steps, :b], negatives), dim=1)
        n_inputs = inputs.shape[1]
        n_scored = items.shape[1] - n_inputs
        if self.shared:
            input_stand_in = self._last_occurrences(items)
            column_stand_in = input_stand_in[:, n_inputs:]
            scored_stand_in = column_stand_in - n_inputs
        else:
            input_stand_in = self._last_occurrences(inputs)
            column_stand_in = scored_stand_in = self._last_occurrences(items[:, n_inputs:])
        n_columns = items.shape[1] if self.shared else n_scored
        counts = [_counts(places, n_columns) for places in (column_stand_in[:, :b], column_stand_in[:, b:])]
        parts = (items, input_stand_in, scored_stand_in, *counts, starts)
        packed = torch.cat([part.long() for part in parts], dim=1)
        lanes = map(block.live_lanes, range(steps.start, steps.stop))
        return unpack(packed, (n_inputs // b, b), n_scored, self.shared, lanes)

    def distinct_rows(self, items: Tensor, n_first: int = 1) -> tuple[list[Tensor], Tensor, list[int]]:
        """Which rows the items ``[K, M]`` of every step take, each once.

        Returns:
            The rows of every step; ``[K, M]`` where among them every item is, ``rows[k][place[k]]`` being ``items[k]``;
            and how many rows of every step occur among its ``n_first`` first items only: these come first.
        """
        places, rows, n_distinct = [], [], []
        for chunk in items.split(self.CHUNK):
            position = torch.arange(chunk.shape[1], device=chunk.device).expand_as(chunk)
            table = self.place_of[: len(chunk)]
            # Of equal items, any may stand for all of them; but one after the first ``n_first`` where there is one.
            table.scatter_(1, chunk[:, :n_first], position[:, :n_first])
            table.scatter_(1, chunk[:, n_first:], position[:, n_first:])
            stand_in = table.gather(1, chunk)
            n_so_far = (stand_in == position).cumsum(dim=1)
            places.append((n_so_far - 1).gather(1, stand_in))
            rows.append(torch.empty_like(chunk).scatter_(1, places[-1], chunk))
            n_distinct.append(n_so_far[:, [n_first - 1, -1]])
        n_only_first, n_rows = torch.cat(n_distinct).T.tolist()  # of the whole block: the host waits for it
        rows_of_steps = [step_rows[:n] for step_rows, n in zip(torch.cat(rows), n_rows, strict=True)]
        return rows_of_steps, torch.cat(places), n_only_first

    def _last_occurrences(self, items: Tensor) -> Tensor:
        """``[K, M]``: for each of the items [K, M], where in its row the same item stands last.

        Every item notes its position in a table, where its last occurrence stays. Nothing is sorted.
        """
        last = []
        for chunk in items.split(self.CHUNK):
            position = torch.arange(chunk.shape[1], device=chunk.device).expand_as(chunk)
            table = self.place_of[: len(chunk)].scatter_reduce_(1, chunk, position, "amax", include_self=False)
            last.append(table.gather(1, chunk))
        return last[0] if len(last) == 1 else torch.cat(last)


def _by_step(of_block: Tensor, steps: slice, b: int) -> Tensor:
    """What a block ``[T, K, B]`` tells of the live lanes in some of its steps, ``[steps, T * b]``."""
    return of_block[:, steps, :b].movedim(0, 1).flatten(1)


def _counts(places: Tensor, n_places: int) -> Tensor:
    """How often each place occurs in each row: ``[K, M]`` int64 to ``[K, n_places]`` float32."""
    counts = torch.zeros(len(places), n_places, device=places.device)
    return counts.scatter_add_(1, places, torch.ones((), device=places.device).expand(places.shape))

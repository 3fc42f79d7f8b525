"""Mini-batches: their clicks, negatives and counts, and the two ways to list rows."""

import numpy as np
import pytest
import torch
from conftest import make_sessions

from dataset import SessionParallelBatches
from faster.minibatch import MiniBatchMaker, unpack_as

CPU = torch.device("cpu")


def blocks_and_negatives(n_sample, bptt=1):
    """Blocks of six lanes over nine items, the last lanes' deaths included, with negatives for every step."""
    rng = np.random.default_rng(3)
    sessions, _ = make_sessions([rng.integers(0, 9, rng.integers(2, 30)).tolist() for _ in range(20)])
    for block in SessionParallelBatches(sessions, 6, 1 if n_sample else 2, block_steps=40, bptt=bptt):
        yield block, torch.from_numpy(rng.integers(0, 9, (len(block), n_sample)))


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n_sample", [0, 5])
@pytest.mark.parametrize("bptt", [1, 3])
def test_mini_batches_hold_the_clicks_and_negatives(bptt, n_sample, shared, repeated):
    maker = MiniBatchMaker(9, shared, CPU, repeated)
    for block, negatives in blocks_and_negatives(n_sample, bptt):
        mini_batches = list(maker.mini_batches(block, negatives))
        assert len(mini_batches) == len(block)
        for k, batch in enumerate(mini_batches):
            _, targets, _, lanes = block.step(k)
            columns = batch.columns
            assert batch.input_rows[batch.input_place].tolist() == block.inputs[:, k, : len(targets)].tolist()
            assert columns.items[columns.target].tolist() == targets.tolist()
            assert columns.items is (batch.input_rows if shared else batch.scored_rows)
            for counts, items in ((columns.n_targets, targets), (columns.n_samples, negatives[k])):
                counted = torch.zeros(9).index_add_(0, columns.items, counts.float())
                assert torch.equal(counted, torch.bincount(items, minlength=9).float())
            assert batch.starts.tolist() == block.starts[:, k, : len(targets)].tolist()
            assert batch.lanes == lanes if isinstance(lanes, slice) else batch.lanes.tolist() == lanes.tolist()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n_sample", [0, 5])
@pytest.mark.parametrize("bptt", [1, 3])
def test_distinct_rows_are_there_once(bptt, n_sample, shared):
    for block, negatives in blocks_and_negatives(n_sample, bptt):
        for k, batch in enumerate(MiniBatchMaker(9, shared, CPU).mini_batches(block, negatives)):
            targets = block.step(k).targets
            inputs = block.inputs[:, k, : len(targets)].flatten()
            for rows in (batch.input_rows, batch.scored_rows):
                assert len(set(rows.tolist())) == len(rows)
            scored = set(targets.tolist()) | set(negatives[k].tolist())
            assert set(batch.scored_rows.tolist()) == scored
            if shared:
                only_input, last = batch.input_rows.split((len(batch.input_rows) - len(scored), len(scored)))
                assert torch.equal(last, batch.scored_rows)
                assert set(only_input.tolist()) == set(inputs.tolist()) - scored
            else:
                assert set(batch.input_rows.tolist()) == set(inputs.tolist())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n_sample", [0, 5])
@pytest.mark.parametrize("bptt", [1, 3])
def test_of_repeated_rows_one_stands_for_all(bptt, n_sample, shared):
    for block, negatives in blocks_and_negatives(n_sample, bptt):
        for k, batch in enumerate(MiniBatchMaker(9, shared, CPU, repeated=True).mini_batches(block, negatives)):
            targets = block.step(k).targets
            inputs = block.inputs[:, k, : len(targets)].flatten()
            scored = torch.cat((targets, negatives[k]))
            assert torch.equal(batch.scored_rows, scored)
            assert torch.equal(batch.input_rows, torch.cat((inputs, scored)) if shared else inputs)
            for rows, stand_in in (
                (batch.input_rows, batch.input_stand_in),
                (batch.scored_rows, batch.scored_stand_in),
            ):
                assert torch.equal(rows[stand_in], rows)
                assert len(set(stand_in.tolist())) == len(set(rows.tolist()))
            of_columns = batch.input_stand_in if shared else batch.scored_stand_in
            counts = batch.columns.n_all
            assert not counts[of_columns != torch.arange(len(counts))].any()
            assert torch.equal(batch.input_place.flatten(), batch.input_stand_in[: len(inputs)])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bptt", [1, 3])
def test_a_mini_batch_is_views_of_what_it_is_packed_in(bptt, shared):
    (block, negatives), *_ = blocks_and_negatives(5, bptt)
    first, second, *_ = MiniBatchMaker(9, shared, CPU, repeated=True).mini_batches(block, negatives)
    buffer = torch.stack((first.packed, first.packed))
    for moved, expected in zip(unpack_as(buffer, first), (first, second), strict=True):
        buffer[1] = second.packed
        for ours, theirs in zip((*moved, *moved.columns), (*expected, *expected.columns), strict=True):
            if isinstance(ours, torch.Tensor):
                assert torch.equal(ours, theirs)
                assert ours.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()


def test_a_mini_batch_without_negatives_is_refused():
    sessions, _ = make_sessions([[1, 2, 3]])
    (block,) = SessionParallelBatches(sessions, 1)
    with pytest.raises(ValueError, match="negative"):
        MiniBatchMaker(4, False, CPU).mini_batches(block, torch.empty(len(block), 0, dtype=torch.int64))

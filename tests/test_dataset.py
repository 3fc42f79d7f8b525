"""The item index, session-parallel batches against a simulation, and the negative sampler against its distribution."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import make_clicks, make_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from clicks.clickfile import Clicks
from dataset import (
    ItemIndex,
    NegativeSampler,
    SessionParallelBatches,
    alias_table,
    encode_sessions,
    read_session_clicks,
    seed_of,
)
from terminal.errors import UserError

CPU = torch.device("cpu")


def simulate(sessions: list[list[int]], n_lanes: int, min_alive: int):
    """Session-parallel batches as a person would do them by hand: (lane, input, target, starts) of each live lane."""
    queue = list(sessions)
    lanes: list[list[int]] = [[] for _ in range(n_lanes)]
    steps = []
    while True:
        step = []
        for lane in range(n_lanes):
            starts = False
            if len(lanes[lane]) < 2 and queue:
                lanes[lane] = list(queue.pop(0))
                starts = True
            if len(lanes[lane]) >= 2:
                step.append((lane, lanes[lane][0], lanes[lane][1], starts))
        if len(step) < min_alive:
            return steps
        steps.append(step)
        for lane, *_ in step:
            lanes[lane].pop(0)


def laid_out(batches: SessionParallelBatches):
    steps = []
    for block in batches:
        assert block.first_step == len(steps)
        assert len(block) <= batches.block_steps
        for inputs, targets, starts, lanes in map(block.step, range(len(block))):
            if isinstance(lanes, slice):
                assert len(inputs) == batches.n_lanes
                lanes = torch.arange(batches.n_lanes)
            steps.append(list(zip(*(column.tolist() for column in (lanes, inputs, targets, starts)), strict=True)))
    return steps


lengths = st.one_of(st.integers(2, 4), st.integers(2, 60))
session_lists = st.lists(lengths, min_size=1, max_size=60).map(
    lambda sizes: [list(range(1000 * s, 1000 * s + size)) for s, size in enumerate(sizes)]
)


@settings(max_examples=300, deadline=None)
@given(session_lists, st.integers(1, 12), st.integers(1, 2), st.integers(1, 9))
def test_batches_are_those_of_a_simulation(sessions, n_lanes, min_alive, block_steps):
    encoded, index = make_sessions(sessions)
    by_index = [index.encode(np.array(items)).tolist() for items in sessions]
    batches = SessionParallelBatches(encoded, n_lanes, min_alive, block_steps)
    expected = simulate(by_index, n_lanes, min_alive)
    assert laid_out(batches) == expected
    assert laid_out(batches) == expected  # the second epoch is the first


@settings(max_examples=100, deadline=None)
@given(session_lists, st.integers(1, 12))
def test_every_transition_is_used_once(sessions, n_lanes):
    encoded, index = make_sessions(sessions)
    seen = sorted((i, t) for step in laid_out(SessionParallelBatches(encoded, n_lanes)) for _, i, t, _ in step)
    by_index = [index.encode(np.array(items)).tolist() for items in sessions]
    assert seen == sorted(pair for items in by_index for pair in zip(items[:-1], items[1:], strict=True))
    assert len(seen) == encoded.n_next_clicks


@settings(max_examples=100, deadline=None)
@given(session_lists, st.integers(1, 12), st.integers(1, 9), st.integers(1, 7))
def test_a_block_tells_the_last_clicks_of_each_session(sessions, n_lanes, block_steps, bptt):
    encoded, index = make_sessions(sessions)
    where = {item: (session, place) for session in sessions for place, item in enumerate(session)}  # no item twice
    for block in SessionParallelBatches(encoded, n_lanes, 1, block_steps, bptt):
        assert block.inputs.shape == block.starts.shape == (bptt, len(block), n_lanes)
        for k, n_alive in enumerate(block.alive):
            for lane in range(n_alive):
                items = index.ids[block.inputs[:, k, lane].numpy()].tolist()
                session, place = where[items[-1]]
                assert items == [session[max(place - ago, 0)] for ago in reversed(range(bptt))]
                assert block.starts[:, k, lane].tolist() == [item == session[0] for item in items]


@settings(max_examples=300, deadline=None)
@given(session_lists, st.integers(1, 12), st.integers(1, 2))
def test_as_many_next_clicks_are_told_as_an_epoch_has(sessions, n_lanes, min_alive):
    batches = SessionParallelBatches(make_sessions(sessions)[0], n_lanes, min_alive)
    assert batches.n_next_clicks == sum(sum(block.alive) for block in batches)


def test_lanes_that_end_together_are_refilled_in_lane_order():
    encoded, _ = make_sessions([[0, 1], [2, 3], [4, 5], [6, 7]])
    assert laid_out(SessionParallelBatches(encoded, 2)) == [
        [(0, 0, 1, True), (1, 2, 3, True)],
        [(0, 4, 5, True), (1, 6, 7, True)],
    ]


def test_oldest_session_first_unless_told_otherwise():
    clicks = make_clicks([[1, 2], [3, 4], [5, 6]], first_times=[30, 10, 20])
    index = ItemIndex.of(clicks)
    by_time, _ = encode_sessions(clicks, index, time_sort=True)
    by_id, _ = encode_sessions(clicks, index, time_sort=False)
    assert index.ids[by_time.items].tolist() == [3, 4, 5, 6, 1, 2]
    assert index.ids[by_id.items].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("time_sort", [True, False])
def test_times_stay_with_their_clicks(time_sort):
    """Also where clicks on unknown items, and then sessions of one click, are dropped."""
    clicks = make_clicks([[1, 9, 2], [9, 1], [2, 1, 2], [1, 2, 9]], first_times=[50, 70, 10, 30])
    index = ItemIndex(np.array([1, 2]))
    sessions, n_dropped = encode_sessions(clicks, index, time_sort, with_times=True)
    by_id = [([1, 2], [50_000, 52_000]), ([2, 1, 2], [10_000, 11_000, 12_000]), ([1, 2], [30_000, 31_000])]
    expected = [by_id[number] for number in (1, 2, 0)] if time_sort else by_id
    assert n_dropped == 4
    assert index.ids[sessions.items].tolist() == [item for items, _ in expected for item in items]
    assert sessions.times.tolist() == [time for _, times in expected for time in times]
    assert encode_sessions(clicks, index, time_sort)[0].times is None
    some = sessions.select(np.array([2, 0]))
    assert some.times.tolist() == expected[2][1] + expected[0][1]
    assert some.offsets.tolist() == [0, len(expected[2][1]), len(expected[2][1]) + len(expected[0][1])]


def test_sessions_that_start_together_keep_the_order_of_their_ids():
    clicks = make_clicks([[1, 2], [3, 4, 5], [6, 7]], first_times=[10, 10, 10])
    assert encode_sessions(clicks, ItemIndex.of(clicks))[0].items.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_index_keeps_the_order_of_first_appearance():
    index = ItemIndex.of(make_clicks([[30, 10], [20, 10]]))
    assert index.ids.tolist() == [30, 10, 20]
    assert index.encode(np.array([20, 99, 30])).tolist() == [2, -1, 0]


IDS = [["12", "012", "a", "-3", str(2**63)], ["12", "7", "-3"]]


@pytest.mark.parametrize("known", IDS)
@pytest.mark.parametrize("asked", [["7", "012", "-3", "12", "new"], [7, -3, 12, 99], ["-3", 12, 2**63], [], ["12"]])
def test_text_and_integers_meet_by_their_text(known, asked):
    are_integers = known == IDS[1]
    index = ItemIndex(np.array(known, dtype=np.int64 if are_integers else object))
    assert index.is_text != are_integers
    expected = [known.index(str(item)) if str(item) in known else -1 for item in asked]
    assert index.encode(asked).tolist() == expected
    back = ItemIndex.from_state(index.state())
    assert back.ids.tolist() == index.ids.tolist() == ([int(i) for i in known] if are_integers else known)
    assert back.encode(asked).tolist() == expected


@pytest.mark.parametrize("is_text", [False, True])
def test_a_known_id_is_known_beside_whatever_others(is_text):
    index = ItemIndex(np.array(["7", "1", "-3"], dtype=object) if is_text else np.array([7, 1, -3]))
    asked = [
        7,
        2**63,
        "1",
        -3.0,
        np.int32(7),
        True,
        1.5,
        float("nan"),
        2.0**70,
        "07",
        -(2**80),
        np.uint64(7),
        np.str_("-3"),
    ]
    assert index.encode(asked).tolist() == [0, -1, 1, 2, 0, -1, -1, -1, -1, -1, -1, 0, 2]
    assert index.encode(iter([7, 2**63])).tolist() == [0, -1]
    assert index.encode(np.array([7, 2**63, 2**64 - 3], dtype=np.uint64)).tolist() == [0, -1, -1]
    assert index.encode(np.array([7.0, 1.5])).tolist() == [0, -1]
    assert index.encode([]).tolist() == index.encode(np.zeros(0, dtype=object)).tolist() == []


@pytest.mark.parametrize(
    "state",
    [[], ["a", "a"], ["a", 1], ["a", None], [["a"]], torch.zeros(0, dtype=torch.int64), torch.zeros(2)]
    + [torch.tensor([1, 1]), torch.tensor([[1, 2]]), torch.tensor(3)],
)
def test_what_is_no_list_of_ids_is_refused(state):
    with pytest.raises(ValueError, match="no list of ids"):
        ItemIndex.from_state(state)


def test_clicks_with_text_ids_are_encoded_for_either_index():
    clicks = Clicks(np.array([0, 0, 0]), np.array([2, 0, 1]), np.arange(3), item_names=pa.array(["a", "7", "07"]))
    assert ItemIndex.of(clicks).ids.tolist() == ["07", "a", "7"]
    assert ItemIndex(np.array([3, 7])).encode_clicks(clicks).tolist() == [-1, -1, 1]
    integers = Clicks(np.array([0, 0]), np.array([7, 3]), np.arange(2))
    assert ItemIndex.of(clicks).encode_clicks(integers).tolist() == [2, -1]


def test_items_that_training_never_saw_are_dropped_and_counted():
    index = ItemIndex(np.array([1, 2]))
    sessions, n_dropped = encode_sessions(make_clicks([[1, 9, 2], [9, 1], [2, 1, 2]]), index)
    assert [sessions.items[a:b].tolist() for a, b in zip(sessions.offsets, sessions.offsets[1:], strict=False)] == [
        [0, 1],
        [1, 0, 1],
    ]
    assert n_dropped == 3


def test_reading_sorts_clicks_and_drops_sessions_of_one(tmp_path):
    path = tmp_path / "clicks.txt"
    path.write_text("SessionID,ItemID,Time\n7,70,3.5\n5,50,2\n7,71,3.25\n6,60,1\n5,51,2\n")
    clicks = read_session_clicks(path)
    assert clicks.session.tolist() == [5, 5, 7, 7]
    assert clicks.item.tolist() == [50, 51, 71, 70]
    assert clicks.time.tolist() == [2000, 2000, 3250, 3500]


@pytest.mark.parametrize("content", ["SessionID,ItemID,Time\n", "SessionID,ItemID,Time\n1,2,3\n2,2,3\n"])
def test_nothing_to_predict_is_refused(tmp_path, content):
    path = tmp_path / "clicks.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=r"clicks\.txt"):
        read_session_clicks(path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 5), st.integers(1, 10**7)), min_size=1, max_size=200))
def test_alias_table_holds_the_distribution(weights):
    weights = np.array(weights, dtype=float)
    threshold, alias = alias_table(weights)
    probability = (threshold + np.bincount(alias, 1 - threshold, minlength=len(weights))) / len(weights)
    np.testing.assert_allclose(probability, weights / weights.sum(), rtol=1e-9, atol=1e-15)
    assert (threshold >= 0).all()
    assert (threshold <= 1).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.75, 1.0])
def test_negatives_follow_support_to_the_power_of_alpha(alpha):
    support = np.array([1, 1000, 10, 10, 400, 3] * 50)
    sampler = NegativeSampler(support, alpha, n_sample=2048, seed=3, device=CPU)
    drawn = sampler.draw(500, epoch=0, first_step=0)
    expected = support**alpha / (support**alpha).sum() * drawn.numel()
    counts = np.bincount(drawn.flatten(), minlength=len(support))
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = len(support) - 1
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_the_rarest_items_of_a_large_catalogue_are_drawn_too():
    """With float32 the last bins of a cumulative distribution over 37,483 items would merge."""
    support = np.concatenate((np.full(100, 10**6), np.full(37_383, 5)))
    sampler = NegativeSampler(support, 1.0, n_sample=4096, seed=1, device=CPU)
    drawn = pd.Series(torch.cat([sampler.draw(500, 0, first) for first in range(10)]).flatten().numpy())
    share_of_last = (drawn >= 37_383).mean()
    expected = 100 * 5 / support.sum()
    assert share_of_last == pytest.approx(expected, rel=0.5)


def test_a_large_alpha_draws_the_most_popular_item_alone():
    support = np.array([50_000, 3, 49_000, 1] * 10)
    support[0] += 1
    drawn = NegativeSampler(support, 1e6, n_sample=100, seed=1, device=CPU).draw(10, 0, 0)
    assert (drawn == 0).all()


def test_negatives_depend_on_seed_epoch_and_step_alone():
    def draw(seed, epoch, first_step):
        return NegativeSampler(np.arange(1, 100), 0.5, 64, seed, CPU).draw(3, epoch, first_step)

    assert torch.equal(draw(1, 2, 512), draw(1, 2, 512))
    others = [draw(2, 2, 512), draw(1, 3, 512), draw(1, 2, 0)]
    assert not any(torch.equal(draw(1, 2, 512), other) for other in others)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 2**31))
def test_seeds_of_one_word_are_those_of_numpy(seed, epoch, first_step):
    by_numpy = np.random.SeedSequence((seed, epoch, first_step)).generate_state(1, np.uint64)[0]
    assert seed_of(seed, epoch, first_step) == by_numpy
    assert seed_of(seed) == np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]


def test_seeds_of_two_words_are_seeds_of_their_own():
    """(seed + 2^32, epoch 0) was (seed, epoch 1)."""
    seeds = [seed + high for seed in (0, 1, 22) for high in (0, 2**32, 2**33, 2**62)]
    places = [(), (0,), (0, 0), *((seed, epoch, step) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1, 512))]
    drawn = [seed_of(seed, *place) for seed in seeds for place in places if len(place) == 3]
    assert len(set(drawn)) == len(drawn)


def test_no_negatives_are_an_empty_draw():
    assert NegativeSampler(np.arange(1, 10), 0.5, 0, 1, CPU).draw(4, 0, 0).shape == (4, 0)


def test_sessions_of_large_ids_are_kept_apart():
    big = 2**40
    clicks = Clicks(np.array([big, big, big + 1, big + 1]), np.array([big, 1, 2, big]), np.array([1, 2, 3, 4]))
    sessions, _ = encode_sessions(clicks, ItemIndex.of(clicks))
    assert sessions.items.tolist() == [0, 1, 2, 0]
    assert sessions.offsets.tolist() == [0, 2, 4]

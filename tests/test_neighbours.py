"""VS-KNN, STAN, V-STAN and sequential rules: against loops over sessions written from the rules, and against golden
figures and scores of session-rec on real clicks.
"""

import gzip
import json
import math
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import neighbours
from baselines.baseline import ClicksOfLanes
from baselines.neighbours import DAY, STAN, VSKNN, VSTAN
from baselines.registry import BASELINES
from baselines.rules import SequentialRules
from clicks.clickfile import Clicks
from clicks.itemindex import ItemIndex
from dataset import SessionParallelBatches, Sessions, encode_sessions
from evaluation import TIE_BREAKING

SHARED = ROOT.parent / "shared"
N_ITEMS = 9


def made_up(seed: int, n_sessions: int, n_days: float = 60.0) -> Sessions:
    """Sessions of 2 to 9 clicks, with repeated items; the first one knows every item; some end at the same time."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 10, n_sessions)
    lengths[0] = N_ITEMS
    items = (rng.zipf(1.5, lengths.sum()) % N_ITEMS).astype(np.int32)
    items[:N_ITEMS] = np.arange(N_ITEMS)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    begin = rng.integers(0, n_days * DAY / 1000, n_sessions) // 1000 * 1_000_000
    begin[n_sessions // 2 :: 3] = begin[n_sessions // 2]
    times = np.concatenate([start + 1000 * np.arange(length) for start, length in zip(begin, lengths, strict=True)])
    return Sessions(items, offsets, times)


def events(sessions: Sessions) -> list[tuple[list[int], int]]:
    """All that there is to predict from: the items of a session so far, and the time of its current click."""
    return [
        (sessions.items[first : current + 1].tolist(), int(sessions.times[current]))
        for first, last in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
        for current in range(first, last - 1)
    ]


def scores_after_every_click(baseline, sessions: Sessions) -> list[np.ndarray]:
    """The scores of :func:`events`, one session evaluated after another."""
    rows, score = [], baseline.scores
    baseline.scores = lambda step: rows.append(score(step)) or rows[-1]
    for number in range(len(sessions)):
        baseline.evaluate(sessions.select(np.array([number])))
    baseline.scores = score
    return list(torch.cat(rows).numpy())


# The rules, one session after another.


def last_positions(items):
    return {item: position for position, item in enumerate(items, start=1)}


def neighbours_by_hand(train: Sessions, lots, so_far, similarity_of, p):
    """Pairs of a neighbour (items, time of the last click) and its similarity."""
    sessions = [
        SimpleNamespace(items=train.items[first:end].tolist(), last_click=int(train.times[end - 1]))
        for first, end in zip(train.offsets[:-1], train.offsets[1:], strict=True)
    ]
    sessions.sort(key=lambda session: session.last_click)
    for session, lot in zip(sessions, lots, strict=True):
        session.lot = lot
    candidates = [session for session in sessions if set(session.items) & set(so_far)][-p.sample :]
    ranked = sorted(candidates, key=lambda session: (-similarity_of(session), session.lot))
    return [(session, similarity_of(session)) for session in ranked[: p.k]]


def vsknn_by_hand(train, lots, so_far, time, p):
    n_clicks, position = len(so_far), last_positions(so_far)

    def similarity_of(session):  # "vec", of weights "div", times the numbers by which these two divide
        return sum(position[item] for item in position if item in session.items)

    scores = Counter()
    for session, similarity in neighbours_by_hand(train, lots, so_far, similarity_of, p):
        step = next(step for step in range(1, n_clicks + 1) if so_far[-step] in session.items)
        for item in set(session.items):
            scores[item] += similarity / step
    return scores


def stan_by_hand(train, lots, so_far, time, p):
    n_clicks, position = len(so_far), last_positions(so_far)
    weight = {item: math.exp((position[item] - n_clicks) / p.lambda_spw) for item in position}
    norm = math.sqrt(sum(each**2 for each in weight.values()))

    def similarity_of(session):
        dot = sum(weight[item] for item in position if item in session.items)
        days = (time - session.last_click) / DAY
        return dot / (norm * math.sqrt(len(set(session.items)))) * math.exp(-days / p.lambda_snh)

    is_vstan = hasattr(p, "lambda_ipw")
    scores = Counter()
    for session, similarity in neighbours_by_hand(train, lots, so_far, similarity_of, p):
        there = last_positions(session.items)
        last_shared = max(there[item] for item in there if item in position)
        if is_vstan:
            most_recent = max(position[item] for item in position if item in there)
            similarity *= math.exp((most_recent - n_clicks) / p.lambda_ipw)
        for item, place in there.items():
            idf = 1.0
            if is_vstan:
                n_item_clicks = (train.items == item).sum()
                idf += p.lambda_idf * math.log(len(train) / n_item_clicks)
            scores[item] += similarity * math.exp(-abs(place - last_shared) / p.lambda_inh) * idf
    return scores


def rules_by_hand(train, so_far, p):
    """The rules of the last item: weights, and of the items at the cut those with more clicks."""
    weights = defaultdict(float)
    for first, end in zip(train.offsets[:-1], train.offsets[1:], strict=True):
        session = train.items[first:end].tolist()
        for i, a in enumerate(session):
            for j in range(i + 1, min(i + p.steps, len(session) - 1) + 1):
                if a == so_far[-1]:
                    weights[session[j]] += 1 / (j - i)
    clicks = Counter(train.items.tolist())
    kept = sorted(weights, key=lambda b: (-round(weights[b], 9), -clicks[b]))[: p.rules]
    return {b: weights[b] for b in kept}


def assert_scores(row, expected, n_items=N_ITEMS):
    assert {item for item in range(n_items) if row[item] > -np.inf} == set(expected)
    for item, score in expected.items():
        assert row[item] == pytest.approx(score, rel=1e-6)


SETTINGS = {
    "few of everything": {"k": 3, "sample": 7},
    "one neighbour": {"k": 1, "sample": 4},
    "one candidate": {"k": 5, "sample": 1},
    "more than there are": {"k": 500, "sample": 900},
    "more neighbours than candidates": {"k": 50, "sample": 12},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("baseline", "by_hand"), [(VSKNN, vsknn_by_hand), (STAN, stan_by_hand), (VSTAN, stan_by_hand)])
def test_neighbours_score_as_in_a_loop(baseline, by_hand, name):
    train, test = made_up(0, 50), made_up(1, 25)
    fitted = baseline(train, N_ITEMS, **SETTINGS[name])
    rows = scores_after_every_click(fitted, test)
    for row, (so_far, time) in zip(rows, events(test), strict=True):
        assert_scores(row, by_hand(train, fitted.known.lot, so_far, time, fitted.p))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 8), st.integers(1, 20), st.floats(0.05, 30))
def test_neighbours_of_random_sessions_and_settings(seed, n_sessions, k, sample, rate):
    train, test = made_up(seed, n_sessions), made_up(seed + 1, 3)
    rates = {"lambda_spw": rate, "lambda_snh": 10 * rate, "lambda_inh": 2 * rate}
    for fitted, by_hand in (
        (VSKNN(train, N_ITEMS, k=k, sample=sample), vsknn_by_hand),
        (STAN(train, N_ITEMS, k=k, sample=sample, **rates), stan_by_hand),
        (VSTAN(train, N_ITEMS, k=k, sample=sample, **rates, lambda_ipw=rate, lambda_idf=0.5), stan_by_hand),
    ):
        rows = scores_after_every_click(fitted, test)
        for row, (so_far, time) in zip(rows, events(test), strict=True):
            assert_scores(row, by_hand(train, fitted.known.lot, so_far, time, fitted.p))


@pytest.mark.parametrize("some", [{}, {"rules": 3}, {"steps": 1}, {"steps": 2, "rules": 1}, {"steps": 10**6}])
def test_rules_score_as_in_a_loop(some):
    train, test = made_up(2, 40), made_up(3, 12)
    fitted = SequentialRules(train, N_ITEMS, **some)
    for row, (so_far, _) in zip(scores_after_every_click(fitted, test), events(test), strict=True):
        assert_scores(row, rules_by_hand(train, so_far, fitted.p))


@pytest.mark.parametrize("name", ["SR", "VS-KNN", "STAN", "V-STAN"])
def test_the_figures_are_those_of_the_scores_in_every_way_to_count_ties(name):
    """Sessions side by side, and a next click without a score is a miss."""
    train, test = made_up(4, 30), made_up(5, 80)
    some = {"rules": 3} if name == "SR" else {"k": 2}
    fitted = BASELINES[name](train, N_ITEMS, **some)
    rows = scores_after_every_click(fitted, test)
    is_target = np.ones(len(test.items), dtype=np.bool_)
    is_target[test.offsets[:-1]] = False
    targets = test.items[is_target]
    of_target = np.array([row[target] for row, target in zip(rows, targets, strict=True)])
    assert (of_target == -np.inf).any()
    above = np.array([(row > score).sum() for row, score in zip(rows, of_target, strict=True)])
    tied = np.array([(row == score).sum() - 1 for row, score in zip(rows, of_target, strict=True)])
    metrics = fitted.evaluate_by_every_tie_breaking(test, (1, 3, N_ITEMS))
    for way, share in {"standard": 0, "conservative": 1, "median": 0.5}.items():
        ranks = np.where(of_target == -np.inf, np.inf, 1 + above + share * tied)
        assert metrics[way].n_next_clicks == len(ranks)
        assert metrics[way] == fitted.evaluate(test, (1, 3, N_ITEMS), way)
        for k in (1, 3, N_ITEMS):
            assert metrics[way].recall[k] == pytest.approx(np.mean(ranks <= k))
            assert metrics[way].mrr[k] == pytest.approx(np.mean(np.where(ranks <= k, 1 / ranks, 0)))


@pytest.mark.parametrize(("n_sessions", "n_lanes"), [(1, 1), (7, 3), (40, 40), (300, 256)])
def test_every_step_tells_where_its_clicks_are(n_sessions, n_lanes):
    sessions = made_up(6, n_sessions)
    session_of = np.repeat(np.arange(n_sessions), np.diff(sessions.offsets))
    clicks, seen = ClicksOfLanes(sessions), []
    for block in SessionParallelBatches(sessions, n_lanes, block_steps=5):
        for step in map(block.step, range(len(block))):
            first, current = clicks.of(step)
            assert sessions.items[current].tolist() == step.inputs.tolist()
            assert sessions.items[current + 1].tolist() == step.targets.tolist()
            assert (first == current).tolist() == step.starts.tolist()
            assert first.tolist() == sessions.offsets[session_of[current]].tolist()
            seen += current.tolist()
    last_clicks = sessions.offsets[1:] - 1
    assert sorted(seen) == sorted(set(range(len(sessions.items))) - set(last_clicks.tolist()))


def test_a_neighbour_without_an_item_in_common_scores_nothing():
    """And an item that no neighbour has is a miss, even where it would be among the first K."""
    train = Sessions(np.array([0, 1, 2, 3], dtype=np.int32), np.array([0, 2, 4]), np.array([0, 1, 2, 3]) * 1000)
    test = Sessions(np.array([0, 2], dtype=np.int32), np.array([0, 2]), np.array([9, 10]) * 1000)
    for name in ("SR", "VS-KNN", "STAN", "V-STAN"):
        fitted = BASELINES[name](train, 4)
        (row,) = scores_after_every_click(fitted, test)
        assert row[2] == row[3] == -np.inf
        assert all(fitted.evaluate(test, (4,), way).recall[4] == 0 for way in TIE_BREAKING)


# What session-rec gives on real clicks.


@pytest.fixture(scope="module")
def rsc15() -> SimpleNamespace:
    folder = SHARED / "data" / "rsc15-64"
    if not folder.exists():
        pytest.skip(f"the clicks are not at {folder.relative_to(ROOT.parent)}")
    train, test = (_clicks(folder / f"{name}.tsv.gz") for name in ("train_full", "test"))
    index = ItemIndex.of(train)
    sessions = [encode_sessions(clicks, index, time_sort=False, with_times=True) for clicks in (train, test)]
    assert [n_dropped for _, n_dropped in sessions] == [0, 0]
    return SimpleNamespace(index=index, train=sessions[0][0], test=sessions[1][0], session_ids=pd.unique(test.session))


def _clicks(path) -> Clicks:
    table = pd.read_csv(path, sep="\t")
    milliseconds = (table.Time * 1000).round().astype(np.int64)
    return Clicks(table.SessionId.to_numpy(), table.ItemId.to_numpy(), milliseconds.to_numpy()).sorted()


GOLDEN = {  # in every way to count ties, and how near ours must be: where many tie at a cut, chance decides
    "SR": ("sr", {"standard": (0.5456, 0.2875), "median": (0.5456, 0.2763), "conservative": (0.5456, 0.2714)}, 0.005),
    "VS-KNN": (
        "vsknn",
        {"standard": (0.6664, 0.3316), "median": (0.6428, 0.3123), "conservative": (0.6290, 0.3062)},
        0.005,
    ),
    "STAN": (
        "stan",
        {"standard": (0.6490, 0.3202), "median": (0.6490, 0.3200), "conservative": (0.6490, 0.3198)},
        1e-4,
    ),
    "V-STAN": (
        "vstan",
        {"standard": (0.6521, 0.3199), "median": (0.6521, 0.3198), "conservative": (0.6521, 0.3198)},
        1e-4,
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_figures(name, rsc15):
    _, figures, tolerance = GOLDEN[name]
    metrics = BASELINES[name](rsc15.train, len(rsc15.index)).evaluate_by_every_tie_breaking(rsc15.test)
    for way, figure in figures.items():
        assert (metrics[way].recall[20], metrics[way].mrr[20]) == pytest.approx(figure, abs=tolerance)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_scores(name, rsc15, monkeypatch):
    with gzip.open(SHARED / "golden" / "neighbours" / f"{GOLDEN[name][0]}.json.gz") as text:
        golden = {(each["session"], each["position"]): each["top"] for each in json.load(text)["first"]}
    last_session = max(session for session, _ in golden)
    sessions = rsc15.test.select(np.flatnonzero(rsc15.session_ids <= last_session))
    after = [
        (session, n_clicks)
        for session, length in zip(rsc15.session_ids, np.diff(sessions.offsets), strict=False)
        for n_clicks in range(1, length)
    ]
    fitted = BASELINES[name](rsc15.train, len(rsc15.index))
    if name == "SR":
        rows = scores_after_every_click(fitted, sessions)
        all_rules = SequentialRules(rsc15.train, len(rsc15.index), rules=10**6)
        is_tied = [is_tied_at(row, 20) for row in scores_after_every_click(all_rules, sessions)]
    else:
        is_tied, nearest = [], neighbours._nearest
        monkeypatch.setattr(
            neighbours, "_nearest", lambda each, k, lot: is_tied.append(is_tied_at(each, k)) or nearest(each, k, lot)
        )
        rows = scores_after_every_click(fitted, sessions)
    n_compared = 0
    for key, row, tied in zip(after, rows, is_tied, strict=True):
        if key in golden and not tied:
            n_compared += 1
            if not golden[key]:
                assert row.max() == -np.inf
                continue
            if name in ("SR", "VS-KNN"):
                row = row / row.max()
            items, scores = (np.array(each) for each in zip(*golden[key], strict=True))
            np.testing.assert_allclose(row[rsc15.index.encode(items)], scores, rtol=1e-6)
            np.testing.assert_allclose(np.sort(row)[::-1][: len(scores)], scores, rtol=1e-6)
    assert n_compared == {"SR": 213, "VS-KNN": 203, "STAN": 300, "V-STAN": 300}[name]


def is_tied_at(values: np.ndarray, k: int) -> bool:
    """Whether of the values (those that are any) the one at place k is as high as the next."""
    descending = np.sort(values[values > -np.inf])[::-1]
    return len(descending) > k and math.isclose(descending[k - 1], descending[k], rel_tol=1e-9)

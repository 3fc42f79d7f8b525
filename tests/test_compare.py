"""Differences and their error: draws, intervals and p values against loops and known cases, groups against loops."""

import csv
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comparison.bootstrap import holm, interval, p_value, resampled_sums
from comparison.compare import as_rows, compare, in_canonical_order, read_runs
from comparison.groups import ALL, groups_of, is_repeated, session_lengths
from comparison.ranksfile import RankedClicks, write_ranks
from comparison.report import report
from terminal.errors import UserError
from tools.compare import main, named_file

METRICS = {
    "recall": lambda rank, k: float(rank <= k),
    "mrr": lambda rank, k: 1 / rank if rank <= k else 0.0,
    "ndcg": lambda rank, k: 1 / np.log2(1 + rank) if rank <= k else 0.0,
}


def sessions_of(seed=0, n_sessions=60, n_items=9):
    """Sessions as lists of items, by session id; the ids are in no order."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(1000)[:n_sessions].tolist()
    return {s: rng.integers(n_items, size=rng.choice([2, 3, 4, 6, 13])).tolist() for s in ids}


def ranked(sessions, draw=0, best=1, **about):
    """Random ranks of the next clicks of sessions."""
    rng = np.random.default_rng(draw)
    rows = [
        (s, p, items[p - 1], items[p], 10 + items[p]) for s, items in sessions.items() for p in range(1, len(items))
    ]
    session, position, item, target, support = np.array(rows, dtype=np.int64).T
    rank = rng.integers(best, 40, len(rows)).astype(float)
    return RankedClicks(session, position, item, target, rank, support, **({"n_items": 40} | about))


# The bootstrap.


def test_sums_are_those_of_a_loop_over_the_sessions_of_each_draw():
    sums = np.random.default_rng(3).random((17, 4))
    rng = np.random.default_rng(5)
    expected = []
    for _ in range(300):
        drawn = rng.integers(17, size=17)
        expected.append(sum(sums[session] for session in drawn.tolist()))
    np.testing.assert_allclose(resampled_sums(sums, 300, seed=5), expected)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    sums = np.random.default_rng(3).random((17, 4))
    whole = resampled_sums(sums, 100, seed=5)
    monkeypatch.setattr("comparison.bootstrap.NUMBERS_AT_ONCE", 17 * 7)
    np.testing.assert_allclose(resampled_sums(sums, 100, seed=5), whole)


def test_draws_have_the_distribution_of_all_possible_ones():
    """Of five sessions there are 5 ** 5 draws: the mean over next clicks of each, against a sample of them."""
    n_clicks, n_hits = np.array([1, 2, 3, 1, 6]), np.array([1, 0, 2, 0, 5])
    every = [n_hits[list(draw)].sum() / n_clicks[list(draw)].sum() for draw in product(range(5), repeat=5)]
    sums = resampled_sums(np.column_stack((n_clicks, n_hits)).astype(float), 40_000, seed=1)
    sampled = sums[:, 1] / sums[:, 0]
    for point in np.unique(every):
        assert np.mean(sampled <= point + 1e-9) == pytest.approx(np.mean(every <= point + 1e-9), abs=0.01)
    assert interval(sampled) == pytest.approx(np.quantile(every, (0.025, 0.975)), abs=0.02)


def test_the_interval_of_a_share_is_the_textbooks():
    hits = (np.arange(2000) < 700).astype(float)
    sums = resampled_sums(np.column_stack((np.ones(2000), hits)), 4000, seed=2)
    low, high = interval(sums[:, 1] / sums[:, 0])
    error = 1.96 * np.sqrt(0.35 * 0.65 / 2000)
    assert (low, high) == pytest.approx((0.35 - error, 0.35 + error), abs=0.002)


def test_clicks_of_a_session_are_not_taken_for_independent():
    """A session of ten equal clicks says as much as one of one."""
    hits = (np.arange(500) < 200).astype(float)
    alone = resampled_sums(np.column_stack((np.ones(500), hits)), 1000, seed=2)
    tenfold = resampled_sums(10 * np.column_stack((np.ones(500), hits)), 1000, seed=2)
    assert interval(tenfold[:, 1] / tenfold[:, 0]) == pytest.approx(interval(alone[:, 1] / alone[:, 0]))


def test_of_equal_recommenders_the_interval_covers_zero_19_times_in_20():
    """Sessions are hard or easy as a whole, for both; hits are drawn on their own."""
    n_experiments, n_sessions, n_covered, n_significant = 300, 150, 0, 0
    rng = np.random.default_rng(11)
    for experiment in range(n_experiments):
        n_clicks = rng.integers(1, 7, n_sessions)
        ease = rng.beta(1, 1.5, n_sessions)
        hits, others = rng.binomial(n_clicks, ease), rng.binomial(n_clicks, ease)
        sums = resampled_sums(np.column_stack((n_clicks, hits, others)).astype(float), 500, seed=experiment)
        differences = (sums[:, 1] - sums[:, 2]) / sums[:, 0]
        low, high = interval(differences)
        n_covered += low <= 0 <= high
        n_significant += p_value(differences) <= 0.05
    assert 0.92 <= n_covered / n_experiments <= 0.975
    assert abs(n_covered + n_significant - n_experiments) <= 3


def test_p_values_of_known_draws():
    assert p_value(np.zeros(999)) == 1
    assert p_value(np.full(999, 1e-17)) == 1  # rounding is no difference
    assert p_value(np.ones(999)) == p_value(-np.ones(999)) == 2 / 1000
    draws = np.concatenate((np.full(20, -0.1), np.full(979, 0.1)))
    assert p_value(draws) == pytest.approx(2 * 21 / 1000)
    assert p_value(np.column_stack((draws, -draws))) == pytest.approx([0.042, 0.042])


def test_holm_by_hand():
    """The example and the result of statsmodels' multipletests(…, method="holm"), in fractions."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.3, 0.9, 0.4]) == pytest.approx([0.9, 0.9, 0.9])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_step_by_step(p_values):
    """A hypothesis is rejected at a level while all with smaller p values are, each at the level over those left."""
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2, 0.77):
        rejected = set()
        for n_before, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
            if p_values[place] * (len(p_values) - n_before) > level:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(corrected) if p <= level} == rejected


# Groups.


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 12))
def test_groups_are_those_of_loops(seed, n_sessions, n_items):
    sessions = sessions_of(seed, n_sessions, n_items)
    clicks = ranked(sessions, seed)
    where = [(items, p) for items in sessions.values() for p in range(1, len(items))]
    assert is_repeated(clicks).tolist() == [items[p] in items[:p] for items, p in where]
    assert session_lengths(clicks).tolist() == [len(items) for items, _ in where]
    groups = groups_of(clicks)
    assert groups[0].by == ALL
    assert groups[0].mask.all()
    for by in {group.by for group in groups}:
        masks = [group.mask for group in groups if group.by == by]
        assert (np.sum(masks, axis=0) == 1).all()  # each next click is in one group of a breakdown
        assert all(mask.any() for mask in masks)
        assert len(masks) > 1 or by == ALL
    expected = {
        "position in the session": lambda items, p: p,
        "clicks of the session": lambda items, p: len(items),
        "clicks of the target in training": lambda items, p: 10 + items[p],
    }
    for by, label, mask in groups[1:]:
        if by in expected:
            low, _, high = label.removesuffix(" and more").partition(" to ")
            high = "1000" if "more" in label else high or low
            inside = [int(low) <= expected[by](items, p) <= int(high) for items, p in where]
            assert mask.tolist() == inside


def test_groups_by_popularity_are_quarters():
    clicks = ranked(sessions_of(1, 400, 300))
    quarters = [group.mask.mean() for group in groups_of(clicks) if group.by == "clicks of the target in training"]
    assert quarters == pytest.approx([0.25] * 4, abs=0.02)


# The comparison.


def written(folder, runs):
    """Ranks files of runs: name and path of each."""
    files = []
    for number, (name, each) in enumerate(runs):
        write_ranks(folder / f"{number}.parquet", each)
        files.append((name, folder / f"{number}.parquet"))
    return files


def test_estimates_are_those_of_loops(tmp_path):
    """Two seeds of one recommender, another two: every figure, group, interval and p value, draw by draw."""
    sessions = sessions_of(2, 45)
    all_runs = {
        "a": [ranked(sessions, 1, seed=1), ranked(sessions, 2, seed=2)],
        "b": [ranked(sessions, 3)],
        "c": [ranked(sessions, 4, best=8)],
    }
    shuffled = dict(np.random.default_rng(0).permutation(np.array(list(sessions.items()), dtype=object)).tolist())
    order = {(s, p): row for row, (s, p) in enumerate((s, p) for s in sessions for p in range(1, len(sessions[s])))}
    rank = all_runs["b"][0].rank
    moved = ranked(shuffled)
    moved.rank[:] = [rank[order[s, p]] for s, p in zip(moved.session.tolist(), moved.position.tolist(), strict=True)]
    listed = [("a", run) for run in all_runs["a"]] + [("b", moved)] + [("c", run) for run in all_runs["c"]]
    runs = read_runs(written(tmp_path, listed))
    estimates = compare(runs, [1, 20], all_pairs=True, n_draws=200, seed=9)

    by_hand = {name: [in_canonical_order(run) for run in repeated] for name, repeated in all_runs.items()}
    some = by_hand["a"][0]
    ids = sorted(sessions)
    rng = np.random.default_rng(9)
    draws = [[ids[s] for s in rng.integers(len(ids), size=len(ids))] for _ in range(200)]
    rows_of = {s: np.flatnonzero(some.session == s).tolist() for s in ids}
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    masks = {(group.by, group.label): group.mask for group in groups_of(some)}
    found = {(e.by, e.group, e.metric, e.k, e.name, e.minus): e for e in estimates}
    assert len(found) == len(estimates) == len(masks) * 3 * 2 * (3 + 3)

    for metric, k, (by, label) in product(METRICS, (1, 20), masks):
        mask = masks[by, label]
        per_run = {
            name: [[METRICS[metric](rank, k) for rank in run.rank.tolist()] for run in repeated]
            for name, repeated in by_hand.items()
        }
        value = {name: np.mean(each, axis=0) for name, each in per_run.items()}
        drawn_rows = [[row for s in draw for row in rows_of[s] if mask[row]] for draw in draws]
        n_sessions = len(set(some.session[mask]))
        drawn = {
            name: np.array([v[rows].mean() if rows else np.nan for rows in drawn_rows]) for name, v in value.items()
        }
        p_values = []
        for name, minus in [("a", ""), ("b", ""), ("c", ""), *((name, minus) for minus, name in pairs)]:
            estimate = found[by, label, metric, k, name, minus]
            assert (estimate.n_next_clicks, estimate.n_sessions) == (mask.sum(), n_sessions)
            subtracted = (value[minus][mask].mean(), drawn[minus]) if minus else (0, 0)
            assert estimate.value == pytest.approx(value[name][mask].mean() - subtracted[0], abs=1e-12)
            if n_sessions < 30:
                assert np.isnan([estimate.low, estimate.high]).all()
            else:
                ends = np.quantile(drawn[name] - subtracted[1], (0.025, 0.975))
                assert (estimate.low, estimate.high) == pytest.approx(tuple(ends), abs=1e-12)
            if minus and by == ALL:
                p_values.append(float(p_value(drawn[name] - subtracted[1])))
                assert estimate.p == pytest.approx(p_values[-1])
            else:
                assert np.isnan([estimate.p, estimate.p_holm]).all()
            if name == "a" and not minus:
                assert estimate.seeds == pytest.approx(np.std([np.array(v)[mask].mean() for v in per_run["a"]], ddof=1))
            else:
                assert np.isnan(estimate.seeds)
        if by == ALL:
            corrected = [found[by, label, metric, k, name, minus].p_holm for minus, name in pairs]
            assert corrected == pytest.approx(holm(p_values))


def test_a_recommender_and_its_copy_do_not_differ(tmp_path):
    one = ranked(sessions_of())
    runs = read_runs(written(tmp_path, [("a", one), ("b", one)]))
    for each in compare(runs, [20], all_pairs=False, n_draws=300, seed=1):
        if each.minus:
            assert each.value == pytest.approx(0, abs=1e-12)
            if each.by == ALL:
                assert each.p == each.p_holm == 1


def test_files_of_one_name_are_repetitions(tmp_path):
    sessions = sessions_of()
    files = written(
        tmp_path,
        [
            ("", ranked(sessions, 1, name="row", seed=1)),
            ("", ranked(sessions, 2, name="row", seed=2)),
            ("", ranked(sessions, 3)),
            ("given", ranked(sessions, 4)),
            ("given", ranked(sessions, 5)),
        ],
    )
    runs = read_runs([*files, files[0]])
    assert {name: len(repeated) for name, repeated in runs.items()} == {"row": 2, "2": 1, "given": 2}
    text = report(runs, compare(runs, [20], all_pairs=False, n_draws=100, seed=1), 100)
    assert "± is the standard deviation over the runs" in text
    assert "corrected (Holm) for 2 of each figure" in text
    assert "2 − row" in text
    assert "2 − given" not in text


@pytest.mark.parametrize("seed", [1, None])
def test_two_files_of_a_name_and_a_seed_are_no_repetitions(tmp_path, seed):
    sessions = sessions_of()
    files = written(tmp_path, [("", ranked(sessions, each, name="row", seed=seed)) for each in (1, 2)])
    with pytest.raises(UserError, match=r"0\.parquet and .*1\.parquet are both row with.* so they are no repetitions"):
        read_runs(files)
    assert len(read_runs([("a", files[0][1]), ("b", files[1][1])])) == 2


def changed_at(sessions, position, item):
    first = next(iter(sessions))
    items = list(sessions[first])
    items[position] = item
    return {**sessions, first: items}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (lambda sessions: dict(list(sessions.items())[1:]), "of them"),
        (lambda sessions: changed_at(sessions, -1, 99), "session [0-9]+, position [0-9]+, for example"),
        (lambda sessions: changed_at(sessions, 0, 99), "session [0-9]+, position 1, for example"),
        (lambda sessions: {s + (s == max(sessions)): items for s, items in sessions.items()}, "of one is not in the"),
    ],
)
def test_other_next_clicks_are_refused(tmp_path, other, difference):
    sessions = sessions_of()
    files = written(tmp_path, [("a", ranked(sessions)), ("b", ranked(other(sessions)))])
    with pytest.raises(UserError, match=rf"1\.parquet and .*0\.parquet do not rank the same .*{difference}"):
        read_runs(files)


def test_ids_that_are_text_and_integers_are_not_the_same(tmp_path):
    one = ranked(sessions_of())
    text = RankedClicks(
        one.session.astype(str).astype(object),
        *(getattr(one, n) for n in ("position", "item", "target", "rank", "support")),
    )
    with pytest.raises(UserError, match="do not rank the same next clicks"):
        read_runs(written(tmp_path, [("a", one), ("b", text)]))
    runs = read_runs(written(tmp_path, [("b", text), ("c", text)]))
    assert compare(runs, [20], all_pairs=False, n_draws=100, seed=1)[0].n_sessions == 60


def test_what_else_differs_is_told(tmp_path, capsys):
    one, other = ranked(sessions_of(), tie_breaking="standard"), ranked(sessions_of(), tie_breaking="median")
    other.support[3] += 1
    read_runs(written(tmp_path, [("a", one), ("b", other)]))
    said = capsys.readouterr().err
    assert "breaks ties by median, " in said
    assert "were trained on different clicks; popularity is that of" in said


def test_too_few_sessions_are_refused(tmp_path):
    runs = read_runs(written(tmp_path, [("a", ranked(sessions_of(0, 29)))]))
    with pytest.raises(UserError, match="29 sessions are too few"):
        compare(runs, [20], all_pairs=False, n_draws=100, seed=1)


# The command.


def test_a_file_may_have_a_name_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=y").touch()
    assert [(name, str(path)) for name, path in map(named_file, ("a.parquet", "n=a=b", "x=y", "x="))] == [
        ("", "a.parquet"),
        ("n", "a=b"),
        ("", "x=y"),
        ("", "x="),
    ]


def test_compare_as_a_user_runs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sessions = sessions_of()
    written(
        tmp_path, [("", ranked(sessions, 1, name="x|y")), ("", ranked(sessions, 2)), ("", ranked(sessions, 3, best=20))]
    )
    line = "compare 0.parquet 1.parquet bad=2.parquet --k_eval 20 5 20 --n_draws 100"
    monkeypatch.setattr(sys, "argv", [*line.split(), "--output", "out/here"])
    main()
    printed = capsys.readouterr().out
    text, _, rest = printed.partition("no comparison.png: matplotlib is not installed")
    assert (tmp_path / "out" / "here" / "comparison.md").read_text() == text
    assert "\nwritten to out/here\n" in rest
    assert text.startswith(f"{sum(len(s) - 1 for s in sessions.values())} next clicks of 60 sessions.")
    assert "± is" not in text
    tables = [[line.split(" | ") for line in part.splitlines()] for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 2 + 3 * 2
    assert all(len({len(row) for row in table}) == 1 for table in tables)
    assert [cell.strip("| ") for cell in tables[0][0][2:]] == [
        f"{m}@{k}" for k in (5, 20) for m in ("Recall", "MRR", "NDCG")
    ]
    assert [row[0].strip("| ") for row in tables[1][2:]] == ["1 − x/y", "bad − x/y"]
    with open(tmp_path / "out" / "here" / "comparison.csv") as file:
        rows = list(csv.DictReader(file))
    (row,) = (
        r for r in rows if (r["by"], r["name"], r["minus"], r["metric"], r["k"]) == ("all", "bad", "x|y", "recall", "5")
    )
    assert f"{float(row['value']):+.4f} [{float(row['low']):+.4f}, {float(row['high']):+.4f}]" in text
    assert float(row["p"]) == pytest.approx(2 / 101)
    assert float(row["p_holm"]) == pytest.approx(4 / 101)
    assert row["seeds"] == ""

    monkeypatch.setattr(sys, "argv", ["compare", "0.parquet", "--k_eval", "41"])
    with pytest.raises(UserError, match="--k_eval 41 is more than the 40 items"):
        main()
    monkeypatch.setattr(sys, "argv", ["compare", "0.parquet", "--n_draws", "100"])
    main()
    alone = capsys.readouterr().out
    assert "Differences" not in alone
    assert "clicks of the session" in alone


def test_rows_have_nothing_where_there_is_no_number(tmp_path):
    runs = read_runs(written(tmp_path, [("a", ranked(sessions_of()))]))
    rows = as_rows(compare(runs, [20], all_pairs=False, n_draws=100, seed=1))
    assert {row["p"] for row in rows} == {""}
    assert "nan" not in str(rows)

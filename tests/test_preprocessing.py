"""Filters and splits against a plain reference on rows of Python tuples, and against the authors' own figures."""

import random
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clicks.clickfile import Clicks, read_clicks, read_raw_clicks, write_click_files
from clicks.datasets import find_files
from clicks.synthetic import synthetic_clicks, write_raw_clicks
from preprocessing import (
    PUBLISHED,
    TEST,
    TRAIN_FULL,
    TRAIN_ONLY,
    VALID,
    Size,
    equals_published,
    last_days,
    main,
    reading_time,
    size_of,
    split,
    split_at,
)
from terminal.errors import UserError

DAY = 86_400_000
Row = tuple[int, int, int]  # session, item, time


def drop_short(rows: list[Row]) -> list[Row]:
    lengths = Counter(session for session, _, _ in rows)
    return [row for row in rows if lengths[row[0]] >= 2]


def reference_split_last_day(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    end = max(time for _, _, time in rows)
    last = {}
    for session, _, time in rows:
        last[session] = max(time, last.get(session, 0))
    train = [row for row in rows if last[row[0]] < end - DAY]
    known = {item for _, item, _ in train}
    return train, drop_short([row for row in rows if last[row[0]] >= end - DAY and row[1] in known])


def reference_split(rows: list[Row]) -> dict[str, list[Row]]:
    rows = drop_short(rows)
    support = Counter(item for _, item, _ in rows)
    rows = drop_short([row for row in rows if support[row[1]] >= 5])
    train_full, test = reference_split_last_day(rows)
    train_only, valid = reference_split_last_day(train_full)
    files = {TRAIN_FULL: train_full, TEST: test, TRAIN_ONLY: train_only, VALID: valid}
    order = {id(row): position for position, row in enumerate(rows)}
    return {name: sorted(content, key=lambda row: (row[0], row[2], order[id(row)])) for name, content in files.items()}


def random_rows(seed: int, n_sessions: int = 300, n_items: int = 120) -> list[Row]:
    """Clicks of four days out of order, with equal times, short sessions, rare items, sessions across midnight."""
    rng = random.Random(seed)
    rows = []
    for session in rng.sample(range(10_000), n_sessions):
        time = rng.randrange(0, 4 * DAY, 1000)
        for _ in range(rng.choice((1, 2, 2, 3, 4, 9))):
            rows.append((session, 1 + int(n_items * rng.random() ** 3), time))
            time += rng.choice((0, 0, 1, 60_000, DAY // 3))
    rng.shuffle(rows)
    return rows


def as_clicks(rows: list[Row]) -> Clicks:
    return Clicks(*np.array(rows, dtype=np.int64).reshape(-1, 3).T)


def as_rows(clicks: Clicks) -> list[Row]:
    return list(zip(clicks.session.tolist(), clicks.item.tolist(), clicks.time.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_split_is_that_of_the_reference(seed):
    rows = random_rows(seed)
    expected = reference_split(rows)
    got = split(as_clicks(rows))
    for name in (TRAIN_FULL, TEST, TRAIN_ONLY, VALID):
        assert as_rows(got[name]) == expected[name], name


def test_random_rows_put_every_rule_to_work():
    rows = random_rows(1)
    end = max(time for _, _, time in rows)
    by_session: dict[int, list[int]] = {}
    for session, _, time in rows:
        by_session.setdefault(session, []).append(time)
    assert any(min(times) < end - DAY <= max(times) for times in by_session.values()), "a session straddles the split"
    assert any(len(times) == 1 for times in by_session.values())
    assert any(len(set(times)) < len(times) for times in by_session.values())
    assert min(Counter(item for _, item, _ in rows).values()) < 5


@pytest.mark.parametrize(("milliseconds_before", "is_train"), [(DAY + 1, True), (DAY, False), (DAY - 1, False)])
def test_a_session_that_ends_exactly_a_day_before_the_latest_click_is_of_the_last_day(milliseconds_before, is_train):
    latest = 10 * DAY
    times = {1: latest - 5 * DAY, 2: latest - milliseconds_before, 3: latest}
    clicks = as_clicks([(s, item, time) for s, time in times.items() for item in (1, 2)])
    train, test = split_at(clicks, latest - DAY)
    assert set(train.session.tolist()) == ({1, 2} if is_train else {1})
    assert set(test.session.tolist()) == ({3} if is_train else {2, 3})


def test_no_session_is_in_two_files():
    files = split(as_clicks(random_rows(5)))
    for train, held_out in ((TRAIN_FULL, TEST), (TRAIN_ONLY, VALID)):
        assert not set(files[train].session) & set(files[held_out].session)
        assert set(files[held_out].item) <= set(files[train].item)


def test_the_challenges_test_file_is_filtered_against_train_alone():
    rows, test_rows = random_rows(2), [(1, 1, 10), (1, 2, 20), (2, 1, 5), (3, 1, 9), (3, 777, 10), (4, 2, 8), (4, 2, 7)]
    files = split(as_clicks(rows), as_clicks(test_rows))
    short_dropped = drop_short(rows)
    support = Counter(item for _, item, _ in short_dropped)
    train = drop_short([row for row in short_dropped if support[row[1]] >= 5])
    assert sorted(as_rows(files[TRAIN_FULL])) == sorted(train)
    assert as_rows(files[TEST]) == [(1, 1, 10), (1, 2, 20), (4, 2, 7), (4, 2, 8)]


def test_clicks_may_come_in_several_files(tmp_path):
    clicks = as_clicks(random_rows(3))
    for name, part in (("whole", slice(None)), ("first", slice(0, 400)), ("second", slice(400, None))):
        write_raw_clicks(tmp_path / name, clicks.select(np.arange(len(clicks))[part]))
    for folder, names in (("one", ["whole"]), ("two", ["first", "second"])):
        paths = [str(tmp_path / name) for name in names]
        main(["--clicks", *paths, "--data_folder", str(tmp_path / folder)])
    for name in (TRAIN_FULL, TEST, TRAIN_ONLY, VALID):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("rows", [[(1, 1, 0)], [(s, 1, s) for s in range(100)]])
def test_nothing_left_after_the_filters_is_refused(rows):
    with pytest.raises(UserError, match="no clicks are left"):
        split(as_clicks(rows))


def test_too_few_days_are_refused():
    rows = [(s, 1 + i, 1000 * s + i) for s in range(20) for i in range(3)]
    with pytest.raises(UserError, match=r"recSys15TrainFull\.txt.* would be empty.* 0\.0 days"):
        split(as_clicks(rows))


def test_the_shared_sample_gives_the_authors_figures(shared_clicks, tmp_path):
    files = split(read_raw_clicks(shared_clicks))
    assert {name: size_of(clicks) for name, clicks in files.items()} == {
        TRAIN_FULL: Size(379_941, 77_055, 5_570),
        TEST: Size(11_826, 2_451, 1_468),
        TRAIN_ONLY: Size(366_544, 74_390, 5_553),
        VALID: Size(13_345, 2_664, 1_420),
    }
    write_click_files({tmp_path / TEST: files[TEST]})
    assert as_rows(read_clicks(tmp_path / TEST)) == as_rows(files[TEST])


def test_published_figures_are_recognized_only_when_all_are_equal():
    assert equals_published(TRAIN_FULL, PUBLISHED[TRAIN_FULL])
    assert equals_published(TEST, Size(71_222, 15_324, 6_751))
    assert not equals_published(TRAIN_FULL, Size(31_637_239, 7_966_257, 37_482))
    assert not equals_published(TEST, Size(71_222, 15_323, 6_751))
    assert not equals_published(VALID, PUBLISHED[TRAIN_FULL])


@pytest.mark.parametrize("n_days", [1, 2, 3])
def test_the_last_days_are_whole_sessions_that_begin_in_them(n_days):
    rows = random_rows(3)
    first = {}
    for session, _, time in rows:
        first[session] = min(time, first.get(session, time))
    begin = max(time for _, _, time in rows) - n_days * DAY
    expected = [row for row in rows if first[row[0]] >= begin]
    got = as_rows(last_days(as_clicks(rows).sorted(), n_days))
    assert sorted(got) == sorted(expected)
    assert 0 < len(got) < len(rows)
    assert len(last_days(as_clicks(rows).sorted(), 10)) == len(rows)


def test_the_last_days_are_said_not_to_compare(tmp_path, capsys):
    write_raw_clicks(tmp_path / "yoochoose-clicks.dat", synthetic_clicks(n_sessions=600, n_items=30, n_days=8, seed=0))
    argv = ["--clicks", str(tmp_path / "yoochoose-clicks.dat"), "--data_folder", str(tmp_path)]
    main([*argv, "--last_days", "4"])
    assert "protocol: 4 days only; results do not compare with the paper's" in (printed := capsys.readouterr().out)
    assert "differs" not in printed
    times = read_clicks(tmp_path / TRAIN_FULL).time
    main(argv)
    assert read_clicks(tmp_path / TRAIN_FULL).time.min() < times.min()
    assert times.max() - times.min() < 4 * DAY
    with pytest.raises(UserError, match="--last_days: '0' is not a whole number from 1"):
        main([*argv, "--last_days", "0"])


def test_a_large_file_says_how_long_it_takes(tmp_path):
    for name, size, expected in (
        ("large.dat", 1_490_000_000, " (1.5 GB: about 26 s)"),
        ("large.gz", 1_490_000_000, ""),
        ("small.dat", 90_000_000, ""),
    ):
        with open(tmp_path / name, "wb") as file:
            file.write(b"\x1f\x8b" if name.endswith(".gz") else b"1,2")
            file.truncate(size)  # takes no space
        assert reading_time(tmp_path / name) == expected
    assert reading_time(tmp_path) == reading_time(tmp_path / "nowhere") == ""


def test_clicks_are_found_where_the_readme_puts_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find = partial(find_files, "yoochoose", tmp_path / "kaggle" / "input")
    with pytest.raises(UserError, match=r"no yoochoose-clicks\.dat .*download .*attach .*--clicks"):
        find()
    for place in ("kaggle/input/datasets/someone/recsys-challenge-2015", ".", "data/raw_data", "data/raw", "data"):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "yoochoose-clicks.dat").touch()
        assert [path.resolve() for path in find()] == [(folder / "yoochoose-clicks.dat").resolve()]

"""Logs as Parquet files: what is in them is what the same values as text would be."""

import csv
import re
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import preprocessing
from clicks import parquetlog
from clicks.clicklog import read_events
from clicks.logformat import LogFormat
from terminal.errors import UserError

LOG = LogFormat("s", "t", "i", "milliseconds", nulls=())


def read(path, log: LogFormat = LOG, skip_bad_lines: bool = False):
    clicks, counts, _ = read_events([path], log, skip_bad_lines)
    names = clicks.session_names.to_pylist(), clicks.item_names.to_pylist()
    rows = zip(clicks.session.tolist(), clicks.item.tolist(), clicks.time.tolist(), strict=True)
    return [(names[0][session], names[1][item], time) for session, item, time in rows], counts


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


TYPES = {
    "integers": (st.integers(0, 5), [pa.int8(), pa.uint16(), pa.int64(), pa.uint64(), pa.float32(), pa.float64()]),
    "text": (st.sampled_from(["7", "007", "ünï", "a,b", '"', "NA"]), [pa.string(), pa.large_string(), pa.binary()]),
    "large": (st.integers(2**62, 2**64 - 1), [pa.uint64()]),
    "switches": (st.booleans(), [pa.bool_()]),
}


@st.composite
def id_columns(draw, n_rows: int):
    values, types = TYPES[draw(st.sampled_from(list(TYPES)))]
    drawn = draw(st.lists(st.none() | values, min_size=n_rows, max_size=n_rows))
    kind = draw(st.sampled_from(types))
    is_float = pa.types.is_floating(kind)
    column = pa.array([float(value) if is_float and value is not None else value for value in drawn], kind)
    if draw(st.booleans()) and not pa.types.is_boolean(kind):
        column = column.dictionary_encode()
    texts = ["" if value is None else str(value).lower() if value in (True, False) else value for value in drawn]
    return column, [str(int(text)) if kind != pa.bool_() and isinstance(text, int) else str(text) for text in texts]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_logs_are_read_as_the_same_log_in_text(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("log")
    n_rows = data.draw(st.integers(1, 12))
    session, session_texts = data.draw(id_columns(n_rows))
    item, item_texts = data.draw(id_columns(n_rows))
    times = data.draw(st.lists(st.integers(0, 10**12), min_size=n_rows, max_size=n_rows))
    kind = data.draw(
        st.sampled_from([pa.int64(), pa.float64(), pa.string(), pa.timestamp("us"), pa.timestamp("ns", "UTC")])
    )
    column = pa.array([time * 10**3 for time in times], pa.int64()).cast(pa.timestamp("us", getattr(kind, "tz", None)))
    own = pa.types.is_timestamp(kind)
    column = column.cast(kind) if own else pa.array(map(str, times)) if kind == pa.string() else pa.array(times, kind)
    path = write(folder / "log.parquet", extra=[[1]] * n_rows, t=column, s=session, i=item)
    with open(folder / "log.csv", "w", newline="", encoding="utf-8") as file:
        rows = zip(session_texts, item_texts, times, strict=True)
        csv.writer(file, lineterminator="\n").writerows([("s", "i", "t"), *rows])
    logs = [(folder / "log.csv", LOG), (path, LogFormat("s", "t", "i", "iso" if own else "milliseconds", nulls=()))]
    if any(session and item for session, item in zip(session_texts, item_texts, strict=True)):
        assert read(*logs[0]) == read(*logs[1])
    else:
        for each in logs:
            with pytest.raises(UserError, match="holds no clicks"):
                read(*each)


def test_a_log_is_read_in_blocks_and_filtered(tmp_path, monkeypatch):
    monkeypatch.setattr(parquetlog, "ROWS_AT_ONCE", 3)
    n = np.arange(20)
    path = write(tmp_path / "log", s=n // 4, i=n % 5, t=n * 1.5, kind=pa.array(n % 3 == 0), price=n / 2)
    rows, counts = read(path, LogFormat("s", "t", "i", "seconds", keep={"kind": ["true"], "price": ["0", "1.5", "3"]}))
    assert rows == [("0", "0", 0), ("0", "3", 4500), ("1", "1", 9000)]
    assert counts.filtered == 17


def test_nanoseconds_that_are_floating_point_numbers_are_times_beside_one_that_is_none(tmp_path):
    path = write(tmp_path / "log", s=[1, 2], i=[5, 6], t=[1.6593048e18, None])
    rows, _ = read(path, LogFormat("s", "t", "i", "nanoseconds"), skip_bad_lines=True)
    assert rows == [("1", "5", 1659304800000)]


def test_numbers_of_few_bits_are_what_text_has_of_them(tmp_path):
    """Whether Arrow converts a block, or its rows are looked at one by one."""
    few = pa.array(np.array([0.1, 2**24 - 1, 3], dtype=np.float32))
    time = pa.array([1.6593048e12, 0.1, np.nan])
    log = LogFormat("s", "t", "i", "milliseconds", keep={"i": ["0.1", "16777215"]})
    path = write(tmp_path / "log", s=["u", "v", "w"], i=few, t=time)
    rows, _ = read(path, log, skip_bad_lines=True)
    assert rows == [("u", "0.1", 1_659_304_800_000), ("v", "16777215", 0)]
    assert read(write(path, s=["u", "v"], i=few[:2], t=time[:2]), log)[0] == rows


def test_dates_and_differences(tmp_path):
    days = pa.array([datetime(2016, 5, 1), datetime(2016, 5, 2)]).cast(pa.date32())
    path = write(tmp_path / "log", s=["a", "a"], day=days, i=[5, 6], ms=[1000, 2000])
    begin = int(datetime(2016, 5, 1, tzinfo=timezone.utc).timestamp()) * 1000
    assert read(path, LogFormat("s", "day+ms", "i", "iso"))[0] == [
        ("a", "5", begin + 1000),
        ("a", "6", begin + 86_402_000),
    ]
    assert read(path, LogFormat("s", "day+ms", "i", "iso", first_date=True))[0][1] == ("a", "6", begin + 2000)


A_TIME = pa.array([10**12, 10**12, 10**12])
WRONG = {
    "no time": ({"t": [1, None, 3]}, "t is '', expected milliseconds since the epoch"),
    "not a number": ({"t": [1.0, float("nan"), 3]}, "t is '', expected milliseconds since the epoch"),
    "infinite": ({"t": [1.0, float("inf"), 3]}, "t is 'inf', expected milliseconds since the epoch"),
    "text": ({"t": ["1", "yesterday", "3"]}, "t is 'yesterday', expected milliseconds since the epoch"),
    "lost digits": (
        {"i": [1.0, 2.0**53, 3.0]},
        "i is 9007199254740992.0, a number with a point that has lost digits, expected text without control characters",
    ),
    "lost digits of few bits": (
        {"i": pa.array(np.array([1, 2**24, 3], dtype=np.float32))},
        "i is 16777216.0, a number with a point that has lost digits, expected text without control characters",
    ),
    "control characters": ({"i": ["a", "b\n", "c"]}, r"i is 'b\n', expected text without control characters"),
    "Latin-1": (
        {"i": pa.array([b"a", b"\xe9", b"c"])},
        "i is no text in UTF-8 ('é' in Latin-1: iconv -f latin1 -t utf-8 FILE)",
    ),
}


@pytest.mark.parametrize(("changed", "problem"), WRONG.values(), ids=WRONG.keys())
def test_a_row_that_does_not_fit_is_named_or_skipped(tmp_path, capsys, monkeypatch, changed, problem):
    monkeypatch.setattr(parquetlog, "ROWS_AT_ONCE", 1)
    path = write(tmp_path / "log", **{"s": ["u", "v", "w"], "i": [5, 6, 7], "t": A_TIME} | changed)
    with pytest.raises(UserError, match=re.escape(f"log, row 2: {problem}")):
        read(path)
    assert [session for session, _, _ in read(path, skip_bad_lines=True)[0]] == ["u", "w"]
    assert f"skipped 1 rows that are not clicks; row 2: {problem}" in capsys.readouterr().err


def test_text_with_broken_encoding_is_refused(tmp_path):
    """A column that says it is UTF-8 and is not."""
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xe9", b"c"]).buffers())
    path = write(tmp_path / "log", s=["u", "v", "w"], i=broken, t=A_TIME)
    with pytest.raises(UserError, match=re.escape("log, row 2: i is no text in UTF-8 ('é' in Latin-1")):
        read(path)


REFUSED = {
    "a list": ({"i": [[1], [2], [3]]}, LOG, "log: i is a column of type list<"),
    "times as ids": (
        {"i": A_TIME.cast(pa.timestamp("ms"))},
        LOG,
        "log: i is a column of type timestamp[ms]: expected whole",
    ),
    "a switch as a time": (
        {"t": [True] * 3},
        LOG,
        "log: t is a column of type bool: expected numbers of 64 bits, times or text",
    ),
    "a time that is minutes apart from the next": (
        {"t": A_TIME.cast(pa.float32(), safe=False)},
        LOG,
        "log: t is a column of type float: expected numbers of 64 bits, times or text",
    ),
    "own times as numbers": (
        {"t": A_TIME.cast(pa.timestamp("ms"))},
        LOG,
        "log: t has times of Parquet's own type (timestamp[ms]), not numbers: --time_format iso",
    ),
    "no column": ({}, LogFormat("s", "time", "i", "iso"), "log: there is no column 'time'; there are s, i, t"),
    "no rows": ({"s": [], "i": [], "t": []}, LOG, "log holds no clicks"),
}


@pytest.mark.parametrize(("changed", "log", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_column_that_cannot_be_read_is_refused(tmp_path, changed, log, sentence):
    path = write(tmp_path / "log", **{"s": ["u", "v", "w"], "i": [5, 6, 7], "t": A_TIME} | changed)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read(path, log)


def test_the_separator_of_text_is_not_doubted_where_there_is_no_text(tmp_path):
    with pytest.raises(UserError, match="log: there is no column 's'; there are a$"):
        read(write(tmp_path / "log", a=[1]))


def test_a_damaged_file_is_refused(tmp_path):
    path = write(tmp_path / "log", s=np.arange(5000), i=np.arange(5000), t=np.arange(5000))
    content = path.read_bytes()
    for damaged in (content[:-20], content[:200] + bytes(400) + content[600:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="it is a Parquet file that is damaged or of an uncommon kind"):
            read(path)


def test_columns_are_asked_for(tmp_path):
    path = write(tmp_path / "log", s=["u"], i=[5], t=[6])
    with pytest.raises(
        UserError, match="log is a Parquet file: say with --columns SESSION,TIME,ITEM and --time_format"
    ):
        preprocessing.main(["--clicks", str(path)])

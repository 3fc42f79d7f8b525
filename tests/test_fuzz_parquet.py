"""Random Parquet files: read as a reading by hand has their values, or refused in one sentence; whole and damaged."""

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage import DAMAGES, damaged_bytes, fuzz, one_sentence
from hypothesis import given
from hypothesis import strategies as st
from readbyhand import Row, ids, is_text, iso, rows_of, sized_times

from clicks.recognised import read_prepared_clicks
from terminal.errors import UserError

TEXT = st.sampled_from(["5", "7", "05", "a b", "é,", "", "a\x00b", "x\ny", "9223372036854775808", "NULL"])
GOOD_TEXT = st.sampled_from(["5", "7", "a b", "é,"])
WHOLE = st.integers(0, 50)
FLOATS = st.sampled_from([0.0, -0.0, 1.0, 7.0, 2.0**53, 1e18, 1e19, 1.5, float("nan"), float("inf")])
IDS = [  # type of a column, and what its values may be
    (pa.int8(), WHOLE),
    (pa.int32(), st.one_of(WHOLE, st.integers(-(2**31), 2**31 - 1))),
    (pa.int64(), st.one_of(WHOLE, st.integers(-(2**63), 2**63 - 1))),
    (pa.uint64(), WHOLE),
    (pa.uint64(), st.one_of(WHOLE, st.integers(0, 2**64 - 1))),
    (pa.float32(), WHOLE.map(float)),
    (pa.float64(), WHOLE.map(float)),
    (pa.float64(), FLOATS),
    (pa.string(), GOOD_TEXT),
    (pa.string(), TEXT),
    (pa.large_string(), GOOD_TEXT),
    (pa.dictionary(pa.int32(), pa.string()), GOOD_TEXT),
    (pa.dictionary(pa.int8(), pa.large_string()), TEXT),
    (pa.dictionary(pa.int32(), pa.int64()), WHOLE),
]
OTHERS = [
    (pa.bool_(), st.booleans()),
    (pa.list_(pa.int64()), st.lists(WHOLE, max_size=2)),
    (pa.struct([("a\nb", pa.int32())]), st.just({"a\nb": 1})),
    (pa.null(), st.none()),
    (pa.binary(), st.just(b"x")),
    (pa.decimal128(9, 2), st.just(1)),
    (pa.time32("s"), st.integers(0, 9)),
    (pa.duration("ms"), st.integers(0, 9)),
]
SECOND = 1396867869
PARTS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # of a second
ISO = st.sampled_from(["2019-10-01", "2019-10-01T10:11:12.5Z", "2019-10-01 10:11:12+01:00", "2019-02-30", "", "7"])
GOOD_ISO = st.sampled_from(["2019-10-01", "2019-10-01T10:11:12.5Z"])
NUMBERS = st.sampled_from([0, 7, SECOND, SECOND * 1000, SECOND * 10**6, SECOND * 10**9, -SECOND, 2**60 + 1])
SECONDS = st.integers(SECOND, SECOND + 99)
TIMES = [
    *[(kind, SECONDS) for kind in (pa.int32(), pa.int64(), pa.uint64())],
    *[(kind, SECONDS.map(lambda s: s * 1000)) for kind in (pa.int64(), pa.uint64())],
    (pa.int64(), NUMBERS),
    (pa.uint64(), NUMBERS.map(abs)),
    (pa.float64(), SECONDS.map(lambda s: s + 0.277)),
    (pa.float64(), FLOATS),
    (pa.float64(), NUMBERS.map(float)),
    (pa.float32(), WHOLE.map(float)),
    *[(pa.string(), GOOD_ISO), (pa.large_string(), ISO), (pa.dictionary(pa.int32(), pa.string()), GOOD_ISO)],
    *[
        (pa.timestamp(unit, zone), st.integers(-PARTS[unit], 2 * SECOND * PARTS[unit]))
        for unit in PARTS
        for zone in (None, "UTC", "Asia/Tokyo", "-03:30")
    ],
    *[(pa.timestamp(unit), st.integers(-(2**63) + 1, 2**63 - 1)) for unit in ("ms", "us", "ns")],
    (pa.date32(), st.integers(-9, 20_000)),
    (pa.date64(), st.integers(-9, 20_000).map(lambda days: days * 86_400_000)),
]


def is_refused(kind: pa.DataType) -> bool:
    return any(kind == other for other, _ in OTHERS)


def ids_by_hand(kind: pa.DataType, values: list) -> list | None:
    """Ids of a column, or None where it must be refused."""
    if None in values or is_refused(kind):
        return None
    if isinstance(values[0], str):
        return ids(values) if all(map(is_text, values)) else None
    exact = {pa.float32(): 2**24, pa.float64(): 2**53}.get(kind, 2**63)  # from there on, floats have lost digits
    whole = [np.isfinite(value) and value == int(value) and -exact <= int(value) < exact for value in values]
    return [int(value) for value in values] if all(whole) else None


def times_by_hand(kind: pa.DataType, values: list) -> list[int] | None:
    """Milliseconds of a column, or None where it must be refused."""
    if None in values or is_refused(kind):
        return None
    if pa.types.is_timestamp(kind):
        times = [int(Fraction(value * 1000, PARTS[kind.unit])) for value in values]
        return times if all(abs(time) < 10**15 for time in times) else None
    if pa.types.is_date(kind):
        return [value * (86_400_000 if kind == pa.date32() else 1) for value in values]
    if isinstance(values[0], str):
        times = [iso(value) for value in values]
        return None if None in times else times
    return sized_times([float(value) for value in values]) if np.isfinite(np.array(values, float)).all() else None


@st.composite
def parquet_tables(draw) -> tuple[pa.Table, list[Row] | None]:
    """A table of clicks, and what it holds."""
    n_rows = draw(st.integers(0, 5))

    def column(kinds: list) -> tuple[pa.DataType, list]:
        kind, values = draw(st.sampled_from(kinds if draw(st.integers(0, 9)) else OTHERS))
        one = values if draw(st.integers(0, 9)) else st.one_of(st.none(), values)
        return kind, draw(st.lists(one, min_size=n_rows, max_size=n_rows))

    session, item, time = column(IDS), column(IDS), column(TIMES)
    names = draw(st.sampled_from([["SessionId", "ItemId", "Time"], ["session_id:token", "item", "ts"]]))
    columns = dict(zip(names, (session, item, time), strict=True))
    other = draw(st.sampled_from(["x", "item.x", "Time\n2", "", "session"]))
    columns |= {other: column([*IDS, *TIMES])} if draw(st.booleans()) else {}
    order = draw(st.permutations(list(columns)))
    table = pa.table({name: array_of(*columns[name]) for name in order})
    rows = [ids_by_hand(*session), ids_by_hand(*item), times_by_hand(*time)] if n_rows else [None]
    is_good = None not in rows and "session" not in columns
    return table, list(zip(*rows, strict=True)) if is_good else None


def array_of(kind: pa.DataType, values: list) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


@fuzz
@given(parquet_tables(), st.integers(1, 3), st.sampled_from(["none", "snappy", "zstd"]), st.booleans())
def test_parquet_files(tmp_path, table, rows_at_once, compression, with_dictionary):
    path, (table, rows) = tmp_path / "clicks.any", table
    pq.write_table(table, path, row_group_size=rows_at_once, compression=compression, use_dictionary=with_dictionary)
    try:
        found = rows_of(read_prepared_clicks(path))
    except UserError as error:
        one_sentence(error, path)
        assert rows is None
    else:
        assert found == rows


@fuzz
@given(st.sampled_from(["none", "snappy"]), st.booleans(), st.sampled_from(DAMAGES), st.integers(0, 2**32 - 1))
def test_damaged_bytes_of_parquet_files(tmp_path, compression, is_text, damage, seed):
    """A file whose pages do not check themselves may have other clicks then, but is read to its end."""
    path, n = tmp_path / "clicks.any", np.arange(60)
    table = pa.table({"session": n // 3, "item": [f"é{each % 7}" if is_text else each for each in n], "ts": n + SECOND})
    pq.write_table(table, path, row_group_size=25, compression=compression)
    path.write_bytes(damaged_bytes(path.read_bytes(), damage, seed))
    try:
        rows_of(read_prepared_clicks(path))
    except UserError as error:
        one_sentence(error, path)

"""Random damage to logs as JSON lines and Parquet: what a reading by hand has, or a refusal in one sentence."""

import gzip
import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import DAMAGES, damaged, damaged_bytes, edits, fuzz, one_sentence
from hypothesis import given
from hypothesis import strategies as st

from clicks import jsonlines
from clicks.clicklog import read_events
from clicks.logformat import LogFormat
from terminal.errors import UserError

Row = tuple[str, str, int]
FLAT = LogFormat("s", "t", "i", "milliseconds", nulls=())
IN_LISTS = LogFormat("s", "e.t", "e.i", "milliseconds", nulls=())
LOGS = (
    (FLAT, '{"s": 12, "i": "a,b", "t": 1396867869277}\n{"s": "x", "i": 7, "x": [], "t": 1396867869278.4}\n'),
    (IN_LISTS, '{"s": 12, "e": [{"i": 5, "t": 1396867869277}, {"i": null, "t": 1.0}]}\n{"s": 13, "e": []}\n'),
)
json_edits = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.integers(0, 12),
        st.sampled_from(
            ["{", "}", "[", "]", "null", "true", '{"i": 1}', "[1]", ": ", "\\u0041", "\\ud800", "\\", "1e5"]
        ),
    ),
    max_size=2,
)


def an_id(value: object) -> str | None:
    """The text of an id, or None where there cannot be one."""
    if isinstance(value, dict | list) or (isinstance(value, float) and abs(value) >= 2**53):
        return None
    if isinstance(value, bool) or value is None or value != value:
        return {True: "true", False: "false"}.get(value, "") if isinstance(value, bool) else ""
    text = str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
    return None if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text) else text


def a_time(value: object) -> int | None:
    if isinstance(value, bool | dict | list | None):
        return None
    text = str(value)
    if not re.fullmatch(r"[ \t]*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t]*", text):
        return None
    return round(float(text)) if math.isfinite(float(text)) and abs(float(text)) < 1e15 else None


def events_by_hand(line: str, in_lists: bool) -> list[Row] | None:
    """The events of a line, those without an id among them; None where it does not fit."""
    try:
        record = json.loads(line.removeprefix("\ufeff"))
    except ValueError:
        return None
    record = {} if record is None else record
    if not isinstance(record, dict):
        return None
    events = (record.get("e") or []) if in_lists else [record]
    if not isinstance(events, list) or not all(isinstance(event, dict | None) for event in events):
        return None
    if in_lists and not isinstance(record.get("e"), list | None):
        return None
    rows = [
        (an_id(record.get("s")), an_id(event.get("i")), a_time(event.get("t")))
        for event in (event or {} for event in events)
    ]
    return None if any(None in row for row in rows) else rows


def read(path, log: LogFormat, skip_bad_lines: bool) -> list[Row]:
    clicks, _, _ = read_events([path], log, skip_bad_lines)
    sessions, items = clicks.session_names.to_pylist(), clicks.item_names.to_pylist()
    columns = clicks.session.tolist(), clicks.item.tolist(), clicks.time.tolist()
    return [(sessions[session], items[item], time) for session, item, time in zip(*columns, strict=True)]


@fuzz
@given(st.sampled_from(LOGS), st.integers(1, 3), edits, json_edits, st.booleans(), st.data())
def test_json_lines(tmp_path_factory, log_and_lines, n, changes, json_changes, packed, data):
    log, lines = log_and_lines
    path = tmp_path_factory.mktemp("fuzz") / "log"
    content = damaged(lines * n, changes[:2] + json_changes)
    path.write_bytes(gzip.compress(content) if packed else content)
    first, *more = re.split(r"\r\n|\n|\r", content.decode("utf-8", "surrogateescape"))
    texts = [line for line in (first, *more) if line.strip()]
    by_hand = [events_by_hand(line, in_lists=log is IN_LISTS) for line in texts]
    expected = [row for rows in by_hand if rows for row in rows if row[0] and row[1]]
    for skip_bad_lines in (False, True):
        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(jsonlines, "STREAMED_AT_ONCE", data.draw(st.sampled_from([2**24, 60])))
                found = read(path, log, skip_bad_lines)
        except UserError as error:
            one_sentence(error, path)
            unclear = "there is no column" in str(error) or "in the first lines" in str(error) or not texts
            begun = first.removeprefix("\ufeff").strip()
            is_json = re.match(r"\{\s*(['\"}]|$)", begun)  # a header, too, may begin with a brace
            assert unclear or not expected or not is_json or (None in by_hand and not skip_bad_lines)
        else:
            assert skip_bad_lines or None not in by_hand
            assert found == expected


@fuzz
@given(st.sampled_from(DAMAGES), st.integers(0, 10**6), st.sampled_from(["none", "snappy", "zstd"]))
def test_damaged_bytes_of_a_parquet_log(tmp_path_factory, damage, seed, compression):
    path = tmp_path_factory.mktemp("fuzz") / "log"
    n = np.arange(300)
    columns = {"s": pa.array(n // 3), "i": pa.array([f"item {each % 7}" for each in n]), "t": pa.array(n * 1000)}
    pq.write_table(pa.table(columns), path, compression=compression, row_group_size=100, write_page_checksum=True)
    expected = read(path, FLAT, False)
    path.write_bytes(damaged_bytes(path.read_bytes(), damage, seed))
    try:
        found = read(path, FLAT, False)
    except UserError as error:
        one_sentence(error, path)
    else:
        assert found == expected

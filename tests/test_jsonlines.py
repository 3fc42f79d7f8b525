"""Logs as JSON lines against Python's own reading of them, and what is no such log."""

import gzip
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clicks import jsonlines
from clicks.clicklog import read_events, read_log
from clicks.logformat import LogFormat
from terminal.errors import UserError

FLAT = LogFormat("s", "t", "i", "milliseconds", nulls=())
A_CLICK = '{"s": 1, "i": 2, "t": 1659304800025}\n'


def read(tmp_path, text: str | bytes, log: LogFormat = FLAT, skip_bad_lines: bool = False):
    path = tmp_path / "log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    clicks, counts, _ = read_events([path], log, skip_bad_lines)
    names = clicks.session_names.to_pylist(), clicks.item_names.to_pylist()
    rows = zip(clicks.session.tolist(), clicks.item.tolist(), clicks.time.tolist(), strict=True)
    return [(names[0][session], names[1][item], time) for session, item, time in rows], counts


def as_an_id(value) -> str:
    """What an id is in any form of log, in words of Python."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return "" if value is None else "true" if value is True else "false" if value is False else str(value)


id_values = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 9),
    st.booleans(),
    st.sampled_from(["", "7", "007", "ünï", "a\u2028b", "a.b", "2020-01-01", "1e5", '"', "\\", "true"]),
    st.sampled_from([1.5, 2.0, -3.0, 2.0**53 - 1]),
)
one_type = st.sampled_from([st.integers(0, 9), st.sampled_from(["a", "2020-01-01", "9"]), st.sampled_from([1.0, 2.5])])
time_values = st.one_of(st.integers(0, 10**13), st.integers(0, 10**6).map(lambda n: n / 4), st.just("1659304800025"))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_lines_are_what_python_reads_in_them(tmp_path_factory, data):
    """Events a line or in lists, within objects; ids of one type or of all; with keys that nobody asked for."""
    ids = data.draw(one_type | st.just(id_values))
    in_lists, deep = data.draw(st.booleans()), data.draw(st.booleans())
    event = st.fixed_dictionaries({"i": ids, "t": time_values}, optional={"x": st.none() | st.just([{"i": 1}])})
    sessions = data.draw(st.lists(st.tuples(ids, st.lists(event, max_size=4)), min_size=1, max_size=12))
    lines, expected = [], []
    for session, events in sessions:
        for record in [{"s": session, "e": events}] if in_lists else [{"s": session, **one} for one in events]:
            if session is None and data.draw(st.booleans()):
                del record["s"]
            lines.append(json.dumps({"d": record} if deep else record, ensure_ascii=data.draw(st.booleans())))
        expected += [
            (as_an_id(session), as_an_id(one["i"]), round(float(one["t"])))
            for one in events
            if session not in (None, "") and one["i"] not in (None, "")
        ]
    text = data.draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(lines)
    way, way_in = ("d." if deep else ""), ("d." if deep else "") + ("e." if in_lists else "")
    log = LogFormat(f"{way}s", f"{way_in}t", f"{way_in}i", "milliseconds", nulls=())
    folder = tmp_path_factory.mktemp("log")
    found = {key for line in lines for key in ("s", "t", "i") if f'"{key}"' in line}
    for skip_bad_lines in (False, True):
        if expected and found == {"s", "t", "i"}:
            assert read(folder, text, log, skip_bad_lines)[0] == expected
        else:
            with pytest.raises(UserError, match="there is no column|holds no clicks"):
                read(folder, text, log, skip_bad_lines)


@pytest.mark.parametrize("first", [A_CLICK, '{"s": "1", "i": "2", "t": "1659304800025"}\n'])
def test_a_log_is_read_in_blocks_whatever_type_a_value_has(tmp_path, monkeypatch, first):
    monkeypatch.setattr(jsonlines, "STREAMED_AT_ONCE", 100)
    other = '{"i": 3.0, "s": null, "t": 5}\n{"s": "b", "i": 3.0, "t": 5.4}\n'
    rows, counts = read(tmp_path, first * 50 + other + first * 50)
    assert rows == [("1", "2", 1659304800025)] * 50 + [("b", "3", 5)] + [("1", "2", 1659304800025)] * 50
    assert counts.without_session == 1


def test_filters_nulls_and_dates(tmp_path):
    lines = [
        {"session": "a", "events": [{"aid": 1, "ts": "2019-10-01", "type": "clicks"}] * 2},
        {"session": "NULL", "events": [{"aid": 1, "ts": "2019-10-01", "type": "clicks"}]},
        {
            "session": "b",
            "events": [{"aid": 1, "ts": "2019-10-01 00:00:01 UTC", "type": "orders"}, {"ts": "2019-10-01"}],
        },
        {"session": "c", "events": None},
        {"session": "c"},
        {"session": "c", "events": []},
        {"session": "c", "events": [{"aid": 2, "ts": "2019-10-02T00:00:00.5Z", "type": "clicks"}]},
    ]
    log = LogFormat("session", "events.ts", "events.aid", "iso", keep={"events.type": ["clicks"]})
    rows, counts = read(tmp_path, "\n".join(map(json.dumps, lines)), log)
    assert rows == [("a", "1", 1569888000000)] * 2 + [("c", "2", 1569974400500)]
    assert (counts.filtered, counts.without_session, counts.without_item, counts.clicks) == (2, 1, 0, 3)


ONE_A_LINE = "expected one a line (jq -c . FILE)"
NO_ID = "expected text without control characters"
NO_TIME = "expected milliseconds since the epoch"
LOST = "a number with a point that has lost digits"
WRONG = {
    "no object": ("5\n", f"no JSON object: '5', {ONE_A_LINE}"),
    "cut off": ('{"s": 1, "i"\n', f"no JSON object (Expecting ':' delimiter): '{{\"s\": 1, \"i\"', {ONE_A_LINE}"),
    "two on a line": (A_CLICK.strip() * 2 + "\n", "no JSON object (Extra data): "),
    "deep": ("[" * 100_000 + "\n", "no JSON object (a number too long, or lists too deep): "),
    "an item that is a list": ('{"s": 1, "i": [2], "t": 3}\n', f"i is a list, {NO_ID}"),
    "an item that is an object": ('{"s": 1, "i": {}, "t": 3}\n', f"i is an object, {NO_ID}"),
    "control characters": (r'{"s": 1, "i": "a\u0001", "t": 3}' + "\n", rf"i is 'a\x01', {NO_ID}"),
    "half a character": (r'{"s": 1, "i": "\ud800", "t": 3}' + "\n", rf"i is '\ud800', {NO_ID}"),
    "halves of characters": (r'{"s": 1, "i": "\udc80\ud800", "t": 3}' + "\n", rf"i is '\udc80\ud800', {NO_ID}"),
    "lost digits": ('{"s": 1, "i": 1e19, "t": 3}\n', f"i is 1e+19, {LOST}, {NO_ID}"),
    "an infinite id": ('{"s": 1, "i": 1e400, "t": 3}\n', f"i is inf, {LOST}, {NO_ID}"),
    "no time": ('{"s": 1, "i": 2}\n', f"t is '', {NO_TIME}"),
    "a time that is none": ('{"s": 1, "i": 2, "t": true}\n', f"t is 'true', {NO_TIME}"),
    "not a number": ('{"s": 1, "i": 2, "t": NaN}\n', f"t is '', {NO_TIME}"),
    "beyond all times": ('{"s": 1, "i": 2, "t": 1e300}\n', f"t is '1e+300', {NO_TIME}"),
}


@pytest.mark.parametrize(("line", "problem"), WRONG.values(), ids=WRONG.keys())
def test_a_line_that_does_not_fit_is_named_or_skipped(tmp_path, capsys, monkeypatch, line, problem):
    monkeypatch.setattr(jsonlines, "STREAMED_AT_ONCE", 150)
    text = A_CLICK * 6 + "\n" + line + A_CLICK * 6
    with pytest.raises(UserError, match=re.escape(f"log, line 8: {problem}")) as caught:
        read(tmp_path, text)
    assert len(str(caught.value).splitlines()) == 1
    rows, _ = read(tmp_path, text, skip_bad_lines=True)
    assert rows == [("1", "2", 1659304800025)] * 12
    assert f"skipped 1 lines that are not clicks; line 8: {problem}" in capsys.readouterr().err


def test_lines_are_counted_right_wherever_a_block_ends(tmp_path, monkeypatch):
    """A block that ended between the two bytes of a line end had counted it twice."""
    lines = [A_CLICK.strip()] * 8 + ["5"]
    monkeypatch.setattr(jsonlines, "LOOKED_AT", 1)
    for line_end in ("\n", "\r", "\r\n"):
        for at_once in range(20, 90, 3):
            monkeypatch.setattr(jsonlines, "STREAMED_AT_ONCE", at_once)
            with pytest.raises(UserError, match="log, line 9: no JSON object"):
                read(tmp_path, line_end.join(lines) + line_end)


def test_a_line_of_spaces_is_no_line(tmp_path):
    """Among the first lines, too, which are looked at for the columns."""
    assert read(tmp_path, A_CLICK + "  \n" + A_CLICK)[0] == [("1", "2", 1659304800025)] * 2


@pytest.mark.parametrize("time", ["t", "day+t"])
def test_a_switch_is_no_number_though_all_values_are_switches(tmp_path, time):
    with pytest.raises(UserError, match="line 1: t is 'true', expected"):
        read(tmp_path, '{"s": 1, "i": 2, "day": 5, "t": true}\n', LogFormat("s", time, "i", "milliseconds"))


def test_objects_as_deep_as_they_can_be_are_passed_over(tmp_path, monkeypatch):
    """Python reads deeper ones, from 3.12 on, than its functions can call each other."""
    deep = {}
    for _ in range(5000):
        deep = {"a": deep}
    monkeypatch.setattr(jsonlines, "_object", lambda line: json.loads(line) | {"deep": deep})
    assert read(tmp_path, A_CLICK)[0] == [("1", "2", 1659304800025)]


def test_a_header_may_begin_with_a_brace(tmp_path):
    assert read(tmp_path, "{s},t,i\n1,2,3\n", LogFormat("{s}", "t", "i", "seconds"))[0] == [("1", "3", 2000)]


def test_latin1_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape("line 2: i is no text in UTF-8 ('é' in Latin-1: iconv")):
        read(tmp_path, A_CLICK.encode() + b'{"s": 1, "i": "\xe9", "t": 3}\n')


SHAPES = {
    "a list of all": ("[\n{}\n]", FLAT, "log is JSON with all events in one list: write one a line (jq -c '.[]' FILE)"),
    "an object over lines": ('{\n"s": 1}', FLAT, "log, line 1: no JSON object (Expecting property name"),
    "an empty first line": (
        "\ufeff\n" + A_CLICK,
        FLAT,
        "log, line 1 is empty: expected the names of the columns, or a",
    ),
    "no such column": (A_CLICK, LogFormat("s", "t", "item", "iso"), "log, its first lines: there is no column 'item'"),
    "one column": ('{"a": 1}', FLAT, "log, its first lines: there is no column 's'; there are a"),
    "no columns": ("{}", FLAT, "log, its first lines: there is no column 's'; there are none"),
    "a column within another": (
        '{"a": {"b": 1}, "t": 2}\n{"a": null, "t": 2}',
        LogFormat("a", "t", "a.b", "seconds"),
        "log: a.b is within a, which has no value of its own: name another column",
    ),
    "two lists": (
        '{"a": [{"s": 1, "i": 2}], "b": [{"t": 3}]}',
        LogFormat("a.s", "b.t", "a.i", "seconds"),
        "log: a and b are two lists: name columns of one of them",
    ),
    "no list any more": (
        '{"s": 1, "e": [{"i": 2, "t": 3}]}\n{"s": 1, "e": {"i": 2, "t": 3}}',
        LogFormat("s", "e.t", "e.i", "seconds"),
        "log, line 2: e is no list, as it is in the first lines",
    ),
    "no object any more": (
        '{"s": {"id": 1}, "i": 2, "t": 3}\n{"s": 5, "i": 2, "t": 3}',
        LogFormat("s.id", "t", "i", "seconds"),
        "log, line 2: s is no object, as it is in the first lines",
    ),
    "no clicks": ('{"s": 1, "i": null, "t": 3}', FLAT, "log holds no clicks: of 1 lines 0 have no s, 1 no i"),
}


@pytest.mark.parametrize(("text", "log", "sentence"), SHAPES.values(), ids=SHAPES.keys())
def test_a_log_of_another_shape_is_refused(tmp_path, text, log, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        read(tmp_path, text, log)


def test_a_compressed_log_that_is_cut_off_is_refused(tmp_path):
    lines = "".join(f'{{"s": {n}, "i": {n * n % 977}, "t": {n**3}}}\n' for n in range(9000)).encode()
    packed = gzip.compress(lines)
    assert len(read(tmp_path, packed)[0]) == 9000
    with pytest.raises(UserError, match="damaged or cut off"):
        read(tmp_path, packed[: len(packed) // 2])


def test_integers_stay_integers(tmp_path):
    (tmp_path / "log").write_text(A_CLICK + A_CLICK.replace("2", '"3"', 1))
    clicks, _ = read_log([tmp_path / "log"], FLAT)
    assert (clicks.session_names, clicks.item_names) == (None, None)
    assert np.array_equal(clicks.item, [2, 3])

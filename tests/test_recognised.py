"""Files that the field already has: each form is read as a naive reader reads it, and what is unclear is refused."""

import gzip
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from clicks.clickfile import Clicks
from clicks.itemindex import ItemIndex
from clicks.recognised import read_prepared_clicks
from dataset import encode_sessions, read_session_clicks
from terminal.errors import UserError

RSC15 = ROOT.parent / "shared" / "data" / "rsc15-64"
SECOND = 1396867869
ROWS = [(2, 50, SECOND), (2, 60, SECOND + 5), (1, 50, SECOND + 90), (1, 70, SECOND + 91)]


def rows_of(clicks: Clicks) -> list[tuple]:
    """(session, item, seconds) of every click, ids as they are."""
    names = [None if n is None else n.to_pylist() for n in (clicks.session_names, clicks.item_names)]
    ids = [
        [number if texts is None else texts[number] for number in numbers.tolist()]
        for numbers, texts in zip((clicks.session, clicks.item), names, strict=True)
    ]
    return list(zip(*ids, (clicks.time / 1000).tolist(), strict=True))


def table(columns: str, separator: str, unit=lambda seconds: seconds, rows=ROWS) -> str:
    """A table of the rows, with columns of any names: what begins with s, i or t is the session, item or time."""
    names = columns.split()
    lines = [separator.join(names)]
    for session, item, seconds in rows:
        values = {"s": session, "i": item, "t": unit(seconds)}
        lines.append(separator.join(str(values.get(name.lower()[0], "x")) for name in names))
    return "\n".join(lines) + "\n"


def iso(seconds):
    return pd.Timestamp(seconds, unit="s").isoformat(sep=" ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (table("SessionId ItemId Category Time", "\t"), "a table with tabs, times in seconds"),
        (table("SessionId ItemId Category Time", "\t", lambda t: f"{t}.0"), "a table with tabs, times in seconds"),
        (table("timestamp item_id session_id", ",", lambda t: t * 1000), "commas, times in milliseconds"),
        (table("ts ITEM category Session", ";"), "semicolons"),
        (table("session item time", "|", iso), "bars, times in ISO 8601"),
        (table("session_id:token item_id:token timestamp:float", "\t"), "tabs, times in seconds"),
    ],
)
def test_tables_with_a_header(tmp_path, capsys, text, said):
    for name, content in (("a.any", text.encode()), ("a.gz", gzip.compress(text.replace("\n", "\r\n").encode()))):
        (tmp_path / name).write_bytes(content)
        assert rows_of(read_prepared_clicks(tmp_path / name)) == ROWS
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert said in line
        assert "sorted" not in line


def test_the_prepared_format_is_read_silently(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(table("SessionID ItemID Time", ","))
    assert rows_of(read_prepared_clicks(tmp_path / "a.txt")) == ROWS
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("columns", ["SessionID ItemID Time größe", "größe session item time"])
def test_what_other_columns_are_called_does_not_matter(tmp_path, columns):
    (tmp_path / "a").write_text(table(columns, ","), encoding="latin-1")
    assert rows_of(read_prepared_clicks(tmp_path / "a")) == ROWS


FRAME = pd.DataFrame(ROWS, columns=["SessionId", "ItemId", "Time"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "times in seconds"),
        ({"SessionId": FRAME.SessionId.astype(float)}, "times in seconds"),
        ({"ItemId": FRAME.ItemId.astype(str).astype("category")}, "times in seconds"),
        ({"Time": FRAME.Time * 1000}, "times in milliseconds"),
        ({"Time": pd.to_datetime(FRAME.Time, unit="s")}, "Parquet's own type"),
        ({"Time": pd.to_datetime(FRAME.Time, unit="s", utc=True).dt.tz_convert("Asia/Tokyo")}, "own type"),
        ({"Time": FRAME.Time.map(iso)}, "ISO 8601"),
        ({"Time": FRAME.Time.map(iso).astype("category")}, "ISO 8601"),
    ],
)
def test_parquet_files(tmp_path, capsys, change, said):
    FRAME.assign(**change, other="x")[["other", "Time", "ItemId", "SessionId"]].to_parquet(tmp_path / "any.name")
    assert rows_of(read_prepared_clicks(tmp_path / "any.name")) == ROWS
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("separator", [" ", ",", ", ", "\t"])
@pytest.mark.parametrize("known_as", [str, lambda item: f"0{item}"])
def test_sequences(tmp_path, separator, known_as):
    sessions = [[5, 6], [6, 7, 7], [5], [7, 5, 6, 7]]
    lines = [separator.join(map(known_as, session)) for session in sessions]
    (tmp_path / "a.txt").write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    clicks = read_prepared_clicks(tmp_path / "a.txt")
    assert [(session, str(item)) for session, item, _ in rows_of(clicks)] == [
        (line, known_as(item)) for line, session in zip((1, 3, 4, 5), sessions, strict=True) for item in session
    ]
    fed, _ = encode_sessions(read_session_clicks(tmp_path / "a.txt"), ItemIndex.of(clicks))
    assert fed.items.tolist() == [0, 1, 1, 2, 2, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("shuffled", "said"), [([0, 2, 1, 3], "sessions lie apart"), ([1, 0, 2, 3], "times go back"), ([2, 3, 0, 1], None)]
)
def test_clicks_out_of_order_are_sorted_and_that_is_said(tmp_path, capsys, shuffled, said):
    (tmp_path / "a.tsv").write_text(table("SessionId ItemId Time", "\t", rows=[ROWS[i] for i in shuffled]))
    assert rows_of(read_session_clicks(tmp_path / "a.tsv")) == [ROWS[i] for i in (2, 3, 0, 1)]
    line = capsys.readouterr().err
    assert (said or "in seconds\n") in line
    assert ("sorted" in line) == bool(said)


def test_ids_are_text_where_one_is_no_plain_integer(tmp_path):
    (tmp_path / "a.tsv").write_text("session\titem\ttime\n7\t5\t3\n7\t005\t4\n")
    assert rows_of(read_prepared_clicks(tmp_path / "a.tsv")) == [(7, "5", 3), (7, "005", 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n4,5,6\n", "line 1: '1,2,3' is neither a header .* nor, .* clearly a session a line"),
        ("3 5 9\n3 6 9\n", "neither a header"),
        ("user,movie,stars\n4,5,6\n", "line 1: 'user,movie,stars' is neither a header"),
        ("Once upon a time\nthere was a reader\nof prose\n", "neither a header"),
        ("5 6\n7 8 9\n1: 3 4\n", "line 3: '1:' is no item id"),
        ("5,6\n7,,8\n", "line 2: '' is no item id: expected one, what is between two commas"),
        ("5 6\n7 8 \x00\n", "no item id"),
        ("5 6\n7\x0b8 9\n", r"line 2: '\\x0b' is no blank between items: put a space there"),
        ("5,6\n7,8\x1f,9\n", "line 2: .* is no blank between items"),
        ("session,it\x0bem,item,m\u2028\n", r"no column of session, it\\x0bem, item, m is named Time"),
        ("session,item,time,mo\x0bre\n1,2,3\n", r"expected 4 columns \(.*mo\\x0bre\), found"),
        ("user_id,item_id,timestamp\n1,2,3\n", "line 1: no column of user_id, .* is named SessionID, session_id or"),
        ("SessionId\tItemId\n1\t2\n", "is named Time, timestamp or ts"),
        ("session,session_id,item,time\n1,1,2,3\n", "SessionID could be any of session, session_id"),
        ("SessionID,ItemID,Time,ItemID\n1,2,3,4\n", "line 1: there are 2 columns ItemID: leave one"),
        ("session_id:token\titem_id_list:token_seq\ttimestamp:float\n1\t1 2\t3\n", "lists of items"),
        ("session\titem\ttime\n1\t2\t3\n1\t\t4\n", "line 3: ItemID is '', expected text"),
        ("session\titem\ttime\n1\t2\t3\n1\t2\tx\n", "line 3: Time is 'x', expected seconds or milliseconds"),
        ("session\titem\ttime\n1\t2\t3\n1\t2\tnan\n", "line 3: Time is 'nan'"),
        ("session\titem\ttime\n1\t2\t2019-10-01\n1\t2\t3\n", "line 3: Time is '3', expected a date"),
        ("session\titem\ttime\n1\t2\t3\n1\t2\n", "line 3: expected 3 columns"),
        (f"session\titem\ttime\n1\t2\t{SECOND}\n1\t2\t{SECOND}000\n", "like seconds and .* like milliseconds"),
        (f"session\titem\ttime\n1\t2\t{SECOND}000000\n", "no time in seconds or milliseconds"),
        ("session\titem\ttime\n", "holds no clicks"),
        ("", "holds no clicks|is empty"),
        ("PAR1", "Parquet file that is damaged"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_prepared_clicks(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ItemId": [50, None, 50, 70]}, "row 2: ItemID is missing"),
        ({"ItemId": [50, 1.5, 50, 70]}, "ItemID: some are no ids"),
        ({"ItemId": [[50], [60], [50], [70]]}, "is a column of list"),
        ({"ItemId": np.array([1, 2, 3, 2**24 + 1], dtype=np.float32)}, "ItemID: numbers with a point have lost digits"),
        ({"ItemId": [1.0, 2, 3, 2**53 + 1]}, "ItemID: numbers with a point have lost digits"),
        ({"Time": np.array([1, 2, 3, 1.6e9], dtype=np.float32)}, "Time: numbers of type float have lost digits"),
        ({"ItemId": ["a", "", "b", "c"]}, "some are no ids"),
        ({"SessionId": np.array([1, 2, 3, 2**64 - 1], dtype=np.uint64)}, "SessionID: some are no ids"),
        ({"Time": ["2019-10-01", "x", "", ""]}, "Time: some are no times"),
        ({"Time": [True, False, True, True]}, "Time is a column of bool"),
        ({"Time": [1.0, 2.0, np.inf, 3.0]}, "some are no numbers"),
        ({"Time": FRAME.Time * 10**9 + 1}, "is no time in seconds or milliseconds: divide the column first"),
        ({"Time": (FRAME.Time * 10**6).astype("datetime64[ms]")}, "Time: some are no times"),
    ],
)
def test_parquet_files_without_clicks_are_refused(tmp_path, change, message):
    FRAME.assign(**change).to_parquet(tmp_path / "a")
    with pytest.raises(UserError, match=message):
        read_prepared_clicks(tmp_path / "a")
    FRAME.drop(columns="Time").to_parquet(tmp_path / "a")
    with pytest.raises(UserError, match="is named Time"):
        read_prepared_clicks(tmp_path / "a")


DAMAGES = {
    "in a value": ("naïve".encode(), b"na\xff\xffve"),
    "in a name": ("Größe".encode(), b"Gr\xff\xff\xff\xffe"),
    "told by a checksum": (np.array([50, 60]).tobytes(), np.array([50, 61]).tobytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_within_a_parquet_file_is_told(tmp_path, damage):
    options = {"compression": "none", "use_dictionary": False, "store_schema": False, "write_page_checksum": True}
    frame = FRAME.assign(SessionId="naïve", Größe=1)
    frame.to_parquet(tmp_path / "a", **options)
    assert len(read_prepared_clicks(tmp_path / "a")) == len(FRAME)
    content = (tmp_path / "a").read_bytes()
    here, there = DAMAGES[damage]
    assert here in content
    (tmp_path / "a").write_bytes(content.replace(here, there))
    with pytest.raises(UserError, match="Parquet file that is damaged"):
        read_prepared_clicks(tmp_path / "a")


def naive_sessions(path) -> list[tuple[int, list[int], list[int]]]:
    """What pandas makes of a file of rsc15-64: session, items, milliseconds, the oldest session first."""
    frame = pd.read_csv(path, sep="\t").sort_values(["SessionId", "Time"], kind="stable")
    sessions = {}
    for session, item, seconds in zip(frame.SessionId, frame.ItemId, frame.Time, strict=True):
        _, items, times = sessions.setdefault(session, (session, [], []))
        items.append(item)
        times.append(round(seconds * 1000))
    return sorted((session for session in sessions.values() if len(session[1]) > 1), key=lambda session: session[2][0])


@pytest.mark.skipif(not RSC15.exists(), reason="no ../shared/data/rsc15-64 beside the checkout")
@pytest.mark.parametrize("name", ["test.tsv.gz", "train_full.tsv.gz"])
def test_the_published_files_are_read_as_pandas_reads_them(name):
    path = RSC15 / name
    clicks = read_session_clicks(path)
    index = ItemIndex.of(clicks)
    sessions, _ = encode_sessions(clicks, index, with_times=True, with_ids=True)
    expected = naive_sessions(path)
    assert sessions.ids.tolist() == [session for session, _, _ in expected]
    assert index.ids[sessions.items].tolist() == [item for _, items, _ in expected for item in items]
    assert sessions.times.tolist() == [time for *_, times in expected for time in times]
    assert np.diff(sessions.offsets).tolist() == [len(items) for _, items, _ in expected]


@pytest.mark.long
@pytest.mark.skipif(not RSC15.exists(), reason="no ../shared/data/rsc15-64 beside the checkout")
def test_the_published_files_train(run_script):
    files = ("--data_folder", RSC15, "--train_data", "train_full.tsv.gz", "--valid_data", "test.tsv.gz")
    run = run_script(
        "main.py", *files, *"--n_epochs 1 --hidden_size 8 --batch_size 500 --n_sample 0 --device cpu".split()
    )
    assert len(re.findall("read as clicks of a table with tabs, times in seconds", run.stderr)) == 2
    assert "Recall@20" in run.stdout

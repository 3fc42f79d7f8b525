"""Reading and writing click files: what is read is what was written, and what does not fit is named by its line."""

import bz2
import gzip
import lzma
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clicks.clickfile import Clicks, read_clicks, read_raw_clicks, session_offsets, stream_sessions, write_click_files
from clicks.synthetic import write_raw_clicks
from terminal.errors import UserError

ids = st.integers(-(2**63), 2**63 - 1)
times = st.integers(0, 9_999_999_999_999)  # to the year 2286


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(ids, ids, times), min_size=1, max_size=30))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("clicks") / "clicks.txt"
    clicks = Clicks(*np.array(rows, dtype=np.int64).T)
    write_click_files({path: clicks})
    write_raw_clicks(path.with_suffix(".raw"), clicks)
    for back in (read_clicks(path), read_raw_clicks(path.with_suffix(".raw"))):
        for name in ("session", "item", "time"):
            np.testing.assert_array_equal(getattr(back, name), getattr(clicks, name))


def test_prepared_files_look_as_documented(tmp_path):
    clicks = Clicks(np.array([1]), np.array([214536502]), np.array([1396860669277]))
    write_click_files({tmp_path / "c.txt": clicks})
    assert (tmp_path / "c.txt").read_text() == "SessionID,ItemID,Time\n1,214536502,1396860669.277\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "c.txt"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last_line_end", [True, False])
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path, line_end, mark, last_line_end):
    raw = ["2,2014-04-07T10:51:09.277Z,5,0", "1,2014-04-07T10:51:10Z,6,S"]
    prepared = ["Time,extra,SessionID,ItemID", "1396867869.277,x,2,5", "1.39686787e9,,1,6"]
    for lines, read in ((raw, read_raw_clicks), (prepared, read_clicks)):
        text = mark + line_end.join(lines) + (line_end if last_line_end else "")
        (tmp_path / "plain").write_bytes(text.encode())
        (tmp_path / "packed.gz").write_bytes(gzip.compress(text.encode()))
        for name in ("plain", "packed.gz"):
            clicks = read(tmp_path / name)
            assert clicks.session.tolist() == [2, 1]
            assert clicks.item.tolist() == [5, 6]
            assert clicks.time.tolist() == [1396867869277, 1396867870000]


RAW = "1,2014-04-07T10:51:09.277Z,5,0\n"
PREPARED = "SessionID,ItemID,Time\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no clicks"),
        ("\n\n", "holds no clicks"),
        ("session,timestamp,item,category\n" + RAW, "line 1: session is 'session', expected an integer.*--columns"),
        (RAW + "2,2014-04-07T10:51:09.277Z,x5,0\n", "line 2: item is 'x5', expected an integer"),
        (RAW + "2,,5,0\n", "line 2: timestamp is '', expected a time such as 2014"),
        (RAW + "2,2014-04-07 10:51:09,5,0\n", "line 2: timestamp is '2014-04-07 10:51:09', expected a time"),
        (RAW + "2,2014-04-07 10:51:09 Z,5,0\n", "line 2: timestamp is '2014-04-07 10:51:09 Z', expected a time"),
        (RAW * 2 + "2,2014-04-07T10:5", "line 3: expected 4 columns .* found '2,2014-04-07T10:5'"),
        (RAW + f"{2**63},2014-04-07T10:51:09.277Z,5,0\n", "line 2: session is '9223372036854775808', expected"),
        ("1,2,3\n", r"line 1: expected 4 columns \(session,timestamp,item,category\), found '1,2,3'"),
        (PREPARED, "line 1: expected 4 columns"),
        (RAW + "2,2014-02-30T10:51:09Z,5,0\n", "line 2: timestamp is '2014-02-30T10:51:09Z', expected a time"),
    ],
)
def test_a_raw_line_that_does_not_fit_is_named(tmp_path, text, message):
    path = tmp_path / "clicks.dat"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_raw_clicks(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no clicks"),
        (PREPARED, "holds no clicks"),
        ("SessionId,ItemID,Time\n1,2,3\n", "line 1: the header lacks SessionID; expected SessionID,ItemID,Time"),
        ("1,2,3\n", "the header lacks SessionID, ItemID, Time"),
        (PREPARED + "1,2,3\n1,2.5,3\n", "line 3: ItemID is '2.5', expected an integer"),
        (PREPARED + "1,2,nan\n", "line 2: Time is 'nan', expected seconds"),
        (PREPARED + "1,2,3\n1,2,-inf\n", "line 3: Time is '-inf', expected seconds"),
        (PREPARED + "\n\n1,2,3\n1,2,1e13\n", "line 5: Time is '1e13', expected seconds"),
        (PREPARED + "1,2,3\n1,2\n", "line 3: expected 3 columns"),
    ],
)
def test_a_prepared_line_that_does_not_fit_is_named(tmp_path, text, message):
    path = tmp_path / "clicks.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_clicks(path)


def test_missing_and_cut_off_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.dat: No such file"):
        read_raw_clicks(tmp_path / "nowhere.dat")
    packed = gzip.compress((RAW * 1000).encode())
    (tmp_path / "cut.dat.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"cannot read .*cut\.dat\.gz"):
        read_raw_clicks(tmp_path / "cut.dat.gz")


@pytest.mark.parametrize(
    ("lines", "session", "item"),
    [
        (["1,a1,3", "2,12,4"], [1, 2], ["a1", "12"]),
        (['"1","12",3', '"007","a,""b",4'], ["1", "007"], ["12", 'a,"b']),
        (["x,0x1f,3", "y,31,4"], ["x", "y"], ["0x1f", "31"]),
        (['007,"5",3', "7,5,4"], ["007", "7"], ["5", "5"]),
        (["7,5,03", "-7,00005,4"], [7, -7], ["5", "00005"]),
        (['7,"x, 01",3', '"07","5",4'], ["7", "07"], ["x, 01", "5"]),
        (["7,0,3", "-00,10,4"], ["7", "-00"], [0, 10]),
    ],
)
def test_ids_are_text_where_the_first_is_none_or_in_quotes(tmp_path, lines, session, item):
    (tmp_path / "c.txt").write_text(PREPARED + "\n".join(lines) + "\n")
    clicks = read_clicks(tmp_path / "c.txt")
    for ids, names, expected in (
        (clicks.session, clicks.session_names, session),
        (clicks.item, clicks.item_names, item),
    ):
        assert [i if names is None else names[i].as_py() for i in ids.tolist()] == expected
    assert clicks.time.tolist() == [3000, 4000]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "1,a1,3",
            "line 3: ItemID is 'a1', expected an integer of at most 64 bits, as in the first line .ids that are",
        ),
        ('1,"5" ,3', "line 3: its quotes do not match"),
        ('1,"5', "line 3: expected 3 columns"),
        ("1,0x5,3", "line 3: ItemID is '0x5', expected an integer"),
    ],
)
def test_text_among_integers_is_named(tmp_path, line, message):
    (tmp_path / "c.txt").write_text(f"{PREPARED}1,2,3\n{line}\n")
    with pytest.raises(UserError, match=message):
        read_clicks(tmp_path / "c.txt")


@pytest.mark.parametrize("item", ['""', "", "a\tb", '"a\x00b"'])
def test_what_is_no_text_is_named(tmp_path, item):
    (tmp_path / "c.txt").write_text(f"{PREPARED}1,x,3\n1,{item},3\n")
    with pytest.raises(UserError, match="line 3: ItemID is '.*', expected text without control characters"):
        read_clicks(tmp_path / "c.txt")


def test_text_of_many_blocks_keeps_its_order(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (f"{session:064d}s", f"{item:x}".zfill(40)) for session, item in rng.integers(0, 5000, (50_000, 2)).tolist()
    ]
    (tmp_path / "c.txt").write_text(PREPARED + "".join(f"{session},{item},7\n" for session, item in rows))
    assert (tmp_path / "c.txt").stat().st_size > 5 * 2**20
    clicks = read_clicks(tmp_path / "c.txt")
    for ids, names, expected in zip(
        (clicks.session, clicks.item), (clicks.session_names, clicks.item_names), zip(*rows, strict=True), strict=True
    ):
        assert names.to_pylist() == list(dict.fromkeys(expected))
        assert np.array(names.to_pylist())[ids].tolist() == list(expected)


def test_session_offsets():
    assert session_offsets(np.array([7, 7, 3, 9, 9, 9])).tolist() == [0, 2, 3, 6]
    assert session_offsets(np.array([], dtype=np.int64)).tolist() == [0]


def test_when_one_file_cannot_be_written_none_is(tmp_path):
    clicks = Clicks(*np.ones((3, 1), dtype=np.int64))
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(UserError, match="cannot write .*nowhere"):
        write_click_files({tmp_path / "a.txt": clicks, tmp_path / "nowhere" / "c.txt": clicks})
    assert (tmp_path / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


@pytest.mark.parametrize("text_items", [False, True])
def test_a_damaged_archive_is_refused_while_it_is_streamed(text_items, tmp_path):
    path = tmp_path / "sessions.csv.gz"
    content = gzip.compress(b"SessionID,ItemID\n" + b"".join(b"%d,%d\n" % (n, n) for n in range(9000)))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="sessions.csv.gz"):
        list(stream_sessions(path, text_items))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_an_archive_that_is_cut_off_behind_its_first_lines_is_refused(kind, tmp_path):
    lines = b"".join(b"%d,%d,%d\n" % (n, n * n % 9973, n) for n in range(90_000))
    content = pa.compress(PREPARED.encode() + lines, kind, asbytes=True)
    (tmp_path / "c.txt").write_bytes(content[:-20])
    with pytest.raises(UserError, match="cannot read .*c.txt: it is a [gZ].* file that is damaged or cut off"):
        read_clicks(tmp_path / "c.txt")


@pytest.mark.parametrize("bad", [[], ["a bad line"]])
def test_what_a_line_is_does_not_depend_on_the_others(bad, tmp_path, capsys):
    """Arrow reads them together; beside a bad line, they are read one by one."""
    zones = ["Z", "+00", "+02:00", "-0530"]
    clocks = [f"2014-04-07{between}{clock}" for between in "T " for clock in ("10", "10:51", "10:51:09", "10:51:09.27")]
    times = [clock + zone for clock in clocks for zone in zones]
    lines = [f"1,{time},5,{'x' * (2**20 - 60 if number == 3 else 20_000)}" for number, time in enumerate(times)]
    too_long = [f"2,2014-04-07T10:51:09Z,5,{'x' * 2**20}"]
    (tmp_path / "c.dat").write_text("\n".join(lines[:9] + bad + lines[9:]))
    clicks = read_raw_clicks(tmp_path / "c.dat", skip_bad_lines=True)
    assert clicks.time.tolist() == [int(datetime.fromisoformat(time).timestamp() * 1000) for time in times]
    assert ("skipped 1 lines" in capsys.readouterr().err) == bool(bad)
    (tmp_path / "c.dat").write_text("\n".join(lines[:2] + too_long + lines[2:] + bad))
    assert len(read_raw_clicks(tmp_path / "c.dat", skip_bad_lines=True)) == len(times)
    with pytest.raises(UserError, match="line 3: it has 1,048,601 bytes"):
        read_raw_clicks(tmp_path / "c.dat")


@pytest.mark.parametrize("session", ["0x1f", "-0X1f", " 0x1f"])
def test_a_hexadecimal_number_is_no_integer_but_may_be_elsewhere(session, tmp_path):
    elsewhere = "".join(f"{n},2014-04-07T10:51:09Z,5,{text}\n" for n, text in enumerate(["0x1f", "-0x1f", "a-0x"]))
    (tmp_path / "c.dat").write_text(elsewhere)
    assert read_raw_clicks(tmp_path / "c.dat").session.tolist() == [0, 1, 2]
    (tmp_path / "c.dat").write_text(f"{elsewhere}{session},2014-04-07T10:51:09Z,5,0\n")
    with pytest.raises(UserError, match="line 4: session is .*, expected an integer"):
        read_raw_clicks(tmp_path / "c.dat")


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_what_a_file_is_compressed_with_does_not_show(pack, tmp_path):
    for text, read in ((RAW * 40_000, read_raw_clicks), (f"{PREPARED}1,2,3\n" + "1,2,4\n" * 40_000, read_clicks)):
        (tmp_path / "c.dat").write_bytes(pack(text.encode()))
        assert len(read(tmp_path / "c.dat")) >= 40_000
        (tmp_path / "c.dat").write_bytes(pack(text.encode() + b"bad\n"))
        with pytest.raises(UserError, match="line 4000[1-3]: expected"):
            read(tmp_path / "c.dat")

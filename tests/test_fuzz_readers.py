"""Random files of every form that the field has: read as a reading by hand has them, or refused in one sentence.

The readings by hand are in ``readbyhand.py`` for text, and here for Parquet.
"""

import bz2
import gzip
import io
import lzma
import random
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from damage import DAMAGES, damaged, damaged_bytes, edits, fuzz, one_sentence
from hypothesis import given
from hypothesis import strategies as st
from readbyhand import Row, read_text, rows_of

from clicks.recognised import read_prepared_clicks
from clicks.sessionfile import read_sessions
from terminal.errors import UserError

SECOND = 1396867869


@pytest.fixture
def in_small_pieces(monkeypatch):
    """Files are read in so small pieces that those of a test have several."""
    monkeypatch.setattr("clicks.delimited.READ_AT_ONCE", 48)
    monkeypatch.setattr("clicks.clickfile.STREAMED_AT_ONCE", 48)
    monkeypatch.setattr("clicks.opening.READ_AHEAD", 512)


def iso_of(seconds: int) -> str:
    return str(np.datetime64(seconds, "s"))


ITEMS = st.one_of(
    st.integers(0, 40).map(str),
    st.sampled_from(["7", "8", "-3", "9223372036854775807", "-9223372036854775808"]),
    st.sampled_from(["a1", "B", "é", "7", "a b", "x:y", "it's", "a,b;c|d", 'say "x"', "9223372036854775808", "1.0"]),
    st.sampled_from(["007", "07", "7", "0", "-07", "00"]),
)
WRITTEN = {
    "seconds": str,
    "decimals": lambda seconds: f"{seconds}.{seconds % 1000:03}",
    "milliseconds": lambda seconds: str(seconds * 1000 + 7),
    "floats": lambda seconds: f"{seconds / 1e9}e9",
    "iso": iso_of,
    "iso with a zone": lambda seconds: f"{iso_of(seconds)}.25+05:30",
    "iso in words": lambda seconds: iso_of(seconds).replace("T", " ") + " UTC",
    "compact": lambda seconds: iso_of(seconds).replace("-", "").replace(":", "") + "Z",
}
SECONDS = ["seconds", "decimals", "floats"]
COLUMNS = [
    ("SessionID", "ItemID", "Time"),
    ("SessionId", "ItemId", "Time"),
    ("session_id:token", "item_id:token", "timestamp:float"),
    ("SESSION", "item", "TS"),
    ("Session ID", "ITEM_ID", "timestamp"),
]
OTHERS = ["Category", "user_id:token", "", "Time 2", "weights:float_seq", "time", "ItemID"]


@st.composite
def tables(draw) -> str:
    """A table, or a file in the prepared format."""
    separator = draw(st.sampled_from(",,\t;|"))
    names = [*draw(st.sampled_from(COLUMNS)), *draw(st.lists(st.sampled_from(OTHERS), max_size=2))]
    order = draw(st.one_of(st.just(range(len(names))), st.permutations(range(len(names)))))
    write = WRITTEN[draw(st.sampled_from(SECONDS if names[0] == "SessionID" else list(WRITTEN)))]
    always_in_quotes = draw(st.booleans())
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    items = draw(st.sampled_from([st.integers(0, 40).map(str), st.sampled_from(["7", "8", "07"]), ITEMS]))

    def quoted(value: str) -> str:
        if always_in_quotes or separator in value or '"' in value or draw(st.integers(0, 4)) == 0:
            return '"' + value.replace('"', '""') + '"'
        return value

    lines = [separator.join(names[place] for place in order)]
    for _ in range(draw(st.integers(0, 6))):
        row = [draw(items), draw(items), write(SECOND + draw(st.integers(0, 99))), "x", "1 2"]
        lines.append(separator.join(quoted(row[place]) for place in order))
    return draw(st.sampled_from(["", "", "\ufeff"])) + end.join(lines) + draw(st.sampled_from(["", end, end * 2]))


@st.composite
def sessions_as_lines(draw) -> str:
    separator = draw(st.sampled_from([" ", ",", ", ", "\t", "  "]))
    items = draw(st.sampled_from([st.integers(1, 60).map(str), ITEMS]))
    sessions = draw(st.lists(st.lists(items, min_size=1, max_size=6), min_size=1, max_size=6))
    end = draw(st.sampled_from(["\n", "\r\n", " \n", "\n\n"]))
    return end.join(separator.join(session) for session in sessions) + draw(st.sampled_from(["", end]))


def check_text(path: Path, content: bytes) -> None:
    """Both readers of prepared files take a text as the reading by hand does."""
    path.write_bytes(content)
    reading = read_text(content)
    try:
        clicks = read_prepared_clicks(path)
    except UserError as error:
        one_sentence(error, path)
        assert reading.rows is None or not reading.is_clear, reading.rows
        for text_items in (False, True):
            try:
                list(read_sessions(path, text_items))
            except UserError as error:
                one_sentence(error, path)
        return
    assert rows_of(clicks) == reading.rows
    sessions = sessions_of(reading.rows)
    has_text_items = clicks.item_names is not None
    assert sessions_in(path, has_text_items) == sessions
    try:
        found = sessions_in(path, not has_text_items)
    except UserError as error:
        one_sentence(error, path)
    else:
        assert as_text(found) == as_text(sessions)


def sessions_of(rows: list[Row]) -> dict[int | str, list[int | str]]:
    """The items of every session in the order of time."""
    sessions: dict[int | str, list[int | str]] = {}
    for session, item, _ in sorted(rows, key=lambda row: row[2]):
        sessions.setdefault(session, []).append(item)
    return sessions


def sessions_in(path: Path, text_items: bool) -> dict[int | str, list[int | str]]:
    """The items of every session, which comes once."""
    found: dict[int | str, list[int | str]] = {}
    for session, item in read_sessions(path, text_items):
        for each in dict.fromkeys(session.tolist()):
            assert each not in found
            found[each] = item[session == each].tolist()
    return found


def as_text(sessions: dict[int | str, list[int | str]]) -> dict[int | str, list[str]]:
    return {session: [str(item) for item in items] for session, items in sessions.items()}


@fuzz
@given(tables(), edits)
def test_tables(tmp_path, in_small_pieces, text, changes):
    check_text(tmp_path / "clicks.any", damaged(text, changes))


@fuzz
@given(sessions_as_lines(), edits)
def test_sequences(tmp_path, in_small_pieces, text, changes):
    check_text(tmp_path / "clicks.any", damaged(text, changes))


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/clicks.csv", content)
    return file.getvalue()


PACKERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "Zstandard": lambda content: pa.compress(content, "zstd", asbytes=True),
    "zip": zipped,
}
HEADERS = ["SessionID,ItemID,Time", "session,item,timestamp", None]


def packed_text(header: str | None) -> bytes:
    """Enough lines for several pieces; with no header, sequences."""
    rng = random.Random(0)
    if header is None:
        return "\n".join(" ".join(map(str, rng.sample(range(99), rng.randrange(1, 9)))) for _ in range(200)).encode()
    lines = (f'{n // 3},"{rng.randrange(99)}",{SECOND + n}.5' for n in range(200))
    return "\n".join([header, *lines]).encode() + b"\n"


@fuzz
@given(st.sampled_from(list(PACKERS)), st.sampled_from(HEADERS), st.sampled_from(DAMAGES), st.integers(0, 2**32 - 1))
def test_damaged_bytes_of_compressed_files(tmp_path, in_small_pieces, kind, header, damage, seed):
    """What is read is what was there. Zstandard, which need not check its content, may hold others."""
    path, content = tmp_path / "clicks.any", packed_text(header)
    path.write_bytes(damaged_bytes(PACKERS[kind](content), damage, seed))
    rows = read_text(content).rows
    readings = [
        (lambda: rows_of(read_prepared_clicks(path)), rows),
        (lambda: sessions_in(path, text_items=header == HEADERS[0]), sessions_of(rows)),
    ]
    for read, expected in readings:
        try:
            found = read()
        except UserError as error:
            one_sentence(error, path)
        else:
            assert found == expected or kind == "Zstandard"

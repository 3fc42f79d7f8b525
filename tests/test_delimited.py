"""Delimited text by blocks: whatever a file holds and wherever its blocks end, as it is read whole."""

import random

import pytest

from clicks import delimited
from clicks.textkinds import INTEGER, SECONDS, TEXT_OR_NOTHING, Layout, Text
from terminal.errors import UserError

NAMES = ("id", "other", "number", "time")
KINDS = {"id": TEXT_OR_NOTHING, "number": INTEGER, "time": SECONDS}
VALUES = {  # of every column, those that fit and those that may not
    "id": (["x", "é", '"q,"', '"a""b"', "", "y z", " ", "0x1", "w" * 9, '""'], ['"a\nb"', '"bad', '"a"b']),
    "other": (["", "junk", '"j"'], ['"']),
    "number": (["1", "-22", " 4"], ["x", "0x1f", ""]),
    "time": (["1.5", "20"], ["nan", "z", ""]),
}


def random_log(rng: random.Random, has_header: bool) -> bytes:
    """Some lines with any line ends, blank ones among them; of three logs, one has lines that do not fit."""
    is_bad, end = rng.random() < 1 / 3, rng.choice(["\n", "\r\n", "\r"])
    lines = [",".join(NAMES)] if has_header else []
    for _ in range(rng.randrange(12)):
        values = [rng.choice(VALUES[name][is_bad and rng.random() < 0.05]) for name in NAMES]
        lines.append(",".join(values))
        lines += [""] * (rng.random() < 0.1)
        lines += [rng.choice([" ", ",", "\t", "\v"])] * (is_bad and rng.random() < 0.05)
    mark = "\ufeff" if rng.random() < 0.1 else ""
    return (mark + end.join(lines) + end * rng.randrange(3)).encode()


def outcome(parts, layout):
    """What is read, a list per column, or why it is refused."""
    columns = {name: [] for name in layout.kinds}
    try:
        for part in parts:
            for name, column in part.items():
                columns[name] += (column.per_line() if isinstance(column, Text) else column).tolist()
    except UserError as error:
        return str(error)
    return columns


@pytest.mark.parametrize("seed", range(4))
def test_blocks_are_read_as_the_whole(seed, tmp_path, monkeypatch):
    rng, path = random.Random(seed), tmp_path / "log.csv"
    for _ in range(150):
        has_header = rng.random() < 0.7
        path.write_bytes(random_log(rng, has_header))
        layout = Layout(NAMES, KINDS, has_header=has_header, quoted=True)
        whole = outcome((delimited.read_columns(path, layout) for _ in range(1)), layout)
        for n_bytes in (1, rng.randrange(2, 60), 2**22):
            monkeypatch.setattr(delimited, "READ_AT_ONCE", n_bytes)
            by_blocks = outcome(delimited.stream_columns(path, layout), layout)
            if isinstance(by_blocks, dict) and not any(by_blocks.values()):
                by_blocks = f"{path} holds no clicks"  # as its callers say
            assert by_blocks == whole, (n_bytes, path.read_bytes())


def test_a_line_of_blanks_is_refused_where_it_is_a_block(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("id,other,number,time\nx,,1,2\n ")
    with pytest.raises(UserError, match="line 3: expected 4 columns"):
        list(delimited.stream_columns(path, Layout(NAMES, KINDS, has_header=True, quoted=True)))

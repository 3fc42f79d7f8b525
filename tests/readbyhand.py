"""Prepared clicks as a careful person reads them from a text, by docs/data.md and a line at a time.

Nothing of the readers is called: what tests compare with must not have their mistakes.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from clicks.clickfile import Clicks

NAMES = [{"sessionid", "session"}, {"itemid", "item"}, {"time", "timestamp", "ts"}]
OWN = ["SessionID", "ItemID", "Time"]
DECIMAL = r"[ \t]*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t]*"
Row = tuple[int | str, int | str, int]  # session, item, milliseconds


@dataclass(frozen=True)
class Reading:
    """What a text holds.

    Attributes:
        rows: its clicks, in order; None where it must be refused.
        is_clear: whether it must be read.
    """

    rows: list[Row] | None
    is_clear: bool = True


REFUSED = Reading(None)


def rows_of(clicks: Clicks) -> list[Row]:
    """The clicks that a reader found."""
    columns = []
    for ids, names in ((clicks.session, clicks.session_names), (clicks.item, clicks.item_names)):
        texts = None if names is None else names.to_pylist()
        columns.append([number if texts is None else texts[number] for number in ids.tolist()])
    return list(zip(*columns, clicks.time.tolist(), strict=True))


def read_text(content: bytes) -> Reading:
    """The clicks of a text of any form."""
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    header, *lines = re.split(r"\r\n|\n|\r", text)
    is_clear = (
        "\x00" not in text and '"' not in header
    )  # a few of these make a file no text; odd headers may be refused
    if set(OWN[:2]) <= {name.strip('"') for name in header.split(",")}:
        rows = own_rows(header, lines)
    elif separator := separator_of(header):
        rows = table_rows(header, lines, separator)
    else:
        return sequences([header, *lines])
    return Reading(rows or None, is_clear)


def separator_of(header: str) -> str | None:
    def n_known(separator: str) -> int:
        return sum(any(plain(name) in known for known in NAMES) for name in header.split(separator))

    best = max("\t,;|", key=n_known)
    return best if n_known(best) > 1 else None


def plain(name: str) -> str:
    return name.strip().strip('"').strip().split(":")[0].replace("_", "").replace(" ", "").lower()


def values_of(line: str, separator: str) -> list[tuple[str, bool]] | None:
    """The values of a line, and whether each stands in quotes; None where quotes do not match."""
    values, rest = [], line
    while True:
        is_quoted = rest.startswith('"')
        if is_quoted:
            match = re.match(r'"((?:[^"]|"")*)"', rest)
            if not match or rest[match.end() :][:1] not in ("", separator):
                return None
            value, rest = match[1].replace('""', '"'), rest[match.end() :]
        else:
            value = rest.split(separator)[0]
            rest = rest[len(value) :]
        values.append((value, is_quoted))
        if not rest:
            return values
        rest = rest[1:]


def columns_of(
    lines: list[str], separator: str, n_names: int, places: list[int]
) -> list[list[tuple[str, bool]]] | None:
    """The columns at some places, or None where a line has other columns."""
    rows = [values_of(line, separator) for line in lines if line]
    if not rows or not all(row and len(row) == n_names for row in rows):
        return None
    return [[row[place] for row in rows] for place in places]


def is_text(value: str) -> bool:
    return bool(value) and not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value)


def fits_64_bits(value: str) -> bool:
    return bool(re.fullmatch("-?[0-9]+", value)) and -(2**63) <= int(value) < 2**63


def ids(values: list[str]) -> list[int] | list[str]:
    """Ids that are all what integers of 64 bits are written like are integers."""
    are_integers = all(fits_64_bits(value) and str(int(value)) == value for value in values)
    return [int(value) for value in values] if are_integers else values


def own_rows(header: str, lines: list[str]) -> list[Row] | None:
    names = [name.strip('"') for name in header.split(",")]
    if any(names.count(name) != 1 for name in OWN):
        return None
    columns = columns_of(lines, ",", len(names), [names.index(name) for name in OWN])
    if columns is None:
        return None
    found = []
    for column in columns[:2]:
        (first, is_quoted), values = column[0], [value for value, _ in column]
        has_zeros = any(re.match("[ \t]*-?0[0-9]", value) for value in values)
        if is_quoted or has_zeros or not fits_64_bits(first.strip(" \t")):
            if not all(map(is_text, values)):
                return None
            found.append(values)
        else:
            if not all(fits_64_bits(value.strip(" \t")) for value in values):
                return None
            found.append([int(value) for value in values])
    seconds = [value for value, _ in columns[2]]
    if not all(re.fullmatch(DECIMAL, value) and abs(float(value)) < 1e12 for value in seconds):
        return None
    return list(zip(*found, [round(float(value) * 1000) for value in seconds], strict=True))


def table_rows(header: str, lines: list[str], separator: str) -> list[Row] | None:
    names = [plain(name) for name in header.split(separator)]
    places = [[place for place, name in enumerate(names) if name in known] for known in NAMES]
    if any(len(found) != 1 for found in places):
        return None
    columns = columns_of(lines, separator, len(names), [place for (place,) in places])
    if columns is None:
        return None
    session, item, written = ([value for value, _ in column] for column in columns)
    time = times(written)
    if time is None or not all(map(is_text, session + item)):
        return None
    return list(zip(ids(session), ids(item), time, strict=True))


def times(written: list[str]) -> list[int] | None:
    """Milliseconds: all are numbers of one unit, or all are in ISO 8601."""
    if re.fullmatch(DECIMAL, written[0]):
        if not all(re.fullmatch(DECIMAL, value) for value in written):
            return None
        return sized_times([float(value) for value in written])
    parsed = [iso(value) for value in written]
    return None if None in parsed else parsed


def sized_times(numbers: list[float]) -> list[int] | None:
    """Milliseconds of numbers whose size tells their unit."""
    sizes = [abs(number) for number in numbers]
    if max(sizes) < 1e11:
        return [round(number * 1000) for number in numbers]
    return None if min(sizes) < 1e11 or max(sizes) >= 1e14 else [round(number) for number in numbers]


def iso(text: str) -> int | None:
    """Milliseconds of a date or a time in ISO 8601."""
    text = re.sub(r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?!\d)", r"\1-\2-\3T\4:\5:\6", text, flags=re.ASCII)
    match = re.fullmatch(
        r"(?P<day>\d{4}-\d\d-\d\d)([T ](?P<minute>\d\d:\d\d)(?P<second>:\d\d([.,](?P<part>\d{1,9}))?)?"
        r" ?(Z|UTC|(?P<offset>[+-]\d\d(:?\d\d)?))?)?",
        text,
        flags=re.ASCII,
    )
    if not match:
        return None
    offset = (match["offset"] or "+00").replace(":", "").ljust(5, "0")
    clock = f"{match['day']} {match['minute'] or '00:00'}{(match['second'] or ':00')[:3]}"
    try:
        time = datetime.strptime(f"{clock} {offset}", "%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        return None
    seconds = (time - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(seconds=1)
    return seconds * 1000 + int((match["part"] or "0").ljust(3, "0")[:3])


def sequences(lines: list[str]) -> Reading:
    """A session a line: clear where all items are written in digits and lines have several lengths."""
    separator = "[ \t]*,[ \t]*" if any("," in line for line in lines) else "[ \t]+"
    sessions = [
        (number, re.split(separator, line.strip(" \t")))
        for number, line in enumerate(lines, start=1)
        if line.strip(" \t")
    ]
    items = [item for _, session in sessions for item in session]
    if not items or not all(is_text(item) and not re.search(r'[\s":]', item) for item in items):
        return REFUSED
    is_clear = len({len(session) for _, session in sessions}) > 1 and all(map(str.isdecimal, items))
    numbers = [number for number, session in sessions for _ in session]
    return Reading(list(zip(numbers, ids(items), range(len(items)), strict=True)), is_clear)

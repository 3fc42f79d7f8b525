"""What a column of text may hold, by Arrow's rules and by a person's, and how the lines of a file are laid out."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

MOST_SECONDS = 1e12  # past the year 30000
MILLISECONDS = 1e-3  # of a second

_TEXT = pa.dictionary(pa.int32(), pa.large_string())  # large: ids of many gigabytes in all are fine


@dataclass(frozen=True)
class ColumnKind:
    """What a column holds.

    Attributes:
        arrow_type: as what Arrow reads it.
        expected: what it holds, in words.
        fits: whether a line's value is such a thing.
        convert: the whole column as this suite wants it; raises ValueError where a value does not fit.
        remark: what to say behind a value that does not fit.
    """

    arrow_type: pa.DataType
    expected: str
    fits: Callable[[str], bool]
    convert: Callable[[pa.ChunkedArray], Any]
    remark: Callable[[str], str] = lambda _: ""


@dataclass(frozen=True)
class Text:
    """A column of text.

    Attributes:
        codes: ``[n]`` int32, which of the values each line has.
        values: the distinct values, in the order in which they first appear.
    """

    codes: np.ndarray
    values: pa.LargeStringArray

    def __len__(self) -> int:
        return len(self.codes)

    def per_line(self) -> np.ndarray:
        """The value of each line: ``[n]`` str, as objects."""
        return self.values.to_numpy(zero_copy_only=False)[self.codes]


def is_integer(text: str) -> bool:
    """Whether Arrow and a person read an integer of 64 bits; spaces around it and zeros before it do not matter."""
    text = text.strip(" \t")
    return bool(re.fullmatch(r"-?[0-9]{1,19}", text)) and -(2**63) <= int(text) < 2**63


def is_plain_text(text: str) -> bool:
    """Whether a text has something in it, and neither control characters nor broken encoding."""
    return bool(text) and not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text)


def why_not_utf8(text: str) -> str | None:
    """What a text with broken encoding is, in words, and what to do; None if it is none that a file can have."""
    if not re.search("[\udc80-\udcff]", text) or re.search("[\ud800-\udc7f\udd00-\udfff]", text):
        return None
    latin1 = text.encode("utf-8", "surrogateescape").decode("latin-1")
    return f"no text in UTF-8 ({excerpt(latin1)} in Latin-1: iconv -f latin1 -t utf-8 FILE)"


def why_unfit(name: str, value: str, kind: ColumnKind) -> str | None:
    """What is wrong with a column's value, in words, or None."""
    if kind.fits(value):
        return None
    if why := why_not_utf8(value):
        return f"{name} is {why}"
    return f"{name} is {excerpt(value)}, expected {kind.expected}{kind.remark(value)}"


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers as an array that may be written to."""
    array = column.to_numpy()
    return array if array.flags.writeable else array.copy()


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    array = column.combine_chunks()
    return (
        array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    )  # as old versions of Arrow leave a single one


def to_text(column: pa.ChunkedArray) -> Text:
    """A column read as a dictionary.

    Raises:
        ValueError: a value has control characters, such as a line end in quotes.
    """
    array = one_chunk(column.unify_dictionaries())
    text = Text(array.indices.to_numpy(), array.dictionary)
    if pa.compute.any(pa.compute.match_substring_regex(text.values, r"[\x00-\x1f\x7f]")).as_py():
        raise ValueError("control characters")
    return text


def to_nonempty_text(column: pa.ChunkedArray) -> Text:
    """As :func:`to_text`, and no value is empty."""
    text = to_text(column)
    if pa.compute.any(pa.compute.equal(text.values, "")).as_py():
        raise ValueError("an empty value")
    return text


def numeric_time(unit: float, expected: str) -> ColumnKind:
    """A number of units since the epoch, or of a difference of times; converted to whole milliseconds, int64.

    Args:
        unit: in seconds.
        expected: the unit in words.
    """

    def fits(text: str) -> bool:
        text = text.strip(" \t")
        decimal = re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text)
        return bool(decimal) and abs(float(text)) < MOST_SECONDS / unit

    def convert(column: pa.ChunkedArray) -> np.ndarray:
        times = to_numpy(column)
        if not (np.abs(times) < MOST_SECONDS / unit).all():  # NaN and infinity are not, either
            raise ValueError("beyond all times")
        if unit >= MILLISECONDS:
            times *= round(unit / MILLISECONDS)
        else:
            times /= round(MILLISECONDS / unit)
        return np.rint(times, out=times).astype(np.int64)

    return ColumnKind(pa.float64(), expected, fits, convert)


INTEGER = ColumnKind(pa.int64(), "an integer of at most 64 bits", is_integer, to_numpy)
PLAIN_TEXT = ColumnKind(_TEXT, "text without control characters, and not empty", is_plain_text, to_nonempty_text)
TEXT_OR_NOTHING = ColumnKind(
    _TEXT, "text without control characters", lambda text: not text or is_plain_text(text), to_text
)
SECONDS = numeric_time(1.0, "seconds since the epoch")


def text_of(expected: str, fits: Callable[[str], bool], convert: Callable[[Text], Any]) -> ColumnKind:
    """Text that means something else: ``convert`` says what, and raises ValueError where a value does not fit."""
    return ColumnKind(_TEXT, expected, fits, lambda column: convert(to_text(column)))


@dataclass(frozen=True)
class Layout:
    """How a file is laid out.

    Attributes:
        names: of its columns, in order.
        kinds: of those columns that are to be read, by name; the others may hold anything.
        has_header: whether the first line holds the names.
        separator: between values, a single ASCII character.
        quoted: whether a value may stand in double quotes (a quote within it is doubled); if not, a quote is a
            character like any other.
        hint: what to say where the first line already does not fit.
    """

    names: Sequence[str]
    kinds: dict[str, ColumnKind]
    has_header: bool
    separator: str = ","
    quoted: bool = False
    hint: str = ""

    def split(self, line: str) -> list[str]:
        """The values of a line, in their quotes if they have some."""
        if not self.quoted or '"' not in line:
            return line.split(self.separator)
        separator = re.escape(self.separator)
        return re.findall(rf'(?:^|{separator})("(?:[^"]|"")*"(?={separator}|$)|[^{separator}]*)', line)

    def value(self, quoted: str) -> str:
        """A value without the quotes in which it may stand.

        Raises:
            ValueError: its quotes do not match.
        """
        if not self.quoted or not quoted.startswith('"'):
            return quoted
        if not re.fullmatch(r'"(?:[^"]|"")*"', quoted):
            raise ValueError(f"its quotes do not match: {excerpt(quoted)}")
        return quoted[1:-1].replace('""', '"')


def excerpt(text: str) -> str:
    """The beginning of a text from a file for a message, in quotes."""
    return repr(text if len(text) <= 60 else text[:60] + "…")

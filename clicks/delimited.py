"""Delimited text: columns that Arrow reads, and the number of the line that does not fit.

Arrow reads fast, says little about where a file goes wrong, and takes a few things that are no values (0x1f as an
integer, nan as a time, text behind a closing quote). So what it refuses, and what it may have misread, is read again
line by line, by the rules that a person would state; the first line that breaks one is named.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from clicks.opening import arrow_stream, open_bytes
from terminal.errors import UserError, warn

LONGEST_LINE = 2**20  # bytes; Arrow's limit, too, wherever in the file a line stands
LATIN1 = "which iconv -f latin1 -t utf-8 converts"
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
    """

    arrow_type: pa.DataType
    expected: str
    fits: Callable[[str], bool]
    convert: Callable[[pa.ChunkedArray], Any]


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


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers as an array that may be written to."""
    array = column.to_numpy()
    return array if array.flags.writeable else array.copy()


def to_text(column: pa.ChunkedArray) -> Text:
    """A column read as a dictionary.

    Raises:
        ValueError: a value has control characters, such as a line end in quotes.
    """
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # as old versions of Arrow leave a single chunk
        array = array.chunk(0)
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
        times *= round(unit / MILLISECONDS)
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


def read_columns(path: Path, layout: Layout, skip_bad_lines: bool = False) -> dict[str, Any]:
    """Read the columns of a file, compressed or not, each as its kind converts it.

    Args:
        path: the file.
        layout: how it is laid out, and which columns are to be read.
        skip_bad_lines: leave out the lines that do not fit and say on stderr how many they were.

    Raises:
        UserError: the file is missing or empty, or a line does not fit.
    """
    try:
        columns, error = _read(path, layout), None
    except (pa.ArrowException, ValueError, OSError) as first_error:
        columns, error = None, first_error
    if columns is None or _may_be_misread(path, layout):
        if not skip_bad_lines:
            refuse_bad_line(path, layout)
        elif next(_line_problems(path, layout), None):
            # no Python file: Arrow's threads may outlive the interpreter
            columns = _read(pa.BufferReader(_usable_lines(path, layout)), layout)
    if columns is None:
        raise UserError(f"cannot read {path}: {error}") from error
    if any(len(column) == 0 for column in columns.values()):
        raise UserError(f"{path} holds no clicks")
    return columns


def stream_columns(path: Path, layout: Layout) -> Iterator[dict[str, Any]]:
    """As :func:`read_columns`, some lines at a time."""
    try:
        if _may_be_misread(path, layout):
            refuse_bad_line(path, layout)
        for batch in pa.csv.open_csv(arrow_stream(path), **_csv_options(layout)):
            yield {name: kind.convert(pa.chunked_array([batch[name]])) for name, kind in layout.kinds.items()}
    except (pa.ArrowException, ValueError, OSError) as error:
        refuse_bad_line(path, layout)
        raise UserError(f"cannot read {path}: {error}") from error


def refuse_bad_line(path: Path, layout: Layout) -> None:
    """Raise a UserError that names the first line that does not fit, if there is one."""
    if problem := next(_line_problems(path, layout), None):
        hint = f"; {layout.hint}" if layout.hint and problem.startswith("1:") else ""
        raise UserError(f"{path}, line {problem}{hint}")


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, compressed or not, without their ends and without a byte-order mark.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with io.TextIOWrapper(open_bytes(path), "utf-8-sig", "surrogateescape") as file:
            for line in file:
                yield line.rstrip("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def first_line(path: Path) -> str:
    """The first line of a file.

    Raises:
        UserError: there is none, or the file cannot be read.
    """
    for line in lines(path):
        return line
    raise UserError(f"{path} holds no clicks")


def excerpt(text: str) -> str:
    """The beginning of a text from a file for a message, in quotes."""
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _read(source: Path | pa.BufferReader, layout: Layout) -> dict[str, Any]:
    """The columns, each given up by Arrow when it is converted: there is not always room for two copies of all."""
    stream = arrow_stream(source) if isinstance(source, Path) else source
    table = pa.csv.read_csv(stream, **_csv_options(layout))
    columns = {name: table[name] for name in layout.kinds}
    n_lines = table.num_rows
    del table
    converted = {}
    for name, kind in layout.kinds.items():
        column = columns.pop(name)
        converted[name] = kind.convert(column) if n_lines else ()
        del column
        pa.default_memory_pool().release_unused()
    return converted


def _csv_options(layout: Layout) -> dict[str, Any]:
    types = {name: kind.arrow_type for name, kind in layout.kinds.items()}
    quotes = '"' if layout.quoted else False
    return {
        "read_options": pa.csv.ReadOptions(column_names=list(layout.names), skip_rows=1 if layout.has_header else 0),
        "parse_options": pa.csv.ParseOptions(delimiter=layout.separator, quote_char=quotes),
        "convert_options": pa.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[]),
    }


def _may_be_misread(path: Path, layout: Layout) -> bool:
    """Whether a file has anything in it that Arrow takes and a person does not.

    It reads 0x1f as the integer 31, ``"a"b`` as ab, quotes that begin in one line and end in another, and some lines
    that are too long.
    """
    has_integers = any(pa.types.is_integer(kind.arrow_type) for kind in layout.kinds.values())
    ends = re.escape(layout.separator.encode()) + rb"\r\n"
    opening = re.compile(rb'(?<![^%s])"' % ends)
    whole = re.compile(opening.pattern + rb'(?:[^"\r\n]|"")*"(?![^%s])' % ends)
    hexadecimal = re.compile(rb'[%s" \t-]0[xX]' % ends)
    for block in blocks_of_lines(path):
        if has_integers and (b"0x" in block or b"0X" in block):
            within_lines = b"\n" + block
            if any(
                _has_a_hexadecimal_integer(within_lines, found.end() - 2, layout)
                for found in hexadecimal.finditer(within_lines)
            ):
                return True
        if layout.quoted and b'"' in block and opening.search(whole.sub(b"", block)):
            return True
        if _may_have_a_long_line(block):
            return True
    return False


def _has_a_hexadecimal_integer(block: bytes, position: int, layout: Layout) -> bool:
    """Whether the line around a position has 0x… in the place of an integer."""
    start = block.rfind(b"\n", 0, position) + 1
    start = block.rfind(b"\r", start, position) + 1 or start
    (line,) = re.match(rb"([^\r\n]*)", block[start : start + LONGEST_LINE]).groups()
    values = layout.split(line.decode("utf-8", "surrogateescape").removeprefix("\ufeff"))
    return any(
        pa.types.is_integer(layout.kinds[name].arrow_type) and "0x" in value.lower()
        for name, value in zip(layout.names, values, strict=False)
        if name in layout.kinds
    )


def _may_have_a_long_line(block: bytes) -> bool:
    """Whether a line is too long, or nearly so: one that is has no end in half as many bytes, counted from anywhere."""
    half = LONGEST_LINE // 2
    return any(
        block.find(b"\n", start, start + half) < 0 and block.find(b"\r", start, start + half) < 0
        for start in range(0, len(block) - half, half)
    )


def blocks_of_lines(path: Path) -> Iterator[bytes]:
    """The content of a file, some whole lines at a time."""
    begun = b""
    with arrow_stream(path) as stream:
        while content := stream.read(2**22):
            end = max(content.rfind(b"\n"), content.rfind(b"\r")) + 1
            if end:
                yield begun + content[:end]
                begun = b""
            begun += content[end:]
    yield begun


def _line_problems(path: Path, layout: Layout) -> Iterator[str]:
    """'NUMBER: what is wrong' of every line that does not fit.

    Raises:
        UserError: there are no lines.
    """
    number = 0
    for number, line in enumerate(lines(path), start=1):
        if number > layout.has_header and (problem := _line_problem(line, layout)):
            yield f"{number}: {problem}"
    if number <= layout.has_header:
        raise UserError(f"{path} holds no clicks")


def _usable_lines(path: Path, layout: Layout) -> bytes:
    """The lines of a file that fit, with the header; says on stderr what was skipped."""
    usable, n_usable, n_bad, first_problem = io.BytesIO(), 0, 0, ""
    for number, line in enumerate(lines(path), start=1):
        is_click = number > layout.has_header
        if is_click and (problem := _line_problem(line, layout)):
            first_problem = first_problem or f"line {number}: {problem}"
            n_bad += 1
        else:
            usable.write(f"{line}\n".encode("utf-8", "surrogateescape"))
            n_usable += is_click and bool(line)
    if n_usable == 0:
        raise UserError(f"{path} holds no clicks")
    warn(f"{path}: skipped {n_bad:,} lines that are not clicks; {first_problem}")
    return usable.getvalue()


def _line_problem(line: str, layout: Layout) -> str | None:
    """What keeps a line from being a click, in words, or None. An empty line is no click and no problem."""
    if not line:
        return None
    if len(line) > LONGEST_LINE // 4 and (n_bytes := len(line.encode("utf-8", "surrogateescape"))) > LONGEST_LINE:
        return f"it has {n_bytes:,} bytes"
    values = layout.split(line)
    if len(values) != len(layout.names):
        return f"expected {len(layout.names)} columns ({','.join(layout.names)}), found {excerpt(line)}"
    for name, quoted in zip(layout.names, values, strict=True):
        try:
            value = layout.value(quoted)
        except ValueError as error:
            return str(error)
        kind = layout.kinds.get(name)
        if kind and not kind.fits(value):
            if re.search("[\udc80-\udcff]", value):
                as_latin1 = value.encode("utf-8", "surrogateescape").decode("latin-1")
                return f"{name} is no text in UTF-8 ({excerpt(as_latin1)} in Latin-1, {LATIN1})"
            return f"{name} is {excerpt(value)}, expected {kind.expected}"
    return None

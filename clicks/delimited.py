"""Delimited text: columns that Arrow reads, and the number of the line that does not fit.

Arrow reads fast, says little about where a file goes wrong, and takes a few things that are no values (0x1f as an
integer, nan as a time, text behind a closing quote). So what it refuses, and what it may have misread, is read again
line by line, by the rules that a person would state; the first line that breaks one is named.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from clicks.opening import arrow_stream, open_bytes, unreadable
from clicks.sidebyside import side_by_side
from clicks.textkinds import Layout, excerpt, why_unfit
from clicks.unfit import Unfit
from terminal.errors import UserError

LONGEST_LINE = 2**20  # bytes; Arrow's limit, too, wherever in the file a line stands
READ_AT_ONCE = 2**22  # bytes
STREAMED_AT_ONCE = 2**24  # bytes, where memory allows; from 2**25 on, the allocator takes new memory for every block


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
            columns = _read(in_arrows_memory(_usable_lines(path, layout)), layout)
    if columns is None:
        raise UserError(f"cannot read {path}: {error}") from error
    if any(len(column) == 0 for column in columns.values()):
        raise UserError(f"{path} holds no clicks")
    return columns


def stream_columns(path: Path, layout: Layout, at_once: int | None = None) -> Iterator[dict[str, Any]]:
    """As :func:`read_columns`, some lines at a time, by all cores.

    Args:
        at_once: bytes; None for few.
    """

    def read(numbered: tuple[int, bytes]) -> dict[str, Any] | None:
        number, block = numbered
        if _is_misread(block, layout):
            refuse_bad_line(path, layout)
        if not re.search(rb"[^\r\n]", block):
            return None
        table = _table(
            in_arrows_memory(block), layout, has_header=layout.has_header and number == 0, by_all_cores=False
        )
        return {name: kind.convert(table[name]) if table.num_rows else () for name, kind in layout.kinds.items()}

    try:
        for columns in side_by_side(read, enumerate(blocks_of_lines(path, at_once))):
            if columns and all(map(len, columns.values())):
                yield columns
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


def in_arrows_memory(content: bytes) -> pa.BufferReader:
    """Content for Arrow in memory of its own: its threads may outlive the interpreter, and must have nothing of it."""
    buffer = pa.allocate_buffer(len(content))
    np.frombuffer(buffer, dtype=np.uint8)[:] = np.frombuffer(content, dtype=np.uint8)
    return pa.BufferReader(buffer)


def _read(source: Path | pa.BufferReader, layout: Layout) -> dict[str, Any]:
    """The columns, each given up by Arrow when it is converted: there is not always room for two copies of all."""
    table = _table(arrow_stream(source) if isinstance(source, Path) else source, layout, layout.has_header)
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


def _table(stream: pa.NativeFile, layout: Layout, has_header: bool, by_all_cores: bool = True) -> pa.Table:
    """The columns that are to be read, as Arrow has them."""
    types = {name: kind.arrow_type for name, kind in layout.kinds.items()}
    names = [name.encode("utf-8", "backslashreplace") for name in layout.names]  # that of any column may be no UTF-8
    return pa.csv.read_csv(
        stream,
        pa.csv.ReadOptions(column_names=names, skip_rows=1 if has_header else 0, use_threads=by_all_cores),
        pa.csv.ParseOptions(delimiter=layout.separator, quote_char='"' if layout.quoted else False),
        pa.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[]),
    )


def _may_be_misread(path: Path, layout: Layout) -> bool:
    """Whether a file has anything in it that Arrow takes and a person does not."""
    return any(_is_misread(block, layout) for block in blocks_of_lines(path))


def _is_misread(block: bytes, layout: Layout) -> bool:
    """The same of some whole lines.

    Arrow reads 0x1f as 31, ``"a"b`` as ab, quotes that end in another line, and some lines that are too long.
    """
    ends = re.escape(layout.separator.encode()) + rb"\r\n"
    has_integers = any(pa.types.is_integer(kind.arrow_type) for kind in layout.kinds.values())
    if has_integers and (b"0x" in block or b"0X" in block):
        within_lines = b"\n" + block
        found = re.finditer(rb'[%s" \t-]0[xX]' % ends, within_lines)
        if any(_has_a_hexadecimal_integer(within_lines, match.end() - 2, layout) for match in found):
            return True
    if layout.quoted and b'"' in block:
        opening = rb'(?<![^%s])"' % ends
        whole = opening + rb'(?:[^"\r\n]|"")*"(?![^%s])' % ends
        if re.search(opening, re.sub(whole, b"", block)):
            return True
    return _may_have_a_long_line(block)


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
    """Whether a line is too long, or nearly so: there is no end in half as many bytes."""
    half = LONGEST_LINE // 2
    return any(
        block.find(b"\n", start, start + half) < 0 and block.find(b"\r", start, start + half) < 0
        for start in range(0, len(block) - half, half)
    )


def blocks_of_lines(path: Path, at_once: int | None = None) -> Iterator[bytes]:
    """The content of a file, some whole lines at a time, of so many bytes or some more.

    Raises:
        UserError: the file cannot be read.
    """
    begun = b""
    try:
        with arrow_stream(path) as stream:
            while content := stream.read(at_once or READ_AT_ONCE):
                end = max(content.rfind(b"\n"), content.rfind(b"\r", 0, -1)) + 1  # behind the last \r, \n may come
                if end:
                    yield b"".join((begun, memoryview(content)[:end]))
                    begun = b""
                begun += content[end:]
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
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
    usable, n_usable, unfit = io.BytesIO(), 0, Unfit(path, "line", skip=True)
    for number, line in enumerate(lines(path), start=1):
        is_click = number > layout.has_header
        if is_click and (problem := _line_problem(line, layout)):
            unfit.take(number, problem)
        else:
            usable.write(f"{line}\n".encode("utf-8", "surrogateescape"))
            n_usable += is_click and bool(line)
    if n_usable == 0:
        raise UserError(f"{path} holds no clicks")
    unfit.say()
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
        if name in layout.kinds and (problem := why_unfit(name, value, layout.kinds[name])):
            return problem
    return None

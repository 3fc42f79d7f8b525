"""Click logs as JSON lines: an object per line, which is an event, or a session with its events in a list (OTTO's).

A column is a key; behind dots are keys of what it holds: ``events.aid`` is the ``aid`` of an object ``events``, or of
every object in a list of that name. Such a list makes an event of each of its objects, which has all else of its line.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from clicks.delimited import STREAMED_AT_ONCE, blocks_of_lines, in_arrows_memory, lines
from clicks.logformat import LogFormat
from clicks.textkinds import ColumnKind, excerpt
from clicks.typedcolumns import DOES_NOT_FIT, converted, converted_one_by_one
from clicks.unfit import Unfit
from terminal.errors import UserError

LOOKED_AT = 1000  # lines that tell which columns there are
DEEPEST = 100  # keys: what is behind more is no column
_PARSED_AT_ONCE = 2**22  # bytes, by each core
_TYPES = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def is_json(path: Path, first_line: str) -> bool:
    """Whether a file with such a first line is JSON lines.

    Raises:
        UserError: it is JSON of another kind.
    """
    begun = first_line.removeprefix("\ufeff").strip()
    if begun == "[" or begun.startswith("[{"):
        raise UserError(f"{path} is JSON with all events in one list: write one a line (jq -c '.[]' FILE)")
    return re.match(r"\{\s*(['\"}]|$)", begun) is not None  # a header, too, may begin with a brace


def json_blocks(path: Path, log: LogFormat, skip_bad_lines: bool) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """The columns of the log that make the time, and blocks of all that are to be read, each as its kind has it.

    Raises:
        UserError: the first lines have no such columns, two are within each other, or, while blocks are read, a line
            does not fit.
    """
    found = _columns_of(path, skip_bad_lines)
    of_time, kinds = log.columns_among(list(found), f"{path}, its first lines")
    lists = {found[name].in_list for name in kinds} - {()}
    if len(lists) > 1:
        one, other = (".".join(keys) for keys in sorted(lists)[:2])
        raise UserError(f"{path}: {one} and {other} are two lists: name columns of one of them")
    for name, other in permutations(kinds, 2):
        if found[name].keys == found[other].keys[: len(found[name].keys)]:
            raise UserError(f"{path}: {other} is within {name}, which has no value of its own: name another column")
    events = _Events({name: found[name] for name in kinds}, next(iter(lists), ()))
    return of_time, _blocks(path, kinds, events, Unfit(path, "line", skip_bad_lines))


@dataclass(frozen=True)
class _Column:
    """Where a column is.

    Attributes:
        keys: that lead to it.
        in_list: those that lead to the list that it is within; none if it is within no list.
        type: of its first value that is something; text where there is none.
    """

    keys: tuple[str, ...]
    in_list: tuple[str, ...]
    type: type


def _columns_of(path: Path, skip_bad_lines: bool) -> dict[str, _Column]:
    """The columns that the first lines have, by name."""
    found: dict[str, _Column] = {}
    for number, line in enumerate(islice(lines(path), LOOKED_AT), start=1):
        try:
            record = _object(line) if line.strip() else {}
        except ValueError as error:
            if not skip_bad_lines:
                raise UserError(f"{path}, line {number}: {error}") from error
            continue
        for column in _columns_within(record):
            name = ".".join(column.keys)
            if name not in found or found[name].type is type(None):
                found[name] = column
    return found


def _columns_within(value: Any, keys: tuple[str, ...] = (), in_list: tuple[str, ...] = ()) -> Iterator[_Column]:
    if isinstance(value, dict):
        for key, part in value.items() if len(keys) < DEEPEST else ():
            yield from _columns_within(part, (*keys, key), in_list)
    elif isinstance(value, list) and not in_list:
        for part in value:
            if isinstance(part, dict):
                yield from _columns_within(part, keys, keys)
    else:
        yield _Column(keys, in_list, type(value))


def _object(line: str) -> dict[str, Any]:
    """The object on a line; nothing is an object without anything.

    Raises:
        ValueError: there is none.
    """
    try:
        record = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "a number too long, or lists too deep"
        raise ValueError(f"no JSON object ({why}): {excerpt(line)}, expected one a line (jq -c . FILE)") from error
    if not isinstance(record, dict | None):
        raise ValueError(f"no JSON object: {excerpt(line)}, expected one a line (jq -c . FILE)")
    return record or {}


@dataclass(frozen=True)
class _Events:
    """How lines become events.

    Attributes:
        columns: those that are to be read, by name.
        in_list: the keys that lead to the list of events; none where a line is an event.
    """

    columns: dict[str, _Column]
    in_list: tuple[str, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """The types of the columns and of what they are within, for Arrow."""
        tree: dict[str, Any] = {}
        for column in self.columns.values():
            *way, last = column.keys
            branch = tree
            for key in way:
                branch = branch.setdefault(key, {})
            branch[last] = _TYPES.get(column.type, pa.string())

        def type_of(branch: Any, keys: tuple[str, ...]) -> pa.DataType:
            if not isinstance(branch, dict):
                return branch
            fields = pa.struct([(key, type_of(part, (*keys, key))) for key, part in branch.items()])
            return pa.list_(fields) if keys and keys == self.in_list else fields

        return pa.schema(list(type_of(tree, ())))

    def by_arrow(self, block: bytes) -> dict[str, pa.ChunkedArray]:
        """By column, the values of the events of some lines.

        Raises:
            pa.ArrowException: a line is no object, or has another type somewhere than the first lines.
            ValueError: a line has not one object.
        """
        table = pa.json.read_json(
            in_arrows_memory(block),
            pa.json.ReadOptions(block_size=_PARSED_AT_ONCE),
            pa.json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="ignore"),
        )
        if table.num_rows != sum(1 for line in block.splitlines() if line.strip()):
            raise ValueError("objects are not lines")
        (records,) = table.combine_chunks().to_batches() or [None]
        records = pa.StructArray.from_arrays(records.columns, fields=list(records.schema))
        events = _within(records, self.in_list)
        arrays = {}
        for name, column in self.columns.items():
            if column.in_list:
                array = _within(pc.list_flatten(events), self._keys_in_event(column))
            else:
                array = _within(records, column.keys)
                array = array.take(pc.list_parent_indices(events)) if self.in_list else array
            arrays[name] = pa.chunked_array([array])
        return arrays

    def by_hand(self, line: str) -> dict[str, list[Any]]:
        """By column, the values of a line's events.

        Raises:
            ValueError: the line is no object, or something in it is no object, or no list, where the first lines have
                one.
        """
        record = _object(line)
        events = _value(record, self.in_list) if self.in_list else [{}]
        if not isinstance(events, list | None):
            raise ValueError(f"{'.'.join(self.in_list)} is no list, as it is in the first lines")
        return {
            name: [
                _value(event, self._keys_in_event(column), self.in_list)
                if column.in_list
                else _value(record, column.keys)
                for event in events or []
            ]
            for name, column in self.columns.items()
        }

    def _keys_in_event(self, column: _Column) -> tuple[str, ...]:
        return column.keys[len(self.in_list) :]


def _within(array: pa.StructArray, keys: Sequence[str]) -> pa.Array:
    for key in keys:
        array = pc.struct_field(array, [array.type.get_field_index(key)])
    return array


def _value(within: Any, keys: Sequence[str], way: tuple[str, ...] = ()) -> Any:
    for key in keys:
        if within is None:
            return None
        if not isinstance(within, dict):
            raise ValueError(f"{'.'.join(way)} is no object, as it is in the first lines")
        within, way = within.get(key), (*way, key)
    return within


def _blocks(path: Path, kinds: dict[str, ColumnKind], events: _Events, unfit: Unfit) -> Iterator[dict[str, Any]]:
    n_before = 0
    for content in blocks_of_lines(path, STREAMED_AT_ONCE):
        if content.strip():
            try:
                columns = events.by_arrow(content)
                block = {name: converted(columns[name], kind) for name, kind in kinds.items()}
            except DOES_NOT_FIT:
                block = _line_by_line(content, n_before, kinds, events, unfit)
            yield block
        n_before += content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")
    unfit.say()


def _line_by_line(
    content: bytes, n_before: int, kinds: dict[str, ColumnKind], events: _Events, unfit: Unfit
) -> dict[str, Any]:
    """Some lines without those that do not fit."""
    rows: dict[str, list[Any]] = {name: [] for name in kinds}
    line_of_row: list[int] = []
    no_events: dict[int, str] = {}
    texts = re.split("\r\n|\n|\r", content.decode("utf-8", "surrogateescape"))
    for number, line in enumerate(texts, start=n_before + 1):
        try:
            values = events.by_hand(line) if line.strip() else {}
        except ValueError as error:
            no_events[number] = str(error)
            continue
        for name, of_events in values.items():
            rows[name] += of_events
        line_of_row += [number] * len(next(iter(values.values()), ()))
    block, with_wrong_values = converted_one_by_one(rows, kinds, line_of_row)
    wrong = no_events | with_wrong_values
    for number in sorted(wrong):
        unfit.take(number, wrong[number])
    return block

"""Columns that have types, as those of Parquet files and JSON lines: they hold what the same values as text would.

Arrow converts whole columns. Where a value does not fit, every value is looked at as text, by the rules that hold for
delimited text, too: so a whole number is the same id in whatever form it came.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clicks.integerids import exact_below
from clicks.textkinds import ColumnKind, one_chunk, why_unfit

DOES_NOT_FIT = (pa.ArrowException, ValueError)


def converted(column: pa.ChunkedArray, kind: ColumnKind) -> Any:
    """A column as a kind has it.

    Raises:
        ValueError, pa.ArrowException: a value does not fit, or none of this type does.
    """
    column = decoded(column)
    if not _is_number(kind):
        return kind.convert(_as_text(column))
    if pa.types.is_boolean(column.type):
        raise ValueError("switches are no numbers")
    return kind.convert(column.cast(pa.float64(), safe=False))


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column's values themselves, where it has their numbers in a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_number(kind: ColumnKind) -> bool:
    return pa.types.is_floating(kind.arrow_type)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text in a dictionary: nothing is the empty text, and a whole number has no point."""
    encoded = one_chunk(column).dictionary_encode(null_encoding="encode")
    values = encoded.dictionary
    if pa.types.is_floating(values.type):
        texts = pa.array([value_text(value) for value in values.to_numpy(zero_copy_only=False)], pa.large_string())
    else:
        texts = values.cast(pa.large_string()).fill_null("")
    texts.validate(full=True)  # of text in a file, nobody has looked at the encoding yet
    return pa.chunked_array([pa.DictionaryArray.from_arrays(encoded.indices, texts)])


def value_text(value: Any, is_id: bool = True) -> str:
    """A value as it would stand in a file of text.

    Raises:
        ValueError: there is no such text.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | np.floating):
        if not is_id:
            return str(float(value))
        if abs(value) >= exact_below(type(value)):
            raise ValueError(f"{value}, a number with a point that has lost digits")
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, str | int):
        return str(value)
    raise ValueError("a list" if isinstance(value, list) else "an object")


def converted_one_by_one(
    rows: dict[str, list[Any]], kinds: dict[str, ColumnKind], numbers: Sequence[int]
) -> tuple[dict[str, Any], dict[int, str]]:
    """Columns as kinds have them, without what does not fit.

    Args:
        rows: by column, the value of each row.
        numbers: of each row; those of one number stay together, or none of them does.

    Returns:
        The columns, and what is wrong with each number that they lack.
    """
    wrong: dict[int, str] = {}
    texts = []
    for number, values in zip(numbers, zip(*(rows[name] for name in kinds), strict=True), strict=True):
        text, problem = _as_texts(values, kinds)
        if problem:
            wrong.setdefault(number, problem)
        texts.append(text)
    fitting = [text for number, text in zip(numbers, texts, strict=True) if number not in wrong]
    columns = zip(*fitting, strict=True) if fitting else ((),) * len(kinds)
    return {name: _of_texts(of_name, kinds[name]) for name, of_name in zip(kinds, columns, strict=True)}, wrong


def _as_texts(values: Sequence[Any], kinds: dict[str, ColumnKind]) -> tuple[list[str], str | None]:
    """The values of a row as texts; or what is wrong with the first that does not fit."""
    texts = []
    for (name, kind), value in zip(kinds.items(), values, strict=True):
        try:
            text = value_text(value, is_id=not _is_number(kind))
        except ValueError as error:
            return [], f"{name} is {error}, expected {kind.expected}"
        if problem := why_unfit(name, text, kind):
            return [], problem
        texts.append(text)
    return texts, None


def _of_texts(texts: Sequence[str], kind: ColumnKind) -> Any:
    if _is_number(kind):
        return kind.convert(pa.chunked_array([pa.array(np.array(texts, dtype=np.float64))]))
    return kind.convert(_as_text(pa.chunked_array([pa.array(texts, pa.large_string())])))

"""Ids with leading zeros: 00005 and 5 are two items, so a column that has one such id is text."""

import re
from collections.abc import Iterable


def columns_with_zeros(blocks: Iterable[bytes], places: dict[str, int]) -> set[str]:
    """Those columns of comma separated lines in which an id begins with a zero that a number does not need.

    Args:
        blocks: whole lines, some at a time.
        places: which column each name stands for, from 0.
    """
    value = rb'(?:"(?:[^"\r\n]|"")*"|[^,\r\n]*),'
    begins = {
        name: re.compile(rb"(?:^|[\r\n])(?:%s){%d}[ \t]*-?0[0-9]" % (value, place)) for name, place in places.items()
    }
    found: set[str] = set()
    for block in blocks:
        if any(start in block for start in (b"\n0", b",0", b"-0", b" 0", b"\t0", b"\r0")) or block.startswith(b"0"):
            found |= {name for name in begins.keys() - found if begins[name].search(block)}
        if len(found) == len(begins):
            break
    return found

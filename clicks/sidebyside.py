"""Pieces side by side: worked on by all cores, the results in the order of the pieces and few of them at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

Piece, Result = TypeVar("Piece"), TypeVar("Result")

MOST_AT_ONCE = 8  # pieces: more cores than that wait for the disk


def side_by_side(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
    """The results of work on pieces, which releases Python's lock most of the time.

    As many pieces are being worked on as Arrow has threads; one more result may be waiting for each.
    """
    n_at_once = min(pa.cpu_count(), MOST_AT_ONCE)
    with ThreadPoolExecutor(n_at_once) as pool:
        begun = deque()
        try:
            for piece in pieces:
                begun.append(pool.submit(work, piece))
                if len(begun) > n_at_once:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()

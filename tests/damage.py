"""Random damage, and what every test of it shares: how many cases are tried, and what a refusal looks like.

FUZZ_CASES sets how many cases each test tries; ``make test-long`` tries ten thousand.
"""

import os
import random
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ_CASES = int(os.environ.get("FUZZ_CASES", "200"))
fuzz = settings(max_examples=FUZZ_CASES, deadline=None, suppress_health_check=list(HealthCheck))

fragments = st.sampled_from(
    ["", ",", "\n", "\r\n", "\r", "\x00", "\ufeff", '"', "'", "-", "+", " ", "\t", "Z", "nan", "inf", "1e400", "0x1f"]
    + ["9" * 19, "9" * 30, "-1", "2014-02-30T00:00:00Z", "2014-04-07T24:00:00Z", "٣", "é", "\ud800", ";", "NULL", "1.5"]
    + ["|", ":", '""', "007", '"007"', "\v", "\x1c", "\x85", "\xa0", "\u2028"]
)
edits = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 12), fragments), max_size=4)
DAMAGES = ("flip", "cut", "insert", "zero", "swap")


def damaged(text: str, changes: list[tuple[int, int, str]]) -> bytes:
    """Replace some characters of a text by fragments."""
    for position, length, fragment in changes:
        position %= len(text) + 1
        text = text[:position] + fragment + text[position + length :]
    return text.encode("utf-8", "surrogatepass")


def damaged_bytes(content: bytes, damage: str, seed: int) -> bytes:
    """A content with a bit flipped, its end cut off, bytes inserted, or some replaced by zeros or by the first ones."""
    rng = random.Random(seed)
    hurt = bytearray(content)
    position, length = rng.randrange(len(hurt)), rng.randrange(1, 40)
    if damage == "flip":
        hurt[position] ^= 1 << rng.randrange(8)
    elif damage == "cut":
        del hurt[position:]
    elif damage == "insert":
        hurt[position:position] = rng.randbytes(length)
    elif damage == "zero":
        hurt[position : position + length] = bytes(len(hurt[position : position + length]))
    else:
        hurt[position : position + length] = hurt[: len(hurt[position : position + length])]
    return bytes(hurt)


def one_sentence(error: Exception, path: Path) -> None:
    assert str(path) in str(error)
    assert len(str(error).splitlines()) == 1

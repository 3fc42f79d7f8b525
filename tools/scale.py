"""How fast, and in how much memory, on logs of REES46's shape: 110 million lines in two months, 411 million in all.

The log is made by this script: its columns, the length of its lines, how many users and items it has and how often they
come are like those of REES46, and it has no meaning beyond that. So what is measured is reading, cutting into sessions,
filtering, splitting, writing, and loading again; not accuracy.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from terminal.atomicfile import atomic_write, make_folder

LINES_AT_ONCE = 1_000_000
LINES_A_VISIT, LINES_A_USER, LINES_AN_ITEM = 7, 20, 600
N_VISIT_IDS = 200_000
FIRST_SECOND, N_SECONDS, SECONDS_BETWEEN = 1_569_888_000, 61 * 86_400, 40  # October and November 2019
EVENTS = ("view",) * 63 + ("cart",) * 2 + ("purchase",)
CATEGORIES = ("", "electronics.smartphone", "appliances.kitchen.washer", "computers.notebook", "apparel.shoes")
BRANDS = ("", "samsung", "apple", "xiaomi", "bosch")
HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"


def log_like_rees46(folder: Path, n_lines: int) -> Path:
    """A log of so many lines in the order of time, made where there is none yet."""
    path = make_folder(folder) / f"rees46-{n_lines}.csv"
    if not path.exists():
        print(f"making {path}, {n_lines * 1.33e-7:.0f} GB", flush=True)
        rng = np.random.default_rng(1)
        visit_ids = pa.array([_like_a_uuid(rng) for _ in range(N_VISIT_IDS)])
        with atomic_write(path) as file:
            file.write(f"{HEADER}\n".encode())
            for first in range(0, n_lines, LINES_AT_ONCE):
                table = _lines(rng, first, min(LINES_AT_ONCE, n_lines - first), n_lines, visit_ids)
                pa.csv.write_csv(table, file, pa.csv.WriteOptions(include_header=False, quoting_style="none"))
    return path


def _lines(rng: np.random.Generator, first: int, n: int, n_lines: int, visit_ids: pa.Array) -> pa.Table:
    """The next ``n`` lines: visits of some lines each, which begin at any time of theirs."""
    visit = np.sort(rng.integers(0, n // LINES_A_VISIT + 1, n))
    position = np.arange(n) - np.searchsorted(visit, visit)
    begin = rng.uniform(first, first + n, n)[visit] * (N_SECONDS / n_lines)
    seconds = FIRST_SECOND + begin + position * SECONDS_BETWEEN
    in_time = np.argsort(seconds, kind="stable")
    visit, second = visit[in_time], seconds[in_time].astype(np.int64)
    user = rng.integers(0, n_lines // LINES_A_USER + 1, n)[visit]
    item = ((n_lines // LINES_AN_ITEM + 100) * rng.random(n) ** 3).astype(np.int64)
    moments, of_line = np.unique(second, return_inverse=True)
    texts = pa.compute.strftime(pa.array(moments).cast(pa.timestamp("s")), "%Y-%m-%d %H:%M:%S UTC")
    columns = (
        texts.take(pa.array(of_line)),
        _one_of(EVENTS, rng.integers(0, len(EVENTS), n)),
        1_000_000 + item,
        2_053_013_555_631_882_655 + item % 600,
        _one_of(CATEGORIES, item),
        _one_of(BRANDS, item // 7),
        item % 997 + 0.37,
        512_000_000 + user,
        _one_of(visit_ids, first + visit),
    )
    return pa.table(dict(zip(HEADER.split(","), columns, strict=True)))


def _one_of(values: Sequence[str] | pa.Array, which: np.ndarray) -> pa.Array:
    return pa.array(values).take(pa.array(which % len(values)))


def _like_a_uuid(rng: np.random.Generator) -> str:
    digits = rng.bytes(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

"""Synthetic clicks in YooChoose's raw format, with the structure that a session-based recommender lives on.

* Items lead to items: every item has a few successors, and most clicks go from an item to one of them.
* Popularity is a power law that drifts: an item has its best day and fades around it.
* Sessions are as long as YooChoose's after the paper's filters: 3.97 clicks on average, two at least, a long tail.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from clicks.clickfile import DAY, RAW_COLUMNS, Clicks
from terminal.atomicfile import atomic_write

FIRST_DAY = 1_396_310_400_000  # 2014-04-01, where YooChoose begins, in milliseconds
FIRST_ITEM_ID = 214_500_000
N_SUCCESSORS = 8
FOLLOW, GO_BACK = 0.65, 0.12  # a click follows the item graph, or repeats an item of its session; else it is popular


def synthetic_clicks(n_sessions: int, n_items: int, n_days: int, seed: int) -> Clicks:
    """Draw ``n_sessions`` sessions over ``n_items`` items (see the top of this file), session by session.

    All sessions advance together, a click at a time, so that the cost is a handful of array operations per click.
    """
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, n_items + 1) ** 0.9
    best_day = rng.uniform(-n_days / 2, 1.5 * n_days, n_items)
    daily = popularity * np.exp(-0.5 * ((np.arange(n_days)[:, None] - best_day) / (n_days / 2)) ** 2)
    daily = np.cumsum(daily, axis=1)
    daily /= daily[:, -1:]
    leads_to = np.cumsum(popularity**0.3)  # flatter than popularity, or a few items would follow every other
    successors = np.searchsorted(leads_to / leads_to[-1], rng.random((n_items, N_SUCCESSORS))).astype(np.int32)
    preference = np.cumsum(1.0 / np.arange(1, N_SUCCESSORS + 1))
    preference /= preference[-1]

    lengths = _session_lengths(rng, n_sessions)
    day = rng.integers(0, n_days, n_sessions)

    def popular_items(sessions: np.ndarray) -> np.ndarray:
        drawn = np.empty(len(sessions), dtype=np.int32)
        for today in range(n_days):
            here = np.flatnonzero(day[sessions] == today)
            drawn[here] = np.searchsorted(daily[today], rng.random(len(here)))
        return drawn

    alive = np.arange(n_sessions)
    first = current = popular_items(alive)
    now = FIRST_DAY + day * DAY + rng.integers(0, DAY - 3_600_000, n_sessions)
    sessions, items, times = [alive], [current], [now]
    for position in range(1, int(lengths.max())):
        stay = lengths[alive] > position
        alive, first, current, now = alive[stay], first[stay], current[stay], now[stay]
        choice = rng.random(len(alive))
        follow, go_back = choice < FOLLOW, (choice >= FOLLOW) & (choice < FOLLOW + GO_BACK)
        following = successors[current, np.searchsorted(preference, rng.random(len(alive)))]
        wander = np.flatnonzero(~follow & ~go_back)
        current = np.where(follow, following, first)
        current[wander] = popular_items(alive[wander])
        now = now + 1000 + rng.exponential(90_000, len(alive)).astype(np.int64)
        sessions.append(alive)
        items.append(current)
        times.append(now)

    ids = np.sort(rng.choice(3 * n_sessions, n_sessions, replace=False)) + 1  # ids have gaps and tell no time
    return Clicks(
        session=ids[np.concatenate(sessions)],
        item=np.concatenate(items).astype(np.int64) + FIRST_ITEM_ID,
        time=np.concatenate(times),
    ).sorted()


def _session_lengths(rng: np.random.Generator, n_sessions: int) -> np.ndarray:
    """Lengths of at least 2 and at most 200 clicks: mean 3.97 ([1]: 31,637,239 clicks in 7,966,257 sessions)."""
    lengths = np.arange(2, 201)
    weights = (lengths + 3.0) ** -3.88
    return rng.choice(lengths, n_sessions, p=weights / weights.sum())


def write_raw_clicks(path: Path, clicks: Clicks) -> None:
    """Write clicks in the raw format of :mod:`clicks.clickfile`, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    seconds = pa.compute.strftime(pa.array(clicks.time).cast(pa.timestamp("ms")), "%Y-%m-%dT%H:%M:%S")
    timestamp = pa.compute.binary_join_element_wise(seconds, "Z", "")
    category = pa.array(np.zeros(len(clicks), dtype=np.int8))
    table = pa.table(dict(zip(RAW_COLUMNS, (clicks.session, timestamp, clicks.item, category), strict=True)))
    with atomic_write(path) as file:
        pa.csv.write_csv(table, file, pa.csv.WriteOptions(include_header=False, quoting_style="none"))

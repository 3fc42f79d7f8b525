"""How long one click of a live session and its twenty recommendations take."""

import statistics
import time

import numpy as np
import torch

from clicks.itemindex import ItemIndex
from model import GRU4Rec
from recommend import Recommender
from serving.livesession import LiveSession

HIDDEN_SIZES = (100, 512)
N_CLICKS, N_UNCOUNTED = 500, 50  # of a run; the first ones find caches and hash tables empty


def benchmark_session(n_items: int, n_runs: int) -> None:
    """Milliseconds from a click's id to twenty ids with scores, on one core of the CPU: median and 90th percentile."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for hidden_size in HIDDEN_SIZES:
        model = GRU4Rec(n_items, hidden_size=hidden_size, constrained_embedding=True)
        session = Recommender(model, ItemIndex(np.arange(n_items))).session()
        clicks = np.random.default_rng(0).integers(0, n_items, (n_runs, N_CLICKS)).tolist()
        milliseconds = [1e3 * each for run in clicks for each in _seconds_of_clicks(session, run)[N_UNCOUNTED:]]
        p90 = np.percentile(milliseconds, 90)
        print(
            f"session: a click and its twenty of {n_items:,} items with {hidden_size} units on one core: "
            f"{statistics.median(milliseconds):.2f} ms, p90 {p90:.2f} ms",
            flush=True,
        )
    torch.set_num_threads(n_threads)


def _seconds_of_clicks(session: LiveSession, items: list[int]) -> list[float]:
    seconds = []
    for item in items:
        began = time.perf_counter()
        session.click(item)
        session.recommend(20)
        seconds.append(time.perf_counter() - began)
    return seconds

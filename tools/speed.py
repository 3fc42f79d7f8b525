"""How fast training, evaluation and recommending are in this process, on data of YooChoose's size made on the spot."""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch

from clicks.itemindex import ItemIndex
from clicks.synthetic import FIRST_ITEM_ID, synthetic_clicks
from dataset import Block, MiniBatch, Sessions
from evaluation import rank_by_model
from model import GRU4Rec
from recommend import Recommender, write_recommendations
from runs.parameters import parse_flags, training_parameters
from runs.presets import PRESETS
from runs.trainingdata import TrainingData
from runs.trainingrun import TrainingRun
from training import EpochProgress, Feed

N_ITEMS = 37_483


def sessions_like_yoochoose(n_sessions: int, n_items: int = N_ITEMS) -> Sessions:
    """Synthetic sessions over all items, each of which occurs."""
    clicks = synthetic_clicks(n_sessions, n_items, n_days=5, seed=1)
    lengths = np.unique(clicks.session, return_counts=True)[1]
    every_item = np.arange(n_items - n_items % 2).reshape(-1, 2)
    items = np.concatenate((clicks.item - FIRST_ITEM_ID, every_item.ravel(), [0, n_items - 1]))
    lengths = np.concatenate((lengths, np.full(len(every_item) + 1, 2)))
    return Sessions(items.astype(np.int32), np.concatenate(([0], np.cumsum(lengths))))


def repeated(sessions: Sessions, times: int) -> Sessions:
    """The same sessions again and again."""
    lengths = np.tile(np.diff(sessions.offsets), times)
    return Sessions(np.tile(sessions.items, times), np.concatenate(([0], np.cumsum(lengths))))


def medians(run: Callable[[], float], n_runs: int) -> float:
    """The median of what ``run`` returns, the first time not counted."""
    run()
    return statistics.median(run() for _ in range(n_runs))


class FirstBlocks:
    """The first steps of an epoch, as something that :func:`training.train_epoch` takes.

    Args:
        feed: of the whole epoch.
        n_blocks: how many blocks are taken at most.
        seconds: after which no further block is.
    """

    def __init__(self, feed: Feed, n_blocks: int, seconds: float = float("inf")):
        self.feed, self.n_blocks, self.seconds = feed, n_blocks, seconds
        self.n_lanes, self.bptt = feed.n_lanes, feed.bptt

    def blocks(self, epoch: int, from_step: int) -> Iterator[tuple[Block, Iterator[MiniBatch]]]:
        end = time.perf_counter() + self.seconds
        blocks = itertools.islice(self.feed.blocks(epoch, from_step), self.n_blocks)
        return itertools.takewhile(lambda block: time.perf_counter() < end, blocks)


def training_run(
    preset: str, sessions: Sessions, device: torch.device, compilation: str, further_flags: str = ""
) -> TrainingRun:
    """A run of one epoch of a published setting, to be trained."""
    flags = parse_flags([*PRESETS[preset].flags.split(), *further_flags.split()])
    p = argparse.Namespace(
        **vars(training_parameters(flags)) | {"compile": compilation, "device": str(device), "n_epochs": 1}
    )
    support = sessions.support(int(sessions.items.max()) + 1)
    data = TrainingData(ItemIndex(np.arange(len(support))), sessions, torch.from_numpy(support), sessions)
    return TrainingRun(p, data=data)


def steps_per_second(training: TrainingRun, n_runs: int) -> float:
    """The median over runs of the same first steps of an epoch, everything but evaluation included."""
    n_blocks = 10 if training.device.type == "cuda" else 2  # so many that the layout of the first one does not count
    training.feed = FirstBlocks(training.feed, n_blocks)

    def run() -> float:
        training.progress = EpochProgress(0)
        training.train_epoch()
        return training.progress.step / training.progress.seconds

    return medians(run, n_runs)


def next_clicks_per_second(model: GRU4Rec, sessions: Sessions, n_runs: int) -> float:
    """How many next clicks of the sessions are ranked in a second, scores included."""

    def run() -> float:
        began = time.perf_counter()
        ranks = rank_by_model(model, sessions)
        ranks.sum().item()
        return len(ranks) / (time.perf_counter() - began)

    return medians(run, n_runs)


def sessions_per_second(model: GRU4Rec, n_sessions: int, n_runs: int) -> float:
    """How many sessions of a file get twenty recommendations in a second, from file to file."""
    n_items = len(model.output_bias)
    clicks = synthetic_clicks(n_sessions, n_items, n_days=5, seed=2)
    recommender = Recommender(model, ItemIndex(FIRST_ITEM_ID + np.arange(n_items)))
    with tempfile.TemporaryDirectory() as folder:
        sessions, output = Path(folder) / "sessions.csv", Path(folder) / "recommendations.csv"
        columns = {"SessionID": clicks.session, "ItemID": clicks.item}
        pa.csv.write_csv(pa.table(columns), sessions)

        def run() -> float:
            began = time.perf_counter()
            write_recommendations(recommender, sessions, output, k=20, exclude_seen=False)
            return n_sessions / (time.perf_counter() - began)

        return medians(run, n_runs)

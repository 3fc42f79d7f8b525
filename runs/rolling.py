"""Rolling evaluation: day after day, models that grow, that stay, and that are made anew are ranked on the next day.

A day is a window of some hours, counted back from the last click, and a session belongs to the one in which it ends.
All models are ranked on the same next clicks, among all items of the days so far. A model that stays gives no score to
items that came after it, which are misses, and passes over clicks on them, as ``recommend.py`` does.
"""

import copy
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clicks.clickfile import Clicks, concatenated, session_offsets
from clicks.itemindex import ItemIndex
from dataset import Sessions, Step, encode_sessions, read_session_clicks
from evaluation import rank_next_clicks, rows_at_once, scores_of
from model import GRU4Rec, score
from runs.growing import grown, grown_parameters
from runs.trainingdata import TrainingData
from runs.trainingrun import TrainingRun
from terminal.errors import UserError
from training import EpochProgress

STAYS, GROWS, ANEW = "stays", "grows", "anew"
HOUR = 3_600_000  # in milliseconds


@dataclass(frozen=True)
class Ranked:
    """A model on a day.

    Attributes:
        day: the number of the last day that the models could know, from 1.
        model: one of ``STAYS``, ``GROWS`` and ``ANEW``.
        ranks: ``[n_next_clicks]`` float64, of the next clicks of the day after; infinite for a miss.
        sessions: these clicks.
        seconds: that training took on this day.
        n_items: that the model knows.
    """

    day: int
    model: str
    ranks: Tensor
    sessions: Sessions
    seconds: float
    n_items: int


def read_days(paths: list[Path], n_days: int, hours: float) -> list[Clicks]:
    """The clicks of files by days: those before all days, then so many days, and one more to evaluate on.

    Raises:
        UserError: a file is unusable, or there is a day without sessions, or nothing before the days.
    """
    clicks = concatenated([read_session_clicks(path) for path in paths]).sorted()
    day_of = days_of_clicks(clicks, n_days + 1, hours)
    days = [clicks.select(np.flatnonzero(day_of == day)) for day in range(n_days + 2)]
    for day, each in enumerate(days):
        if len(each) == 0:
            where = f"no session ends in day {day}" if day else "nothing is left before the first day"
            raise UserError(f"{where} of {n_days + 1} of {hours:g} hours, counted back: lower --days or --hours")
    return days


def days_of_clicks(clicks: Clicks, n_days: int, hours: float) -> np.ndarray:
    """The day in which each click's session ends, from 1 to ``n_days``; 0 where that is before: ``[n_clicks]``."""
    offsets = session_offsets(clicks.session)
    ends = clicks.time[offsets[1:] - 1]
    days = np.maximum(n_days - (ends.max() - ends) // int(hours * HOUR), 0)
    return np.repeat(days, np.diff(offsets))


def roll(days: list[Clicks], parameters: Namespace, growing: dict[str, Any]) -> Iterator[Ranked]:
    """Train on what came before the days; then, day by day, go on in three ways and rank the next day.

    Args:
        days: of :func:`read_days`.
        parameters: of the models.
        growing: flags of ``main.py`` for the one that grows.

    Raises:
        UserError: parameters and clicks do not fit together.
        Diverged: a step's loss is NaN or infinite.
    """
    stays, seconds = trained(parameters, data_of(days[0], ItemIndex.of(days[0]), parameters))
    grows, first_seconds, checkpoint = stays, seconds, ended(stays)
    for day in range(1, len(days) - 1):
        data = data_of(days[day], grows.index.with_items_of(days[day]), parameters)
        p = grown_parameters(checkpoint, checkpoint["parameters"], growing, Path(f"day {day - 1}"))
        grows, growing_seconds = trained(p, data, grown(checkpoint, p, data, Path(f"day {day - 1}")))
        checkpoint = ended(grows)  # before others draw random numbers
        so_far = concatenated(days[: day + 1]).sorted()
        index = ItemIndex.of(so_far)
        anew, anew_seconds = trained(parameters, data_of(so_far, index, parameters))
        sessions, _ = encode_sessions(days[day + 1], index, with_ids=True)
        if len(sessions) == 0:
            raise UserError(f"day {day + 1} has no session on the items before it: raise --hours")
        stays_seconds = first_seconds if day == 1 else 0.0
        for name, run, seconds in (
            (STAYS, stays, stays_seconds),
            (GROWS, grows, growing_seconds),
            (ANEW, anew, anew_seconds),
        ):
            ranks = ranks_among(run.model, run.index, index, sessions)
            yield Ranked(day, name, ranks, sessions, seconds, len(run.index))


def data_of(clicks: Clicks, index: ItemIndex, parameters: Namespace) -> TrainingData:
    """Clicks as training takes them, without any to evaluate on."""
    sessions, _ = encode_sessions(clicks, index, parameters.time_sort)
    return TrainingData(index, sessions, torch.from_numpy(np.maximum(sessions.support(len(index)), 1)), None)


def trained(
    parameters: Namespace, data: TrainingData, checkpoint: dict[str, Any] | None = None
) -> tuple[TrainingRun, float]:
    """A run at its end, and how many seconds training took. Nothing is written."""
    run = TrainingRun(Namespace(**vars(parameters)), checkpoint, data)
    began = time.perf_counter()
    for epoch in range(run.progress.epoch, parameters.n_epochs):
        run.progress = EpochProgress(epoch)
        run.train_epoch()
    return run, time.perf_counter() - began


def ended(run: TrainingRun) -> dict[str, Any]:
    """A copy of what a run has become, as its checkpoint would be read from a file."""
    return copy.deepcopy(run.checkpoint(run.parameters.n_epochs - 1, None))


def ranks_among(model: GRU4Rec, known: ItemIndex, index: ItemIndex, sessions: Sessions) -> Tensor:
    """Ranks of the next clicks of sessions among the items of an index, by a model that may know some of them only.

    Returns:
        ``[n_next_clicks]`` float64, on the CPU.
    """
    device = model.output_bias.device
    row_of = torch.from_numpy(known.encode(index.ids).astype(np.int64)).to(device)
    has_score = row_of >= 0
    n_lanes = min(rows_at_once(len(index), device), len(sessions))
    hidden, has_begun = model.initial_hidden(n_lanes), torch.zeros(n_lanes, dtype=torch.bool, device=device)

    def score_step(step: Step) -> Tensor:
        rows = row_of[step.inputs]
        is_known = rows >= 0
        before = hidden[:, step.lanes].masked_fill(step.starts[:, None], 0)
        fed = model.feed(rows.clamp(min=0), before, torch.zeros_like(step.starts))
        now = torch.where(is_known[:, None], fed, before)
        hidden[:, step.lanes] = now
        has_begun[step.lanes] = begun = is_known | (has_begun[step.lanes] & ~step.starts)
        own = score(now[-1], model.output_embedding, model.output_bias)
        scores = own.new_full((len(own), len(index)), -torch.inf)
        scores[:, has_score] = own[:, row_of[has_score]]
        return scores.masked_fill_(~begun[:, None], -torch.inf)

    with scores_of(model, n_lanes):  # in the mode of evaluation, without gradients
        return rank_next_clicks(score_step, sessions, "standard", device, n_lanes).cpu()

"""Recommenders compared on the same next clicks: their figures, the differences, and how sure each of them is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from comparison.bootstrap import holm, interval, p_value, resampled_sums
from comparison.groups import ALL, Group, groups_of, session_starts
from comparison.ranksfile import RankedClicks, read_ranks
from evaluation import GAINS, gains_of_ranks
from terminal.errors import UserError, warn

LEAST_SESSIONS = 30  # fewer say too little of those that were not seen: no interval
Runs = dict[str, list[RankedClicks]]  # name of a recommender to its runs with different seeds, of the same next clicks


@dataclass(frozen=True)
class Estimate:
    """A figure of a recommender, or the difference of two, on all next clicks or a group of them.

    Attributes:
        by, group: the group, see :class:`comparison.groups.Group`.
        n_next_clicks: of the group.
        n_sessions: that have some of them.
        metric: recall, mrr or ndcg.
        k: its cutoff.
        name: whose figure it is.
        minus: the one whose figure is subtracted; empty for a figure itself.
        value: the figure, the mean over the recommender's runs; or the difference.
        low, high: its interval, not a number where there are too few sessions.
        seeds: standard deviation over the runs of a recommender; not a number for one run, or a difference.
        p: p value of a difference on all next clicks, else not a number.
        p_holm: corrected for all differences of this metric and cutoff.
    """

    by: str
    group: str
    n_next_clicks: int
    n_sessions: int
    metric: str
    k: int
    name: str
    minus: str
    value: float
    low: float
    high: float
    seeds: float = np.nan
    p: float = np.nan
    p_holm: float = np.nan


def read_runs(files: Sequence[tuple[str, Path]]) -> Runs:
    """Read ranks files; those of one name are runs of one recommender with different seeds.

    Args:
        files: name and path; an empty name stands for the one that the file gives itself, or its path's. A file that
            is there twice counts once.

    Raises:
        UserError: a file is unusable, or of other next clicks than the first, or two of a name are no repetitions.
    """
    runs: Runs = {}
    path_of: dict[tuple[str, int | None], Path] = {}
    first = None
    for given_name, path in dict.fromkeys(files):
        ranked = read_ranks(path)
        ranked = in_canonical_order(replace(ranked, name=given_name or ranked.name or path.stem))
        first = first or (path, ranked)
        _refuse_other_next_clicks(path, ranked, *first)
        _warn_of_other_circumstances(path, ranked, *first)
        same = path_of.setdefault((ranked.name, ranked.seed), path)
        if same != path and not (
            given_name and ranked.seed is None
        ):  # where the file tells no seed, the name is enough
            seed = "without a seed" if ranked.seed is None else f"with seed {ranked.seed}"
            raise UserError(
                f"{same} and {path} are both {ranked.name} {seed}, so they are no repetitions: name them, A=FILE B=FILE"
            )
        runs.setdefault(ranked.name, []).append(ranked)
    return runs


def in_canonical_order(ranked: RankedClicks) -> RankedClicks:
    """The sessions in the order of their ids."""
    order = np.argsort(ranked.session, kind="stable")
    names = ("session", "position", "item", "target", "rank", "support")
    return replace(ranked, **{name: getattr(ranked, name)[order] for name in names})


def _refuse_other_next_clicks(path: Path, ranked: RankedClicks, first_path: Path, first: RankedClicks) -> None:
    if len(ranked) != len(first):
        difference = f"{len(ranked):,} and {len(first):,} of them"
    else:
        is_other = np.zeros(len(ranked), dtype=np.bool_)
        for name in ("session", "position", "item", "target"):
            is_other |= getattr(ranked, name) != getattr(first, name)
        if not is_other.any():
            return
        row = is_other.argmax()
        session, other = (each.session[row] for each in (ranked, first))
        where = f"session {session}" if session == other else f"session {session} of one is not in the other, or is"
        difference = f"{where}, position {ranked.position[row]}, for example"
    raise UserError(
        f"{path} and {first_path} do not rank the same next clicks ({difference}): evaluate both on the same file, "
        "trained on the same items"
    )


def _warn_of_other_circumstances(path: Path, ranked: RankedClicks, first_path: Path, first: RankedClicks) -> None:
    """Say what makes a comparison one of more than two recommenders."""
    if ranked.tie_breaking != first.tie_breaking:
        warn(f"{path} breaks ties by {ranked.tie_breaking}, {first_path} by {first.tie_breaking}: see --tie_breaking")
    if ranked.n_items != first.n_items or not np.array_equal(ranked.support, first.support):
        warn(f"{path} and {first_path} were trained on different clicks; popularity is that of {first_path}")


def compare(runs: Runs, ks: Sequence[int], all_pairs: bool, n_draws: int, seed: int) -> list[Estimate]:
    """Figures of all recommenders and their differences, on all next clicks and by groups, see :class:`Estimate`.

    Args:
        runs: by name; a recommender counts at every next click with the mean over its runs.
        ks: cutoffs.
        all_pairs: subtract each from each later one; else the first from each other one.
        n_draws: of the bootstrap over sessions.
        seed: of the draws.

    Raises:
        UserError: there are too few sessions.
    """
    some = next(iter(runs.values()))[0]
    starts = session_starts(some)
    if len(starts) < LEAST_SESSIONS:
        raise UserError(f"{len(starts)} sessions are too few to say anything of others: {LEAST_SESSIONS} at least")
    pairs = list(combinations(runs, 2)) if all_pairs else [(next(iter(runs)), name) for name in list(runs)[1:]]
    figures = [(metric, k) for k in ks for metric in GAINS]
    counted = [
        np.array([[gains(metric, each, k) for metric, k in figures] for each in repeated]) for repeated in runs.values()
    ]
    groups = groups_of(some)
    sums = _sums_by_session(groups, np.array([each.mean(axis=0) for each in counted]), starts)
    n_sessions = (sums[:, :, 0] > 0).sum(axis=0)
    (observed,) = _means(sums.sum(axis=0, keepdims=True), len(runs))
    drawn = _means(resampled_sums(sums.reshape(len(sums), -1), n_draws, seed).reshape(-1, *sums.shape[1:]), len(runs))

    estimates = []
    for f, (metric, k) in enumerate(figures):
        for g, group in enumerate(groups):
            in_group = _Group(group, int(n_sessions[g]), metric, k, observed[g, :, f], drawn[:, g, :, f])
            deviations = [_deviation(each[:, f, group.mask].mean(axis=1)) for each in counted]
            estimates += in_group.figures(list(runs), deviations) + in_group.differences(list(runs), pairs)
    return estimates


def gains(metric: str, ranked: RankedClicks, k: int) -> np.ndarray:
    """What each next click counts in a metric."""
    return gains_of_ranks(metric, torch.from_numpy(ranked.rank), k).numpy()


def _sums_by_session(groups: list[Group], values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """What is resampled: the sums of the next clicks of each session, group by group.

    Args:
        groups: G of them.
        values: ``[N, F, n_next_clicks]`` of N recommenders in F figures.
        starts: the first next click of each session.

    Returns:
        ``[n_sessions, G, 1 + N * F]``: how many next clicks of the session are in the group, and their values.
    """
    columns = np.concatenate((np.ones((1, values.shape[2])), values.reshape(-1, values.shape[2])))
    return np.stack([np.add.reduceat(columns * group.mask, starts, axis=1).T for group in groups], axis=1)


def _means(sums: np.ndarray, n_recommenders: int) -> np.ndarray:
    """The means ``[…, G, N, F]`` of what :func:`_sums_by_session` summed; not a number where there is nothing."""
    with np.errstate(invalid="ignore"):
        means = sums[..., 1:] / sums[..., :1]
    return means.reshape(*means.shape[:-1], n_recommenders, -1)


def _deviation(means: np.ndarray) -> float:
    return float(np.std(means, ddof=1)) if len(means) > 1 else np.nan


@dataclass(frozen=True)
class _Group:
    """A group's next clicks in one figure, observed ``[N]`` and drawn ``[n_draws, N]``."""

    group: Group
    n_sessions: int
    metric: str
    k: int
    observed: np.ndarray
    drawn: np.ndarray

    def figures(self, names: list[str], deviations: list[float]) -> list[Estimate]:
        return [
            self._estimate(self.observed[column], self.drawn[:, column], name=name, seeds=deviation)
            for column, (name, deviation) in enumerate(zip(names, deviations, strict=True))
        ]

    def differences(self, names: list[str], pairs: list[tuple[str, str]]) -> list[Estimate]:
        result = []
        for minus, name in pairs:
            column, other = names.index(name), names.index(minus)
            draws = self.drawn[:, column] - self.drawn[:, other]
            p = float(p_value(draws)) if self.group.by == ALL else np.nan
            value = self.observed[column] - self.observed[other]
            result.append(self._estimate(value, draws, name=name, minus=minus, p=p))
        if self.group.by == ALL:
            corrected = holm([each.p for each in result])
            result = [replace(each, p_holm=p) for each, p in zip(result, corrected, strict=True)]
        return result

    def _estimate(self, value: float, draws: np.ndarray, name: str, minus: str = "", **others: float) -> Estimate:
        by, label, mask = self.group
        low, high = interval(draws) if self.n_sessions >= LEAST_SESSIONS else (np.nan, np.nan)
        ends = float(low), float(high)
        where = by, label, int(mask.sum()), self.n_sessions
        return Estimate(*where, self.metric, self.k, name, minus, float(value), *ends, **others)


def as_rows(estimates: Sequence[Estimate]) -> list[dict[str, object]]:
    """Estimates as rows of a CSV file; what is not a number is empty."""
    return [{name: "" if value != value else value for name, value in asdict(each).items()} for each in estimates]

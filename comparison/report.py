"""A comparison as a person reads it: Markdown tables, and a picture."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from math import isnan, nan
from typing import TYPE_CHECKING

from comparison.bootstrap import LEVEL
from comparison.compare import LEAST_SESSIONS, Estimate, Runs
from comparison.groups import ALL
from evaluation import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = 10  # that matplotlib tells apart


def report(runs: Runs, estimates: Sequence[Estimate], n_draws: int) -> str:
    """All tables with what must be known to read them.

    Args:
        runs: what was compared, by name.
        estimates: what :func:`comparison.compare.compare` gave of them.
        n_draws: of the bootstrap.
    """
    whole = [each for each in estimates if each.by == ALL]
    differences = [each for each in whole if each.minus]
    parts = [_what_the_intervals_are(runs, whole[0], n_draws), _table_of_figures(runs, whole)]
    if differences:
        parts += [_what_p_is(differences), _table_of_differences(differences)]
    parts += [_table_of_groups(list(each)) for _, each in groupby(estimates, _figure)]
    return "\n\n".join(parts) + "\n"


def _what_the_intervals_are(runs: Runs, some: Estimate, n_draws: int) -> str:
    text = (
        f"{some.n_next_clicks:,} next clicks of {some.n_sessions:,} sessions. In brackets, {100 * LEVEL:g} % intervals "
        f"of {n_draws:,} bootstrap draws of the sessions: how far the figures hang on which sessions these are."
    )
    if any(len(repeated) > 1 for repeated in runs.values()):
        text += (
            " Where there are several runs, a next click counts with its mean over them, and the intervals are those "
            "of the mean of these very runs. What another training would give is not in them: ± is the standard "
            "deviation over the runs."
        )
    return text


def _what_p_is(differences: list[Estimate]) -> str:
    text = "Differences on the same sessions; p: how often one as far from zero would show where there is none"
    n_each = len(_by_pair(differences))
    return text + (f", corrected (Holm) for {n_each} of each figure." if n_each > 1 else ".")


def _figure(estimate: Estimate) -> str:
    """What a figure is called: Recall@20."""
    return f"{METRICS[estimate.metric]}@{estimate.k}"


def _table_of_figures(runs: Runs, whole: list[Estimate]) -> str:
    own = [each for each in whole if not each.minus]
    rows = [
        [name, str(len(repeated)), *(_value(each) for each in own if each.name == name)]
        for name, repeated in runs.items()
    ]
    return _table(["", "runs", *dict.fromkeys(map(_figure, own))], rows)


def _table_of_differences(differences: list[Estimate]) -> str:
    rows = [
        [_name(name, minus), *(cell for each in of_pair for cell in (_value(each), f"{each.p_holm:.4f}"))]
        for (name, minus), of_pair in _by_pair(differences).items()
    ]
    figures = dict.fromkeys(map(_figure, differences))
    return _table(["", *(cell for figure in figures for cell in (figure, "p"))], rows)


def _table_of_groups(estimates: list[Estimate]) -> str:
    """A figure by groups: of the first recommender where there are differences to show beside it, else of each."""
    pairs = [key for key in _by_pair(estimates) if key[1]]
    names = dict.fromkeys(each.name for each in estimates if not each.minus)
    shown = [(name, "") for name in (list(names)[:1] if pairs else names)] + pairs
    header = [_figure(estimates[0]), "", "next clicks", *(_name(*key) for key in shown)]
    rows, before = [], None
    for (by, label), of_group in groupby(estimates, lambda each: (each.by, each.group)):
        value_of = {(each.name, each.minus): each for each in of_group}
        n_next_clicks = next(iter(value_of.values())).n_next_clicks
        values = (_value(replace(value_of[key], seeds=nan)) for key in shown)
        rows.append([by if by != before else "", label, f"{n_next_clicks:,}", *values])
        before = by
    return _table(header, rows)


def _by_pair(estimates: Iterable[Estimate]) -> dict[tuple[str, str], list[Estimate]]:
    result: dict[tuple[str, str], list[Estimate]] = {}
    for each in estimates:
        result.setdefault((each.name, each.minus), []).append(each)
    return result


def _name(name: str, minus: str) -> str:
    return f"{name} − {minus}" if minus else name


def _value(estimate: Estimate) -> str:
    """``0.5594 [0.5484, 0.5703] ± 0.0022``; a difference with its sign, and nothing that is not there."""
    shape = "+.4f" if estimate.minus else ".4f"
    numbers = [format(round(number, 4) + 0.0, shape) for number in (estimate.value, estimate.low, estimate.high)]
    text = numbers[0]
    if estimate.n_sessions >= LEAST_SESSIONS:
        text += f" [{numbers[1]}, {numbers[2]}]"
    return text + ("" if isnan(estimate.seeds) else f" ± {estimate.seeds:.4f}")


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns stand below each other in a terminal, too."""
    cells = [[cell.replace("|", "/") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def picture(estimates: Sequence[Estimate]) -> "Figure":
    """The figures of all recommenders above; below their differences, on all next clicks and by groups.

    Of several cutoffs, the first is drawn.
    """
    from matplotlib.figure import Figure

    drawn = [each for each in estimates if each.k == estimates[0].k]
    titles = list(dict.fromkeys(map(_figure, drawn)))
    own = [each for each in drawn if each.by == ALL and not each.minus]
    differences = [each for each in drawn if each.minus]
    n_names, n_pairs = (len(_by_pair(some)) for some in (own, differences))
    places = list(dict.fromkeys((each.by, each.group) for each in differences))
    heights = [0.5 + 0.3 * n_names, *([0.5 + (0.15 + 0.1 * n_pairs) * len(places)] if places else [])]
    figure = Figure(figsize=(4.5 * len(titles), 1 + sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), len(titles), sharey="row", squeeze=False, height_ratios=heights)
    for column, title in enumerate(titles):
        of_figure = [each for each in own if _figure(each) == title]
        _draw_intervals(grid[0, column], of_figure, [each.name for each in of_figure], "C0")
        grid[0, column].set_title(title)
        for number, ((name, minus), of_pair) in enumerate(_by_pair(differences).items()):
            of_figure = [each for each in of_pair if _figure(each) == title]
            labels = [": ".join(filter(None, (each.by, each.group))) for each in of_figure]
            shift = 0.6 * ((number + 0.5) / n_pairs - 0.5)
            label = _name(name, minus)
            _draw_intervals(grid[1, column], of_figure, labels, f"C{number % COLORS}", shift, label)
    if places:
        for axes in grid[1]:
            axes.axvline(0, color="black", linewidth=0.8)
        figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    for row in grid:
        bottom, top = row[0].get_ylim()
        row[0].set_ylim(top + 0.3, bottom - 0.3)
    return figure


def _draw_intervals(
    axes: "Axes", estimates: list[Estimate], labels: list[str], color: str, shift: float = 0.0, label: str = ""
) -> None:
    """A dot with its interval a line; where there is no interval, a dot alone."""
    heights = [row + shift for row in range(len(estimates))]
    values = [each.value for each in estimates]
    axes.plot(values, heights, "o", markersize=4, color=color, label=label or None)
    axes.hlines(heights, [each.low for each in estimates], [each.high for each in estimates], color=color)
    axes.set_yticks(range(len(estimates)), labels)
    axes.grid(axis="x", alpha=0.3)

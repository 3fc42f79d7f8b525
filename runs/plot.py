"""Pictures of figures: the learning curves of runs, and the bars of a table. They need matplotlib.

Every run draws its own, ``metrics.png``, where matplotlib is installed. It is imported when a picture is drawn, and
without its global state (pyplot): a process that draws nothing pays nothing, and no display is needed.
"""

import io
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation import METRICS
from terminal.atomicfile import atomic_write
from terminal.errors import UserError, warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = list[dict[str, Any]]  # a row of metrics.csv per epoch
CURVES = {"train_loss": "training loss"} | METRICS  # columns of metrics.csv, without @K, to titles
LINE_STYLES = ("-", "--", ":", "-.")
NOT_INSTALLED = "matplotlib is not installed: pip install matplotlib"


def learning_curves(runs: dict[str, History]) -> "Figure":
    """The loss and every metric by epoch: a color per run, a line style per K.

    Args:
        runs: the history of each run, an epoch at least, by what the legend calls it.
    """
    from matplotlib.figure import Figure

    columns = dict.fromkeys(column for history in runs.values() for column in history[0])
    cutoffs = list(dict.fromkeys(column.partition("@")[2] for column in columns if "@" in column))
    curves = {name: title for name, title in CURVES.items() if any(c.partition("@")[0] == name for c in columns)}
    figure = Figure(figsize=(4 * len(curves), 3.8), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for number, (run, history) in enumerate(runs.items()):
            for column in (column for column in history[0] if column.partition("@")[0] == name):
                k = column.partition("@")[2]
                rows = [row for row in history if row[column] not in (None, "")]  # epochs may have no figures
                parts = (run if len(runs) > 1 else "", f"@{k}" if k and len(cutoffs) > 1 else "")
                axes.plot(
                    [int(row["epoch"]) for row in rows],
                    [float(row[column]) for row in rows],
                    color=f"C{number}",
                    linestyle=LINE_STYLES[cutoffs.index(k) % len(LINE_STYLES)] if k else "-",
                    marker=".",
                    label=" ".join(filter(None, parts)),
                )
        only_k = f"@{cutoffs[0]}" if len(cutoffs) == 1 and name != "train_loss" else ""
        axes.set(title=title + only_k, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    _add_legend(figure)
    return figure


def _add_legend(figure: "Figure") -> None:
    """Name the lines of the last axes below the picture, where there is more than one."""
    lines = figure.axes[-1].lines
    if len(lines) > 1:
        figure.legend(handles=list(lines), loc="outside lower center", ncols=min(len(lines), 3), fontsize="small")


def bars(figures: dict[str, dict[str, list[float]]]) -> "Figure":
    """Means as bars with the single values as dots on them, a group of bars beside another.

    Args:
        figures: title of a group to name of a bar to values; every group has the same names.
    """
    from matplotlib.figure import Figure

    n_rows = len(next(iter(figures.values())))
    figure = Figure(figsize=(10, 1.2 + 0.35 * n_rows), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(figures), sharey=True), figures.items(), strict=True):
        axes.barh(list(rows), [statistics.mean(values) for values in rows.values()])
        dots = [(value, row) for row, values in rows.items() for value in values]
        axes.scatter(*zip(*dots, strict=True), color="black", s=8, zorder=2)
        axes.set_title(title)
    figure.axes[0].invert_yaxis()
    return figure


def write_picture(draw: Callable[[], "Figure"], path: Path) -> None:
    """Draw a figure to a PNG or SVG file, which appears whole or not at all.

    Raises:
        ImportError: there is no matplotlib, or not a working one.
        UserError: the file cannot be written.
    """
    content = io.BytesIO()
    as_vectors = path.suffix == ".svg"
    undated = {"Date": None} if as_vectors else {}  # so that the same picture is the same file
    draw().savefig(content, format="svg" if as_vectors else "png", dpi=110, metadata=undated)
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def try_to_write_picture(draw: Callable[[], "Figure"], path: Path) -> bool:
    """Do as :func:`write_picture` for a picture that nothing hangs on: say so if it cannot be drawn.

    Returns:
        Whether it was drawn.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write_picture(draw, path)
    except UserError:
        raise
    except ModuleNotFoundError:
        print(f"no {path.name}: {NOT_INSTALLED}")
        return False
    except Exception as error:  # a broken installation shows in any way, and is no reason to end a day's training
        warn(f"no {path.name}: matplotlib failed: {error}")
        return False
    return True

"""Pictures of figures: the learning curves of runs, and the bars of a table. They need matplotlib.

    python plot.py checkpoint/07240927 checkpoint/07241130 --output curves.png

Every run draws its own, ``metrics.png``, where matplotlib is installed. It is imported when a picture is drawn, and
without its global state (pyplot): a process that draws nothing pays nothing, and no display is needed.
"""

from errors import UserError, run_script, warn

# isort: split
import argparse
import csv
import io
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomicfile import atomic_write
from flags import FlagParser
from parameters import NO_MATTER

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = list[dict[str, Any]]  # a row of metrics.csv per epoch
CURVES = {"train_loss": "training loss", "recall": "Recall", "mrr": "MRR"}  # of metrics.csv, without @K, to titles
LINE_STYLES = ("-", "--", ":", "-.")
NOT_INSTALLED = "matplotlib is not installed: pip install matplotlib"


def learning_curves(runs: dict[str, History]) -> "Figure":
    """Loss, Recall and MRR by epoch: a color per run, a line style per K.

    Args:
        runs: the history of each run, an epoch at least, by what the legend calls it.
    """
    from matplotlib.figure import Figure

    columns = dict.fromkeys(column for history in runs.values() for column in history[0])
    cutoffs = list(dict.fromkeys(column.partition("@")[2] for column in columns if "@" in column))
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for number, (run, history) in enumerate(runs.items()):
            for column in (column for column in history[0] if column.partition("@")[0] == name):
                k = column.partition("@")[2]
                parts = (run if len(runs) > 1 else "", f"@{k}" if k and len(cutoffs) > 1 else "")
                axes.plot(
                    [int(row["epoch"]) for row in history],
                    [float(row[column]) for row in history],
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
    """Draw a figure to a PNG file, which appears whole or not at all.

    Raises:
        ImportError: there is no matplotlib, or not a working one.
        UserError: the file cannot be written.
    """
    content = io.BytesIO()
    draw().savefig(content, format="png", dpi=110)
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


def read_history(folder: Path) -> History:
    """The rows of a run folder's ``metrics.csv``.

    Raises:
        UserError: there is none, or it is no table of a run.
    """
    path = folder / "metrics.csv"
    try:
        with open(path, newline="") as file:
            history = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        inside = sorted(folder.glob("*/metrics.csv"))
        hint = f"name a run folder in it, such as {inside[-1].parent}" if inside else "a run writes it after an epoch"
        raise UserError(f"cannot read {path}: {hint}") from error
    try:
        for row in history:
            int(row["epoch"])
            [float(row[name]) for name in row if name.partition("@")[0] in CURVES]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of a run") from error
    if not history:
        raise UserError(f"{path} has no epoch yet")
    return history


def what_differs(folders: list[Path]) -> list[str]:
    """A name for each run folder: its own, with the parameters that are not the same in all of them."""
    parameters = []
    for folder in folders:
        try:
            lines = (folder / "parameter.txt").read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            lines = []
        parameters.append(dict(line.partition("=")[::2] for line in lines))
    left_out = set(NO_MATTER) - {"preset"}
    names = [name for name in parameters[0] if name not in left_out and len({p.get(name) for p in parameters}) > 1]
    tails = [folder.name for folder in folders]
    shown = map(str, folders) if len(set(tails)) < len(tails) else tails
    return [
        " ".join([own, *(f"{name}={values[name]}" for name in names if name in values)])
        for own, values in zip(shown, parameters, strict=True)
    ]


def parse_flags() -> argparse.Namespace:
    parser = FlagParser(description="Lay the learning curves of runs over each other.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, such as checkpoint/07240927")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help="picture to write (%(default)s)")
    return parser.parse_args()


def main() -> None:
    flags = parse_flags()
    folders = list(dict.fromkeys(flags.runs))
    histories = [read_history(folder) for folder in folders]
    runs = dict(zip(what_differs(folders), histories, strict=True))
    try:
        write_picture(lambda: learning_curves(runs), flags.output)
    except ModuleNotFoundError as error:
        raise UserError(f"no {flags.output}: {NOT_INSTALLED}") from error
    print(f"{flags.output}: {len(runs)} runs")


if __name__ == "__main__":
    run_script(main)

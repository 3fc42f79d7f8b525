"""The learning curves of several runs laid over each other, in one picture.

python -m tools.plot checkpoint/07240927 checkpoint/07241130 --output curves.png
"""

from terminal.errors import UserError, run_script

# isort: split
import csv
from pathlib import Path

from runs.parameters import NO_MATTER
from runs.plot import CURVES, NOT_INSTALLED, History, learning_curves, write_picture
from terminal.flags import FlagParser


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
            [float(row[name]) for name in row if name.partition("@")[0] in CURVES and row[name] != ""]
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


def make_parser() -> FlagParser:
    parser = FlagParser(description="Lay the learning curves of runs over each other.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, such as checkpoint/07240927")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help="picture to write (%(default)s)")
    return parser


def main() -> None:
    flags = make_parser().parse_args()
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

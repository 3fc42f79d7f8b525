"""The papers' tables on your files: trains and evaluates published rows and baselines, and sets them side by side.

    python reproduce.py --data_folder data/preprocessed_data --seeds 3
    python reproduce.py --rows POP Item-KNN authors-best --n_epochs 5 --output reproduction

Rows are run one after another; those that are finished are not run again, one that was cut off goes on where it was.
Leaves ``results.csv`` (a row per run), ``table.md`` and, where matplotlib is installed, ``table.png``.
"""

from terminal.errors import UserError, run_script, warn

# isort: split
import argparse
import csv
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from baselines.registry import BASELINES
from clicks.itemindex import ItemIndex
from dataset import encode_sessions, read_session_clicks
from preprocessing import DATA_FOLDER, TEST, TRAIN_FULL, equals_published, size_of
from runs.interruption import Interrupted, run_interruptibly
from runs.parameters import PARAMETERS
from runs.plot import bars, try_to_write_picture
from runs.presets import PRESETS, YOOCHOOSE
from runs.trainingdata import READING, checksum, data_file, valid_sessions
from terminal.atomicfile import atomic_write, make_folder, write_csv
from terminal.flags import COUNT, FlagParser
from terminal.memory import memory_for

K = 20
COLUMNS = {"row": str, "seed": int, "n_epochs": int, "files": str, "recall": float, "mrr": float, "seconds": float}
PUBLISHED_BASELINES = {  # [1], table 1
    "POP": (0.0050, 0.0012),
    "S-POP": (0.2672, 0.1775),
    "Item-KNN": (0.5065, 0.2048),
    "BPR-MF": (0.2574, 0.0618),
}
PUBLISHED_FIGURES = PUBLISHED_BASELINES | {
    name: (preset.recall, preset.mrr) for name, preset in PRESETS.items() if preset.data == YOOCHOOSE
}
ROWS = [*BASELINES, *PRESETS]
DEFAULT_ROWS = [*BASELINES, *(name for name, preset in PRESETS.items() if preset.data == YOOCHOOSE)]
HERE = Path(__file__).parent
Result = dict[str, Any]  # a row of results.csv: COLUMNS to values


class Files:
    """The files of a table, read and encoded.

    Attributes:
        name: tells them from others: the checksums of the sessions to train on and of those to evaluate.
        are_the_papers: they are those of [1], so that figures compare with published ones.
    """

    @memory_for(READING)
    def __init__(self, folder: Path, train_data: str, test_data: str):
        train_file, test_file = (data_file(str(folder), name) for name in (train_data, test_data))
        clicks, test_clicks = read_session_clicks(train_file), read_session_clicks(test_file)
        self.index = ItemIndex.of(clicks)
        self.train, _ = encode_sessions(clicks, self.index)
        self.test = valid_sessions(test_clicks, self.index, test_file)
        self.name = f"{checksum(self.train, self.index)} {checksum(self.test, self.index)}"
        train_size, test_size = size_of(clicks), size_of(test_clicks)
        self.are_the_papers = equals_published(TRAIN_FULL, train_size) and equals_published(TEST, test_size)
        self.protocol = (
            "These are the paper's files (full YooChoose, last day): the figures compare with the published ones."
            if self.are_the_papers
            else f"{train_data} and {test_data} of {folder} are not the paper's files (full YooChoose, last day): the "
            "figures compare with each other, not with the published ones."
        )


def run_baseline(name: str, files: Files, seed: int = 0) -> tuple[float, float, float]:
    """Fit and evaluate a baseline: Recall, MRR, seconds.

    Raises:
        UserError: memory ran out.
    """
    began = time.perf_counter()
    with memory_for(f"free some for {name}, or name --rows without it"):
        seeded = {"seed": seed} if BASELINES[name].is_seeded else {}
        metrics = BASELINES[name](files.train, len(files.index), **seeded).evaluate(files.test, (K,))
    return metrics.recall[K], metrics.mrr[K], time.perf_counter() - began


def run_preset(name: str, seed: int, files: Files, flags: argparse.Namespace) -> tuple[float, float, float]:
    """Train a preset with ``main.py``, or go on training it: Recall and MRR of its last epoch, seconds of training.

    Of its checkpoints, the last one is kept, to go on from.

    Raises:
        UserError: ``main.py`` failed; it has said why.
        Interrupted: a signal came; ``main.py`` has saved what it had.
    """
    folder = flags.output / f"{name}-seed{seed}-on-{files.name.replace(' ', '-')}"
    command = [sys.executable, HERE / "main.py", "--preset", name, "--seed", seed, "--resume"]
    command += ["--checkpoint_dir", folder, "--data_folder", flags.data_folder, "--n_epochs", flags.n_epochs]
    command += ["--train_data", flags.train_data, "--valid_data", flags.test_data, "--keep_checkpoints", 1]
    command += ["--device", flags.device] if flags.device else []
    code = run_interruptibly(list(map(str, command)))
    if code != 0:
        raise UserError(f"{name} with seed {seed} ended with exit code {code}; run the same line again to go on")
    newest = max(folder.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime_ns)
    with open(newest) as file:
        epochs = list(csv.DictReader(file))[: flags.n_epochs]
    seconds = sum(float(epoch["seconds"]) for epoch in epochs)
    return float(epochs[-1][f"recall@{K}"]), float(epochs[-1][f"mrr@{K}"]), seconds


def run_rows(files: Files, flags: argparse.Namespace) -> list[Result]:
    """Run what is asked and not finished yet, keeping ``results.csv`` up to date; the asked results in their order."""
    path = flags.output / "results.csv"
    results = read_results(path)
    if any(re.fullmatch(r"\d+ \d+", each["files"]) for each in results):
        warn(
            f"{path} has rows of an earlier version, which told files apart by their counts alone: they stay, but what "
            "is asked is run anew"
        )
    asked = []
    for row in flags.rows:
        is_seeded = row not in BASELINES or BASELINES[row].is_seeded
        for seed in range(1, flags.seeds + 1) if is_seeded else [0]:
            what = {
                "row": row,
                "seed": seed,
                "n_epochs": 0 if row in BASELINES else flags.n_epochs,
                "files": files.name,
            }
            result = next((each for each in results if each.items() >= what.items()), None)
            if result is None:
                figures = run_baseline(row, files, seed) if row in BASELINES else run_preset(row, seed, files, flags)
                recall, mrr, seconds = figures
                result = what | {"recall": recall, "mrr": mrr, "seconds": round(seconds, 1)}
                results.append(result)
                write_csv(path, results)
            print(f"{row}, seed {seed}: Recall@{K} {result['recall']:.4f}, MRR@{K} {result['mrr']:.4f}", flush=True)
            asked.append(result)
    return asked


def read_results(path: Path) -> list[Result]:
    """The finished runs of ``results.csv``; none where there is no file."""
    if not path.exists():
        return []
    with open(path) as file:
        rows = list(csv.DictReader(file))
    try:
        return [{name: convert(row[name]) for name, convert in COLUMNS.items()} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of this script; name another folder with --output") from error


def spread(values: list[float]) -> str:
    """The mean of some runs, with their standard deviation where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def markdown_table(results: list[Result], protocol: str, comparable: bool) -> str:
    """The results as a Markdown table; with published figures and differences where these compare."""
    published_columns = " published Recall / MRR | difference |" if comparable else ""
    lines = [protocol, "", f"| row | Recall@{K} | MRR@{K} |{published_columns} runs | seconds a run |"]
    lines.append("| --- " * (lines[-1].count("|") - 1) + "|")
    for row in dict.fromkeys(result["row"] for result in results):
        runs = [result for result in results if result["row"] == row]
        recall, mrr, seconds = ([run[name] for run in runs] for name in ("recall", "mrr", "seconds"))
        cells = [row, spread(recall), spread(mrr)]
        if comparable and row in PUBLISHED_FIGURES:
            published_recall, published_mrr = PUBLISHED_FIGURES[row]
            differences = statistics.mean(recall) - published_recall, statistics.mean(mrr) - published_mrr
            cells += [f"{published_recall:.4f} / {published_mrr:.4f}", "{:+.4f} / {:+.4f}".format(*differences)]
        elif comparable:
            cells += ["", ""]
        cells += [str(len(runs)), f"{statistics.mean(seconds):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def bar_groups(results: list[Result]) -> dict[str, dict[str, list[float]]]:
    """Recall and MRR of every row, as :func:`runs.plot.bars` takes them."""
    rows = list(dict.fromkeys(result["row"] for result in results))
    return {
        title: {row: [result[column] for result in results if result["row"] == row] for row in rows}
        for title, column in {f"Recall@{K}": "recall", f"MRR@{K}": "mrr"}.items()
    }


def parse_flags() -> argparse.Namespace:
    parser = FlagParser(__doc__)
    parser.add_argument("--data_folder", type=Path, default=DATA_FOLDER, help="prepared files (%(default)s)")
    parser.add_argument("--train_data", default=TRAIN_FULL, help="file to train on (%(default)s)")
    parser.add_argument("--test_data", default=TEST, help="file to measure on (%(default)s)")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=DEFAULT_ROWS,
        choices=ROWS,
        metavar="ROW",
        help=f"of {', '.join(ROWS)} (default: all of YooChoose)",
    )
    parser.add_argument("--n_epochs", type=COUNT, default=10, help="epochs of every preset (%(default)s)")
    parser.add_argument("--seeds", type=COUNT, default=1, help="runs of every row, with seeds 1, 2, … (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("reproduction"), help="folder for results (%(default)s)")
    parser.add_argument("--device", help=PARAMETERS["device"].help)
    return parser.parse_args()


def main() -> int:
    flags = parse_flags()
    files = Files(flags.data_folder, flags.train_data, flags.test_data)
    print(files.protocol, flush=True)
    make_folder(flags.output)
    try:
        results = run_rows(files, flags)
    except Interrupted as interrupted:
        print(f"stopped by {interrupted}; go on with the same line")
        return interrupted.exit_code
    table = markdown_table(results, files.protocol, files.are_the_papers)
    with atomic_write(flags.output / "table.md") as file:
        file.write(table.encode())
    try_to_write_picture(lambda: bars(bar_groups(results)), flags.output / "table.png")
    print(f"\n{table}\nwritten to {flags.output}")
    return 0


if __name__ == "__main__":
    run_script(main)

"""The papers' tables on your files: trains and evaluates published rows and baselines, and sets them side by side.

    python reproduce.py --data_folder data/preprocessed_data --seeds 3
    python reproduce.py --rows POP Item-KNN authors-best --n_epochs 5 --output reproduction
    python reproduce.py --rows VS-KNN "VS-KNN k=200 sample=2000" V-STAN

Rows are run one after another; those that are finished are not run again, one that was cut off goes on where it was.
Leaves ``results.csv`` (a row per run), ``table.md`` and, where matplotlib is installed, ``table.png``. Where it matters
how items are counted that score as high as the next click, the figures are those of half of them above it.
"""

from terminal.errors import UserError, run_script

# isort: split
import argparse
import csv
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from baselines.registry import BASELINES, OF_THE_PAPER, fit_row, name_of, parse_row, row_of
from clicks.itemindex import ItemIndex
from dataset import encode_sessions, read_session_clicks
from evaluation import TIE_BREAKING, Metrics, evaluate, tie_breaking_to_report
from preprocessing import DATA_FOLDER, TEST, TRAIN_FULL, equals_published, size_of
from runs.interruption import Interrupted, run_interruptibly
from runs.parameters import PARAMETERS
from runs.plot import bars, try_to_write_picture
from runs.presets import PRESETS, YOOCHOOSE
from runs.restoring import restored_for_evaluation
from runs.runfolder import read_checkpoint
from runs.trainingdata import data_file
from terminal.atomicfile import atomic_write, make_folder, write_csv
from terminal.errors import did_you_mean, warn
from terminal.flags import COUNT, FlagParser, Kind

K = 20
COLUMNS = {
    "row": str,
    "seed": int,
    "n_epochs": int,
    "files": str,
    "recall": float,
    "mrr": float,
    "seconds": float,
    "ties": str,  # what Recall and MRR are without and with all tied items above the next click, where it matters
}
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
DEFAULT_ROWS = [*OF_THE_PAPER, *(name for name, preset in PRESETS.items() if preset.data == YOOCHOOSE)]
TIES_BY_HALF = (
    f"Ties by half: often other items score as high as the next click, and half of them are counted above it. "
    f"Recall@{K} / MRR@{K} with none of them above it, to all of them:"
)
HERE = Path(__file__).parent
Result = dict[str, Any]  # a row of results.csv: COLUMNS to values


class Files:
    """The files of a table, read and encoded.

    Attributes:
        name: tells them from others: clicks to train on, next clicks to evaluate.
        are_the_papers: they are those of [1], so that figures compare with published ones.
    """

    def __init__(self, folder: Path, train_data: str, test_data: str):
        clicks = read_session_clicks(data_file(str(folder), train_data))
        test_clicks = read_session_clicks(data_file(str(folder), test_data))
        self.index = ItemIndex.of(clicks)
        self.train, _ = encode_sessions(clicks, self.index, with_times=True)
        self.test, _ = encode_sessions(test_clicks, self.index, with_times=True)
        self.name = f"{len(clicks)} {self.test.n_next_clicks}"
        train_size, test_size = size_of(clicks), size_of(test_clicks)
        self.are_the_papers = equals_published(TRAIN_FULL, train_size) and equals_published(TEST, test_size)
        self.protocol = (
            "These are the paper's files (full YooChoose, last day): the figures compare with the published ones."
            if self.are_the_papers
            else f"{train_data} and {test_data} of {folder} are not the paper's files (full YooChoose, last day): the "
            "figures compare with each other, not with the published ones."
        )


def run_baseline(row: str, files: Files) -> Result:
    """Fit and evaluate a baseline: what the result says but its row."""
    began = time.perf_counter()
    metrics = fit_row(row, files.train, len(files.index)).evaluate_by_every_tie_breaking(files.test, (K,))
    return reported(metrics) | {"seconds": round(time.perf_counter() - began, 1)}


def reported(metrics: dict[str, Metrics]) -> Result:
    """Of figures for every way to count ties, those that the table gives, and what to say of the others."""
    way = tie_breaking_to_report(metrics)
    ties = " to ".join(figures(metrics[each]) for each in ("standard", "conservative")) if way == "median" else ""
    return {"recall": metrics[way].recall[K], "mrr": metrics[way].mrr[K], "ties": ties}


def figures(metrics: Metrics) -> str:
    """Recall and MRR as tables have them."""
    return f"{metrics.recall[K]:.4f} / {metrics.mrr[K]:.4f}"


def run_preset(name: str, seed: int, files: Files, flags: argparse.Namespace) -> Result:
    """Train a preset with ``main.py``, or go on training it: what the result says of its last epoch, but its row.

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
    seconds = round(sum(float(epoch["seconds"]) for epoch in epochs), 1)
    checkpoint = newest.parent / f"model_{flags.n_epochs - 1:05d}.pt"
    if checkpoint.exists():
        last = reported(evaluated(checkpoint, files, flags.device))
    else:
        warn(f"{name}, seed {seed}, was trained for longer, so nothing is known of ties after epoch {flags.n_epochs}")
        last = {"recall": float(epochs[-1][f"recall@{K}"]), "mrr": float(epochs[-1][f"mrr@{K}"]), "ties": ""}
    return last | {"seconds": seconds}


def evaluated(checkpoint: Path, files: Files, device: str | None) -> dict[str, Metrics]:
    """The figures of a checkpoint for every way to count ties."""
    flags = {"device": device} if device else {}
    _, model, _ = restored_for_evaluation(read_checkpoint(checkpoint), checkpoint, flags)
    return {way: evaluate(model, files.test, (K,), way) for way in TIE_BREAKING}


def run_rows(files: Files, flags: argparse.Namespace) -> list[Result]:
    """Run what is asked and not finished yet, keeping ``results.csv`` up to date; the asked results in their order."""
    path = flags.output / "results.csv"
    results = read_results(path)
    asked = []
    for row in dict.fromkeys(flags.rows):
        is_preset = row in PRESETS
        for seed in range(1, flags.seeds + 1) if is_preset else [0]:
            n_epochs = flags.n_epochs if is_preset else 0
            what = {"row": row, "seed": seed, "n_epochs": n_epochs, "files": files.name}
            result = next((each for each in results if each.items() >= what.items()), None)
            if result is None:
                found = run_preset(row, seed, files, flags) if is_preset else run_baseline(row, files)
                result = {name: (what | found)[name] for name in COLUMNS}
                results.append(result)
                write_csv(path, results)
            by_half = " (ties by half)" if result["ties"] else ""
            print(f"{row}, seed {seed}: Recall@{K} {result['recall']:.4f}, MRR@{K} {result['mrr']:.4f}{by_half}")
            sys.stdout.flush()
            asked.append(result)
    return asked


def read_results(path: Path) -> list[Result]:
    """The finished runs of ``results.csv``; none where there is no file."""
    if not path.exists():
        return []
    with open(path) as file:
        rows = list(csv.DictReader(file))
    try:
        # a table of a version that did not look for ties has none
        return [{name: convert(({"ties": ""} | row)[name]) for name, convert in COLUMNS.items()} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of this script; name another folder with --output") from error


def spread(values: list[float]) -> str:
    """The mean of some runs, with their standard deviation where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def markdown_table(results: list[Result], protocol: str, comparable: bool) -> str:
    """The results as a Markdown table; with published figures and differences where these compare.

    Where ties matter, the row and a line behind the table say so.
    """
    published_columns = " published Recall / MRR | difference |" if comparable else ""
    lines = [protocol, "", f"| row | Recall@{K} | MRR@{K} |{published_columns} runs | seconds a run |"]
    lines.append("| --- " * (lines[-1].count("|") - 1) + "|")
    for row in dict.fromkeys(result["row"] for result in results):
        runs = [result for result in results if result["row"] == row]
        recall, mrr, seconds = ([run[name] for run in runs] for name in ("recall", "mrr", "seconds"))
        tied = any(run["ties"] for run in runs)
        cells = [f"{row} (ties by half)" if tied else row, spread(recall), spread(mrr)]
        if comparable and row in PUBLISHED_FIGURES:
            published_recall, published_mrr = PUBLISHED_FIGURES[row]
            differences = statistics.mean(recall) - published_recall, statistics.mean(mrr) - published_mrr
            cells += [f"{published_recall:.4f} / {published_mrr:.4f}", "{:+.4f} / {:+.4f}".format(*differences)]
        elif comparable:
            cells += ["", ""]
        cells += [str(len(runs)), f"{statistics.mean(seconds):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    tied = [f"{result['row']} {result['ties']}" for result in results if result["ties"]]
    if tied:
        lines += ["", f"{TIES_BY_HALF} {'; '.join(tied)}."]
    return "\n".join(lines) + "\n"


def bar_groups(results: list[Result]) -> dict[str, dict[str, list[float]]]:
    """Recall and MRR of every row, as :func:`runs.plot.bars` takes them."""
    rows = list(dict.fromkeys(result["row"] for result in results))
    return {
        title: {row: [result[column] for result in results if result["row"] == row] for row in rows}
        for title, column in {f"Recall@{K}": "recall", f"MRR@{K}": "mrr"}.items()
    }


def parse_table_row(text: str) -> str:
    """A row, written in one way; raises ValueError where there is none such."""
    if text in PRESETS:
        return text
    if name_of(text) not in BASELINES:
        hint = did_you_mean(text, ROWS) or f" (choose from {', '.join(ROWS)})"
        raise ValueError(f"invalid choice: {text!r}{hint}")
    return row_of(*parse_row(text))


def parse_flags() -> argparse.Namespace:
    parser = FlagParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data_folder", type=Path, default=DATA_FOLDER, help="prepared files (%(default)s)")
    parser.add_argument("--train_data", default=TRAIN_FULL, help="file to train on (%(default)s)")
    parser.add_argument("--test_data", default=TEST, help="file to measure on (%(default)s)")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=DEFAULT_ROWS,
        type=Kind(parse_table_row, "ROW"),
        metavar="ROW",
        help=f"of {', '.join(ROWS)} (default: those of the papers on YooChoose); behind a baseline may stand settings: "
        "'VS-KNN k=200 sample=2000'",
    )
    parser.add_argument("--n_epochs", type=COUNT, default=10, help="epochs of every preset (%(default)s)")
    parser.add_argument("--seeds", type=COUNT, default=1, help="runs of every preset, with seeds 1, 2, … (%(default)s)")
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

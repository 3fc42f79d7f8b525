"""The papers' tables on your files: trains and evaluates published rows and baselines, and sets them side by side.

    python reproduce.py --data_folder data/preprocessed_data --seeds 3
    python reproduce.py --rows POP Item-KNN authors-best --n_epochs 5 --output reproduction

Rows are run one after another; those that are finished are not run again, one that was cut off goes on where it was.
Leaves ``results.csv`` (a row per run), ``table.md``, where matplotlib is installed, ``table.png``, and in ``ranks/``
the rank of every next click in every run, for ``python -m tools.compare``.
"""

from terminal.errors import UserError, run_script, warn

# isort: split
import argparse
import csv
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.registry import BASELINES
from clicks.itemindex import ItemIndex
from comparison.ranksfile import RankedClicks, write_ranks
from dataset import encode_sessions, read_session_clicks
from evaluation import metrics_of_ranks, rank_by_model, rank_next_clicks
from preprocessing import DATA_FOLDER, TEST, TRAIN_FULL, equals_published, size_of
from runs.interruption import Interrupted, run_interruptibly
from runs.parameters import PARAMETERS
from runs.plot import bars, try_to_write_picture
from runs.presets import PRESETS, YOOCHOOSE
from runs.restoring import restored_for_evaluation
from runs.runfolder import RunFolder, read_checkpoint
from runs.trainingdata import data_file
from terminal.atomicfile import atomic_write, make_folder, write_csv
from terminal.flags import COUNT, FlagParser

K = 20
TIES = "standard"
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
        name: tells them from others: clicks to train on, next clicks to evaluate.
        are_the_papers: they are those of [1], so that figures compare with published ones.
    """

    def __init__(self, folder: Path, train_data: str, test_data: str):
        clicks = read_session_clicks(data_file(str(folder), train_data))
        test_clicks = read_session_clicks(data_file(str(folder), test_data))
        self.index = ItemIndex.of(clicks)
        self.train, _ = encode_sessions(clicks, self.index)
        self.test, _ = encode_sessions(test_clicks, self.index, keep_ids=True)
        self.support = self.train.support(len(self.index))
        self.name = f"{len(clicks)} {self.test.n_next_clicks}"
        train_size, test_size = size_of(clicks), size_of(test_clicks)
        self.are_the_papers = equals_published(TRAIN_FULL, train_size) and equals_published(TEST, test_size)
        self.protocol = (
            "These are the paper's files (full YooChoose, last day): the figures compare with the published ones."
            if self.are_the_papers
            else f"{train_data} and {test_data} of {folder} are not the paper's files (full YooChoose, last day): the "
            "figures compare with each other, not with the published ones."
        )

    def write_ranks(self, path: Path, ranks: Tensor, name: str, seed: int | None = None) -> None:
        """Write what :func:`evaluation.rank_next_clicks` gave of the test sessions."""
        make_folder(path.parent)
        about = {"tie_breaking": TIES, "name": name, "seed": seed}
        write_ranks(path, RankedClicks.of(ranks, self.test, self.index, self.support, **about))


def run_baseline(name: str, files: Files, ranks_path: Path) -> tuple[float, float, float]:
    """Fit and evaluate a baseline, and write its ranks: Recall, MRR, seconds."""
    began = time.perf_counter()
    baseline = BASELINES[name](files.train, len(files.index))
    ranks = rank_next_clicks(baseline.scores, files.test, TIES, torch.device("cpu"))
    seconds = time.perf_counter() - began
    files.write_ranks(ranks_path, ranks, name)
    metrics = metrics_of_ranks(ranks, (K,))
    return metrics.recall[K], metrics.mrr[K], seconds


def run_preset(name: str, seed: int, files: Files, flags: argparse.Namespace) -> tuple[float, float, float]:
    """Train a preset with ``main.py``, or go on training it: Recall and MRR of its last epoch, seconds of training.

    Of its checkpoints, the last one is kept, to go on from.

    Raises:
        UserError: ``main.py`` failed; it has said why.
        Interrupted: a signal came; ``main.py`` has saved what it had.
    """
    folder = preset_folder(name, seed, files, flags)
    command = [sys.executable, HERE / "main.py", "--preset", name, "--seed", seed, "--resume"]
    command += ["--checkpoint_dir", folder, "--data_folder", flags.data_folder, "--n_epochs", flags.n_epochs]
    command += ["--train_data", flags.train_data, "--valid_data", flags.test_data, "--keep_checkpoints", 1]
    command += ["--device", flags.device] if flags.device else []
    code = run_interruptibly(list(map(str, command)))
    if code != 0:
        raise UserError(f"{name} with seed {seed} ended with exit code {code}; run the same line again to go on")
    with open(newest_metrics(folder)) as file:
        epochs = list(csv.DictReader(file))[: flags.n_epochs]
    seconds = sum(float(epoch["seconds"]) for epoch in epochs)
    return float(epochs[-1][f"recall@{K}"]), float(epochs[-1][f"mrr@{K}"]), seconds


def preset_folder(name: str, seed: int, files: Files, flags: argparse.Namespace) -> Path:
    """The folder of the run folders of a preset."""
    return flags.output / f"{name}-seed{seed}-on-{files.name.replace(' ', '-')}"


def newest_metrics(folder: Path) -> Path | None:
    """The ``metrics.csv`` of the run in it that was trained last; None without a run."""
    return max(folder.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime_ns, default=None)


def rank_by_preset(name: str, seed: int, files: Files, flags: argparse.Namespace, ranks_path: Path) -> None:
    """Write the ranks of a preset that has been trained, if its last epoch's checkpoint is there.

    Raises:
        UserError: the checkpoint is unusable.
    """
    metrics = newest_metrics(preset_folder(name, seed, files, flags))
    path = RunFolder(metrics.parent).epoch_path(flags.n_epochs - 1) if metrics else None
    if path and path.exists():
        device = {"device": flags.device} if flags.device else {}
        _, model, _ = restored_for_evaluation(read_checkpoint(path), path, device)
        files.write_ranks(ranks_path, rank_by_model(model, files.test, TIES), name, seed)


def run_rows(files: Files, flags: argparse.Namespace) -> list[Result]:
    """Run what is asked and not finished yet, keeping ``results.csv`` up to date; the asked results in their order."""
    path = flags.output / "results.csv"
    results = read_results(path)
    asked = []
    for row in flags.rows:
        for seed in [0] if row in BASELINES else range(1, flags.seeds + 1):
            what = {
                "row": row,
                "seed": seed,
                "n_epochs": 0 if row in BASELINES else flags.n_epochs,
                "files": files.name,
            }
            result = next((each for each in results if each.items() >= what.items()), None)
            ranks_path = flags.output / "ranks" / ranks_file_name(**what)
            if result is None:
                if row in BASELINES:
                    recall, mrr, seconds = run_baseline(row, files, ranks_path)
                else:
                    recall, mrr, seconds = run_preset(row, seed, files, flags)
                result = what | {"recall": recall, "mrr": mrr, "seconds": round(seconds, 1)}
                results.append(result)
                write_csv(path, results)
            if not ranks_path.exists() and row in PRESETS:
                rank_by_preset(row, seed, files, flags, ranks_path)
            if not ranks_path.exists():
                warn(f"no ranks of {row}, seed {seed}: it was finished before, and what could rank is gone")
            print(f"{row}, seed {seed}: Recall@{K} {result['recall']:.4f}, MRR@{K} {result['mrr']:.4f}", flush=True)
            asked.append(result)
    return asked


def ranks_file_name(row: str, seed: int, n_epochs: int, files: str) -> str:
    """The name of the ranks file of a run, by what tells it from others in ``results.csv``."""
    trained = (f"-seed{seed}" if seed else "") + (f"-epochs{n_epochs}" if n_epochs else "")
    return f"{row}{trained}-on-{files}.parquet".replace(" ", "-")


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
    parser = FlagParser(description=__doc__.partition("\n\n")[0])
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

"""The papers' tables on your files: trains and evaluates published rows and baselines, and sets them side by side.

    python reproduce.py --data_folder data/preprocessed_data --seeds 3
    python reproduce.py --rows POP Item-KNN authors-best --n_epochs 5 --output reproduction
    python reproduce.py --rows VS-KNN "VS-KNN k=200 sample=2000" V-STAN

Rows are run one after another, or ``--n_jobs`` at a time; those that are finished are not run again, one that was cut
off goes on where it was. Leaves ``results.csv`` (a row per run), ``table.md``, where matplotlib is installed
``table.png``, and in ``ranks/`` a file per run that ``python -m tools.compare`` takes. Where it matters how items are
counted that score as high as the next click, the figures are those of half of them above it.
"""

from terminal.errors import UserError, run_script, warn

# isort: split
import argparse
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.registry import BASELINES, OF_THE_PAPER, fit_row, name_of, parse_row, row_of
from clicks.datasets import DATASETS, YOOCHOOSE
from clicks.itemindex import ItemIndex
from clicks.prepared import read_record
from comparison.ranksfile import RankedClicks, write_ranks
from dataset import encode_sessions, read_session_clicks
from evaluation import (
    Metrics,
    metrics_of_ranks,
    rank_by_every_tie_breaking,
    rows_at_once,
    scores_of,
    tie_breaking_to_report,
)
from preprocessing import DATA_FOLDER, TEST, TRAIN_FULL, equals_published, size_of
from runs.figures import COLUMNS, K, Result, bar_groups, markdown_table, read_results, read_rows
from runs.interruption import Interrupted, run_interruptibly
from runs.jobs import Stopper, add_job_flags, own_device, run_jobs
from runs.parameters import PARAMETERS
from runs.parameters import parse_flags as parse_main_flags
from runs.plot import bars, try_to_write_picture
from runs.presets import PRESETS
from runs.restoring import restored_for_evaluation
from runs.runfolder import MEAN, RunFolder, column_of, read_checkpoint
from runs.trainingdata import READING, checksum, data_file, valid_sessions
from terminal.atomicfile import atomic_write, make_folder, write_csv
from terminal.errors import did_you_mean
from terminal.flags import COUNT, FlagParser, Kind
from terminal.memory import memory_for

ROWS = [*BASELINES, *PRESETS]
HERE = Path(__file__).parent
LOG = "log.txt"  # what main.py prints where several run side by side


class Files:
    """The files of a table, read and encoded.

    Attributes:
        name: tells them from others: the checksums of the sessions to train on and of those to evaluate.
        dataset: what they are of, as far as the folder's record says; else YooChoose.
        published: Recall and MRR by row as published, where they compare with those that are measured on these files.
        protocol: a sentence on that.
    """

    @memory_for(READING)
    def __init__(self, folder: Path, train_data: str, test_data: str):
        train_file, test_file = (data_file(str(folder), name) for name in (train_data, test_data))
        clicks, test_clicks = read_session_clicks(train_file), read_session_clicks(test_file)
        self.index = ItemIndex.of(clicks)
        self.train, _ = encode_sessions(clicks, self.index, with_times=True)
        self.test = valid_sessions(test_clicks, self.index, test_file, with_times=True)
        self.name = f"{checksum(self.train, self.index)} {checksum(self.test, self.index)}"
        train_size, test_size = size_of(clicks), size_of(test_clicks)
        record = read_record(folder)
        self.dataset = YOOCHOOSE if record is None or record.dataset not in DATASETS else record.dataset
        what = "the paper's files (full YooChoose, last day)"
        if self.dataset == YOOCHOOSE:
            comparable = equals_published(TRAIN_FULL, train_size) and equals_published(TEST, test_size)
        else:
            what = f"the files that `preprocessing.py --dataset {self.dataset}` makes"
            comparable = record.is_of(self.dataset) and (train_data, test_data) == (TRAIN_FULL, TEST)
        self.published = DATASETS[self.dataset].published if comparable else None
        self.protocol = (
            f"These are {what}: the figures compare with the published ones."
            if comparable
            else f"{train_data} and {test_data} of {folder} are not {what}: the figures compare with each other, not "
            "with the published ones."
        )

    def write_ranks(self, path: Path, ranks: dict[str, Tensor], row: str, seed: int) -> None:
        """Write the ranks of the test file's next clicks, ties counted as the table does."""
        way = tie_breaking_to_report(metrics_of(ranks))
        about = {"tie_breaking": way, "name": row, "seed": seed or None}
        make_folder(path.parent)
        support = self.train.support(len(self.index))
        write_ranks(path, RankedClicks.of(ranks[way], self.test, self.index, support, **about))


files_in_process = lru_cache(maxsize=1)(Files)


def rows_of(dataset: str) -> list[str]:
    """The rows that are run where none is asked for: the papers' baselines, and all that was measured on a data set."""
    return [*OF_THE_PAPER, *(name for name, preset in PRESETS.items() if preset.dataset == dataset)]


def run_baseline(row: str, seed: int, files: Files, ranks_path: Path) -> Result:
    """Fit and evaluate a baseline, and write its ranks: what the result says but its row.

    Raises:
        UserError: memory ran out.
    """
    began = time.perf_counter()
    with memory_for(f"free some for {row}, or name --rows without it"):
        ranks = fit_row(row, files.train, len(files.index), seed).ranks(files.test)
    seconds = round(time.perf_counter() - began, 1)
    files.write_ranks(ranks_path, ranks, row, seed)
    return reported(ranks) | {"seconds": seconds}


def metrics_of(ranks: dict[str, Tensor]) -> dict[str, Metrics]:
    """Figures for every way to count ties, by the ranks for it."""
    return {way: metrics_of_ranks(each, (K,)) for way, each in ranks.items()}


def reported(ranks: dict[str, Tensor]) -> Result:
    """Of ranks for every way to count ties, the figures that the table gives, and what to say of the others."""
    metrics = metrics_of(ranks)
    way = tie_breaking_to_report(metrics)
    ties = " to ".join(figures(metrics[each]) for each in ("standard", "conservative")) if way == "median" else ""
    return {"recall": metrics[way].recall[K], "mrr": metrics[way].mrr[K], "ties": ties}


def figures(metrics: Metrics) -> str:
    """Recall and MRR as tables have them."""
    return f"{metrics.recall[K]:.4f} / {metrics.mrr[K]:.4f}"


def run_preset(
    name: str, seed: int, files: Files, ranks_path: Path, flags: argparse.Namespace, stopper: Stopper | None = None
) -> Result:
    """Train a preset with ``main.py``, or go on training it, and write its ranks: what the result says but its row.

    Its figures are those of its last epoch or, where it averages some, of their mean. Of its checkpoints, the last one
    is kept, to go on from.

    Args:
        stopper: of a process beside others, which ends ``main.py`` when it is asked to.

    Raises:
        UserError: ``main.py`` failed; it has said why.
        Interrupted: a signal came; ``main.py`` has saved what it had.
    """
    folder, n_epochs = preset_folder(name, seed, files, flags), n_epochs_of(name, flags)
    command = [sys.executable, HERE / "main.py", "--preset", name, "--seed", seed, "--resume"]
    command += ["--checkpoint_dir", folder, "--data_folder", flags.data_folder, "--n_epochs", n_epochs]
    command += ["--train_data", flags.train_data, "--valid_data", flags.test_data, "--keep_checkpoints", 1]
    device = own_device(flags.device)
    command += ["--device", device] if device else []
    command = list(map(str, command))
    if stopper is None and not flags.n_threads:
        code, where = run_interruptibly(command), ""
    else:
        code, where = run_with_own_threads(command, folder / LOG, stopper)
    if code != 0:
        raise UserError(f"{name} with seed {seed} ended with exit code {code}{where}; run the same line again to go on")
    epochs = read_rows(newest_run(folder) / "metrics.csv")[:n_epochs]
    seconds = {"seconds": round(sum(float(epoch["seconds"]) for epoch in epochs), 1)}
    if checkpoint := measured_checkpoint(name, seed, files, flags):
        ranks = ranked(checkpoint, files, device)
        files.write_ranks(ranks_path, ranks, name, seed)
        return reported(ranks) | seconds
    warn(f"{name}, seed {seed}, was trained for longer, so nothing is known of ties after epoch {n_epochs}")
    try:  # such rows may be of a run by hand, with --eval_every or --eval_sessions
        measured = {each: float(epochs[-1][column_of(each, K)]) for each in ("recall", "mrr")}
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{folder} has no figures of all sessions for epoch {n_epochs} of {name}: delete it to run the row anew"
        ) from error
    return measured | {"ties": ""} | seconds


def run_with_own_threads(command: list[str], log: Path, stopper: Stopper | None) -> tuple[int, str]:
    """Run ``main.py`` with as many threads as PyTorch has here; the exit code, and where it says why.

    Args:
        log: what it prints, where there is a stopper, because there are others beside it.
    """
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    if stopper is None:
        return run_interruptibly(command, env=threads), ""
    make_folder(log.parent)
    with open(log, "ab") as file:
        try:
            code = run_interruptibly(command, stopper.is_asked, env=threads, stdout=file, stderr=file)
        except Interrupted as interrupted:
            raise KeyboardInterrupt from interrupted  # which is what a job ends with
    return code, f", see {log}"


def preset_folder(name: str, seed: int, files: Files, flags: argparse.Namespace) -> Path:
    """The folder of the run folders of a preset."""
    return flags.output / f"{name}-seed{seed}-on-{files.name.replace(' ', '-')}"


def newest_run(folder: Path) -> Path | None:
    """The run folder in it that was trained last; None where there is none."""
    written = max(folder.glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime_ns, default=None)
    return written and written.parent


def measured_checkpoint(name: str, seed: int, files: Files, flags: argparse.Namespace) -> Path | None:
    """The checkpoint of a preset that has been trained whose figures the table gives, if it is there."""
    run = newest_run(preset_folder(name, seed, files, flags))
    if run is None:
        return None
    averages = "average" in preset_flags(name)
    path = run / MEAN if averages else RunFolder(run).epoch_path(n_epochs_of(name, flags) - 1)
    return path if path.exists() else None


def n_epochs_of(name: str, flags: argparse.Namespace) -> int:
    """How many epochs a preset is trained for."""
    return flags.n_epochs or preset_flags(name).get("n_epochs", PARAMETERS["n_epochs"].default)


def preset_flags(name: str) -> dict[str, Any]:
    """The flags of a preset."""
    return parse_main_flags(PRESETS[name].flags.split())


def ranked(checkpoint: Path, files: Files, device: str | None) -> dict[str, Tensor]:
    """The ranks of all next clicks by a checkpoint, for every way to count ties."""
    flags = {"device": device} if device else {}
    parameters, model, _ = restored_for_evaluation(read_checkpoint(checkpoint), checkpoint, flags)
    device_of_model = model.output_bias.device
    batch_size = min(rows_at_once(len(files.index), device_of_model), len(files.test))
    with scores_of(model, batch_size, parameters.remind) as score_step:
        return rank_by_every_tie_breaking(score_step, files.test, device_of_model, batch_size)


def run_rows(files: Files, flags: argparse.Namespace) -> list[Result]:
    """Run what is asked and not finished yet, keeping ``results.csv`` up to date; the asked results in their order."""
    path = flags.output / "results.csv"
    results = read_results(path)
    if any(re.fullmatch(r"\d+ \d+", each["files"]) for each in results):
        warn(
            f"{path} has rows of an earlier version, which told files apart by their counts alone: they stay, but what "
            "is asked is run anew"
        )
    asked, jobs = [], []
    for row in dict.fromkeys(flags.rows):
        is_preset = row in PRESETS
        is_seeded = is_preset or BASELINES[name_of(row)].is_seeded
        for seed in range(1, flags.seeds + 1) if is_seeded else [0]:
            n_epochs = n_epochs_of(row, flags) if is_preset else 0
            what = {"row": row, "seed": seed, "n_epochs": n_epochs, "files": files.name}
            asked.append(what)
            result = result_of(what, results)
            if result is None:
                jobs.append(what)
                continue
            if not (flags.output / "ranks" / ranks_file_name(**what)).exists():
                rank_again(row, seed, files, flags.output / "ranks" / ranks_file_name(**what), flags)
            tell(result)
    for what, found in done_jobs(jobs, files, flags):
        results.append({name: (what | found)[name] for name in COLUMNS})
        write_csv(path, results)
        tell(results[-1])
    return [result_of(what, results) for what in asked]


def result_of(what: dict[str, Any], results: list[Result]) -> Result | None:
    """The one of some results that is of a run, which its row, seed, epochs and files tell from others."""
    return next((each for each in results if each.items() >= what.items()), None)


def tell(result: Result) -> None:
    """Print a result in a line."""
    by_half = " (ties by half)" if result["ties"] else ""
    figures_of = f"Recall@{K} {result['recall']:.4f}, MRR@{K} {result['mrr']:.4f}{by_half}"
    print(f"{result['row']}, seed {result['seed']}: {figures_of}", flush=True)


def done_jobs(
    jobs: list[dict[str, Any]], files: Files, flags: argparse.Namespace
) -> Iterator[tuple[dict[str, Any], Result]]:
    """Run what is not finished yet, one after another or side by side; each with what its result says."""
    if flags.n_jobs > 1:
        yield from run_jobs(partial(run_beside_others, flags=flags), jobs, flags.n_jobs, flags.n_threads)
        return
    if flags.n_threads:
        torch.set_num_threads(flags.n_threads)
    for what in jobs:
        yield what, run_row(what, files, flags)


def run_beside_others(what: dict[str, Any], stopper: Stopper, flags: argparse.Namespace) -> Result:
    """As :func:`run_row`, in a process of its own; ``main.py`` prints into a file of the row's folder."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # what the files are has been said
        files = files_in_process(flags.data_folder, flags.train_data, flags.test_data)
    return run_row(what, files, flags, stopper)


def run_row(what: dict[str, Any], files: Files, flags: argparse.Namespace, stopper: Stopper | None = None) -> Result:
    """Run a row with a seed, and write its ranks: what the result says but its row."""
    ranks_path = flags.output / "ranks" / ranks_file_name(**what)
    if what["row"] in PRESETS:
        return run_preset(what["row"], what["seed"], files, ranks_path, flags, stopper)
    return run_baseline(what["row"], what["seed"], files, ranks_path)


def rank_again(row: str, seed: int, files: Files, ranks_path: Path, flags: argparse.Namespace) -> None:
    """Write the ranks of a row that was finished before, where its checkpoint is there."""
    checkpoint = measured_checkpoint(row, seed, files, flags) if row in PRESETS else None
    if checkpoint:
        files.write_ranks(ranks_path, ranked(checkpoint, files, flags.device), row, seed)
    else:
        warn(f"no ranks of {row}, seed {seed}: it was finished before, and what could rank is gone")


def ranks_file_name(row: str, seed: int, n_epochs: int, files: str) -> str:
    """The name of the ranks file of a run, by what tells it from others in ``results.csv``."""
    trained = (f"-seed{seed}" if seed else "") + (f"-epochs{n_epochs}" if n_epochs else "")
    return f"{row}{trained}-on-{files}.parquet".replace(" ", "-")


def parse_table_row(text: str) -> str:
    """A row, written in one way; raises ValueError where there is none such."""
    if text in PRESETS:
        return text
    if name_of(text) not in BASELINES:
        hint = did_you_mean(text, ROWS) or f" (choose from {', '.join(ROWS)})"
        raise ValueError(f"invalid choice: {text!r}{hint}")
    return row_of(*parse_row(text))


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument("--data_folder", type=Path, default=DATA_FOLDER, help="prepared files (%(default)s)")
    parser.add_argument("--train_data", default=TRAIN_FULL, help="file to train on (%(default)s)")
    parser.add_argument("--test_data", default=TEST, help="file to measure on (%(default)s)")
    parser.add_argument(
        "--rows",
        nargs="+",
        type=Kind(parse_table_row, "ROW"),
        metavar="ROW",
        help=f"of {', '.join(ROWS)} (default: the paper's baselines, and all that was measured on this data set); "
        "behind a baseline may stand settings: 'VS-KNN k=200 sample=2000'",
    )
    parser.add_argument("--n_epochs", type=COUNT, help="epochs of every preset (default: its own, or 10)")
    parser.add_argument(
        "--seeds", type=COUNT, default=1, help="runs of every row that is random, with seeds 1, 2, … (%(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("reproduction"), help="folder for results (%(default)s)")
    parser.add_argument("--device", help=PARAMETERS["device"].help)
    add_job_flags(parser, "rows")
    return parser


def main() -> int:
    flags = make_parser().parse_args()
    files = Files(flags.data_folder, flags.train_data, flags.test_data)
    flags.rows = flags.rows or rows_of(files.dataset)
    print(files.protocol, flush=True)
    make_folder(flags.output)
    try:
        results = run_rows(files, flags)
    except Interrupted as interrupted:
        print(f"stopped by {interrupted}; go on with the same line")
        return interrupted.exit_code
    table = markdown_table(results, files.protocol, files.published)
    with atomic_write(flags.output / "table.md") as file:
        file.write(table.encode())
    try_to_write_picture(lambda: bars(bar_groups(results)), flags.output / "table.png")
    print(f"\n{table}\nwritten to {flags.output}")
    return 0


if __name__ == "__main__":
    run_script(main)

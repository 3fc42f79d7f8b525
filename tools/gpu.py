"""What is wanted of a GPU, and what one gives: every goal measured, in a table of `python -m tools.benchmark gpu`.

Every part is measured in a process of its own, so that one which fails, hangs, or breaks the device leaves the others
alone, and within a time, so that the whole ends when it should.
"""

import argparse
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from faster.device import choose_device
from model import GRU4Rec
from preprocessing import TEST, TRAIN_FULL
from runs.parameters import parse_flags, training_parameters
from runs.presets import PRESETS
from runs.trainingrun import TrainingRun
from terminal.errors import UserError, listed
from terminal.flags import FlagParser, whole_number
from tools.speed import (
    N_ITEMS,
    FirstBlocks,
    next_clicks_per_second,
    repeated,
    sessions_like_yoochoose,
    sessions_per_second,
    steps_per_second,
    training_run,
)
from training import EpochProgress

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results.md"


class Goal(NamedTuple):
    """What a figure should be on an H100 or H200, at least or at most."""

    value: float
    unit: str
    at_most: bool = False


GOALS = {
    "authors-best": Goal(12_000, "steps/s"),
    "iclr2016-top1-100": Goal(15_000, "steps/s"),
    "authors-retailrocket": Goal(8_000, "steps/s"),
    "authors-rees46": Goal(5_000, "steps/s"),
    "authors-yoochoose": Goal(8_000, "steps/s"),
    "epoch of full YooChoose's size, authors-best": Goal(90, "s", at_most=True),
    "evaluation": Goal(100_000, "next clicks/s"),
    "recommending": Goal(20_000, "sessions/s"),
}
TRAINED = tuple(name for name in GOALS if name in PRESETS)
COMPARED = ("authors-best", "authors-retailrocket")  # with the accuracy of the CPU
N_TESTS_AT_ONCE = 6  # compiling takes them longest, and a core each
START = "spawn"  # of a process: a fork of one that has used CUDA cannot


class Row(NamedTuple):
    """A row of the table, in words."""

    what: str
    goal: str
    measured: str
    met: str


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        n_items: how many items there are.
        n_sessions: in which presets are trained.
        times: how often an epoch has these.
        n_ranked, n_served: sessions that are evaluated, and that get recommendations.
        n_runs: how many runs count.
        flags: further ones of a preset.
    """

    n_items: int
    n_sessions: int
    times: int
    n_ranked: int
    n_served: int
    n_runs: int
    flags: str


FULL = Sizes(N_ITEMS, 392_000, 20, 50_000, 50_000, 3, "")
SMALL = Sizes(300, 40, 2, 40, 40, 1, "--hidden_size 8 --n_sample 16 --batch_size 8")


@dataclass(frozen=True)
class Setup:
    """What a part is told.

    Attributes:
        device: its name.
        small: try the script with small sizes.
        clicks: the shared raw clicks, or None.
        seconds: how much time there is.
    """

    device: str
    small: bool = False
    clicks: Path | None = None
    seconds: float = 60.0

    @property
    def sizes(self) -> Sizes:
        return SMALL if self.small else FULL

    def run(self, preset: str, times: int = 1, compilation: str = "on") -> TrainingRun:
        """A published setting, to be trained."""
        sessions = repeated(sessions_like_yoochoose(self.sizes.n_sessions, self.sizes.n_items), times)
        compilation = "off" if self.small and self.device == "cpu" else compilation
        return training_run(preset, sessions, torch.device(self.device), compilation, self.sizes.flags)

    def model(self) -> GRU4Rec:
        return GRU4Rec(self.sizes.n_items, constrained_embedding=True).to(self.device)


def goal_row(name: str, value: float, note: str = "") -> Row:
    """The row of a figure that has a goal."""
    goal = GOALS[name]
    is_met = value <= goal.value if goal.at_most else value >= goal.value
    sign = "≤" if goal.at_most else "≥"
    return Row(name, f"{sign} {goal.value:,} {goal.unit}", f"{value:,.0f} {goal.unit}{note}", "yes" if is_met else "no")


def pass_tests(setup: Setup, folder: Path = ROOT / "tests") -> Iterator[Row]:
    """The tests that are marked ``cuda``, side by side where pytest-xdist is installed.

    Files without such tests are not read: they may import what a GPU's machine has not.
    """
    files = [path for path in sorted(folder.glob("test_*.py")) if "pytest.mark.cuda" in path.read_text()]
    side_by_side = ["-n", str(N_TESTS_AT_ONCE)] if find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-rfs", "-m", "cuda and not long", *side_by_side, *files]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(process.stdout)
    last = (process.stdout.strip().splitlines() or ["it said nothing"])[-1].strip("= ")
    is_met = process.returncode == 0 and " passed" in last and "skipped" not in last
    yield Row("tests that need CUDA", "pass", last, "yes" if is_met else "no")


def train(setup: Setup) -> Iterator[Row]:
    """Steps a second of published settings."""
    for name in TRAINED:
        yield goal_row(name, steps_per_second(setup.run(name), setup.sizes.n_runs))
    plain = steps_per_second(setup.run(TRAINED[0], compilation="auto"), setup.sizes.n_runs)
    yield Row(f"{TRAINED[0]}, in a graph, not compiled", "", f"{plain:,.0f} steps/s", "")


def train_epoch(setup: Setup) -> Iterator[Row]:
    """An epoch of full YooChoose's size: sampling, mini-batches, all; as much of it as there is time for."""
    began = time.perf_counter()
    training = setup.run("authors-best", setup.sizes.times)
    feed, n_all = training.feed, training.n_next_clicks
    training.feed = FirstBlocks(feed, 1)
    training.train_epoch()
    ready = time.perf_counter() - began
    yield Row("… until its first block is trained", "", f"{ready:,.0f} s", "")
    training.feed, training.progress = FirstBlocks(feed, n_all, 0.9 * setup.seconds - ready), EpochProgress(0)
    training.train_epoch()
    progress = training.progress
    if progress.n_clicks == 0:
        raise UserError(f"there were no seconds left of {setup.seconds:.0f} for an epoch; give more --seconds")
    share = progress.n_clicks / n_all
    note = "" if share == 1 else f", from the first {share:.0%}"
    yield goal_row("epoch of full YooChoose's size, authors-best", progress.seconds / share, note)


def rank(setup: Setup) -> Iterator[Row]:
    """Next clicks ranked a second."""
    sessions = sessions_like_yoochoose(setup.sizes.n_ranked, setup.sizes.n_items)
    yield goal_row("evaluation", next_clicks_per_second(setup.model(), sessions, setup.sizes.n_runs))


def recommend(setup: Setup) -> Iterator[Row]:
    """Sessions a second that get twenty recommendations."""
    yield goal_row("recommending", sessions_per_second(setup.model(), setup.sizes.n_served, setup.sizes.n_runs))


def compare_accuracy(setup: Setup) -> Iterator[Row]:
    """Recall@20 and MRR@20 of two settings on the shared clicks, beside those of the CPU."""
    if setup.clicks is None:
        yield Row("accuracy on the shared clicks", "as on the CPU", "no --clicks were given", "")
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "preprocessing.py", "--clicks", setup.clicks, "--data_folder", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError(f"preprocessing.py failed: {done.stderr.strip()}")
        for name in COMPARED:
            flags = f"{PRESETS[name].flags} --seed 1 --compile {'off' if setup.small else 'on'}".split()
            p = training_parameters(parse_flags([*flags, *(setup.sizes.flags.split())]))
            p.data_folder, p.train_data, p.valid_data, p.device = folder, TRAIN_FULL, TEST, setup.device
            training = TrainingRun(p)
            for epoch in range(1 if setup.small else p.n_epochs):
                training.progress = EpochProgress(epoch)
                training.train_epoch()
            metrics = training.evaluate()
            of_cpu = accuracy_of_the_cpu(name)
            for metric, value in (("Recall@20", metrics.recall[20]), ("MRR@20", metrics.mrr[20])):
                mean, deviation = of_cpu[metric]
                is_met = abs(value - mean) <= deviation
                goal = f"{mean:.4f} ± {deviation:.4f}"
                yield Row(f"{name}, {metric}, seed 1", goal, f"{value:.4f}", "yes" if is_met else "no")


def accuracy_of_the_cpu(preset: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of Recall@20 and MRR@20 in docs/results.md.

    Raises:
        UserError: they are not there.
    """
    row = re.search(
        rf"^\| `--preset {preset}` \(.*\| (.*) \[.*\] ± (.*) \| (.*) \[.*\] ± (.*) \| ",
        RESULTS.read_text(),
        re.MULTILINE,
    )
    if row is None:
        raise UserError(f"{RESULTS} has no row of --preset {preset}; put back the table of the shared clicks")
    recall, recall_deviation, mrr, mrr_deviation = map(float, row.groups())
    return {"Recall@20": (recall, recall_deviation), "MRR@20": (mrr, mrr_deviation)}


def profile_step(setup: Setup) -> Iterator[Row]:
    """What a step of authors-best consists of: kernels, the gaps between them, the host's calls."""
    training = setup.run("authors-best")
    step_time = 1e6 / steps_per_second(training, setup.sizes.n_runs)
    on_cuda = training.device.type == "cuda"
    training.feed, training.progress = FirstBlocks(training.feed, 1), EpochProgress(0)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:  # which 2.11 warns of otherwise
        training.train_epoch()
    events, n_steps = profiler.key_averages(), training.progress.step
    order = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    print(events.table(sort_by=order, row_limit=20, max_name_column_width=60))
    of_device = [event for event in events if event.device_type == DeviceType.CUDA]
    of_host = [event for event in events if event.device_type == DeviceType.CPU]
    busy = sum(event.self_device_time_total for event in of_device) / n_steps
    calls = [event for event in of_host if event.key.startswith("cuda")]
    figures = {
        "time": f"{step_time:.1f} µs",
        "kernels and copies": f"{sum(event.count for event in of_device) / n_steps:.1f}",
        "the device is busy": f"{busy:.1f} µs",
        "gaps between kernels": f"{step_time - busy:.1f} µs" if on_cuda else "on CUDA alone",
        "calls of CUDA": f"{sum(event.count for event in calls) / n_steps:.1f}",
        "the host in these calls, profiled": f"{sum(event.self_cpu_time_total for event in calls) / n_steps:.1f} µs",
    }
    for what, figure in figures.items():
        yield Row(f"a step of authors-best: {what}", "", figure, "")


PARTS: dict[str, tuple[Callable[[Setup], Iterator[Row]], int]] = {  # and its share of the time, a guess in seconds
    "tests": (pass_tests, 100),
    "training": (train, 170),  # six times compiling, which takes longer than what is measured
    "epoch": (train_epoch, 90),
    "evaluation": (rank, 20),
    "recommending": (recommend, 20),
    "accuracy": (compare_accuracy, 100),
    "profile": (profile_step, 40),
}


def _measure_part(part: str, setup: Setup, connection: Connection) -> None:
    """In the process of a part: send its rows one by one, and None after the last."""
    os.setsid()  # so that what it starts can be ended with it
    try:
        for row in PARTS[part][0](setup):
            connection.send(row)
    except BaseException as error:  # whatever it is, it ends this part alone
        traceback.print_exc()
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        connection.send(Row(part, "", f"failed: {reason}", "no"))
    connection.send(None)


def rows_of_part(part: str, setup: Setup) -> list[Row]:
    """The rows of a part, measured in a process of its own; the last says so where that failed or took too long."""
    processes = multiprocessing.get_context(START)
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=_measure_part, args=(part, setup, theirs))
    process.start()
    theirs.close()
    rows, end = [], time.monotonic() + setup.seconds
    try:
        while ours.poll(max(end - time.monotonic(), 0)):
            row = ours.recv()
            if row is None:
                return rows
            print(f"  {row.what}: {row.measured}", flush=True)
            rows.append(row)
        return [*rows, Row(part, "", f"not done within {setup.seconds:.0f} s", "no")]
    except EOFError:
        process.join()
        return [*rows, Row(part, "", f"its process ended with exit code {process.exitcode}", "no")]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table whose columns stand below each other."""
    cells = [Row("what", "goal", "measured", "met"), *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def add_flags(parser: FlagParser) -> None:
    """The flags of ``gpu``."""
    names = ", ".join(PARTS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help=f"gpu: some of {names}")
    parser.add_argument(
        "--seconds", type=whole_number(1, 10**5), default=540, help="gpu: all parts end in this time (%(default)s)"
    )
    parser.add_argument("--clicks", type=Path, help="gpu: the 80,000 raw sessions of docs/results.md, for the accuracy")
    parser.add_argument("--small", action="store_true", help="gpu: try the script, with sizes that mean nothing")


def measure(flags: argparse.Namespace) -> list[Row]:
    """Measure all parts that the flags name, one after the other, and print the table.

    Raises:
        UserError: there is no CUDA device, or the clicks are missing.
    """
    if flags.what != ["gpu"]:
        raise UserError(f"gpu is measured alone, without {listed(what for what in flags.what if what != 'gpu')}")
    if flags.clicks is not None and not flags.clicks.exists():
        raise UserError(f"--clicks {flags.clicks} does not exist; name the raw clicks of docs/results.md")
    device = choose_device(flags.device)
    if device.type == "cpu" and not flags.small:
        raise UserError("gpu needs a CUDA device that works; --device cpu --small tries the script without one")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    end, rows = time.monotonic() + flags.seconds, []
    for part, later in zip(flags.parts, itertools.count(1), strict=False):
        share = PARTS[part][1] / sum(PARTS[other][1] for other in flags.parts[later - 1 :])
        seconds = max(end - time.monotonic(), 0) * share
        print(f"{part}, {seconds:.0f} s at most", flush=True)
        rows += rows_of_part(part, Setup(str(device), flags.small, flags.clicks, seconds))
    print(f"\n{time.strftime('%Y-%m-%d')}, {name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"`python -m tools.benchmark {' '.join(sys.argv[1:])}`\n")
    if flags.small:
        rows = [row._replace(met="") for row in rows]
    print(table(rows), flush=True)
    return rows

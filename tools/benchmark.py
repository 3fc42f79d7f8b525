"""How fast, on data of YooChoose's size that this script makes itself.

    python -m tools.benchmark all                      # everything below
    python -m tools.benchmark training                 # steps per second of published settings, plain and faster
    python -m tools.benchmark evaluation               # against the naive argsort of a score matrix
    python -m tools.benchmark recommending             # sessions per second, from file to file
    python -m tools.benchmark session                  # milliseconds of a click and its recommendations, on one core
    python -m tools.benchmark preprocessing loading    # whole processes on 33 million raw clicks
    python -m tools.benchmark epoch                    # main.py on them, for an epoch of authors-best

Medians of several runs, the first of them not counted. Files are made once and kept in ``--folder``.
"""

from terminal.errors import UserError, run_script

# isort: split
import argparse
import itertools
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch
from torch import Tensor

from clicks.itemindex import ItemIndex
from clicks.synthetic import FIRST_ITEM_ID, synthetic_clicks, write_raw_clicks
from dataset import Block, MiniBatch, Sessions
from evaluation import rank_next_clicks, ranks_of_targets
from faster.device import choose_device, keep_freed_memory
from model import GRU4Rec, score
from preprocessing import TRAIN_FULL, VALID
from recommend import Recommender, write_recommendations
from runs.parameters import PARAMETERS, training_parameters
from runs.parameters import parse_flags as parse_main_flags
from runs.presets import PRESETS
from runs.trainingdata import TrainingData
from runs.trainingrun import TrainingRun
from terminal.atomicfile import make_folder
from terminal.flags import COUNT, FlagParser
from tools.latency import benchmark_session
from training import EpochProgress, Feed

N_ITEMS = 37_483
N_RAW_SESSIONS, N_DAYS = 8_400_000, 182  # some 33 million clicks from April to September
TRAINING_PRESETS = ("authors-best", "authors-retailrocket", "iclr2016-top1-100")
WHAT = ("training", "evaluation", "recommending", "session", "preprocessing", "loading", "epoch")
ROOT = Path(__file__).parent.parent
KILOBYTE = 1 if sys.platform == "darwin" else 1024  # in which the system counts peak memory: bytes on macOS
# Linux counts the memory of the process that starts a program as the program's, so a small process starts it.
LAUNCHER = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status != 0)
"""


def sessions_like_yoochoose(n_sessions: int) -> Sessions:
    """Synthetic sessions over all 37,483 items, each of which occurs."""
    clicks = synthetic_clicks(n_sessions, N_ITEMS, n_days=5, seed=1)
    lengths = np.unique(clicks.session, return_counts=True)[1]
    every_item = np.arange(N_ITEMS - N_ITEMS % 2).reshape(-1, 2)
    items = np.concatenate((clicks.item - clicks.item.min(), every_item.ravel(), [0, N_ITEMS - 1]))
    lengths = np.concatenate((lengths, np.full(len(every_item) + 1, 2)))
    return Sessions(items.astype(np.int32), np.concatenate(([0], np.cumsum(lengths))))


def medians(run: Callable[[], float], n_runs: int) -> float:
    """The median of what ``run`` returns, the first time not counted."""
    run()
    return statistics.median(run() for _ in range(n_runs))


class _FirstBlocks:
    """The first steps of an epoch, as something that :func:`training.train_epoch` takes."""

    def __init__(self, feed: Feed, n_blocks: int):
        self.feed, self.n_blocks = feed, n_blocks
        self.n_lanes, self.bptt = feed.n_lanes, feed.bptt

    def blocks(self, epoch: int, from_step: int) -> Iterator[tuple[Block, Iterator[MiniBatch]]]:
        return itertools.islice(self.feed.blocks(epoch, from_step), self.n_blocks)


def benchmark_training(device: torch.device, n_runs: int) -> None:
    """Steps per second of published settings, everything but evaluation included, plain and faster."""
    sessions = sessions_like_yoochoose(100_000)
    on_cuda = {"auto": "in a CUDA graph", "on": "compiled, in a CUDA graph"}
    faster_ways = on_cuda if device.type == "cuda" else {"on": "compiled"}
    for name in TRAINING_PRESETS:
        p = training_parameters(parse_main_flags(PRESETS[name].flags.split()))
        plain = steps_per_second(p, sessions, "off", device, n_runs)
        print(f"training {name}: {plain:,.0f} steps/s, {plain * p.batch_size:,.0f} clicks/s", flush=True)
        for compilation, way in faster_ways.items():
            faster = steps_per_second(p, sessions, compilation, device, n_runs)
            print(f"  {way}: {faster:,.0f} steps/s, {faster / plain:.2f} times as many", flush=True)


def steps_per_second(
    p: argparse.Namespace, sessions: Sessions, compilation: str, device: torch.device, n_runs: int
) -> float:
    """The median over runs of the same first steps of an epoch."""
    p = argparse.Namespace(**vars(p) | {"compile": compilation, "device": str(device), "n_epochs": 1})
    data = TrainingData(ItemIndex(np.arange(N_ITEMS)), sessions, torch.from_numpy(sessions.support(N_ITEMS)), sessions)
    training = TrainingRun(p, data=data)
    n_blocks = 10 if device.type == "cuda" else 2  # so many that the layout of the first one does not count
    training.feed = _FirstBlocks(training.feed, n_blocks)

    def run() -> float:
        training.progress = EpochProgress(0)
        training.train_epoch()
        return training.progress.step / training.progress.seconds

    return medians(run, n_runs)


def benchmark_evaluation(device: torch.device, n_runs: int) -> None:
    """Ranks of next clicks per second, against those of an argsort of the same scores."""
    sessions = sessions_like_yoochoose(2_000)
    table, bias = torch.randn(N_ITEMS, 100, device=device), torch.randn(N_ITEMS, device=device)

    def scores_of(n: int) -> Tensor:
        return score(torch.randn(n, 100, device=device), table, bias)

    def count() -> float:
        began = time.perf_counter()
        ranks = rank_next_clicks(lambda step: scores_of(len(step.inputs)), sessions, "standard", device)
        ranks.sum().item()
        return len(ranks) / (time.perf_counter() - began)

    def argsort() -> float:
        scores, targets = scores_of(256), torch.arange(256, device=device)
        began = time.perf_counter()
        order = scores.argsort(dim=1, descending=True)
        ranks = (order == targets[:, None]).int().argmax(dim=1) + 1
        seconds = time.perf_counter() - began
        assert (ranks >= ranks_of_targets(scores, targets)).all()  # argsort puts some of those that tie before it
        return 256 / seconds

    ours, naive = medians(count, n_runs), medians(argsort, n_runs)
    print(f"evaluation: {ours:,.0f} next clicks/s, scores included; ranking by argsort alone: {naive:,.0f}/s")
    print(f"evaluation: {ours / naive:.1f} times the argsort", flush=True)


def benchmark_recommending(device: torch.device, n_runs: int) -> None:
    """Sessions per second of recommend.py's work on a file of sessions, twenty recommendations each."""
    n_sessions = 20_000
    clicks = synthetic_clicks(n_sessions, N_ITEMS, n_days=5, seed=2)
    recommender = Recommender(
        GRU4Rec(N_ITEMS, constrained_embedding=True).to(device), ItemIndex(FIRST_ITEM_ID + np.arange(N_ITEMS))
    )
    with tempfile.TemporaryDirectory() as folder:
        sessions, output = Path(folder) / "sessions.csv", Path(folder) / "recommendations.csv"
        columns = {"SessionID": clicks.session, "ItemID": clicks.item}
        pa.csv.write_csv(pa.table(columns), sessions)

        def run() -> float:
            began = time.perf_counter()
            write_recommendations(recommender, sessions, output, k=20, exclude_seen=False)
            return n_sessions / (time.perf_counter() - began)

        print(f"recommending: {medians(run, n_runs):,.0f} sessions/s among {N_ITEMS:,} items", flush=True)


def measured(*command: object) -> tuple[float, float]:
    """Seconds and peak memory in GB of a command.

    Raises:
        UserError: the command failed.
    """
    began = time.perf_counter()
    launcher = subprocess.run([sys.executable, "-c", LAUNCHER, *map(str, command)], stdout=subprocess.PIPE)
    if launcher.returncode != 0:
        raise UserError(f"{' '.join(map(str, command))} failed")
    return time.perf_counter() - began, int(launcher.stdout) * KILOBYTE / 1e9


def raw_clicks(folder: Path) -> Path:
    """A raw click file of YooChoose's size, made where there is none yet."""
    path = make_folder(folder) / "clicks.dat"
    if not path.exists():
        print(f"making {path}, which takes minutes and some 8 GB of memory", flush=True)
        write_raw_clicks(path, synthetic_clicks(N_RAW_SESSIONS, N_ITEMS, N_DAYS, seed=1))
    return path


def benchmark_preprocessing(folder: Path) -> None:
    """preprocessing.py as a process, all four files written."""
    path = raw_clicks(folder)
    seconds, gigabytes = measured(sys.executable, ROOT / "preprocessing.py", "--clicks", path, "--data_folder", folder)
    size = path.stat().st_size / 1e9
    print(f"preprocessing: {size:.2f} GB of raw clicks in {seconds:.1f} s, peak {gigabytes:.2f} GB", flush=True)


def prepare(folder: Path) -> None:
    """Have the prepared files in the folder."""
    if not (folder / TRAIN_FULL).exists():
        benchmark_preprocessing(folder)


def benchmark_loading(folder: Path) -> None:
    """From the start of a process until the first training step, on the full training file."""
    prepare(folder)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from runs.parameters import parse_flags, training_parameters\nfrom runs.trainingrun import TrainingRun\n"
        f"flags = ['--data_folder', {str(folder)!r}, '--train_data', {TRAIN_FULL!r}, '--valid_data', {VALID!r}]\n"
        "run = TrainingRun(training_parameters(parse_flags(flags)))\nnext(run.feed.blocks(0))\n"
    )
    seconds, gigabytes = measured(sys.executable, "-c", program)
    print(f"loading until the first step: {seconds:.1f} s, peak {gigabytes:.2f} GB", flush=True)


def benchmark_epoch(folder: Path, device: torch.device) -> None:
    """main.py as a process, from its start to the end of the first epoch on the full training file, evaluated."""
    prepare(folder)
    print("an epoch of authors-best, which takes a quarter of an hour without a GPU", flush=True)
    with tempfile.TemporaryDirectory() as checkpoint_dir:
        files = "--data_folder", folder, "--train_data", TRAIN_FULL, "--valid_data", VALID
        setting = "--preset", "authors-best", "--n_epochs", 1, "--device", device, "--checkpoint_dir", checkpoint_dir
        seconds, gigabytes = measured(sys.executable, ROOT / "main.py", *files, *setting)
    print(f"epoch: {seconds:.0f} s, peak {gigabytes:.2f} GB", flush=True)


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument("what", nargs="+", choices=("all", *WHAT), help=f"all, or some of {', '.join(WHAT)}")
    parser.add_argument("--device", help=PARAMETERS["device"].help)
    parser.add_argument("--n_runs", type=COUNT, default=5, help="runs that count (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark"), help="for files (%(default)s)")
    return parser


def main() -> None:
    flags = make_parser().parse_args()
    device = choose_device(flags.device)
    if device.type == "cpu":
        keep_freed_memory()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(
        f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, {device} ({name}), {torch.get_num_threads()} threads"
    )
    for what in WHAT if "all" in flags.what else flags.what:
        if what == "training":
            benchmark_training(device, flags.n_runs)
        elif what == "evaluation":
            benchmark_evaluation(device, flags.n_runs)
        elif what == "recommending":
            benchmark_recommending(device, flags.n_runs)
        elif what == "session":
            benchmark_session(N_ITEMS, flags.n_runs)
        elif what == "preprocessing":
            benchmark_preprocessing(flags.folder)
        elif what == "loading":
            benchmark_loading(flags.folder)
        else:
            benchmark_epoch(flags.folder, device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE / 1e9
    print(f"peak memory of this process: {peak:.2f} GB")


if __name__ == "__main__":
    run_script(main)

"""How fast, on data of YooChoose's size that this script makes itself.

    python -m tools.benchmark all                      # everything below
    python -m tools.benchmark training                 # steps per second of published settings, plain and faster
    python -m tools.benchmark evaluation               # against the naive argsort of a score matrix
    python -m tools.benchmark recommending             # sessions per second, from file to file
    python -m tools.benchmark session                  # milliseconds of a click and its recommendations, on one core
    python -m tools.benchmark preprocessing loading    # whole processes on 33 million raw clicks
    python -m tools.benchmark epoch                    # main.py on them, for an epoch of authors-best
    python -m tools.benchmark scale --n_lines 110000000    # the same on a log of REES46's shape, which is made first
    python -m tools.benchmark gpu                      # what is wanted of a GPU, in one table, in nine minutes

Medians of several runs, the first of them not counted. Files are made once and kept in ``--folder``.
"""

from terminal.errors import UserError, run_script

# isort: split
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from clicks.synthetic import synthetic_clicks, write_raw_clicks
from evaluation import ranks_of_targets
from faster.device import choose_device, keep_freed_memory
from model import GRU4Rec
from preprocessing import TRAIN_FULL, VALID
from runs.parameters import PARAMETERS
from terminal.atomicfile import make_folder
from terminal.flags import COUNT, FlagParser
from tools import gpu
from tools.latency import benchmark_session
from tools.scale import log_like_rees46
from tools.speed import (
    N_ITEMS,
    medians,
    next_clicks_per_second,
    sessions_like_yoochoose,
    sessions_per_second,
    steps_per_second,
    training_run,
)

N_RAW_SESSIONS, N_DAYS = 8_400_000, 182  # some 33 million clicks from April to September
TRAINING_PRESETS = ("authors-best", "authors-retailrocket", "iclr2016-top1-100")
N_LINES = 110_000_000  # of REES46 in two months
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


def benchmark_training(device: torch.device, n_runs: int) -> None:
    """Steps per second of published settings, everything but evaluation included, plain and faster."""
    sessions = sessions_like_yoochoose(100_000)
    on_cuda = {"auto": "in a CUDA graph", "on": "compiled, in a CUDA graph"}
    faster_ways = on_cuda if device.type == "cuda" else {"on": "compiled"}
    for name in TRAINING_PRESETS:
        training = training_run(name, sessions, device, "off")
        plain = steps_per_second(training, n_runs)
        print(
            f"training {name}: {plain:,.0f} steps/s, {plain * training.parameters.batch_size:,.0f} clicks/s", flush=True
        )
        for compilation, way in faster_ways.items():
            faster = steps_per_second(training_run(name, sessions, device, compilation), n_runs)
            print(f"  {way}: {faster:,.0f} steps/s, {faster / plain:.2f} times as many", flush=True)


def benchmark_evaluation(device: torch.device, n_runs: int) -> None:
    """Ranks of next clicks per second, against those of an argsort of such scores."""
    model = GRU4Rec(N_ITEMS, constrained_embedding=True).to(device)

    def argsort() -> float:
        scores = torch.randn(256, N_ITEMS, device=device)
        targets = torch.arange(256, device=device)
        began = time.perf_counter()
        order = scores.argsort(dim=1, descending=True)
        ranks = (order == targets[:, None]).int().argmax(dim=1) + 1
        seconds = time.perf_counter() - began
        assert (ranks >= ranks_of_targets(scores, targets)).all()  # argsort puts some of those that tie before it
        return 256 / seconds

    ours = next_clicks_per_second(model, sessions_like_yoochoose(2_000), n_runs)
    naive = medians(argsort, n_runs)
    print(f"evaluation: {ours:,.0f} next clicks/s, the model included; ranking by argsort alone: {naive:,.0f}/s")
    print(f"evaluation: {ours / naive:.1f} times the argsort", flush=True)


def benchmark_recommending(device: torch.device, n_runs: int) -> None:
    """Sessions per second of recommend.py's work on a file of sessions, twenty recommendations each."""
    per_second = sessions_per_second(GRU4Rec(N_ITEMS, constrained_embedding=True).to(device), 20_000, n_runs)
    print(f"recommending: {per_second:,.0f} sessions/s among {N_ITEMS:,} items", flush=True)


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
    seconds, gigabytes = measured_loading(folder)
    print(f"loading until the first step: {seconds:.1f} s, peak {gigabytes:.2f} GB", flush=True)


def measured_loading(folder: Path) -> tuple[float, float]:
    """Seconds and peak memory of a process that loads prepared files until the first training step."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from runs.parameters import parse_flags, training_parameters\nfrom runs.trainingrun import TrainingRun\n"
        f"flags = ['--data_folder', {str(folder)!r}, '--train_data', {TRAIN_FULL!r}, '--valid_data', {VALID!r}]\n"
        "run = TrainingRun(training_parameters(parse_flags(flags)))\nnext(run.feed.blocks(0))\n"
    )
    return measured(sys.executable, "-c", program)


def benchmark_scale(folder: Path, n_lines: int) -> None:
    """preprocessing.py on a log of REES46's shape, and loading what it wrote, as processes."""
    log, prepared = log_like_rees46(folder, n_lines), folder / f"rees46-{n_lines}"
    command = sys.executable, ROOT / "preprocessing.py", "--dataset", "rees46", "--clicks", log
    seconds, gigabytes = measured(*command, "--data_folder", prepared)
    print(f"scale: {n_lines:,} lines prepared in {seconds:.0f} s, peak {gigabytes:.2f} GB", flush=True)
    seconds, gigabytes = measured_loading(prepared)
    print(f"scale: loaded until the first step in {seconds:.0f} s, peak {gigabytes:.2f} GB", flush=True)


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
    parser.add_argument(
        "what",
        nargs="+",
        choices=("all", *WHAT, "scale", "gpu"),
        help=f"all, or some of {', '.join(WHAT)}; or scale; or gpu",
    )
    parser.add_argument("--device", help=PARAMETERS["device"].help)
    parser.add_argument("--n_runs", type=COUNT, default=5, help="runs that count (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark"), help="for files (%(default)s)")
    parser.add_argument("--n_lines", type=COUNT, default=N_LINES, help="of the log of scale (%(default)s)")
    gpu.add_flags(parser)
    return parser


def main() -> None:
    flags = make_parser().parse_args()
    if "gpu" in flags.what:
        gpu.measure(flags)
        return
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
        elif what == "scale":
            benchmark_scale(flags.folder, flags.n_lines)
        else:
            benchmark_epoch(flags.folder, device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE / 1e9
    print(f"peak memory of this process: {peak:.2f} GB")


if __name__ == "__main__":
    run_script(main)

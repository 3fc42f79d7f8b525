"""What several tests share: click data, the shared YooChoose sample, and the scripts run as a user runs them."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from clicks.clickfile import Clicks, write_click_files
from clicks.itemindex import ItemIndex
from clicks.synthetic import synthetic_clicks
from dataset import NegativeSampler, SessionParallelBatches, Sessions, encode_sessions
from faster.compiler import why_not_compiled
from faster.minibatch import MiniBatches, MiniBatchMaker
from model import GRU4Rec
from preprocessing import TRAIN_ONLY, VALID, split

ROOT = Path(__file__).parent.parent
WITHOUT_MATPLOTLIB = os.pathsep.join((str(ROOT / "tests" / "without_matplotlib"), str(ROOT)))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": WITHOUT_MATPLOTLIB}
SHARED_CLICKS = ROOT.parent / "shared" / "data" / "yoochoose-clicks-80k.dat.gz"

WHY_NOT_COMPILED = why_not_compiled(torch.device("cpu"))
needs_compiler = pytest.mark.skipif(WHY_NOT_COMPILED is not None, reason=f"no compiled steps here: {WHY_NOT_COMPILED}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def make_clicks(sessions: list[list[int]], first_times: list[int] | None = None) -> Clicks:
    """Clicks of sessions 0, 1, … a second apart; a session starts at its first time, by default in order."""
    starts = first_times if first_times is not None else [1000 * s for s in range(len(sessions))]
    rows = [(s, item, 1000 * (starts[s] + i)) for s, items in enumerate(sessions) for i, item in enumerate(items)]
    return Clicks(*np.array(rows, dtype=np.int64).reshape(-1, 3).T)


def make_sessions(sessions: list[list[int]]) -> tuple[Sessions, ItemIndex]:
    """Sessions in the given order, with times, and the index of their items."""
    clicks = make_clicks(sessions)
    index = ItemIndex.of(clicks)
    return encode_sessions(clicks, index, with_times=True)[0], index


@pytest.fixture(autouse=True)
def without_matplotlib(monkeypatch):
    """As in ENVIRONMENT: a picture takes longer than an epoch of the tests. test_plot.py has it otherwise."""
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Train on the CPU as on a GPU: with repeated rows, and graphs, of which Python starts every kernel."""

    def maker(n_items, shared, device, repeated):
        return MiniBatchMaker(n_items, shared, device, repeated=True)

    monkeypatch.setattr("faster.cudagraph.captured", lambda run, device: run)
    monkeypatch.setattr("faster.minibatch.MiniBatchMaker", maker)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory) -> Path:
    """Prepared files of synthetic clicks, to train on and to evaluate on."""
    folder = tmp_path_factory.mktemp("data")
    files = split(synthetic_clicks(n_sessions=300, n_items=30, n_days=4, seed=0))
    write_click_files({folder / name: files[name] for name in (TRAIN_ONLY, VALID)})
    return folder


def command_of(script: str) -> list[str]:
    """How Python is told to run a script, ``main.py``, or a tool, ``tools.demo``."""
    return ["-m", script] if script.startswith("tools.") else [str(ROOT / script)]


def copy_code(folder: Path) -> None:
    """Copy all that runs, but not the tests."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")]:
        if path.parent.name != "tests":
            copied = folder / path.relative_to(ROOT)
            copied.parent.mkdir(exist_ok=True)
            shutil.copy(path, copied)


def feed_of(model: GRU4Rec, batches: SessionParallelBatches, sampler: NegativeSampler) -> MiniBatches:
    """The mini-batches that a model is trained on."""
    return MiniBatches(batches, sampler, len(model.output_bias), model.shared, model.output_bias.device)


def run_in(
    folder: Path, script: str, *arguments: object, expect: int = 0, **environment: str
) -> subprocess.CompletedProcess:
    """Run a script of the project, or a tool, in a process of its own and a folder: the finished process."""
    process = subprocess.run(
        [sys.executable, "-W", "error", *command_of(script), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=ENVIRONMENT | environment,
    )
    assert process.returncode == expect, process.stdout + process.stderr
    return process


@pytest.fixture
def run_script(tmp_path):
    """:func:`run_in` an empty folder."""
    return partial(run_in, tmp_path)


@pytest.fixture(scope="session")
def small_log(tmp_path_factory) -> Path:
    """A folder with a log, ``clicks.dat``, and ``data``, the files that preprocessing.py makes of it; to be copied."""
    folder = tmp_path_factory.mktemp("log")
    run_in(folder, "tools.synthetic", "--output", "clicks.dat", "--n_sessions", 1500, "--n_items", 60, "--n_days", 5)
    run_in(folder, "preprocessing.py", "--clicks", "clicks.dat", "--data_folder", "data")
    return folder


@pytest.fixture
def shared_clicks() -> Path:
    if not SHARED_CLICKS.exists():
        pytest.skip(f"the YooChoose sample is not at {SHARED_CLICKS.relative_to(ROOT.parent)}")
    return SHARED_CLICKS

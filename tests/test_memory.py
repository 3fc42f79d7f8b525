"""Many items and little memory: as many rows at a time as there is room for, the same figures, and a sentence."""

import re
import resource
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import ENVIRONMENT, ROOT, make_sessions

import evaluation
import main
import recommend
import reproduce
from baselines.registry import BASELINES
from clicks.itemindex import ItemIndex
from evaluation import evaluate, ranks_of_targets, rows_at_once
from model import GRU4Rec
from recommend import Recommender
from runs.parameters import parse_flags
from runs.runfolder import read_checkpoint
from runs.trainingrun import TrainingRun
from terminal import memory
from terminal.errors import UserError
from terminal.memory import is_out_of_memory, memory_for, memory_there_is

CPU = torch.device("cpu")
N_ITEMS = 40
GIGABYTE = 2**30


def has_memory(monkeypatch, n_bytes):
    monkeypatch.setattr(evaluation, "memory_there_is", lambda: n_bytes)


@pytest.mark.parametrize(
    ("n_items", "gigabytes", "most", "n_rows"),
    [
        (37_483, 1, 256, 256),  # YooChoose, wherever it can be trained at all
        (37_483, 16, 512, 512),
        (1_000_000, 2, 256, 32),
        (1_000_000, 2, 512, 32),
        (1_000_000, 64, 256, 256),
        (100_000_000, 2, 256, 1),
        (10, 0.001, 256, 256),
    ],
)
def test_rows_are_as_many_as_there_is_room_for(n_items, gigabytes, most, n_rows, monkeypatch):
    has_memory(monkeypatch, int(gigabytes * GIGABYTE))
    assert rows_at_once(n_items, CPU, most) == n_rows
    assert n_rows == 1 or n_rows * n_items * evaluation.BYTES_PER_SCORE <= gigabytes * GIGABYTE / 4


def random_sessions(seed):
    rng = np.random.default_rng(seed)
    every_item = list(range(N_ITEMS))
    return make_sessions([every_item, *(rng.integers(0, N_ITEMS, rng.integers(2, 9)).tolist() for _ in range(60))])[0]


@pytest.mark.parametrize("tie_breaking", ["standard", "conservative", "median"])
def test_figures_do_not_depend_on_the_memory_there_is(tie_breaking, monkeypatch):
    train, test = random_sessions(0), random_sessions(1)
    torch.manual_seed(0)
    model = GRU4Rec(N_ITEMS, hidden_size=6, constrained_embedding=True, sigma=1.0)
    figures = set()
    for n_rows in (1, 2, 8, 32, 256):
        has_memory(monkeypatch, n_rows * N_ITEMS * evaluation.BYTES_PER_SCORE * 4)
        monkeypatch.setitem(evaluation.COMPARED_AT_ONCE, "cpu", n_rows * N_ITEMS // 2)
        assert rows_at_once(N_ITEMS, CPU) == n_rows
        of_baselines = [str(BASELINES[name](train, N_ITEMS).evaluate(test, (1, 5), tie_breaking)) for name in BASELINES]
        figures.add((str(evaluate(model, test, (1, 5), tie_breaking)), *of_baselines))
    assert len(figures) == 1


def test_ranks_do_not_depend_on_how_many_scores_are_compared_at_once(monkeypatch):
    scores, targets = torch.randint(0, 5, (50, 33)).float(), torch.randint(0, 33, (50,))
    ranks = {}
    for at_once in (1, 33, 34, 200, 10**9):
        monkeypatch.setitem(evaluation.COMPARED_AT_ONCE, "cpu", at_once)
        ranks[at_once] = [ranks_of_targets(scores, targets, ties).tolist() for ties in evaluation.TIE_BREAKING]
    assert all(each == ranks[1] for each in ranks.values())


def test_recommendations_do_not_depend_on_it(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    sessions = [rng.integers(0, N_ITEMS // 2, n).tolist() for n in (1, 300, 2, *rng.integers(1, 9, 700))]
    rows = "".join(f"{s},{item}\n" for s, items in enumerate(sessions) for item in items)
    (tmp_path / "sessions.csv").write_text("SessionID,ItemID\n" + rows)
    model = GRU4Rec(N_ITEMS, hidden_size=6, embedding_dim=3)
    recommender = Recommender(model, ItemIndex(np.arange(N_ITEMS)))
    tables = []
    for n_rows in (1, 16, 512):
        has_memory(monkeypatch, n_rows * N_ITEMS * evaluation.BYTES_PER_SCORE * 4)
        batches = list(recommend.recommend_for_file(recommender, tmp_path / "sessions.csv", 4, exclude_seen=True))
        assert max(table.num_rows for table in batches) == 4 * min(n_rows, len(sessions))
        tables.append(
            [(row["SessionID"], row["ItemID"], row["Rank"]) for table in batches for row in table.to_pylist()]
        )
    assert tables[0] == tables[1] == tables[2]


def test_one_long_session_takes_no_more_than_itself():
    """Beside 511 short ones, padded, it would be 512 times as much."""
    recommender = Recommender(GRU4Rec(5, hidden_size=1), ItemIndex(np.arange(5)))
    sessions = [np.zeros(n, dtype=np.int32) for n in [2] * 511 + [3000]]
    tracemalloc.start()
    try:
        ids, _ = recommender.recommend_batch(sessions, 2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000, "padded, 12 MB"
    assert (ids[:511] == ids[0]).all()


MILLION = """
import resource, sys
import numpy as np, torch
from clicks.itemindex import ItemIndex
from dataset import Sessions
from evaluation import evaluate
import evaluation
evaluation.memory_there_is = lambda: 2 * 2**30
from baselines.published import SessionPopularity
from model import GRU4Rec
from recommend import Recommender
n_items = 1_000_000
items = np.random.default_rng(0).integers(0, n_items, 200).astype(np.int32)
sessions = Sessions(items, np.arange(0, 201, 2))
model = GRU4Rec(n_items, hidden_size=100, constrained_embedding=True)
print(evaluate(model, sessions).n_next_clicks)
Recommender(model, ItemIndex(np.arange(n_items))).recommend_batch(np.split(items[:60], 30), 20)
print(SessionPopularity(sessions, n_items).evaluate(sessions).n_next_clicks)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak // (1 if sys.platform == "darwin" else 1024), "MB")
"""


def test_a_million_items_on_two_gigabytes():
    process = subprocess.run(
        [sys.executable, "-c", MILLION], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    *n_next_clicks, peak = process.stdout.splitlines()
    assert n_next_clicks == ["100", "100"]
    assert int(peak.split()[0]) < 2000, peak


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "2000"}, 2000),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "3000", "memory.max": "max"}, 3000),
        ("0::/a/b\n", {"a/b/memory.max": "1000", "a/memory.max": "3000"}, 1000),
        ("12:cpu,memory:/docker/x\n3:cpu:/\n", {"memory/memory.limit_in_bytes": "4000", "memory.max": "1"}, 4000),
        ("0::/../outside\n", {"memory.max": "max"}, 10**15),
        (None, {}, 10**15),
    ],
)
def test_limits_of_containers_are_found(groups, limits, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUPS_OF_PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_of_the_machine", lambda: 10**15)
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if groups is not None:
        write(tmp_path / "cgroup", groups)
    for name, limit in limits.items():
        write(tmp_path / "groups" / name, f"{limit}\n")
    assert memory_there_is() == expected


def test_the_machine_and_ulimit_are_asked():
    assert 2**27 < memory_there_is() < 2**50
    command = "from terminal.memory import memory_there_is; print(memory_there_is())"
    limited = ["sh", "-c", 'ulimit -v 300000; exec "$@"', "sh", sys.executable, "-c", command]
    process = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(process.stdout) == 300_000 * 1024


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("Unable to allocate 3.2 GiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            True,
        ),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error, expected):
    assert is_out_of_memory(error) == expected
    with pytest.raises(UserError if expected else type(error)) as caught, memory_for("do this"):
        raise error
    if expected:
        assert str(caught.value) == f"out of memory: do this ({error})"


OUT = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes\nand more")


def out_of_memory(*_, **__):
    raise OUT


@pytest.fixture
def said(monkeypatch, data_folder, tmp_path):
    """The sentence of a script whose memory runs out."""
    monkeypatch.chdir(tmp_path)

    def run(script, *line):
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, line)])
        with pytest.raises(UserError) as caught:
            script.main()
        sentence = str(caught.value)
        assert sentence.startswith("out of memory: ")
        assert sentence.endswith(" (DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes)")
        return sentence

    return run


def flags_in(sentence):
    return re.findall(r"--\w+", sentence)


@pytest.fixture
def checkpoint(data_folder, tmp_path):
    line = f"--data_folder {data_folder} --hidden_size 4 --batch_size 8 --n_epochs 1 --device cpu"
    main.run(parse_flags([*line.split(), "--checkpoint_dir", str(tmp_path)]))
    (path,) = tmp_path.glob("*/model_00000.pt")
    return path


def test_advice_has_an_effect(said, checkpoint, data_folder, tmp_path, monkeypatch):
    new = ("--data_folder", data_folder, "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "train_epoch", out_of_memory)
        assert flags_in(said(main, *new)) == ["--batch_size", "--hidden_size", "--device"]
        more = ("--n_sample", 4, "--bptt", 2, "--embedding_dim", 3, "--resume")
        assert flags_in(said(main, *new, *more))[1:] == [
            "--n_sample",
            "--hidden_size",
            "--embedding_dim",
            "--bptt",
            "--device",
        ]
        assert "--n_sample" in flags_in(said(main, *new, "--preset", "authors-best"))
        assert flags_in(said(main, "--load_model", checkpoint, "--n_epochs", 2)) == ["--device", "--load_model"]
    with monkeypatch.context() as patch:
        patch.setattr("runs.trainingrun.evaluate", out_of_memory)
        assert flags_in(said(main, *new, "--n_epochs", 1)) == ["--device"]
    with monkeypatch.context() as patch:
        patch.setattr("main.rank_by_model", out_of_memory)
        assert flags_in(said(main, "--is_eval", "--load_model", checkpoint)) == ["--device"]
    with monkeypatch.context() as patch:
        patch.setattr("runs.trainingdata.read_session_clicks", out_of_memory)
        patch.setattr("reproduce.read_session_clicks", out_of_memory)
        assert flags_in(said(main, *new)) == ["--last_days"]
        files = (
            "--data_folder",
            data_folder,
            "--train_data",
            "recSys15TrainOnly.txt",
            "--test_data",
            "recSys15Valid.txt",
        )
        assert flags_in(said(reproduce, *files)) == ["--last_days"]
    with monkeypatch.context() as patch:
        patch.setattr("serving.selection.score", out_of_memory)
        items = read_checkpoint(checkpoint)["item_ids"][0].item()
        assert flags_in(said(recommend, "--load_model", checkpoint, "--items", items)) == ["--device"]
    with monkeypatch.context() as patch:
        patch.setattr("baselines.baseline.rank_by_every_tie_breaking", out_of_memory)
        sentence = said(reproduce, *files, "--rows", "S-POP")
        assert flags_in(sentence) == ["--rows"]
        assert "free some for S-POP" in sentence


def test_a_checkpoint_that_is_too_large_is_not_called_damaged(checkpoint, monkeypatch):
    monkeypatch.setattr("torch.load", out_of_memory)
    with pytest.raises(RuntimeError, match="can't allocate"):
        read_checkpoint(checkpoint)

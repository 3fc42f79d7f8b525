"""One run in several processes computes what one process does, and leaves what it leaves."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from conftest import ENVIRONMENT, ROOT

from faster import ranks
from faster.ranks import dropout_of_lanes, lanes_of
from model import dropout
from runs.figures import read_rows

GOLDEN = """
import sys
sys.path[:0] = ["{root}", "{root}/tests"]
from faster.ranks import dealt_training_step, joined_ranks
from test_golden import CASES, NotingStep, train_golden_run
from test_ranks import train_every_way
with joined_ranks():
    for case in CASES:
        train_golden_run(case, NotingStep(dealt_training_step))
    train_every_way()
    print("all runs are the same")
"""
WAYS = [  # lanes, of which few live at the end; clicks back; flags
    ("BPR-max", 5, 3, {"constrained_embedding": True, "dropout_input": 0.3, "dropout_hidden": 0.2}),
    ("TOP1", 4, 2, {"num_layers": 2, "dropout_input": 0.3, "dropout_hidden": 0.5}),
    ("CrossEntropy", 3, 1, {"embedding_dim": 7, "dropout_input": 0.4, "reset_gate": "before"}),
]


def train_every_way():
    """In a rank: train with all others and alone; the losses of every step, and the weights, are the same."""
    from conftest import feed_of, make_sessions
    from test_golden import NotingStep

    from dataset import NegativeSampler, SessionParallelBatches
    from faster.ranks import dealt_training_step
    from lossfunction import make_loss_function
    from model import GRU4Rec
    from optimizer import Optimizer, adagrad
    from training import EpochProgress, train_epoch, training_step

    sessions, index = make_sessions([[(7 * s + 3 * i * i) % 11 for i in range(2 + s % 5)] for s in range(40)])
    support = torch.from_numpy(sessions.support(len(index)))
    for loss_type, n_lanes, bptt, settings in WAYS:
        found = []
        for step in (training_step, dealt_training_step):
            torch.manual_seed(1)
            model = GRU4Rec(len(index), hidden_size=6, **settings)
            optimizer = Optimizer(model.network_parameters(), model.item_tables(), adagrad(0.1, 0.1))
            batches = SessionParallelBatches(sessions, n_lanes, bptt=bptt)
            sampler = NegativeSampler(support.numpy(), 0.5, 4, 1, torch.device("cpu"))
            loss_function = make_loss_function(loss_type, 0.5, 0.5, 0.5, support)
            progress = EpochProgress(0)
            noted = NotingStep(step)
            train_epoch(model, optimizer, loss_function, feed_of(model, batches, sampler), progress, step=noted)
            found.append((torch.tensor(noted.losses), *progress.hidden, *model.state_dict().values()))
        assert len(noted.losses) > 20
        for alone, together in zip(*found, strict=True):
            torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def begun(command, folder, n=2):
    """Processes that are told what torchrun tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environments = [ENVIRONMENT | told | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]
    return [subprocess.Popen(command, cwd=folder, env=environment, **pipes) for environment in environments]


def ended(processes, timeout=240):
    """Of each process its exit code, what it printed, and its errors."""
    try:
        return [(*process.communicate(timeout=timeout), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_two_processes_train_the_golden_runs_and_with_dropout_as_one_does(tmp_path):
    first, second = ended(begun([sys.executable, "-c", GOLDEN.format(root=ROOT)], tmp_path))
    assert first == ("all runs are the same\n", "", 0), first[1] + second[1]
    assert second == ("", "", 0)


def test_lanes_are_dealt_once_and_all_are_where_they_are_few():
    for b in range(1, 20):
        for n in range(1, 6):
            dealt = [list(range(b))[lanes_of(rank, n, b)] for rank in range(n)]
            assert sum(dealt, []) == list(range(b)) if b >= n else dealt == [list(range(b))] * n  # noqa: RUF017
            assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("by_row", [True, False])
def test_dropout_of_lanes_is_that_of_all(by_row):
    x = torch.rand(3, 7, 5) + 1
    torch.manual_seed(3)
    expected = dropout(x.flatten(0, 1), 0.4, by_row).view(3, 7, 5)
    for lanes in (slice(0, 3), slice(3, 7)):
        torch.manual_seed(3)
        found = dropout_of_lanes(x[:, lanes].flatten(0, 1), 0.4, by_row, lanes=lanes, b=7)
        assert torch.equal(found.view(3, -1, 5), expected[:, lanes])


def test_the_device_of_a_rank(monkeypatch):
    assert ranks.device_of_rank("cuda:1") == "cuda:1"
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [ranks.device_of_rank(name) for name in (None, "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    with pytest.raises(ranks.UserError, match="leave --device cuda:0 out"):
        ranks.device_of_rank("cuda:0")


MAIN = [sys.executable, "-W", "error", str(ROOT / "main.py"), "--device", "cpu", "--n_sample", "8", "--batch_size", "6"]
MAIN += ["--hidden_size", "8", "--dropout_hidden", "0.3", "--lr", "0.1", "--n_epochs", "2"]


def history(folder):
    (run,) = (folder / "checkpoint").iterdir()
    kept = ("epoch", "train_loss", "recall@20", "mrr@20")
    return [[float(row[name]) for name in kept] for row in read_rows(run / "metrics.csv")]


@pytest.mark.long
def test_a_run_that_is_stopped_goes_on_with_another_number_of_processes(data_folder, tmp_path):
    line = [*MAIN, "--data_folder", str(data_folder), "--resume"]
    (tmp_path / "alone").mkdir()
    subprocess.run(line, cwd=tmp_path / "alone", check=True, capture_output=True, env=ENVIRONMENT)
    processes = begun([*line, "--save_every", "1"], tmp_path)
    while not list(tmp_path.glob("checkpoint/*/*.pt")):
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    first, second = ended(processes)
    assert first[2] == 143, first
    assert "stopped by SIGTERM, everything is saved" in first[0]
    assert second == ("", "", 0)
    for n in (3, 1):
        last = ended(begun(line, tmp_path, n))
    assert last[0][2] == 0, last
    assert history(tmp_path) == [pytest.approx(row, abs=2e-3) for row in history(tmp_path / "alone")]


@pytest.mark.long
def test_a_mistake_is_said_once(tmp_path):
    first, second = ended(begun([*MAIN, "--data_folder", "nowhere"], tmp_path))
    assert first[2] == 2
    assert first[1].startswith("error: ")
    assert first[1].count("\n") == 1
    assert second == ("", "", 0)
    first, second = ended(begun([*MAIN, "--is_eval"], tmp_path))
    assert first[1] == "error: --is_eval is the work of one process: leave torchrun out\n"
    assert os.listdir(tmp_path) == []

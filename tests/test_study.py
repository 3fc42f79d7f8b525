"""Studies that several processes share: what they have in common is a file, and each trial has one process."""

import signal
import subprocess
import sys
import threading
import time

import optuna
import pytest
import torch
from conftest import ENVIRONMENT, ROOT

from runs import jobs, study
from runs.jobs import run_jobs
from runs.study import GRACE_SECONDS, is_for_several, open_study, shown_study, storage_at
from terminal.errors import UserError

SPACE = (
    "loss_type BPR-max\nconstrained_embedding true\nn_sample 8\nbatch_size 16\nhidden_size 4 8\nlr 0.02 .. 0.5 log\n"
)


def opened_anew(path):
    """A study as another process has it."""
    return optuna.load_study(storage=storage_at(path), study_name=study.STUDY_NAME)


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_a_trial_that_waits_is_taken_once(name, tmp_path):
    first = open_study(tmp_path / name)
    for number in range(20):
        first.enqueue_trial({"x": number})
    taken, together = [], threading.Barrier(3)

    def take(of):
        together.wait()
        for _ in range(20):
            if (trial := of._pop_waiting_trial_id()) is not None:
                taken.append(trial)

    takers = [threading.Thread(target=take, args=(opened_anew(tmp_path / name),)) for _ in range(3)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert len(taken) == len(set(taken)) == 20


def test_a_trial_of_a_journal_that_is_silent_has_lost_its_process(tmp_path, monkeypatch):
    ours = open_study(tmp_path / "study.journal")
    storage = ours._storage
    silent, alive, never_heard = (ours._storage.create_new_trial(ours._study_id) for _ in range(3))
    now = time.time()
    monkeypatch.setattr(study.time, "time", lambda: now)
    storage.record_heartbeat(silent)
    monkeypatch.setattr(study.time, "time", lambda: now + GRACE_SECONDS + 1)
    storage.record_heartbeat(alive)
    optuna.storages.fail_stale_trials(opened_anew(tmp_path / "study.journal"))
    states = {trial._trial_id: trial.state.name for trial in opened_anew(tmp_path / "study.journal").trials}
    assert states == {silent: "FAIL", alive: "RUNNING", never_heard: "FAIL"}
    storage.record_heartbeat(silent)  # its process was only asleep


def test_addresses(tmp_path):
    address = "postgresql://me:secret@host/db"
    assert shown_study(address) == "postgresql://me:***@host/db"
    assert [is_for_several(each) for each in (address, "a.journal", "a.db", "sqlite:///a.db")] == [
        True,
        True,
        False,
        False,
    ]
    open_study(f"sqlite:///{tmp_path}/a.db")
    assert (tmp_path / "a.db").exists()
    with pytest.raises(UserError, match=r"redis://host: expected a file, .* or an address such as"):
        open_study("redis://host")
    (tmp_path / "text.journal").write_text("no journal\nat all\n")
    with pytest.raises(UserError, match="is no study, nor can it become one"):
        open_study(tmp_path / "text.journal")


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("postgresql", "psycopg2", "psycopg2-binary"),
        ("mysql", "pymysql", "PyMySQL"),
    ],
)
def test_a_missing_driver_is_named(scheme, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{scheme}://me:\*\*\*@host/db needs a driver .*: pip install {package}$"):
        open_study(f"{scheme}://me:secret@host/db")


def test_processes_that_share_a_journal_search_together_and_one_may_be_killed(data_folder, tmp_path):
    (tmp_path / "space.txt").write_text(SPACE)
    command = [
        sys.executable,
        "-W",
        "error",
        str(ROOT / "tune.py"),
        "--space",
        "space.txt",
        "--study",
        "shared.journal",
    ]
    command += ["--data_folder", str(data_folder), "--device", "cpu", "--n_epochs", "2", "--n_trials", "6"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first, second = (subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes) for _ in range(2))
    for line in first.stdout:
        if line.startswith("trial"):
            break
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    printed, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    trials = opened_anew(tmp_path / "shared.journal").trials
    states = [trial.state.name for trial in trials]
    assert 6 <= states.count("COMPLETE") + states.count("PRUNED") <= 7
    assert states.count("WAITING") == 0
    assert states.count("RUNNING") <= 1  # what was killed
    settings = [trial.user_attrs["setting"] for trial in trials if "setting" in trial.user_attrs]
    assert len(set(settings)) == len(settings)
    assert "\ntrial  MRR@20" in printed


def trained(seed, stopper):
    """In a process of its own or not: the sum of the losses of some steps of a network."""
    torch.manual_seed(seed)
    weight, data = torch.rand(300, 300, requires_grad=True), torch.rand(4000, 300)
    for _ in range(3):
        loss = torch.softmax(data @ weight, dim=1).square().sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        weight = (weight - gradient).detach().requires_grad_()
    return loss.item(), torch.get_num_threads(), weight.sum().item()


def test_results_are_the_same_whatever_the_number_of_jobs():
    before = torch.get_num_threads()
    try:
        alone, together = (dict(run_jobs(trained, [1, 2, 3], n_jobs, 1)) for n_jobs in (1, 2))
    finally:
        torch.set_num_threads(before)
    assert alone == together
    assert {n_threads for _, n_threads, _ in alone.values()} == {1}


def test_a_job_has_a_gpu_of_its_own_where_there_are_several(monkeypatch):
    def devices(n_gpus, wanted):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        found = []
        for slot in (None, 0, 1, 2):
            monkeypatch.setattr(jobs, "_slot", slot)
            found.append(jobs.own_device(wanted))
        return found

    assert devices(2, None) == [None, "cuda:0", "cuda:1", "cuda:0"]
    assert devices(2, "cuda") == ["cuda", "cuda:0", "cuda:1", "cuda:0"]
    assert devices(2, "cuda:1") == ["cuda:1"] * 4
    assert devices(2, "cpu") == ["cpu"] * 4
    assert devices(1, None) == devices(0, None) == [None] * 4

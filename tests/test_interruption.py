"""Real processes killed at random moments, full disks, read-only trees: nothing is lost, nothing half written."""

import csv
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch
from conftest import ENVIRONMENT, ROOT, copy_code, run_in

import main
from clicks.prepared import RECORD
from preprocessing import TRAIN_ONLY, VALID
from runs.interruption import Interrupted, StopRequest
from runs.parameters import parse_flags
from terminal.errors import UserError

SETTING = (
    "--loss_type CrossEntropy --constrained_embedding --hidden_size 8 --batch_size 8 --dropout_hidden 0.3 --lr 0.1 "
    "--momentum 0.2 --n_sample 16 --logq 1 --device cpu --n_epochs 3 --save_every 40"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared files of some 800 steps an epoch at batch size 8."""
    folder = tmp_path_factory.mktemp("data")
    run_in(folder, "tools.synthetic", "--output", "clicks.dat", "--n_sessions", 5000, "--n_items", 80, "--n_days", 5)
    run_in(folder, "preprocessing.py", "--clicks", "clicks.dat", "--data_folder", ".")
    return folder


def start(tmp_path, *flags, script="main.py", **options):
    command = [sys.executable, "-u", str(ROOT / script), *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes, **options)


def finish(process, expect=0):
    printed, complaints = process.communicate(timeout=240)
    assert process.returncode == expect, printed + complaints
    return printed, complaints


def wait_for_training(process):
    """Read what the process prints until it trains."""
    for line in process.stdout:
        if line.startswith("run folder"):
            return
    raise AssertionError(process.stderr.read())


def final_state(folder):
    checkpoint = torch.load(folder / "model_00002.pt", weights_only=True)
    tensors = dict(checkpoint["model"])
    for name, state in checkpoint["optimizer"]["state"].items():
        tensors |= {f"{name} {i}": tensor for i, tensor in enumerate(state)}
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    figures = [{name: row[name] for name in row if name not in ("seconds", "clicks_per_second")} for row in rows]
    return tensors, figures


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(start(folder, *SETTING, "--data_folder", data))
    (run,) = (folder / "checkpoint").iterdir()
    return final_state(run)


@pytest.mark.parametrize("n_kills", [3, pytest.param(12, marks=pytest.mark.long)])
def test_a_run_killed_many_times_ends_as_if_it_never_was(data, uninterrupted, tmp_path, n_kills):
    rng = random.Random(20)
    line = [*SETTING, "--data_folder", data, "--resume"]
    expected_code = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    kills, stops = 0, 0
    for _ in range(60):
        process = start(tmp_path, *line)
        wait_for_training(process)
        if kills < n_kills:
            how = rng.choice(list(expected_code))
            time.sleep(rng.uniform(0, 0.25))
            process.send_signal(how)
            printed, _ = process.communicate(timeout=60)
            if process.returncode == expected_code[how]:
                kills += 1
                if how != signal.SIGKILL and "everything is saved" in printed:
                    stops += 1
                continue
        else:
            process.communicate(timeout=240)
        assert process.returncode == 0
        break
    assert kills == n_kills, f"only {kills} kills: the run is too short for this test"
    assert stops > 0
    runs = list((tmp_path / "checkpoint").iterdir())
    (run,) = [run for run in runs if (run / "model_00002.pt").exists()]
    tensors, figures = final_state(run)
    expected_tensors, expected_figures = uninterrupted
    assert figures == expected_figures
    assert tensors.keys() == expected_tensors.keys()
    assert all(torch.equal(tensors[name], expected_tensors[name]) for name in tensors)
    assert not (run / "partial.pt").exists()
    again, _ = finish(start(tmp_path, *line))
    assert "3 of 3 epochs are done" in again


def test_a_signal_saves_and_says_how_to_go_on(data, uninterrupted, tmp_path):
    process = start(tmp_path, *SETTING, "--data_folder", data, "--save_every", 100000)
    wait_for_training(process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    printed, _ = finish(process, expect=143)
    command = printed.strip().splitlines()[-1].partition("go on with: python main.py ")[2].split()
    assert command[0] == "--load_model"
    assert command[1].endswith("partial.pt")
    finish(start(tmp_path, *command, "--checkpoint_dir", "rest"))
    (run,) = (tmp_path / "rest").iterdir()
    tensors, figures = final_state(run)
    assert figures == uninterrupted[1]
    assert all(torch.equal(tensors[name], uninterrupted[0][name]) for name in tensors)


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_reaches_what_reproduce_trains_and_lets_it_save(data, tmp_path, how):
    # With 1000 units the epoch takes seconds, so that the signal comes within it.
    line = ["--data_folder", data, "--rows", "iclr2016-xe-1000", "--n_epochs", 1, "--device", "cpu"]
    line += ["--output", "out"]
    process = start(tmp_path, *line, script="reproduce.py", start_new_session=True)
    wait_for_training(process)
    time.sleep(0.3)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.send_signal(how)
    printed, _ = finish(process, expect=128 + how)
    assert "everything is saved" in printed
    assert printed.endswith(f"stopped by {how.name}; go on with the same line\n")
    (partial,) = tmp_path.glob("out/*/*/partial.pt")
    printed, _ = finish(start(tmp_path, *line, script="reproduce.py"))
    assert f"going on from {partial.relative_to(tmp_path)}" in printed
    assert not partial.exists()


def test_resume_passes_over_a_damaged_checkpoint(data, uninterrupted, tmp_path):
    finish(start(tmp_path, *SETTING, "--data_folder", data, "--n_epochs", 2))
    (run,) = (tmp_path / "checkpoint").iterdir()
    newest = run / "model_00001.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    _, complaints = finish(start(tmp_path, *SETTING, "--data_folder", data, "--resume"))
    assert "model_00001.pt is damaged" in complaints
    tensors, figures = final_state(run)
    assert figures == uninterrupted[1]
    assert all(torch.equal(tensors[name], uninterrupted[0][name]) for name in tensors)


def test_resume_tells_experiments_apart(data, tmp_path, monkeypatch, capsys):
    """Other parameters, named or not, start a run of their own; the same ones go on, whatever else is in the folder."""
    monkeypatch.chdir(tmp_path)

    def printed_by(line):
        assert main.run(parse_flags(list(map(str, line)))) == 0
        return capsys.readouterr().out

    one = [*SETTING, "--data_folder", data, "--resume", "--n_epochs", 1]
    other = [*one, "--lr", 0.5]
    unnamed = ["--data_folder", data, "--resume", "--n_epochs", 1, "--hidden_size", 4]
    for line in (one, other, unnamed):
        assert "no checkpoint with these parameters in checkpoint: starting anew" in printed_by(line)
    assert len(list((tmp_path / "checkpoint").iterdir())) == 3
    for line in (one, other, unnamed):
        assert "1 of 1 epochs are done" in printed_by(line)
    assert printed_by([*one, "--n_epochs", 2]).startswith("going on from checkpoint/")
    assert len(list((tmp_path / "checkpoint").glob("*/model_00001.pt"))) == 1
    with pytest.raises(UserError, match="--resume finds the checkpoint by itself"):
        printed_by([*one, "--load_model", "x.pt"])


def test_resume_does_not_take_a_run_on_other_clicks_for_done(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    line = [*SETTING, "--data_folder", "data", "--resume", "--n_epochs", 1]
    finish(start(tmp_path, *line))
    (tmp_path / "data" / RECORD).unlink()  # it would give the exchange away before
    shutil.copy(data / VALID, tmp_path / "data" / TRAIN_ONLY)
    _, complaints = finish(start(tmp_path, *line), expect=2)
    assert "was trained on other clicks than those of data/recSys15TrainOnly.txt" in complaints


def limit_file_size(n_bytes):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def test_a_full_disk_keeps_the_last_good_checkpoint(data, tmp_path):
    line = [*SETTING, "--data_folder", data]
    finish(start(tmp_path, *line, "--n_epochs", 1))
    (run,) = (tmp_path / "checkpoint").iterdir()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".pt"}
    process = start(tmp_path, *line, "--resume", preexec_fn=limit_file_size(10_000))
    _, complaints = finish(process, expect=2)
    last = complaints.strip().splitlines()[-1]
    assert last.startswith("error: cannot write ")
    assert "File too large" in last
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".pt"} == before
    assert not list(run.glob(".*"))


def test_a_full_disk_leaves_no_half_of_the_prepared_files(data, tmp_path):
    command = [sys.executable, ROOT / "preprocessing.py", "--clicks", data / "clicks.dat", "--data_folder", tmp_path]
    options = {"capture_output": True, "text": True, "env": ENVIRONMENT}
    process = subprocess.run(command, preexec_fn=limit_file_size(100_000), **options)
    assert process.returncode == 2
    assert process.stderr.startswith("error: cannot write ")
    assert list(tmp_path.iterdir()) == []


def read_only(tree):
    """What to put before a command so that it cannot write to a folder; skips where nothing helps."""
    for path in (*tree.iterdir(), tree):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    if not os.access(tree, os.W_OK):
        return []
    mount = f"mount --bind {tree} {tree} && mount -o remount,ro,bind {tree}"  # root heeds no permissions
    try:
        subprocess.run(["unshare", "-m", "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may write even where permissions say no, and may not mount a folder read-only")
    return ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]


def test_a_read_only_source_tree_will_do(data, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    copy_code(tree)
    command = [*read_only(tree), sys.executable, tree / "main.py", "--data_folder", data, "--n_epochs", 1]
    command += ["--checkpoint_dir", tmp_path / "elsewhere", "--hidden_size", 4, "--device", "cpu"]
    touched = subprocess.run([*read_only(tree), "touch", tree / "x"], capture_output=True)
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT / "tests" / "without_matplotlib")}
    process = subprocess.run(list(map(str, command)), cwd=tree, env=environment, capture_output=True, text=True)
    tree.chmod(0o755)
    assert touched.returncode != 0
    assert process.returncode == 0, process.stderr
    assert list((tmp_path / "elsewhere").glob("*/model_00000.pt"))


@pytest.mark.parametrize("seconds", [0, 0.2, 0.5, 0.9])
def test_ctrl_c_while_a_script_loads_is_no_exception(tmp_path, seconds):
    command = [sys.executable, "-X", "importtime", str(ROOT / "main.py"), "--data_folder", "nowhere"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not process.stderr.readline().endswith("| terminal.errors\n"):  # before that, it is Python that loads
        assert process.poll() is None
    time.sleep(seconds)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT, 2)
        assert "Traceback" not in complaints


def test_other_programs_keep_their_own_way_with_exceptions():
    program = "import sys; import main, recommend; sys.exit(sys.excepthook is not sys.__excepthook__)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_handlers_are_put_back_and_the_first_signal_is_only_noted():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.raise_if_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM") as caught:
            stop.raise_if_asked()
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_some_time_after_the_first_ends_the_process_at_once():
    program = (
        "import os, signal, time\nfrom runs import interruption\ninterruption.REPEAT_SECONDS = 0.5\n"
        "with interruption.StopRequest():\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    print('still here', flush=True)\n    time.sleep(0.6)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    print('and here')\n"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == -signal.SIGINT
    assert process.stdout == "still here\n"


def test_files_of_missing_data_are_named_before_a_run_folder_is_made(tmp_path):
    _, complaints = finish(start(tmp_path, "--data_folder", "nowhere"), expect=2)
    assert TRAIN_ONLY in complaints
    assert not (tmp_path / "checkpoint").exists()
    assert VALID not in complaints

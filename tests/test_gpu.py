"""The script for a GPU, without one: every part runs to its end, and one that does not is a row of the table."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clicks.synthetic import synthetic_clicks, write_raw_clicks
from terminal.errors import UserError
from tools import benchmark, gpu
from tools.gpu import GOALS, PARTS, Row, Setup, goal_row, pass_tests, rows_of_part

SETUP = Setup("cpu", small=True, seconds=30)


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(gpu, "rows_of_part", lambda part, setup: list(PARTS[part][0](setup)))


def benchmark_with(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, flags)])
    benchmark.main()


def test_every_goal_is_measured(in_this_process, monkeypatch, tmp_path, capsys):
    clicks = tmp_path / "clicks.dat"
    write_raw_clicks(clicks, synthetic_clicks(n_sessions=150, n_items=30, n_days=4, seed=0))
    parts = [part for part in PARTS if part != "tests"]
    benchmark_with(monkeypatch, "gpu", "--device", "cpu", "--small", "--clicks", clicks, "--parts", *parts)
    printed = capsys.readouterr().out
    heading, command, _, *table = printed[printed.index("no GPU, torch") :].splitlines()
    assert "CUDA" in heading
    assert command.startswith("`python -m tools.benchmark gpu --device cpu")
    measured = {cells[1].strip(): cells[3].strip() for cells in (line.split("|") for line in table[2:])}
    assert set(GOALS) <= set(measured)
    for preset, recall in (("authors-best", "0.5602 ± 0.0020"), ("authors-retailrocket", "0.5926 ± 0.0013")):
        assert 0 <= float(measured[f"{preset}, Recall@20, seed 1"]) <= 1
        assert f"| {recall} " in printed
        assert f"{preset}, MRR@20, seed 1" in measured
    assert all(float(measured[name].split()[0].replace(",", "")) > 0 for name in GOALS if "epoch" not in name)
    assert float(measured["a step of authors-best: time"].removesuffix(" µs")) > 0


def test_the_tests_of_the_device_are_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "N_TESTS_AT_ONCE", 1)
    marked = "import pytest\n@pytest.mark.cuda\ndef test_{}(): assert {}\ndef test_cpu(): assert False\n"
    (tmp_path / "test_some.py").write_text(marked.format("some", "True"))
    (tmp_path / "test_others.py").write_text("import what_is_not_there")
    (row,) = pass_tests(SETUP, tmp_path)
    assert row.measured.startswith("1 passed")
    assert row.met == "yes"
    (tmp_path / "test_more.py").write_text(marked.format("more", "False"))
    (row,) = pass_tests(SETUP, tmp_path)
    assert row.measured.startswith("1 failed, 1 passed")
    assert row.met == "no"


def test_every_test_of_the_device_is_among_them(request, monkeypatch):
    commands = []
    monkeypatch.setattr(
        "subprocess.run", lambda command, **how: commands.append(command) or subprocess.CompletedProcess(command, 0, "")
    )
    list(pass_tests(SETUP))
    files = {path for path in commands[0] if isinstance(path, Path)}
    assert files >= {item.path for item in request.session.items if item.get_closest_marker("cuda")}
    tests = Path(__file__).parent.glob("*.py")
    asks_itself = [path.name for path in tests if "skipif(not torch.cuda" in path.read_text()]
    assert asks_itself == ["test_gpu.py"]


@pytest.mark.parametrize(
    ("code", "last", "met"),
    [
        (0, "45 passed, 3 deselected in 90.00s", "yes"),
        (0, "3 passed, 42 skipped in 4.00s", "no"),
        (0, "", "no"),
        (1, "1 failed, 44 passed in 90.00s", "no"),
        (1, "/usr/bin/python: No module named pytest", "no"),
    ],
)
def test_the_cuda_tests_pass_where_all_do(code, last, met, monkeypatch):
    monkeypatch.setattr(
        "subprocess.run", lambda command, **how: subprocess.CompletedProcess(command, code, f"…\n{last}")
    )
    (row,) = pass_tests(SETUP)
    assert row.met == met


def raises(setup):
    yield Row("before", "", "1 s", "")
    raise RuntimeError("CUDA error: an illegal memory access\nCompile with TORCH_USE_CUDA_DSA")


def dies(setup):
    yield Row("before", "", "1 s", "")
    os._exit(3)


def hangs(setup):
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    yield Row("before", "", str(process.pid), "")
    process.wait()


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (raises, "failed: CUDA error: an illegal memory access"),
        (dies, "its process ended with exit code 3"),
        (hangs, "not done within 1 s"),
    ],
)
def test_a_part_that_does_not_end_well_is_a_row_that_says_why(part, reason, monkeypatch):
    monkeypatch.setattr(gpu, "START", "fork")
    monkeypatch.setitem(PARTS, "training", (part, 1))
    before, last = rows_of_part("training", Setup("cpu", seconds=1 if part is hangs else 20))
    assert before.what == "before"
    assert last == Row("training", "", reason, "no")
    if part is hangs:  # what it had started has ended, too
        for _ in range(100):
            if not os.path.exists(f"/proc/{before.measured}/exe"):
                break
            time.sleep(0.02)
        else:
            pytest.fail(f"process {before.measured} goes on")


def test_the_parts_share_the_time_that_is_left(monkeypatch, capsys):
    seconds = {}
    monkeypatch.setattr(gpu, "rows_of_part", lambda part, setup: seconds.setdefault(part, setup.seconds) and [])
    benchmark_with(monkeypatch, "gpu", "--device", "cpu", "--small", "--seconds", 100, "--parts", "tests", "epoch")
    share = PARTS["tests"][1] / (PARTS["tests"][1] + PARTS["epoch"][1])
    assert seconds == pytest.approx({"tests": 100 * share, "epoch": 100}, abs=1)


def test_a_goal_is_met_from_its_side():
    assert [goal_row("evaluation", value).met for value in (99_999, 100_000)] == ["no", "yes"]
    epoch = "epoch of full YooChoose's size, authors-best"
    assert [goal_row(epoch, value).met for value in (90, 90.1)] == ["yes", "no"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("gpu", "--device", "cpu"), "gpu needs a CUDA device that works; --device cpu --small tries"),
        (("gpu", "training"), "gpu is measured alone, without training"),
        (("gpu", "--clicks", "no/clicks.dat"), "--clicks no/clicks.dat does not exist"),
    ],
)
def test_what_cannot_be_measured_is_said(flags, sentence, monkeypatch):
    with pytest.raises(UserError, match=sentence):
        benchmark_with(monkeypatch, *flags)

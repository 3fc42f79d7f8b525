"""What benchmark.py reports of other processes."""

import sys

import numpy as np
import pytest

from terminal.errors import UserError
from tools.benchmark import benchmark_scale, measured


def test_the_peak_memory_of_a_command_is_its_own():
    ballast = np.ones(60_000_000)  # 0.48 GB of this process
    _, gigabytes = measured(sys.executable, "-c", "b'x' * 200_000_000")
    assert ballast.nbytes > 4e8
    assert 0.2 < gigabytes < 0.3


def test_a_command_that_fails_is_named():
    with pytest.raises(UserError, match="-c raise SystemExit\\(3\\) failed"):
        measured(sys.executable, "-c", "raise SystemExit(3)")


def test_a_log_of_rees46s_shape_is_prepared_and_loaded(tmp_path, capsys):
    benchmark_scale(tmp_path, 60_000)
    said = capsys.readouterr().out
    assert "scale: 60,000 lines prepared in" in said
    assert "scale: loaded until the first step in" in said
    assert len((tmp_path / "rees46-60000.csv").read_text().splitlines()) == 60_001

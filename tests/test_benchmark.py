"""What benchmark.py reports of other processes."""

import sys

import numpy as np
import pytest

from terminal.errors import UserError
from tools.benchmark import measured


def test_the_peak_memory_of_a_command_is_its_own():
    ballast = np.ones(60_000_000)  # 0.48 GB of this process
    _, gigabytes = measured(sys.executable, "-c", "b'x' * 200_000_000")
    assert ballast.nbytes > 4e8
    assert 0.2 < gigabytes < 0.3


def test_a_command_that_fails_is_named():
    with pytest.raises(UserError, match="-c raise SystemExit\\(3\\) failed"):
        measured(sys.executable, "-c", "raise SystemExit(3)")

"""The kernels that PyTorch compiles for a GPU compute what plain steps do, in whatever order their programs run."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ENVIRONMENT, ROOT, needs_compiler

from lossfunction import LOSSES

QUICK = ("one-hot", "separate", "shared", "layers", "through-time")


@needs_compiler
@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton: pip install triton")
@pytest.mark.long
@pytest.mark.parametrize(
    ("loss", "settings"),
    [*((loss, QUICK) for loss in LOSSES), ("CrossEntropy", ("many-samples",)), ("BPR-max", ("many-samples",))],
)
def test_kernels_for_a_gpu_compute_what_plain_steps_do(loss, settings):
    command = [sys.executable, ROOT / "tests" / "interpreted.py", "--loss", loss, "--settings", *settings]
    process = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("programs a step") == len(settings)

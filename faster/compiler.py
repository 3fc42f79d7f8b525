"""Whether PyTorch can compile a step here: its version, and the compilers that it needs on a CPU and on CUDA."""

import os
import shutil
import sys
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

FROM_VERSION = (2, 11)  # 2.10 and older cannot trace the step's torch.autograd.grad (trace_autograd_ops)
FROM_CAPABILITY = (7, 0)  # of a GPU, for Triton
CXX = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")  # what PyTorch takes where CXX names no other
HEADER = Path(sysconfig.get_path("include"), "Python.h")


@cache
def why_not_compiled(device: torch.device) -> str | None:
    """What is missing for compiled steps on a device, in words; None where compiling can work. Asked once a device."""
    version = torch.__version__.partition("+")[0]
    if tuple(int(number) for number in version.split(".")[:2]) < FROM_VERSION:
        return f"PyTorch {version} does not compile it right, {'.'.join(map(str, FROM_VERSION))} and newer do"
    if not HEADER.exists():
        return "Python.h is missing, which the package python3-dev or the like has"
    if device.type == "cpu":
        compiler = os.environ.get("CXX", CXX)
        return None if shutil.which(compiler) else f"there is no C++ compiler {compiler}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < FROM_CAPABILITY:
        return f"Triton does not support {torch.cuda.get_device_name(device)}"
    if not any(map(shutil.which, (os.environ.get("CC", "gcc"), "clang"))):
        return "there is no C compiler, which Triton needs"
    return None

"""What compiled steps need of a machine, on machines that lack one thing each."""

from pathlib import Path

import pytest
import torch

from faster import compiler
from faster.compiler import why_not_compiled

INSTALLED = {compiler.CXX, "gcc", "triton", "Python.h"}


@pytest.fixture
def on_a_machine(monkeypatch):
    """Has this process run on a machine: with a PyTorch, with what is installed, and with a GPU."""
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)

    def on_a_machine(version="2.11.0", installed=INSTALLED, capability=(7, 5)):
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla P100")
        monkeypatch.setattr("shutil.which", lambda name: name if name in installed else None)
        monkeypatch.setattr(compiler, "find_spec", lambda name: name if name in installed else None)
        monkeypatch.setattr(compiler, "HEADER", Path(__file__) if "Python.h" in installed else Path("no/Python.h"))

    why_not_compiled.cache_clear()
    yield on_a_machine
    why_not_compiled.cache_clear()


@pytest.mark.parametrize(
    ("device", "machine", "reason"),
    [
        ("cpu", {}, None),
        ("cpu", {"version": "2.13.0+cpu", "installed": {compiler.CXX, "Python.h"}, "capability": (6, 0)}, None),
        ("cpu", {"version": "3.0.0a0+git1234"}, None),
        ("cpu", {"version": "2.6.0+cpu"}, "PyTorch 2.6.0 does not compile it right, 2.11 and newer do"),
        ("cpu", {"installed": INSTALLED - {"Python.h"}}, "Python.h is missing"),
        ("cpu", {"installed": INSTALLED - {compiler.CXX}}, f"no C++ compiler {compiler.CXX}"),
        ("cuda", {"installed": {"clang", "Python.h", "triton"}}, None),
        ("cuda", {"version": "2.10.0+cu130"}, "PyTorch 2.10.0 does not"),
        ("cuda", {"installed": INSTALLED - {"Python.h"}}, "Python.h is missing"),
        ("cuda", {"installed": INSTALLED - {"triton"}}, "Triton is not installed"),
        ("cuda", {"installed": INSTALLED - {"gcc"}}, "no C compiler"),
        ("cuda", {"capability": (6, 0)}, "Triton does not support Tesla P100"),
    ],
)
def test_what_is_missing_is_said(device, machine, reason, on_a_machine):
    on_a_machine(**machine)
    said = why_not_compiled(torch.device(device))
    assert reason in said if reason else said is None


def test_the_compilers_are_those_that_the_environment_names(on_a_machine, monkeypatch):
    monkeypatch.setenv("CXX", "c++-99")
    monkeypatch.setenv("CC", "cc-99")
    on_a_machine()
    assert why_not_compiled(torch.device("cpu")) == "there is no C++ compiler c++-99"
    assert why_not_compiled(torch.device("cuda")) == "there is no C compiler, which Triton needs"
    why_not_compiled.cache_clear()
    on_a_machine(installed=INSTALLED | {"c++-99", "cc-99"})
    assert why_not_compiled(torch.device("cpu")) is None
    assert why_not_compiled(torch.device("cuda")) is None

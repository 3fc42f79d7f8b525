"""A setting, flags of ``main.py`` as text, trained in this process without leaving anything.

Settings stand behind the flags of a base, which all of them share.
"""

import io
import shlex
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from typing import Any

from runs.jobs import Stopper
from runs.parameters import parse_flags, shown, training_parameters
from runs.trainingdata import TrainingData
from runs.trainingrun import TrainingRun
from training import EpochProgress

read_data = lru_cache(maxsize=2)(TrainingData.read)  # once per process; two of them where --time_sort is searched


def parameters_of(setting: str, flags: Namespace, **others: Any) -> Namespace:
    """All parameters of a setting; ``others`` are flags of ``main.py``, too.

    Raises:
        UserError: they contradict each other.
    """
    files_and_device = {"data_folder": flags.data_folder, "device": flags.device}
    line = f"{flags.base} {setting} {line_of(files_and_device | others)}"
    with quietly():
        return training_parameters(parse_flags(shlex.split(line)))


@contextmanager
def quietly() -> Iterator[None]:
    """Swallow what every trial would say again: presets, flags without effect, what is read, what is compiled."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def line_of(flags: dict[str, Any]) -> str:
    """Flags as a command line has them."""
    return " ".join(f"--{name} {shlex.quote(shown(value))}" for name, value in flags.items())


def epochs_of(parameters: Namespace, stopper: Stopper) -> Iterator[TrainingRun]:
    """Train, yielding the run after every epoch. Nothing is written.

    Raises:
        UserError: parameters and data do not fit together.
        Diverged: a step's loss is NaN or infinite.
    """
    p = parameters
    with quietly():
        data = read_data(p.data_folder, p.train_data, p.valid_data, p.time_sort)
    run = TrainingRun(p, data=data)
    for epoch in range(p.n_epochs):
        run.progress = EpochProgress(epoch)
        with redirect_stdout(io.StringIO()):  # where a step cannot be compiled, stderr says so
            run.train_epoch(stopper)
        yield run

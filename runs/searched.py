"""What ``tune.py`` searches: settings of the model, which is trained with them, or of a baseline, which is fitted.

Both say what the other parts of a search need to know of a setting, which is text as a command line has it.
"""

import io
import shlex
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from baselines.baseline import Baseline
from baselines.registry import BASELINES, fit_row, parse_row, row_of
from dataset import Sessions
from evaluation import Metrics, tie_breaking_to_report
from preprocessing import TEST, TRAIN_FULL, TRAIN_ONLY, VALID
from runs.jobs import Stopper, own_device
from runs.parameters import parse_flags, shown, training_parameters
from runs.trainingdata import TrainingData
from runs.trainingrun import TrainingRun
from training import EpochProgress

FOR_CHOOSING, FOR_MEASURING = (TRAIN_ONLY, VALID), (TRAIN_FULL, TEST)  # files to train and to evaluate on

read_data = lru_cache(maxsize=2)(TrainingData.read)  # once per process; two of them where --time_sort is searched


class Evaluated(Protocol):
    """What has been trained or fitted."""

    def evaluate(self) -> Metrics:
        """Recall@20 and MRR@20 on the file to evaluate on."""


class Searched(Protocol):
    """What is searched.

    Attributes:
        base: what all its settings share, as text.
        seeds: those of the runs that are measured on the test file.
    """

    base: str
    seeds: tuple[int, ...]

    def data(self, files: tuple[str, str] = FOR_CHOOSING) -> TrainingData:
        """What files hold: those for choosing, or others."""

    def values_of_base(self) -> dict[str, Any]:
        """All its values, by name, where a setting says nothing."""

    def setting_of(self, values: dict[str, Any]) -> str:
        """Some values as text."""

    def lasting(self, setting: str, n_epochs: int) -> str:
        """A setting with its number of epochs, as text."""

    def runs(self, setting: str, stopper: Stopper, files: tuple[str, str], **others: Any) -> Iterator[Evaluated]:
        """A setting, trained or fitted on files; it can be evaluated after every epoch.

        Args:
            others: ``n_epochs`` and ``seed``, where they matter.

        Raises:
            UserError: the setting makes no sense, or does not fit the files.
            Diverged: a step's loss is NaN or infinite.
        """

    def command(self, setting: str) -> str:
        """The line that gives the first of the figures on the test file again."""


class SearchedModel:
    """GRU4Rec: a setting is flags of ``main.py``, behind those of the base.

    Args:
        base: flags that all settings share.
        data_folder: prepared files.
        device: to train on.
    """

    seeds = (1, 2, 3)

    def __init__(self, base: dict[str, Any], data_folder: Path, device: str):
        self.base = self.setting_of(base)
        self.files_and_device = {"data_folder": data_folder, "device": device}

    def data(self, files: tuple[str, str] = FOR_CHOOSING) -> TrainingData:
        return read_data(str(self.files_and_device["data_folder"]), *files, True)

    def values_of_base(self) -> dict[str, Any]:
        return vars(self.parameters(""))

    def setting_of(self, values: dict[str, Any]) -> str:
        return " ".join(f"--{name} {shlex.quote(shown(value))}" for name, value in values.items())

    def parameters(self, setting: str, **others: Any) -> Namespace:
        """All parameters of a setting; ``others`` are flags of ``main.py``, too.

        Raises:
            UserError: they contradict each other.
        """
        where = self.files_and_device | {"device": own_device(self.files_and_device["device"])}
        line = f"{self.base} {setting} {self.setting_of(where | others)}"
        with _quietly():
            return training_parameters(parse_flags(shlex.split(line)))

    def lasting(self, setting: str, n_epochs: int) -> str:
        return f"{setting} --n_epochs {n_epochs}"

    def runs(self, setting: str, stopper: Stopper, files: tuple[str, str], **others: Any) -> Iterator[TrainingRun]:
        train_data, valid_data = files
        return epochs_of(self.parameters(setting, train_data=train_data, valid_data=valid_data, **others), stopper)

    def command(self, setting: str) -> str:
        train_data, valid_data = FOR_MEASURING
        files = {
            "data_folder": self.files_and_device["data_folder"],
            "train_data": train_data,
            "valid_data": valid_data,
        }
        return f"python main.py {self.setting_of(files)} {self.base} {setting} --seed {self.seeds[0]}"


def epochs_of(parameters: Namespace, stopper: Stopper) -> Iterator[TrainingRun]:
    """Train, yielding the run after every epoch. Nothing is written.

    Raises:
        UserError: parameters and data do not fit together.
        Diverged: a step's loss is NaN or infinite.
    """
    p = parameters
    with _quietly():
        data = read_data(p.data_folder, p.train_data, p.valid_data, p.time_sort)
    run = TrainingRun(p, data=data)
    for epoch in range(p.n_epochs):
        run.progress = EpochProgress(epoch)
        with redirect_stdout(io.StringIO()):  # where a step cannot be compiled, stderr says so
            run.train_epoch(stopper)
        yield run


@contextmanager
def _quietly() -> Iterator[None]:
    """Swallow what every trial would say again: presets, flags without effect, what is read, what is compiled."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


class SearchedBaseline:
    """A baseline: a setting is such as ``k=200 sample=2000``, behind the row of the base. Nothing in it is random.

    Args:
        name: of the baseline.
        base: settings that all settings share.
        data_folder: prepared files.
    """

    seeds = (0,)

    def __init__(self, name: str, base: dict[str, Any], data_folder: Path):
        self.base = row_of(name, base)
        self.data_folder = data_folder

    def data(self, files: tuple[str, str] = FOR_CHOOSING) -> TrainingData:
        return read_data(str(self.data_folder), *files, True, with_times=True)

    def values_of_base(self) -> dict[str, Any]:
        name, values = parse_row(self.base)
        return {each: setting.default for each, setting in BASELINES[name].settings.items()} | values

    def setting_of(self, values: dict[str, Any]) -> str:
        return " ".join(f"{name}={value:.12g}" for name, value in values.items())

    def lasting(self, setting: str, n_epochs: int) -> str:
        return setting

    def runs(self, setting: str, stopper: Stopper, files: tuple[str, str], **others: Any) -> "Iterator[FittedBaseline]":
        with _quietly():
            data = self.data(files)
        yield FittedBaseline(fit_row(f"{self.base} {setting}", data.sessions, len(data.index)), data.valid_sessions)

    def command(self, setting: str) -> str:
        row = row_of(*parse_row(f"{self.base} {setting}"))
        return f"python reproduce.py --data_folder {shlex.quote(str(self.data_folder))} --rows {shlex.quote(row)}"


class FittedBaseline(NamedTuple):
    """A baseline, and what it is evaluated on."""

    baseline: Baseline
    sessions: Sessions

    def evaluate(self) -> Metrics:
        """Recall@20 and MRR@20, ties counted as ``reproduce.py`` does."""
        metrics = self.baseline.evaluate_by_every_tie_breaking(self.sessions)
        return metrics[tie_breaking_to_report(metrics)]

"""What a hyperparameter search may choose from: a file with a flag of ``main.py`` a line, and its values.

    loss_type    BPR-max                 a single value is fixed
    final_act    elu-0.5 elu-1           some to choose from
    lr           0.01 .. 0.5  log        all numbers between, by factors
    momentum     0 .. 0.9  step 0.1      some numbers between
    batch_size   32 .. 256               all numbers between; here, whole ones

For a baseline, its settings stand in place of flags. A ``#`` begins a comment. What is wrong with a line is said with
its number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runs.parameters import PARAMETERS, THEMES, shown
from terminal.errors import UserError, did_you_mean
from terminal.flags import COUNT, POSITIVE, Kind

SETTINGS = ("model", "loss and negative samples", "optimizer")
OF_THE_MODEL = {parameter.name: parameter.kind for theme in SETTINGS for parameter in THEMES[theme]} | {
    name: PARAMETERS[name].kind for name in ("batch_size", "time_sort")
}


class Trial(Protocol):
    """Who suggests values: an ``optuna.Trial``."""

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...


@dataclass(frozen=True)
class Choice:
    """Some values."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return shown(list(self.values))

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included: whole ones if these are; a step apart, or all (step is None)."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __contains__(self, value: float) -> bool:
        steps = (value - self.low) / self.step if self.step else 0
        return self.low <= value <= self.high and abs(steps - round(steps)) < 1e-6

    def __str__(self) -> str:
        return f"{self.low} .. {self.high}" + (" log" if self.log else f" step {self.step}" if self.step else "")

    def suggest(self, trial: Trial, name: str) -> float:
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        digits = 12 if self.step else 3  # as a person would type it
        return float(f"{value:.{digits}g}")


@dataclass(frozen=True)
class SearchSpace:
    """Flags of ``main.py``, or settings of a baseline.

    Attributes:
        fixed: those with a single value, and the value.
        searched: the others, at least one.
    """

    fixed: dict[str, Any]
    searched: dict[str, Choice | Range]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A value for each that is searched."""
        return {name: values.suggest(trial, name) for name, values in self.searched.items()}


def read_space(path: Path, kinds: Mapping[str, Kind] = OF_THE_MODEL) -> SearchSpace:
    """Read a search space (see the top of this file).

    Args:
        kinds: what may be searched, and what its text may be.

    Raises:
        UserError: the file cannot be read, or a line of it is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the space {path}: {getattr(error, 'strerror', None) or error}") from error
    values_of: dict[str, Choice | Range] = {}
    for number, line in enumerate(lines, start=1):
        name, *words = line.partition("#")[0].split() or [""]
        try:
            if name in values_of:
                raise ValueError("it stands in a line above, too")
            if name:
                values_of[name] = _parse_values(name, words, kinds)
        except ValueError as error:
            raise UserError(f"{path}, line {number}, {name}: {error}") from error
    is_fixed = {name: isinstance(each, Choice) and len(each.values) == 1 for name, each in values_of.items()}
    if all(is_fixed.values()):
        raise UserError(f"{path} leaves nothing to choose: give some name several values, or LOW .. HIGH")
    return SearchSpace(
        fixed={name: each.values[0] for name, each in values_of.items() if is_fixed[name]},
        searched={name: each for name, each in values_of.items() if not is_fixed[name]},
    )


def _parse_values(name: str, words: list[str], kinds: Mapping[str, Kind]) -> Choice | Range:
    """The values behind a name; raises ValueError with what is wrong with them."""
    if name not in kinds:
        if kinds is not OF_THE_MODEL:
            raise ValueError(f"it is none of {', '.join(kinds)}" + did_you_mean(name, kinds))
        if name in PARAMETERS:
            raise ValueError("it is no setting of the model, the loss or the optimizer, so it cannot be searched")
        raise ValueError("it is no flag of main.py" + did_you_mean(name, kinds))
    kind = kinds[name]
    if ".." in " ".join(words):
        return _parse_range(kind, " ".join(words))
    values = tuple(kind.parse(word) for word in words)
    if not values:
        raise ValueError("it has no values: give it some, or LOW .. HIGH")
    if len(set(values)) < len(values):
        raise ValueError("it has a value twice")
    return Choice(values)


def _parse_range(kind: Kind, text: str) -> Range:
    if kind.metavar not in ("N", "X"):
        raise ValueError("it takes no numbers: give it some values to choose from")
    parts = re.fullmatch(r"(\S+) ?\.\. ?(\S+)( log| step (\S+))?", text)
    if not parts:
        raise ValueError(f"it has {text!r}, expected LOW .. HIGH, LOW .. HIGH log, or LOW .. HIGH step X")
    low, high = kind.parse(parts[1]), kind.parse(parts[2])
    step = (COUNT if kind.metavar == "N" else POSITIVE).parse(parts[4]) if parts[4] else None
    numbers = Range(low, high, step, log=parts[3] == " log")
    if low >= high:
        raise ValueError(f"{parts[1]} .. {parts[2]} does not go upwards")
    if high not in numbers:
        raise ValueError(f"steps of {parts[4]} do not lead from {parts[1]} to {parts[2]}")
    if numbers.log and low <= 0:
        raise ValueError(f"{parts[1]} has no logarithm: begin above it, or leave log out")
    return numbers

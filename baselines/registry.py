"""The baselines by the names of their rows in a table; a row may name settings: ``VS-KNN k=200 sample=2000``."""

from collections.abc import Mapping
from itertools import takewhile

from baselines.baseline import Baseline
from baselines.neighbours import STAN, VSKNN, VSTAN
from baselines.published import BPRMF, ItemKNN, MarkovChain, Popularity, SessionPopularity
from baselines.rules import SequentialRules
from dataset import Sessions
from terminal.errors import did_you_mean

OF_THE_PAPER: dict[str, type[Baseline]] = {
    "POP": Popularity,
    "S-POP": SessionPopularity,
    "Item-KNN": ItemKNN,
    "BPR-MF": BPRMF,
    "Markov chain": MarkovChain,
}
RIVALS: dict[str, type[Baseline]] = {
    "SR": SequentialRules,
    "VS-KNN": VSKNN,
    "STAN": STAN,
    "V-STAN": VSTAN,
}
BASELINES = OF_THE_PAPER | RIVALS


def fit_row(row: str, sessions: Sessions, n_items: int, seed: int = 22) -> Baseline:
    """The baseline of a row, fitted; the seed is for one that is fitted by random numbers."""
    name, settings = parse_row(row)
    seeded = {"seed": seed} if BASELINES[name].is_seeded else {}
    return BASELINES[name](sessions, n_items, **settings, **seeded)


def row_of(name: str, settings: Mapping[str, float]) -> str:
    """The row of a baseline with some settings: those that are not its defaults, in the order of its table."""
    different = [
        f"{each}={settings[each]:.12g}"
        for each, setting in BASELINES[name].settings.items()
        if settings.get(each, setting.default) != setting.default
    ]
    return " ".join((name, *different))


def name_of(row: str) -> str:
    """The baseline that a row names: the words before the first that names a setting."""
    return " ".join(takewhile(lambda word: "=" not in word, row.split()))


def parse_row(row: str) -> tuple[str, dict[str, float]]:
    """The name and the settings of a row.

    Raises:
        ValueError: there is no such baseline, or it takes no such setting.
    """
    name = name_of(row)
    if name not in BASELINES:
        raise ValueError(f"{name!r} is no baseline" + did_you_mean(name, BASELINES))
    known, settings = BASELINES[name].settings, {}
    for word in row.split()[len(name.split()) :]:
        setting, _, value = word.partition("=")
        if setting not in known:
            raise ValueError(f"{word}: {name} takes {', '.join(known) or 'no settings'}" + did_you_mean(setting, known))
        if setting in settings:
            raise ValueError(f"{word}: {setting} has a value already")
        try:
            settings[setting] = known[setting].kind.parse(value)
        except ValueError as error:
            raise ValueError(f"{word}: {error}") from error
    return name, settings

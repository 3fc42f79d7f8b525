"""What the text of each flag of ``main.py`` may be."""

from collections.abc import Iterable

from model import final_activation
from terminal.flags import MOST, Kind, number, whole_number


def one_of(names: Iterable[str]) -> Kind:
    """One of ``names``, whatever its case and hyphens: crossentropy and cross-entropy are CrossEntropy."""

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    by_plain_name = {plain(name): name for name in names}

    def parse(text: str) -> str:
        if plain(text) not in by_plain_name:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return by_plain_name[plain(text)]

    return Kind(parse, "NAME")


def _parse_final_act(text: str) -> str:
    final_activation(text)
    return text


def _parse_text(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


NO_FILE = "none"  # in place of a validation file: nothing is evaluated
N_CLICKS = whole_number(1, 100)
BELOW_ONE = number(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)
SIGMA = number(float, "a number above 0, or -1, or -2", lambda value: 0 < value <= MOST or value in (-1, -2))
FINAL_ACT = Kind(_parse_final_act, "NAME")
FILE, FOLDER, DEVICE = (Kind(_parse_text, metavar) for metavar in ("FILE", "DIR", "DEVICE"))

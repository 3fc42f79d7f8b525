"""``docs/flags.md``: all flags of all commands, as their parsers have them.

python -m tools.flags    # writes it anew, after a change of a flag
"""

from terminal.errors import run_script

# isort: split
from pathlib import Path

import preprocessing
import recommend
import reproduce
import tune
from runs.parameters import THEMES
from terminal.atomicfile import atomic_write
from terminal.flags import FlagParser
from tools import average, benchmark, plot, synthetic

PAGE = Path(__file__).parent.parent / "docs" / "flags.md"
OTHERS = {  # command to parser
    "preprocessing.py": preprocessing.make_parser,
    "recommend.py": recommend.make_parser,
    "reproduce.py": reproduce.make_parser,
    "tune.py": tune.make_parser,
    "python -m tools.average": average.make_parser,
    "python -m tools.benchmark": benchmark.make_parser,
    "python -m tools.plot": plot.make_parser,
    "python -m tools.synthetic": synthetic.make_parser,
}


def main_table() -> str:
    """The flags of ``main.py``, theme by theme."""
    lines = ["| flag | default | meaning |", "| --- | --- | --- |"]
    for theme, parameters in THEMES.items():
        lines.append(f"| **{theme}** | | |")
        for parameter in parameters:
            lines.append(f"| `--{parameter.name}` | {parameter.shown_default} | {parameter.help} |")
    return "\n".join(lines)


def table(parser: FlagParser) -> str:
    """The flags of a parser, defaults within their meanings, as ``--help`` has them."""
    lines = ["| flag | meaning |", "| --- | --- |"]
    for action in parser._actions[1:]:  # the first is --help
        name = action.option_strings[0] if action.option_strings else ""
        metavar = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        lines.append(f"| `{f'{name} {metavar}'.strip()}` | {action.help % vars(action)} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    parts = [
        "# Flags",
        "What every flag of every command means. `--help` says the same: both are made from the one place in the code "
        "where a flag is\nwritten down (`python -m tools.flags` makes this page).",
        "## main.py",
        "A flag that has no effect in a combination is named in a warning; a combination without meaning is refused.",
        main_table(),
    ]
    for command, make_parser in OTHERS.items():
        parts += [f"## {command}", table(make_parser())]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    FlagParser(description=__doc__.partition("\n\n")[0]).parse_args()
    with atomic_write(PAGE) as file:
        file.write(page().encode())
    print(f"{PAGE.name}: flags of main.py and {len(OTHERS)} other commands")


if __name__ == "__main__":
    run_script(main)

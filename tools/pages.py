"""Pages of ``docs/`` that are made from the code: all flags of all commands, what each file owns, the README's picture.

``python -m tools.pages`` makes them anew, after a change of a flag, a file, or the README's table of results.
"""

from terminal.errors import UserError, run_script

# isort: split
import ast
import re
from pathlib import Path

import preprocessing
import recommend
import reproduce
import tune
from runs.parameters import THEMES
from runs.plot import NOT_INSTALLED, bars, write_picture
from terminal.atomicfile import atomic_write
from terminal.flags import FlagParser
from tools import average, benchmark, compare, plot, rolling, synthetic

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FLAGS, LAYOUT, PICTURE = (ROOT / "docs" / name for name in ("flags.md", "layout.md", "results.svg"))
FILES = "## Files behind the doors\n"  # the last section of the layout
OTHERS = {  # command to parser
    "preprocessing.py": preprocessing.make_parser,
    "recommend.py": recommend.make_parser,
    "reproduce.py": reproduce.make_parser,
    "tune.py": tune.make_parser,
    "python -m tools.average": average.make_parser,
    "python -m tools.benchmark": benchmark.make_parser,
    "python -m tools.compare": compare.make_parser,
    "python -m tools.plot": plot.make_parser,
    "python -m tools.rolling": rolling.make_parser,
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


def flags_page() -> str:
    """The page of flags."""
    parts = [
        "# Flags",
        "What every flag of every command means. `--help` says the same: both are made from the one place in the code "
        "where a flag is\nwritten down (`python -m tools.pages` makes this page).",
        "## main.py",
        "A flag that has no effect in a combination is named in a warning; a combination without meaning is refused.",
        main_table(),
    ]
    for command, make_parser in OTHERS.items():
        parts += [f"## {command}", table(make_parser())]
    return "\n\n".join(parts) + "\n"


def layout_page() -> str:
    """The page of the layout, whose last section says what each file owns, in the words with which the file begins."""
    rooms = dict.fromkeys(re.findall(r"^\| `(\w+)/`", LAYOUT.read_text(), re.MULTILINE))
    lines = ["| file | owns |", "| --- | --- |"]
    for room in rooms:
        for path in sorted((ROOT / room).glob("[a-z]*.py")):
            first_line = ast.get_docstring(ast.parse(path.read_text())).partition("\n")[0]
            lines.append(f"| `{room}/{path.name}` | {first_line.rstrip('.').replace('``', '`')} |")
    return LAYOUT.read_text().partition(FILES)[0] + FILES + "\n" + "\n".join(lines) + "\n"


def published_table() -> dict[str, dict[str, list[float]]]:
    """The README's table of results, as :func:`runs.plot.bars` takes it."""
    section = README.read_text().partition("## How good\n")[2].partition("\n## ")[0]
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"
    )
    return {
        title: {row[0].partition(":")[0]: [float(row[column].split()[0])] for row in rows}
        for column, title in enumerate(header[1:], start=1)
    }


def draw_picture() -> None:
    """Draw the README's table of results; the same table gives the same file.

    Raises:
        UserError: there is no matplotlib.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(f"no {PICTURE.name}: {NOT_INSTALLED}") from error
    with matplotlib.rc_context({"svg.hashsalt": PICTURE.name, "svg.fonttype": "none"}):
        write_picture(lambda: bars(published_table()), PICTURE)


def main() -> None:
    FlagParser(__doc__).parse_args()
    for path, content in ((FLAGS, flags_page()), (LAYOUT, layout_page())):
        with atomic_write(path) as file:
            file.write(content.encode())
        print(path.relative_to(ROOT))
    draw_picture()
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    run_script(main)

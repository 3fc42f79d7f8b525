"""The README says what the code does: flags, defaults, files, commands.

After a change of a flag, ``python tests/test_readme.py`` (with the project's root on the path) prints the new tables.
"""

import re
from pathlib import Path

import pytest

from preprocessing import make_parser
from runs.parameters import PARAMETERS, THEMES, parse_flags, training_parameters

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def flag_table() -> str:
    lines = ["| flag | default | meaning |", "| --- | --- | --- |"]
    for theme, parameters in THEMES.items():
        lines.append(f"| **{theme}** | | |")
        for parameter in parameters:
            lines.append(f"| `--{parameter.name}` | {parameter.shown_default} | {parameter.help} |")
    return "\n".join(lines)


def preprocessing_table() -> str:
    lines = ["| flag | meaning |", "| --- | --- |"]
    for action in make_parser()._actions[1:]:
        values = f" {action.metavar}" if action.metavar else ""
        lines.append(f"| `{action.option_strings[0]}{values}` | {action.help % vars(action)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("table", [flag_table, preprocessing_table])
def test_flag_tables_are_those_of_the_code(table):
    assert table() in README, f"the table of flags should read:\n{table()}"


@pytest.mark.parametrize("line", re.findall(r"main\.py (--(?!help)[^\n`|]*)", README))
def test_commands_in_the_readme_are_accepted(line):
    flags = parse_flags(line.partition("#")[0].split())
    assert set(flags) <= set(PARAMETERS)
    if "load_model" not in flags:
        training_parameters(flags)


def test_the_oldest_versions_that_are_tested_are_the_oldest_that_are_admitted():
    def versions(name, sign):
        pins = [line.split(sign) for line in (ROOT / name).read_text().splitlines() if sign in line]
        return {package: re.sub(r"(\.0)+$", "", version) for package, version in pins if package != "torch"}

    assert versions("constraints-oldest.txt", "==") == versions("requirements.txt", ">=")


def test_files_in_the_layout_exist_and_none_is_missing():
    layout = README.partition("## Layout")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `([\w/.]+)`", layout, re.MULTILINE))
    assert all((ROOT / name).exists() for name in named)
    assert {path.name for path in ROOT.glob("*.py")} - named == set(), "these are not in the README's layout"


def test_no_file_imports_one_that_stands_later():
    layout = README.partition("## Layout")[2].partition("\n## ")[0]
    order = [name.removesuffix(".py") for name in re.findall(r"^\| `(\w+\.py)`", layout, re.MULTILINE)]
    for position, name in enumerate(order):
        imported = re.findall(r"^(?:import|from) (\w+)", (ROOT / f"{name}.py").read_text(), re.MULTILINE)
        later = set(imported) & set(order[position:])
        assert not later, f"{name}.py imports {later}, which stands later"


if __name__ == "__main__":
    print(f"{flag_table()}\n\n{preprocessing_table()}")

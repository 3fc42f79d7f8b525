"""The README and docs/ say what the code does: flags, commands, files, links, and which room knows which."""

import ast
import html
import re

import pytest
from conftest import ROOT

from runs.parameters import PARAMETERS, parse_flags, training_parameters
from tools import pages

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
ROOMS = re.findall(r"^\| `(\w+)(?:/|\.py)` \| .* \| (.*?) ?\|$", pages.LAYOUT.read_text(), re.MULTILINE)
FILES = [path for path in (*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")) if path.parent.name != "tests"]


@pytest.mark.parametrize(("path", "page"), [(pages.FLAGS, pages.flags_page), (pages.LAYOUT, pages.layout_page)])
def test_pages_that_are_made_from_the_code_are_up_to_date(path, page):
    assert path.read_text() == page(), "python -m tools.pages makes it anew"


def test_the_picture_is_that_of_the_table():
    table = pages.published_table()
    assert list(table) == ["Recall@20", "MRR@20"]
    picture = pages.PICTURE.read_text()
    assert all(f">{html.escape(name, quote=False)}<" in picture for name in table["MRR@20"])


@pytest.mark.parametrize("line", sorted(set(re.findall(r"main\.py (--(?!help)[^\n`|]*)", TEXT))))
def test_commands_of_main_are_accepted(line):
    flags = parse_flags(line.partition("#")[0].split())
    assert set(flags) <= set(PARAMETERS)
    if "load_model" not in flags:
        training_parameters(flags)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"


def test_commands_and_files_that_are_named_exist():
    for name in set(re.findall(r"python ([\w/]+\.py)", TEXT)):
        assert (ROOT / name).exists(), name
    for name in set(re.findall(r"python -m (tools\.\w+)", TEXT)) - {"tools.NAME"}:
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name
    for name in set(re.findall(r"`((?:tests|docs|spaces|clicks|faster|runs|terminal|baselines|tools)/[\w.]+)`", TEXT)):
        assert (ROOT / name).exists(), name
    for name in set(re.findall(r"`(test_\w+\.py)`", TEXT)):
        assert (ROOT / "tests" / name).exists(), name


def test_the_front_door_is_read_in_three_minutes():
    assert len((ROOT / "README.md").read_bytes()) < 8192


def test_the_oldest_versions_that_are_tested_are_the_oldest_that_are_admitted():
    def versions(name, sign):
        pins = [line.split(sign) for line in (ROOT / name).read_text().splitlines() if sign in line]
        return {package: re.sub(r"(\.0)+$", "", version) for package, version in pins}

    assert versions("tests/constraints-oldest.txt", "==") == versions("requirements.txt", ">=")


def test_all_code_stands_in_the_rooms_of_the_layout():
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} == {room for room, _ in ROOMS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_what_it_owns_and_is_read_at_a_sitting(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert path.read_text().count("\n") <= 400


def imported_rooms(path):
    """The rooms that a file imports from, its own included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.partition(".")[0] for name in names} & {room for room, _ in ROOMS}


def test_a_room_imports_the_rooms_of_its_row_and_these_stand_above_it():
    above = set()
    for room, imports in ROOMS:
        own = [path for path in FILES if path.relative_to(ROOT).parts[0].removesuffix(".py") == room]
        imported = set().union(*map(imported_rooms, own)) - {room}
        assert imported == set(filter(None, imports.split(", "))), f"{room} imports {sorted(imported)}"
        assert imported <= above, f"{room} imports what stands below it: {imported - above}"
        above.add(room)


@pytest.mark.parametrize("room", [room for room, _ in ROOMS if (ROOT / room).is_dir()])
def test_the_files_of_a_room_go_round_in_no_circle(room):
    imports = {
        path.stem: set(re.findall(rf"^\s*from {room}\.(\w+) import", path.read_text(), re.MULTILINE))
        for path in (ROOT / room).glob("*.py")
    }
    while free := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in free:
            del imports[name]
    assert not imports, f"{room}: {sorted(imports)} import each other"

"""Scripts run however Python is told to run them, and print to whatever terminal there is."""

import os
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, ROOT

from terminal.errors import UserError

HELP = """
import os, runpy, sys
sys.path.insert(0, os.getcwd())
for name in sorted(os.listdir(".") + [f"tools/{name}" for name in os.listdir("tools")]):
    path, sys.argv = os.path.abspath(name), [name, "--help"]
    if name.endswith(".py") and "__main__" in open(name, encoding="utf-8").read():
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            assert end.code == 0, name
        print("ran", name)
"""


@pytest.mark.parametrize("options", [["-OO"], []])
def test_every_script_helps_without_docstrings_and_without_unicode(options):
    process = subprocess.run(
        [sys.executable, *options, "-c", HELP],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-500:] + process.stderr
    assert process.stdout.count("\nran ") >= 9
    assert process.stdout.count("usage: ") == process.stdout.count("\nran ")
    assert "uniform in \\xb1sigma" in process.stdout


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", rb"\u0436 \xb1 \udcff"),
        ("koi8-r", "ж".encode("koi8-r") + rb" \xb1 \udcff"),
        ("utf-8", "ж ±".encode() + rb" \udcff"),
    ],
)
def test_what_a_terminal_has_no_code_for_is_a_number(encoding, printed):
    """An id in Cyrillic, a sign, and a byte of a file's name that is no text."""
    program = (
        "import sys; from terminal.errors import UserError, run_script, warn\n"
        "text = '\\u0436 \\u00b1 \\udcff'\n"
        "def main():\n    print(text); warn(text)\n    raise UserError(text)\n"
        "run_script(main)"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert process.returncode == 2
    assert process.stdout.strip() == printed
    assert process.stderr.split(os.linesep.encode())[:2] == [b"warning: " + printed, b"error: " + printed]


def test_a_sentence_stays_one_whatever_it_cites():
    assert str(UserError("there is no column 'a\n\x0bб\u2028'")) == r"there is no column 'a\n\x0bб\u2028'"

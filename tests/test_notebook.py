"""The notebook from its first cell to its last, on synthetic clicks, in folders laid out as on Kaggle."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, copy_code
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from clicks.clickfile import write_click_files
from clicks.synthetic import synthetic_clicks, write_raw_clicks
from main import run
from preprocessing import TEST, TRAIN_FULL, last_days, split
from runs.parameters import parse_flags

NOTEBOOK = ROOT / "kaggle.ipynb"
SETTINGS = {
    'PRESET = "authors-best"': 'PRESET = "iclr2016-bpr-100"',
    "N_EPOCHS = 10": "N_EPOCHS = 2",
    "LAST_DAYS = None": "LAST_DAYS = 5",
}


def cells_by_id(notebook):
    return {cell.id: (cell, number) for number, cell in enumerate(notebook.cells)}


def shown(cell):
    """What a person sees below a cell."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts.append("\n".join(output.traceback))
        else:
            parts.append(output.data.get("text/plain", ""))
    return "\n".join(parts)


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """/kaggle with the code attached, read-only, in a folder of a folder; without the clicks."""
    code = tmp_path / "input" / "gru4rec" / "repository"
    code.mkdir(parents=True)
    copy_code(code)
    for path in (*code.rglob("*"), code):
        path.chmod(path.stat().st_mode & 0o555)
    (tmp_path / "working").mkdir()
    monkeypatch.setenv("KAGGLE_ROOT", str(tmp_path))
    for name in ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "1")
    yield tmp_path
    for folder in (code, *filter(Path.is_dir, code.rglob("*"))):
        folder.chmod(0o755)


def write_clicks_and_a_run_that_was_cut_off(kaggle, monkeypatch):
    """The attached clicks, and the output of an earlier version, which trained for one epoch of two."""
    raw = synthetic_clicks(n_sessions=1500, n_items=60, n_days=8, seed=0)
    clicks = kaggle / "input" / "someone" / "recsys-challenge-2015" / "yoochoose-clicks.dat"
    clicks.parent.mkdir(parents=True)
    write_raw_clicks(clicks, raw)
    earlier = kaggle / "input" / "earlier-version"
    data = earlier / "preprocessed_last_5_days"
    data.mkdir(parents=True)
    write_click_files({data / name: content for name, content in split(last_days(raw, 5)).items()})
    monkeypatch.chdir(earlier)
    flags = ["--preset", "iclr2016-bpr-100", "--n_epochs", "1", "--data_folder", data.name]
    assert run(parse_flags([*flags, "--train_data", TRAIN_FULL, "--valid_data", TEST])) == 0
    shutil.rmtree(data)
    monkeypatch.chdir(kaggle)


def test_the_notebook_is_committed_without_outputs_and_its_settings_are_those_of_a_full_run():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(line in cells_by_id(notebook)["parameters"][0].source for line in SETTINGS)


def test_the_notebook_runs_from_start_to_end_and_goes_on_where_it_was_cut_off(kaggle, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = cells_by_id(notebook)
    for line, small in SETTINGS.items():
        cells["parameters"][0].source = cells["parameters"][0].source.replace(line, small)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(kaggle / "working")}})
    with client.setup_kernel(env=os.environ | {"PYTHONPATH": ""}):
        for name in ("parameters", "find-code", "import-code"):
            client.execute_cell(*cells[name])
        with pytest.raises(CellExecutionError):
            client.execute_cell(*cells["run-preprocessing"])
        assert shown(cells["run-preprocessing"][0]).startswith("error: no yoochoose-clicks.dat in ")
        assert "Traceback" not in shown(cells["run-preprocessing"][0])

        write_clicks_and_a_run_that_was_cut_off(kaggle, monkeypatch)
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
    printed = {name: shown(cell) for name, (cell, _) in cells.items() if cell.cell_type == "code"}

    assert "5 days only" in printed["run-preprocessing"]
    assert "going on from checkpoint/" in printed["run-training"]
    lines = printed["run-training"].splitlines()
    (figures,) = re.findall(r"^epoch 1 loss: .*(Recall@20: \S+ MRR@20: \S+)", printed["run-training"], re.MULTILINE)
    assert "epoch 0 loss" not in printed["run-training"]
    assert len(lines) < 20
    kinds = {kind for output in cells["run-training"][0].outputs for kind in output.get("data", ())}
    assert "application/vnd.jupyter.widget-view+json" in kinds, "the bar is a notebook's"
    assert "image/png" in cells["show-curve"][0].outputs[0].data
    assert "recall@20" in printed["show-curve"]
    assert figures in printed["run-evaluation"].splitlines()
    assert "Recall@20: 0.6069 MRR@20: 0.2407" in printed["run-evaluation"]
    assert cells["show-recommendations"][0].outputs[0].data["text/html"].count("<tr") == 1 + 5
    assert not any("warning" in text.lower() for text in printed.values()), printed
    assert {path.name for path in (kaggle / "working").iterdir()} == {"checkpoint", "preprocessed_last_5_days"}
    assert not list(kaggle.glob("input/**/__pycache__"))


def test_the_code_is_found_beside_the_notebook_or_cloned(tmp_path, monkeypatch):
    cell = cells_by_id(nbformat.read(NOTEBOOK, as_version=4))["find-code"][0].source
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("KAGGLE_ROOT", str(tmp_path / "kaggle"))
    beside, empty = tmp_path / "beside", tmp_path / "kaggle" / "working"
    for folder in (beside, empty):
        folder.mkdir(parents=True)
    (beside / "runs").mkdir()
    (beside / "runs" / "trainingrun.py").touch()

    def found(repository):
        names = {"REPOSITORY": repository}
        exec(cell, names)
        return names["CODE"]

    monkeypatch.chdir(empty)
    with pytest.raises(FileNotFoundError, match="attach the code as a data set, or set REPOSITORY"):
        found("")
    git = ["git", "-C", beside, "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in ("init", "add .", "commit -m x"):
        subprocess.run([*git, *command.split()], check=True, capture_output=True)
    assert found(beside.as_uri()) == str(empty / "gru4rec")
    assert found("") == str(empty / "gru4rec"), "it is cloned once"

    monkeypatch.setenv("KAGGLE_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.chdir(beside)
    assert found("") == str(beside)

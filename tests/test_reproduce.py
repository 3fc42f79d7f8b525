"""The table: every asked row is run once, and published figures stand beside measured ones only where they compare."""

import csv

import numpy as np
import pytest

from comparison.ranksfile import read_ranks
from preprocessing import TEST, TRAIN_FULL
from reproduce import COLUMNS, DEFAULT_ROWS, Files, markdown_table, ranks_file_name, read_results
from terminal.atomicfile import write_csv
from terminal.errors import UserError

RESULTS = [
    dict(zip(COLUMNS, values, strict=True))
    for values in (
        ("POP", 0, 0, "9 5", 0.006, 0.002, 1.0),
        ("authors-best", 1, 10, "9 5", 0.70, 0.30, 10.0),
        ("authors-best", 2, 10, "9 5", 0.72, 0.31, 12.0),
        ("authors-coveo", 1, 10, "9 5", 0.5, 0.2, 3.0),
    )
]


def test_the_default_rows_are_those_of_the_papers():
    assert DEFAULT_ROWS[:5] == ["POP", "S-POP", "Item-KNN", "BPR-MF", "Markov chain"]
    assert len(DEFAULT_ROWS) == 15
    assert "authors-coveo" not in DEFAULT_ROWS


def test_table_on_the_papers_files():
    assert markdown_table(RESULTS, "P.", comparable=True).splitlines() == [
        "P.",
        "",
        "| row | Recall@20 | MRR@20 | published Recall / MRR | difference | runs | seconds a run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| POP | 0.0060 | 0.0020 | 0.0050 / 0.0012 | +0.0010 / +0.0008 | 1 | 1 |",
        "| authors-best | 0.7100 ± 0.0141 | 0.3050 ± 0.0071 | 0.7283 / 0.3205 | -0.0183 / -0.0155 | 2 | 11 |",
        "| authors-coveo | 0.5000 | 0.2000 |  |  | 1 | 3 |",
    ]


def test_table_on_other_files_has_no_published_figures():
    table = markdown_table(RESULTS, "P.", comparable=False)
    assert "published" not in table
    assert "0.7283" not in table
    assert "| authors-best | 0.7100 ± 0.0141 | 0.3050 ± 0.0071 | 2 | 11 |" in table


def test_results_come_back_as_they_were(tmp_path):
    write_csv(tmp_path / "results.csv", RESULTS)
    assert read_results(tmp_path / "results.csv") == RESULTS
    assert read_results(tmp_path / "none.csv") == []


def test_missing_files_are_named_with_what_writes_them(tmp_path):
    with pytest.raises(UserError, match=f"no file .*{TRAIN_FULL}: write it with preprocessing.py"):
        Files(tmp_path, TRAIN_FULL, TEST)


@pytest.fixture
def prepared(run_script, tmp_path):
    run_script("tools.synthetic", "--output", "clicks.dat", "--n_sessions", 1500, "--n_items", 60, "--n_days", 5)
    run_script("preprocessing.py", "--clicks", "clicks.dat", "--data_folder", "data")
    return ("--data_folder", "data", "--output", "out", "--n_epochs", 1, "--device", "cpu")


def test_rows_are_run_once_and_added_later(prepared, run_script, tmp_path):
    first = run_script("reproduce.py", *prepared, "--rows", "POP", "Item-KNN", "iclr2016-top1-100", "--seeds", 2)
    assert f"{TRAIN_FULL} and {TEST} of data are not the paper's files" in first.stdout
    with open(tmp_path / "out" / "results.csv") as file:
        rows = [(row["row"], row["seed"]) for row in csv.DictReader(file)]
    expected = [("POP", "0"), ("Item-KNN", "0"), ("iclr2016-top1-100", "1"), ("iclr2016-top1-100", "2")]
    assert rows == expected
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")}
    assert len(models) == 2
    ranks = {path.name: read_ranks(path) for path in (tmp_path / "out" / "ranks").iterdir()}
    results = read_results(tmp_path / "out" / "results.csv")
    assert {(each.name, each.seed or 0) for each in ranks.values()} == {(row["row"], row["seed"]) for row in results}
    for row in results:
        of_row = ranks[ranks_file_name(row["row"], row["seed"], row["n_epochs"], row["files"])]
        assert (of_row.rank <= 20).mean() == pytest.approx(row["recall"], abs=1e-12)
        assert np.where(of_row.rank <= 20, 1 / of_row.rank, 0).mean() == pytest.approx(row["mrr"], abs=1e-12)
    for path in (tmp_path / "out" / "ranks").iterdir():
        path.unlink()

    second = run_script("reproduce.py", *prepared, "--rows", "S-POP", "iclr2016-top1-100", "--seeds", 2)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.pt")} == models
    assert [line.split(" | ")[0] for line in second.stdout.splitlines() if line.startswith("| ")][2:] == [
        "| S-POP",
        "| iclr2016-top1-100",
    ]
    # Of rows that were finished before, there are new ranks where there is a model.
    assert {path.name.partition("-on-")[0] for path in (tmp_path / "out" / "ranks").iterdir()} == {
        "S-POP",
        "iclr2016-top1-100-seed1-epochs1",
        "iclr2016-top1-100-seed2-epochs1",
    }
    pop = run_script("reproduce.py", *prepared, "--rows", "POP")
    assert pop.stderr == "warning: no ranks of POP, seed 0: it was finished before, and what could rank is gone\n"
    longer = run_script("reproduce.py", *prepared, "--rows", "iclr2016-top1-100", "--n_epochs", 2)
    assert "| 1 |" in longer.stdout
    assert len(list((tmp_path / "out").rglob("model_00001.pt"))) == 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in longer.stdout
    assert " ± " in second.stdout


def test_other_clicks_in_the_same_folder_are_trained_on_anew(prepared, run_script, tmp_path):
    line = (*prepared, "--rows", "iclr2016-top1-100")
    run_script("reproduce.py", *line)
    run_script("preprocessing.py", "--clicks", "clicks.dat", "--data_folder", "data", "--last_days", 4)
    run_script("reproduce.py", *line)
    run_script("reproduce.py", *line, "--output", "anew")
    first, second = read_results(tmp_path / "out" / "results.csv")
    (anew,) = read_results(tmp_path / "anew" / "results.csv")
    assert second | {"seconds": 0} == anew | {"seconds": 0}
    assert second["recall"] != first["recall"]


def test_a_row_that_fails_is_named(prepared, run_script):
    failed = run_script("reproduce.py", *prepared, "--rows", "iclr2016-xe-100", "--device", "cuda:99", expect=2)
    assert "iclr2016-xe-100 with seed 1 ended with exit code 2" in failed.stderr
    unknown = run_script("reproduce.py", *prepared, "--rows", "POPULAR", expect=2)
    assert unknown.stderr.startswith("error: argument --rows: invalid choice: 'POPULAR'")

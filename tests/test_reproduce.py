"""The table: every asked row is run once, and published figures stand beside measured ones only where they compare."""

import csv
import random
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import reproduce
from baselines.published import Popularity
from baselines.registry import fit_row
from clicks.datasets import DATASETS, YOOCHOOSE
from comparison.ranksfile import read_ranks
from preprocessing import TEST, TRAIN_FULL, TRAIN_ONLY, VALID
from reproduce import Files, ranked, ranks_file_name, reported, rows_of
from runs.figures import COLUMNS, markdown_table, read_results
from runs.parameters import parse_flags, training_parameters
from runs.runfolder import write_checkpoint
from runs.trainingrun import TrainingRun
from terminal.atomicfile import write_csv
from terminal.errors import UserError

RESULTS = [
    dict(zip(COLUMNS, values, strict=True))
    for values in (
        ("POP", 0, 0, "9 5", 0.006, 0.002, 1.0, ""),
        ("authors-best", 1, 10, "9 5", 0.70, 0.30, 10.0, ""),
        ("authors-best", 2, 10, "9 5", 0.72, 0.31, 12.0, ""),
        ("authors-coveo", 1, 10, "9 5", 0.5, 0.2, 3.0, ""),
    )
]


def test_the_default_rows_are_those_of_the_papers():
    default_rows = rows_of(YOOCHOOSE)
    assert default_rows[:5] == ["POP", "S-POP", "Item-KNN", "BPR-MF", "Markov chain"]
    assert len(default_rows) == 15
    assert "authors-coveo" not in default_rows


def test_table_on_the_papers_files():
    assert markdown_table(RESULTS, "P.", published=DATASETS[YOOCHOOSE].published).splitlines() == [
        "P.",
        "",
        "| row | Recall@20 | MRR@20 | published Recall / MRR | difference | runs | seconds a run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| POP | 0.0060 | 0.0020 | 0.0050 / 0.0012 | +0.0010 / +0.0008 | 1 | 1 |",
        "| authors-best | 0.7100 ± 0.0141 | 0.3050 ± 0.0071 | 0.7283 / 0.3205 | -0.0183 / -0.0155 | 2 | 11 |",
        "| authors-coveo | 0.5000 | 0.2000 |  |  | 1 | 3 |",
    ]


def test_table_on_other_files_has_no_published_figures():
    table = markdown_table(RESULTS, "P.", published=None)
    assert "published" not in table
    assert "0.7283" not in table
    assert "| authors-best | 0.7100 ± 0.0141 | 0.3050 ± 0.0071 | 2 | 11 |" in table


def test_the_table_says_where_ties_matter():
    tied = dict(
        zip(COLUMNS, ("VS-KNN k=9", 0, 0, "9 5", 0.64, 0.31, 1.0, "0.6700 / 0.3300 to 0.6300 / 0.3000"), strict=True)
    )
    lines = markdown_table([*RESULTS, tied], "P.", published=None).splitlines()
    assert "| VS-KNN k=9 | 0.6400† | 0.3100† | 1 | 1 |" in lines
    assert lines[-1].startswith("† Ties by half: often other items score as high")
    assert lines[-1].endswith("to all of them: VS-KNN k=9 0.6700 / 0.3300 to 0.6300 / 0.3000.")


def test_a_model_that_gives_every_item_one_score_is_not_called_perfect(data_folder, tmp_path):
    """Its checkpoint is evaluated in every way to count ties."""
    flags = ["--data_folder", str(data_folder), "--n_epochs", "1", "--checkpoint_dir", str(tmp_path), "--device", "cpu"]
    run = TrainingRun(training_parameters(parse_flags(flags)))
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.zero_()
    write_checkpoint(tmp_path / "model_00000.pt", run.checkpoint(0, None))
    files = Files(data_folder, TRAIN_ONLY, VALID)
    result = reported(ranked(tmp_path / "model_00000.pt", files, "cpu"))
    assert result["ties"] == "1.0000 / 1.0000 to 0.0000 / 0.0000"
    median = (1 + len(files.index)) / 2
    assert (result["recall"], result["mrr"]) == (median <= 20, pytest.approx(1 / median) if median <= 20 else 0)
    popular = Popularity(files.train, len(files.index))
    metrics = popular.evaluate_by_every_tie_breaking(files.test)
    best, worst = ((metrics[way].recall[20], metrics[way].mrr[20]) for way in ("standard", "conservative"))
    assert max(abs(b - w) for b, w in zip(best, worst, strict=True)) > 0.001, "some items are equally popular"
    assert reported(popular.ranks(files.test)) == {
        "recall": metrics["median"].recall[20],
        "mrr": metrics["median"].mrr[20],
        "ties": "{:.4f} / {:.4f} to {:.4f} / {:.4f}".format(*best, *worst),
    }
    untied = popular.ranks(files.test)["standard"]
    assert reported(dict.fromkeys(("standard", "conservative", "median"), untied)) == {
        "recall": best[0],
        "mrr": best[1],
        "ties": "",
    }


def test_a_table_of_a_version_that_did_not_look_for_ties_is_read(tmp_path):
    old = [{name: value for name, value in result.items() if name != "ties"} for result in RESULTS]
    write_csv(tmp_path / "results.csv", old)
    assert read_results(tmp_path / "results.csv") == RESULTS


def test_results_come_back_as_they_were(tmp_path):
    write_csv(tmp_path / "results.csv", RESULTS)
    assert read_results(tmp_path / "results.csv") == RESULTS
    assert read_results(tmp_path / "none.csv") == []


def test_missing_files_are_named_with_what_writes_them(tmp_path):
    with pytest.raises(UserError, match=f"no file .*{TRAIN_FULL}: write it with preprocessing.py"):
        Files(tmp_path, TRAIN_FULL, TEST)


@pytest.fixture
def prepared(small_log, tmp_path):
    shutil.copytree(small_log / "data", tmp_path / "data")
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


def test_rows_side_by_side_are_those_one_after_another(prepared, run_script, tmp_path):
    """The scripts' processes have one thread each, as with --n_threads 1."""
    line = (*prepared, "--rows", "iclr2016-top1-100", "BPR-MF", "--seeds", 2)
    together = run_script("reproduce.py", *line, "--n_jobs", 2)
    alone = run_script("reproduce.py", *line, "--output", "alone")
    found, expected = (
        [row | {"seconds": 0} for row in sorted(read_results(tmp_path / folder / "results.csv"), key=str)]
        for folder in ("out", "alone")
    )
    assert found == expected
    assert len(found) == 4
    rows = [[line for line in run.stdout.splitlines() if line.startswith("| ")] for run in (together, alone)]
    assert [line.split(" | ")[:3] for line in rows[0]] == [line.split(" | ")[:3] for line in rows[1]]
    assert "epoch 0" not in together.stdout
    logs = list((tmp_path / "out").glob("iclr2016-top1-100-seed*/log.txt"))
    assert len(logs) == 2
    assert all("epoch 0 loss" in log.read_text() for log in logs)


def test_rows_of_baselines_name_their_settings(prepared, run_script, tmp_path):
    rows = ["VS-KNN k=2  sample=50", "VS-KNN sample=50 k=2", "VS-KNN k=100", "STAN k=5", "SR"]
    first = run_script("reproduce.py", *prepared, "--rows", *rows)
    results = read_results(tmp_path / "out" / "results.csv")
    assert [result["row"] for result in results] == ["VS-KNN k=2 sample=50", "VS-KNN", "STAN k=5", "SR"]
    assert results[0]["recall"] != results[1]["recall"]
    assert "| VS-KNN k=2 sample=50 | " in first.stdout
    files = Files(tmp_path / "data", TRAIN_FULL, TEST)
    metrics = fit_row("STAN k=5", files.train, len(files.index)).evaluate(files.test)
    assert (results[2]["recall"], results[2]["mrr"]) == (metrics.recall[20], metrics.mrr[20])
    wrong = run_script("reproduce.py", *prepared, "--rows", "VS-KNN kk=2", expect=2)
    assert wrong.stderr.startswith("error: argument --rows: kk=2: VS-KNN takes k, sample")


@pytest.mark.long
def test_other_clicks_in_the_same_folder_are_trained_on_anew(prepared, small_log, run_script, tmp_path):
    line = (*prepared, "--rows", "iclr2016-top1-100")
    run_script("reproduce.py", *line)
    log = small_log / "clicks.dat"
    run_script("preprocessing.py", "--clicks", log, "--data_folder", "data", "--last_days", 4)
    run_script("reproduce.py", *line)
    run_script("reproduce.py", *line, "--output", "anew")
    first, second = read_results(tmp_path / "out" / "results.csv")
    (anew,) = read_results(tmp_path / "anew" / "results.csv")
    assert second | {"seconds": 0} == anew | {"seconds": 0}
    assert second["recall"] != first["recall"]


@pytest.fixture
def table(data_folder, tmp_path):
    """Run rows in this process, on a copy of the files that may have its items shuffled."""

    def run(*rows, seeds=1, shuffled=None):
        names = {"train_data": TRAIN_ONLY, "test_data": VALID}
        for name in names.values():
            content = (data_folder / name).read_text()
            (tmp_path / name).write_text(with_shuffled_items(content) if name == shuffled else content)
        flags = Namespace(
            data_folder=tmp_path,
            output=tmp_path,
            rows=rows,
            seeds=seeds,
            n_epochs=3,
            device=None,
            n_jobs=1,
            n_threads=None,
            **names,
        )
        return reproduce.run_rows(Files(tmp_path, TRAIN_ONLY, VALID), flags)

    return run


def with_shuffled_items(content):
    """A file with its items shuffled among its clicks, so that all counts stay the same."""
    header, *rows = [line.split(",") for line in content.splitlines()]
    items = [row[1] for row in rows]
    random.Random(1).shuffle(items)
    return "\n".join(map(",".join, [header, *([row[0], item, row[2]] for row, item in zip(rows, items, strict=True))]))


@pytest.mark.parametrize("name", [TRAIN_ONLY, VALID])
def test_files_of_the_same_counts_are_told_apart(table, name, tmp_path):
    (first,) = table("Markov chain")
    (second,) = table("Markov chain", shuffled=name)
    assert first["mrr"] > 1.2 * second["mrr"]
    assert table("Markov chain") == [first]
    assert table("Markov chain", shuffled=name) == [second]
    assert read_results(tmp_path / "results.csv") == [first, second]


def test_figures_of_an_earlier_version_stay_and_are_not_taken(table, tmp_path, capsys):
    before = dict(zip(COLUMNS, ("POP", 0, 0, "622 59", 0.9, 0.9, 1.0, ""), strict=True))
    write_csv(tmp_path / "results.csv", [before])
    (result,) = table("POP")
    assert "results.csv has rows of an earlier version" in capsys.readouterr().err
    assert result["recall"] != 0.9
    assert read_results(tmp_path / "results.csv") == [before, result]


def test_seeded_baselines_are_run_with_every_seed(table):
    results = table("BPR-MF", "POP", seeds=3)
    assert [(result["row"], result["seed"]) for result in results] == [*(("BPR-MF", n) for n in (1, 2, 3)), ("POP", 0)]
    assert len({(result["recall"], result["mrr"]) for result in results[:3]}) > 1


def test_the_figures_of_a_preset_are_those_of_its_last_epoch(table, tmp_path, monkeypatch):
    """Not of the best one: that would be chosen on the test file."""

    def trained(command):
        folder = Path(command[command.index("--checkpoint_dir") + 1]) / "07240927"
        folder.mkdir(parents=True)
        epochs = [(0.1, 0.01), (0.9, 0.09), (0.5, 0.05), (0.7, 0.07)]  # a fourth, of a run before with more of them
        rows = [{"epoch": n, "recall@20": r, "mrr@20": m, "seconds": 2} for n, (r, m) in enumerate(epochs)]
        write_csv(folder / "metrics.csv", rows)
        return 0

    monkeypatch.setattr(reproduce, "run_interruptibly", trained)
    (result,) = table("iclr2016-top1-100")
    assert (result["recall"], result["mrr"], result["seconds"]) == (0.5, 0.05, 6)


def test_a_test_file_without_known_items_is_refused(tmp_path, data_folder):
    (tmp_path / TRAIN_ONLY).write_text((data_folder / TRAIN_ONLY).read_text())
    (tmp_path / VALID).write_text("SessionID,ItemID,Time\n1,-1,5\n1,-2,6\n")
    with pytest.raises(UserError, match=f"{VALID} has no items in common with the training data"):
        Files(tmp_path, TRAIN_ONLY, VALID)


def test_a_row_that_fails_is_named(prepared, run_script):
    failed = run_script("reproduce.py", *prepared, "--rows", "iclr2016-xe-100", "--device", "cuda:99", expect=2)
    assert "iclr2016-xe-100 with seed 1 ended with exit code 2" in failed.stderr
    unknown = run_script("reproduce.py", *prepared, "--rows", "POPULAR", expect=2)
    assert unknown.stderr.startswith("error: argument --rows: invalid choice: 'POPULAR'")

"""Early stopping and the chosen metrics, end to end: what a run prints and leaves, and how it goes on."""

import csv
import re

import pytest
import torch

import main
from evaluation import METRICS, Metrics
from runs.parameters import parse_flags, same_experiment, training_parameters
from runs.runfolder import RunFolder, metrics_columns, read_checkpoint
from runs.trainingrun import TrainingRun
from terminal.errors import UserError

BASE = "--hidden_size 4 --batch_size 8 --device cpu"


@pytest.fixture
def run(data_folder, tmp_path, capsys):
    """Run main.py with flags: what it printed on stdout, and the run folders."""

    def run_main(line):
        capsys.readouterr()
        line = f"{BASE} --data_folder {data_folder} --checkpoint_dir {tmp_path} {line}"
        assert main.run(parse_flags(line.split())) == 0
        return capsys.readouterr().out.splitlines(), sorted(path for path in tmp_path.iterdir() if path.is_dir())

    return run_main


@pytest.fixture
def scripted(monkeypatch):
    """Have the epochs of a run end with these MRR@5."""

    def script(*figures):
        def evaluate(run):
            mrr = figures[run.progress.epoch]
            return Metrics({"recall": {5: 0.5, 20: 0.5}, "mrr": {5: mrr, 20: 1 - mrr}}, 1)

        monkeypatch.setattr(TrainingRun, "evaluate", evaluate)

    return script


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("*.pt"))


def read_history(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("figures", "patience", "n_ended", "best"),
    [
        ((0.1, 0.3, 0.2, 0.2, 0.4, 0.1), 2, 4, 1),
        ((0.1, 0.3, 0.2, 0.2, 0.4, 0.1), 3, 6, 4),
        ((0.1, 0.3, 0.3, 0.3, 0.4, 0.1), 2, 4, 1),  # as good is not better, and the earlier epoch is the best
        ((0.1, 0.3, 0.2, 0.2, 0.4, 0.1), 1, 3, 1),
        ((0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 1, 2, 0),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 1, 6, 5),
    ],
)
def test_training_ends_with_patience(run, scripted, figures, patience, n_ended, best):
    scripted(*figures)
    printed, (folder,) = run(f"--n_epochs 6 --k_eval 5 20 --patience {patience}")
    assert [row["epoch"] for row in read_history(folder)] == [str(epoch) for epoch in range(n_ended)]
    path = folder / f"model_{best:05d}.pt"
    assert printed[-1] == f"best epoch: {best}, MRR@5: {figures[best]:.6f}, {path}"
    assert read_checkpoint(path)["epoch"] == best
    assert (f"no better epoch for {patience}: stopped" in printed) == (n_ended - 1 - best == patience)


def test_without_patience_every_epoch_is_trained_and_nothing_more_is_said(run, scripted):
    scripted(0.5, 0.4, 0.3, 0.2)
    printed, (folder,) = run("--n_epochs 4 --k_eval 5 20 --keep_checkpoints 1")
    assert len(read_history(folder)) == 4
    assert printed[-1].startswith("epoch 3 loss: ")
    assert checkpoints(folder) == ["model_00003.pt"]


def test_the_best_epoch_is_never_deleted(run, scripted, monkeypatch):
    left = []
    delete = RunFolder.delete_epochs_before

    def delete_and_look(folder, *others, **named):
        delete(folder, *others, **named)
        left.append([int(name[6:11]) for name in checkpoints(folder.path)])

    monkeypatch.setattr(RunFolder, "delete_epochs_before", delete_and_look)
    scripted(0.1, 0.3, 0.2, 0.2, 0.4, 0.1, 0.1, 0.1)
    printed, (folder,) = run("--n_epochs 8 --k_eval 5 20 --patience 3 --keep_checkpoints 1")
    assert left == [[0], [1], [1, 2], [1, 3], [4], [4, 5], [4, 6], [4, 7]]
    assert printed[-1].endswith(str(folder / "model_00004.pt"))


def test_a_run_that_stopped_early_is_done_until_it_shall_wait_longer(run, scripted):
    scripted(0.1, 0.3, 0.2, 0.2, 0.4, 0.1, 0.1)
    line = "--n_epochs 7 --k_eval 5 20 --keep_checkpoints 1 --resume"
    run(f"{line} --patience 2")
    _, (folder,) = run(f"{line} --patience 2")
    for line_again in (f"{line} --patience 2", f"--load_model {folder / 'model_00003.pt'}"):
        printed, folders = run(line_again)
        assert folders == [folder]
        assert printed[-2].endswith("model_00003.pt: 4 of 7 epochs are done; raise --patience to go on")
        assert printed[-1] == f"best epoch: 1, MRR@5: 0.300000, {folder / 'model_00001.pt'}"
        assert len(read_history(folder)) == 4

    printed, (folder,) = run(f"{line} --patience 3")
    assert printed[0].startswith("going on from ")
    assert len(read_history(folder)) == 7
    assert printed[-1] == f"best epoch: 4, MRR@5: 0.400000, {folder / 'model_00004.pt'}"
    assert checkpoints(folder) == ["model_00004.pt", "model_00006.pt"]
    printed, _ = run(f"{line} --patience 3")
    assert "7 of 7 epochs are done; raise --n_epochs to go on" in printed[-2]


def test_the_best_epoch_may_be_in_the_folder_that_training_went_on_from(run, scripted):
    scripted(0.1, 0.3, 0.2, 0.2, 0.1)
    _, (first,) = run("--n_epochs 3 --k_eval 5 20")
    printed, folders = run(f"--load_model {first / 'model_00002.pt'} --n_epochs 5 --patience 2")
    (second,) = set(folders) - {first}
    assert checkpoints(second) == ["model_00003.pt"]
    assert printed[-1] == f"best epoch: 1, MRR@5: 0.300000, {first / 'model_00001.pt'}"
    (first / "model_00001.pt").unlink()
    printed, _ = run(f"--load_model {second / 'model_00003.pt'}")
    assert printed[-1] == "best epoch: 1, MRR@5: 0.300000, its checkpoint is in the folder of an earlier run"


def test_a_real_run_ends_when_it_is_over_and_its_best_epoch_evaluates_as_it_says(run):
    printed, (folder,) = run("--n_epochs 30 --patience 2 --lr 0.3 --loss_type CrossEntropy --keep_checkpoints 1")
    figures = [float(row["mrr@20"]) for row in read_history(folder)]
    best = figures.index(max(figures))
    assert len(figures) < 30
    assert best == len(figures) - 3
    assert checkpoints(folder) == [f"model_{best:05d}.pt", f"model_{len(figures) - 1:05d}.pt"]
    path = printed[-1].split(", ")[-1]
    evaluated, _ = run(f"--is_eval --load_model {path}")
    (mrr,) = re.findall(r"MRR@20: ([0-9.]+)", evaluated[-1])
    assert printed[-1] == f"best epoch: {best}, MRR@20: {mrr}, {path}"
    printed, _ = run("--n_epochs 30 --patience 2 --lr 0.3 --loss_type CrossEntropy --keep_checkpoints 1 --resume")
    assert printed[-1].endswith(path)


def test_patience_needs_what_it_waits_for(run):
    with pytest.raises(UserError, match="--patience waits for a better MRR: add mrr to --metrics"):
        run("--patience 2 --metrics recall ndcg")
    _, (folder,) = run("--n_epochs 1 --metrics recall")
    with pytest.raises(UserError, match="add mrr to --metrics"):
        run(f"--load_model {folder / 'model_00000.pt'} --n_epochs 3 --patience 1")


def test_a_history_that_is_none_is_refused(run, data_folder):
    _, (folder,) = run("--n_epochs 1")
    path = folder / "model_00000.pt"
    checkpoint = read_checkpoint(path)
    for history in ([{}], [3], [{"epoch": 0, "mrr@20": 0.5}, {"epoch": 1, "mrr@20": None}]):
        folder_path = RunFolder(folder).write_checkpoint(checkpoint | {"history": history})
        with pytest.raises(UserError, match="does not fit together: its history has other columns"):
            run(f"--load_model {folder_path} --n_epochs 3 --patience 1")


# Metrics that are asked for.


def test_a_run_writes_prints_and_evaluates_the_metrics_that_are_asked_for(run):
    printed, (folder,) = run("--n_epochs 2 --k_eval 3 10 --metrics popularity ndcg Recall coverage recall")
    history = read_history(folder)
    names = ["recall", "ndcg", "coverage", "popularity"]
    figures = [f"{name}@{k}" for k in (3, 10) for name in names]
    assert list(history[0]) == ["epoch", "train_loss", *figures, "seconds", "clicks_per_second"]
    lines = [
        " ".join(f"{METRICS[name]}@{k}: {float(history[1][f'{name}@{k}']):.6f}" for name in names) for k in (3, 10)
    ]
    assert f" {' '.join(lines)} (" in printed[-1]
    evaluated, _ = run(f"--is_eval --load_model {folder / 'model_00001.pt'}")
    assert evaluated == lines
    others, _ = run(f"--is_eval --load_model {folder / 'model_00001.pt'} --metrics mrr coverage --k_eval 10")
    assert re.fullmatch(rf"MRR@10: 0\.\d+ Coverage@10: {float(history[1]['coverage@10']):.6f}", others[0])
    with pytest.raises(UserError, match="--metrics recall mrr differs from the checkpoint's recall ndcg"):
        run(f"--load_model {folder / 'model_00001.pt'} --n_epochs 3 --metrics mrr recall")
    run(f"--load_model {folder / 'model_00001.pt'} --n_epochs 3")


def test_lists_are_only_made_where_they_are_asked_for(run, monkeypatch):
    def topk(*others, **named):
        raise AssertionError("nobody asked for lists")

    monkeypatch.setattr(torch.Tensor, "topk", topk)
    run("--n_epochs 1 --metrics recall mrr ndcg")
    with pytest.raises(AssertionError, match="nobody"):
        run("--n_epochs 1 --metrics recall coverage")


def test_unknown_metrics_are_refused():
    with pytest.raises(UserError, match="'auc' is not one of recall, mrr, ndcg, coverage, popularity"):
        parse_flags("--metrics recall auc".split())


def test_checkpoints_of_before_these_flags_are_evaluated_and_go_on(run):
    assert metrics_columns([5, 20], ("recall", "mrr"))[2:6] == ["recall@5", "mrr@5", "recall@20", "mrr@20"]
    _, (folder,) = run("--n_epochs 1 --k_eval 5 20")
    path = folder / "model_00000.pt"
    checkpoint = read_checkpoint(path)
    for name in ("metrics", "patience", "ranks"):
        del checkpoint["parameters"][name]
    del checkpoint["format_version"]
    RunFolder(folder).write_checkpoint(checkpoint)
    evaluated, _ = run(f"--is_eval --load_model {path}")
    row = read_history(folder)[0]
    assert evaluated == [
        f"Recall@{k}: {float(row[f'recall@{k}']):.6f} MRR@{k}: {float(row[f'mrr@{k}']):.6f}" for k in (5, 20)
    ]
    printed, folders = run("--n_epochs 2 --k_eval 5 20 --resume")
    assert printed[0] == f"going on from {path}"
    assert folders == [folder]
    assert len(read_history(folder)) == 2


def test_flags_of_stopping_are_no_other_experiment():
    saved = vars(training_parameters(parse_flags("--patience 2".split())))
    assert same_experiment(saved, training_parameters({"patience": 5}))
    assert not same_experiment(saved, training_parameters({"metrics": ["mrr"]}))

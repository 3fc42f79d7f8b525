"""Training that evaluates less: not at all, now and then, or on a sample; what it says then, and what it never says."""

import csv
import re
from argparse import Namespace

import numpy as np
import pytest
import torch

import main
import reproduce
from clicks.clickfile import write_click_files
from clicks.synthetic import synthetic_clicks
from evaluation import Metrics, evaluate
from preprocessing import TRAIN_ONLY, VALID, split
from runs.parameters import parse_flags, same_experiment, training_parameters
from runs.runfolder import RunFolder, read_checkpoint
from runs.trainingdata import TrainingData, of_sample, sampled
from runs.trainingrun import TrainingRun
from terminal.errors import UserError
from tools.plot import read_history

BASE = "--hidden_size 4 --batch_size 16 --device cpu"
N_VALID = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    files = split(synthetic_clicks(n_sessions=300, n_items=30, n_days=4, seed=0))
    write_click_files({folder / name: files[name] for name in (TRAIN_ONLY, VALID)})
    assert len(TrainingData.read(str(folder), TRAIN_ONLY, VALID, True).valid_sessions) > N_VALID
    return folder


@pytest.fixture
def run(data, tmp_path, capsys):
    """Run main.py with flags: what it printed on stdout, and the newest run folder."""

    def run_main(line):
        capsys.readouterr()
        line = f"{BASE} --data_folder {data} --checkpoint_dir {tmp_path / 'runs'} {line}"
        assert main.run(parse_flags(line.split())) == 0
        folders = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
        return capsys.readouterr().out.splitlines(), max(folders, key=lambda path: path.stat().st_mtime_ns)

    return run_main


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(folder, epoch):
    return read_checkpoint(folder / f"model_{epoch:05d}.pt")["model"]


def same_weights(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# Nothing is evaluated.


def test_a_run_that_evaluates_nothing_trains_the_same_weights_and_needs_no_file(run, data, tmp_path, capsys):
    _, evaluated = run("--n_epochs 2")
    printed, folder = run("--n_epochs 2 --valid_data none")
    assert same_weights(weights(evaluated, 1), weights(folder, 1))
    assert any("; nothing to evaluate; device" in line for line in printed)
    assert re.fullmatch(rf"epoch 1 loss: [\d.]+ \([\d.]+ s\) {folder}/model_00001.pt", printed[-1])
    assert list(rows_of(folder)[0]) == ["epoch", "train_loss", "seconds", "clicks_per_second"]
    read_history(folder)

    path = folder / "model_00001.pt"
    with pytest.raises(
        UserError, match="--is_eval needs a file to evaluate on, and .* was trained without: name --val"
    ):
        run(f"--is_eval --load_model {path}")
    printed, _ = run(f"--is_eval --load_model {path} --valid_data {VALID}")
    last = rows_of(evaluated)[-1]
    assert printed == [f"Recall@20: {float(last['recall@20']):.6f} MRR@20: {float(last['mrr@20']):.6f}"]


def test_it_goes_on_averages_and_grows_without_a_file(run, data):
    line = "--valid_data none --n_epochs 2 --average 2"
    printed, folder = run(line)
    assert printed[-1] == f"mean of epochs 0 to 1 {folder}/model_mean.pt"
    assert (folder / "mean.csv").read_text() == "epochs\n0 to 1\n"
    before = (folder / "model_mean.pt").stat().st_mtime_ns
    printed, _ = run(f"{line} --resume")
    assert (folder / "model_mean.pt").stat().st_mtime_ns == before
    _, on = run(f"--load_model {folder / 'model_00000.pt'}")
    assert same_weights(weights(on, 1), weights(folder, 1))
    _, grown = run(f"--load_model {folder / 'model_00000.pt'} --grow --n_epochs 2")
    assert [row["epoch"] for row in rows_of(grown)] == ["1", "2"]
    with pytest.raises(UserError, match=f"--valid_data {VALID} differs from the checkpoint's none"):
        run(f"--load_model {folder / 'model_00000.pt'} --valid_data {VALID}")


def test_what_waits_for_a_figure_is_refused_and_what_has_no_effect_is_named(run, capsys):
    with pytest.raises(UserError, match="--patience waits for a better MRR, and --valid_data none gives none"):
        run("--valid_data none --patience 2")
    training_parameters(parse_flags("--valid_data none --k_eval 5 --eval_every 2 --eval_sessions 5".split()))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"warning: --{name} has no effect with --valid_data none" for name in ("eval_every", "eval_sessions", "k_eval")
    ]
    run("--valid_data none --k_eval 5000 --n_epochs 1")


# Now and then.


def test_every_so_many_epochs_and_the_last_are_evaluated_and_the_others_are_blank(run):
    _, every = run("--n_epochs 5")
    printed, folder = run("--n_epochs 5 --eval_every 2")
    rows, expected = rows_of(folder), rows_of(every)
    assert list(rows[0]) == list(expected[0])
    is_evaluated = [False, True, False, True, True]
    for row, whole, has_figures in zip(rows, expected, is_evaluated, strict=True):
        assert row["train_loss"] == whole["train_loss"]
        assert (row["recall@20"], row["mrr@20"]) == ((whole["recall@20"], whole["mrr@20"]) if has_figures else ("", ""))
    assert ["Recall@20" in line for line in printed if line.startswith("epoch")] == is_evaluated
    read_history(folder)
    _, half = run("--n_epochs 4 --eval_every 2")
    _, rest = run(f"--load_model {half / 'model_00002.pt'} --n_epochs 5")
    assert [row["mrr@20"] for row in rows_of(rest)] == [row["mrr@20"] for row in rows]
    assert same_weights(weights(rest, 4), weights(every, 4))


@pytest.mark.parametrize(
    ("figures", "patience", "n_ended", "best"),
    [
        ((9, 0.1, 9, 0.3, 9, 0.2, 9, 0.2), 2, 6, 3),  # epochs without a figure never end a run
        ((9, 0.1, 9, 0.3, 9, 0.2, 9, 0.2), 1, 6, 3),
        ((9, 0.1, 9, 0.3, 9, 0.2, 9, 0.4), 3, 8, 7),
        ((9, 0.5, 9, 0.3, 9, 0.2, 9, 0.4), 5, 8, 1),
    ],
)
def test_patience_looks_at_evaluated_epochs_alone(run, monkeypatch, figures, patience, n_ended, best):
    monkeypatch.setattr(
        TrainingRun, "evaluate", lambda run: Metrics({"recall": {20: 0.5}, "mrr": {20: figures[run.progress.epoch]}}, 1)
    )
    printed, folder = run(f"--n_epochs 8 --eval_every 2 --patience {patience} --keep_checkpoints 1")
    assert len(rows_of(folder)) == n_ended
    path = folder / f"model_{best:05d}.pt"
    assert printed[-1] == f"best epoch: {best}, MRR@20: {figures[best]:.6f}, {path}"
    assert path.exists()


def test_a_run_whose_best_epoch_is_not_known_says_so(run):
    _, folder = run("--n_epochs 3 --eval_every 3")
    printed, _ = run(f"--load_model {folder / 'model_00001.pt'} --n_epochs 2 --patience 3")
    assert printed[-1] == "no epoch has been evaluated yet"


# On a sample.


def test_a_sample_is_one_and_the_same_of_whole_sessions(data):
    sessions = TrainingData.read(str(data), TRAIN_ONLY, VALID, True).valid_sessions
    sample = sampled(sessions, 20)
    places = [np.flatnonzero(sessions.ids == each).item() for each in sample.ids]
    assert len(set(places)) == 20
    assert places == sorted(places)
    assert places[0] > 0 or places[-1] < len(sessions) - 1 or np.diff(places).max() > 1
    expected = np.concatenate([sessions.items[sessions.offsets[s] : sessions.offsets[s + 1]] for s in places])
    assert sample.items.tolist() == expected.tolist()
    assert sampled(sessions, 20).ids.tolist() == sample.ids.tolist()
    assert sampled(sessions, 21).ids.tolist() != sample.ids.tolist()
    assert sampled(sessions, 0) is sessions
    assert (of_sample(sample, sessions), of_sample(sessions, sessions)) == (f" on 20 of {len(sessions)} sessions", "")
    for n in (len(sessions), len(sessions) + 1):
        with pytest.raises(UserError, match=f"--eval_sessions {n} is no sample of {len(sessions)} sessions"):
            sampled(sessions, n)


def test_figures_of_a_sample_bear_its_size_everywhere(run, data, monkeypatch):
    seen = []

    def spy(model, sessions, *others, **named):
        seen.append(sessions.ids.tolist())
        return evaluate(model, sessions, *others, **named)

    monkeypatch.setattr("runs.trainingrun.evaluate", spy)
    printed, folder = run("--n_epochs 3 --eval_sessions 20 --average 2")
    run("--n_epochs 1 --eval_sessions 20 --seed 5")
    assert len(seen) == 5
    assert all(each == seen[0] for each in seen), "in every epoch and run"
    n_valid = len(TrainingData.read(str(data), TRAIN_ONLY, VALID, True).valid_sessions)
    lines = [line for line in printed if "Recall@20" in line]
    assert len(lines) == 4
    assert all(re.search(rf"MRR@20: [\d.]+ on 20 of {n_valid} sessions \(", line) for line in lines)
    assert any(f"to evaluate on 20 of {n_valid} sessions; device" in line for line in printed)
    columns = ["recall@20 of 20 sessions", "mrr@20 of 20 sessions"]
    assert list(rows_of(folder)[0]) == ["epoch", "train_loss", *columns, "seconds", "clicks_per_second"]
    assert (folder / "mean.csv").read_text().startswith(f"epochs,{','.join(columns)}\n")

    last, path = rows_of(folder)[-1], folder / "model_00002.pt"
    (line,), _ = run(f"--is_eval --load_model {path} --eval_sessions 20")
    figures = f"Recall@20: {float(last[columns[0]]):.6f} MRR@20: {float(last[columns[1]]):.6f}"
    assert line == f"{figures} on 20 of {n_valid} sessions"
    (line,), _ = run(f"--is_eval --load_model {path}")
    assert not line.startswith(figures)
    assert "sessions" not in line, "a sample must be named anew"


def test_a_sample_is_never_taken_for_the_whole(run, tmp_path):
    _, folder = run("--n_epochs 1 --eval_sessions 20")
    path = folder / "model_00000.pt"
    for other in ("0", "21"):
        with pytest.raises(UserError, match=f"--eval_sessions {other} differs from the checkpoint's 20"):
            run(f"--load_model {path} --n_epochs 2 --eval_sessions {other}")
    printed, _ = run(f"--load_model {path} --n_epochs 3 --patience 1 --lr 0.01")
    assert re.match(r"best epoch: \d, MRR@20 of 20 sessions: [\d.]+, ", printed[-1])
    printed, _ = run("--n_epochs 1 --resume")
    assert any("starting anew" in line for line in printed)
    saved = read_checkpoint(path)["parameters"]
    assert not same_experiment(saved, Namespace(**saved | {"eval_sessions": 0}))
    checkpoint = read_checkpoint(path)
    checkpoint["parameters"]["eval_sessions"] = 21
    RunFolder(folder).write_checkpoint(checkpoint)
    with pytest.raises(UserError, match="does not fit together: its history has other columns"):
        run(f"--load_model {path} --n_epochs 2")


@pytest.mark.parametrize("line", ["--eval_sessions 20", "--n_epochs 3 --eval_every 3", "--valid_data none"])
def test_a_table_takes_no_figures_but_those_of_all_sessions(run, tmp_path, monkeypatch, line):
    """What a run by hand left where a row of the table was trained."""
    _, folder = run(f"--n_epochs 1 {line}")
    monkeypatch.setattr(reproduce, "run_interruptibly", lambda command: 0)
    monkeypatch.setattr(reproduce, "preset_folder", lambda *others: folder.parent)
    monkeypatch.setattr(reproduce, "measured_checkpoint", lambda *others: None)
    flags = Namespace(n_epochs=1, data_folder="x", train_data="x", test_data="x", device="cpu", n_threads=None)
    with pytest.raises(UserError, match="has no figures of all sessions for epoch 1 of authors-best: delete it"):
        reproduce.run_preset("authors-best", 1, None, tmp_path / "ranks", flags)

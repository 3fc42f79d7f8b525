"""Rolling evaluation: days are what they say, all models rank the same next clicks, and growing is main.py's."""

import csv

import numpy as np
import pytest
import torch

import main
from clicks.clickfile import concatenated, write_click_files
from clicks.itemindex import ItemIndex
from clicks.synthetic import synthetic_clicks
from dataset import encode_sessions
from evaluation import rank_by_model
from preprocessing import drop_short_sessions
from recommend import Recommender
from runs.parameters import parse_flags, training_parameters
from runs.rolling import ANEW, GROWS, HOUR, STAYS, data_of, days_of_clicks, ranks_among, read_days, roll, trained
from runs.runfolder import read_checkpoint
from terminal.errors import UserError
from tools import rolling

LINE = "--hidden_size 4 --batch_size 16 --n_epochs 1 --device cpu --constrained_embedding --valid_data none"


@pytest.fixture(scope="module")
def clicks():
    clicks = synthetic_clicks(n_sessions=300, n_items=40, n_days=5, seed=3)
    return drop_short_sessions(clicks.select(clicks.item != clicks.item.min() + 1))


@pytest.fixture(scope="module")
def folder(clicks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rolling")
    half = clicks.session > np.median(clicks.session)
    write_click_files({folder / "a.txt": clicks.select(half), folder / "b.txt": clicks.select(~half)})
    return folder


@pytest.mark.parametrize(("n_days", "hours"), [(4, 24), (3, 7.5)])
def test_days_are_counted_back_from_the_last_click_and_sessions_are_whole(clicks, n_days, hours):
    days = days_of_clicks(clicks, n_days, hours)
    last = max(clicks.time.tolist())
    for session in np.unique(clicks.session).tolist():
        mine = clicks.session == session
        ago = (last - max(clicks.time[mine].tolist())) / (hours * HOUR)
        expected = next((n_days - k for k in range(n_days) if k <= ago < k + 1), 0)
        assert set(days[mine].tolist()) == {expected}


def test_a_model_that_knows_all_ranks_as_the_evaluation_does(clicks):
    parameters, index = training_parameters(parse_flags(LINE.split())), ItemIndex.of(clicks)
    run, _ = trained(parameters, data_of(clicks, index, parameters))
    sessions, _ = encode_sessions(clicks, index)
    expected = rank_by_model(run.model, sessions)
    assert torch.equal(ranks_among(run.model, index, index, sessions), expected)
    assert run.model.training


def test_items_that_a_model_lacks_are_misses_and_clicks_on_them_are_passed_over(clicks):
    """By recommendations for every beginning of every session, one at a time."""
    parameters = training_parameters(parse_flags(LINE.split()))
    part = clicks.select(clicks.item % 4 != 0)
    known, index = ItemIndex.of(part), ItemIndex.of(clicks)
    run, _ = trained(parameters, data_of(part, known, parameters))
    sessions, _ = encode_sessions(clicks, index)
    sessions = sessions.select(np.arange(40))
    ranks = iter(ranks_among(run.model, known, index, sessions).tolist())
    recommender, n_missed, n_passed = Recommender(run.model, known), 0, 0
    for first, end in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
        ids = index.ids[sessions.items[first:end]].tolist()
        for position in range(1, len(ids)):
            seen, target, rank = ids[:position], ids[position], next(ranks)
            n_passed += any(item % 4 == 0 for item in seen)
            if target % 4 == 0 or all(item % 4 == 0 for item in seen):
                assert rank == np.inf
                n_missed += 1
            else:
                best = [item for item, _ in recommender.recommend(seen, len(known))]
                assert abs(best.index(target) + 1 - rank) <= 1  # nearly equal scores may change places
    assert n_missed > 5
    assert n_passed > 5


def test_it_grows_as_main_does_and_all_models_rank_the_same(clicks, folder, tmp_path):
    days = read_days([folder / "a.txt", folder / "b.txt"], 2, 24)
    assert sorted(np.concatenate([day.time for day in days]).tolist()) == sorted(clicks.time.tolist())
    parameters = training_parameters(parse_flags(LINE.split()))
    ranked = list(roll(days, parameters, {"n_epochs": 2, "device": "cpu"}))
    assert [(each.day, each.model) for each in ranked] == [(day, m) for day in (1, 2) for m in (STAYS, GROWS, ANEW)]
    assert len({(len(each.ranks), each.day) for each in ranked}) == 2

    write_click_files({tmp_path / f"{number}.txt": day for number, day in enumerate(days)})
    line = f"--data_folder {tmp_path} --checkpoint_dir {tmp_path / 'runs'}"
    assert main.run(parse_flags(f"{LINE} --train_data 0.txt {line}".split())) == 0
    for day in (1, 2):
        path = max((tmp_path / "runs").glob("*/model_*.pt"), key=lambda path: path.name)
        grow = f"--load_model {path} --grow --train_data {day}.txt --n_epochs 2 {line}"
        assert main.run(parse_flags(grow.split())) == 0
    path = max((tmp_path / "runs").glob("*/model_*.pt"), key=lambda path: path.name)
    assert read_checkpoint(path)["epoch"] == 4
    recommender = Recommender.load(path)
    last = next(each for each in ranked if (each.day, each.model) == (2, GROWS))
    index = ItemIndex.of(concatenated(days[:3]).sorted())
    assert torch.equal(ranks_among(recommender.model, recommender.index, index, last.sessions), last.ranks)


def test_the_command_writes_a_row_per_day_and_model_and_says_what_growing_gains(folder, tmp_path, capsys):
    own = ["--data_folder", str(folder), "--files", "a.txt", "b.txt", "--days", "2", "--output", str(tmp_path / "out")]
    rolling.main([*own, "--flags", LINE.replace(" --valid_data none", "")])
    said = capsys.readouterr().out.splitlines()
    with open(tmp_path / "out" / "rolling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert "| model | Recall@20 | MRR@20 | training, to anew |" in said
    recall = {name: [float(row["recall"]) for row in rows if row["model"] == name] for name in (STAYS, GROWS)}
    n = [int(row["n_next_clicks"]) for row in rows if row["model"] == GROWS]
    gain = sum(k * (g - s) for k, g, s in zip(n, recall[GROWS], recall[STAYS], strict=True)) / sum(n)
    (line,) = [line for line in said if line.startswith("grows - stays, Recall@20: ")]
    assert line.startswith(f"grows - stays, Recall@20: {gain:+.4f} (")
    wins = sum(g > s for g, s in zip(recall[GROWS], recall[STAYS], strict=True))
    assert line.endswith(f"better on {wins} of 2 days")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--days", "30"], "nothing is left before the first day of 31 of 24 hours|no session ends in day"),
        (["--flags", "--average 2"], "--average has no place here"),
        (["--flags", "--load_model x.pt"], "--load_model is not for models that nothing is kept of"),
        (["--grow_flags", "--resume true"], "--resume is not for models"),
        (["--files", "c.txt"], "c.txt"),
    ],
)
def test_wrong_uses_are_sentences(folder, tmp_path, more, sentence):
    with pytest.raises(UserError, match=sentence):
        rolling.main(["--data_folder", str(folder), "--files", "a.txt", "--output", str(tmp_path / "out"), *more])

"""Recommendations are the best scores of the model that was evaluated, in a file of any size, whatever the batch."""

import csv
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import recommend
from clicks.clickfile import stream_sessions
from clicks.itemindex import ItemIndex
from model import GRU4Rec
from recommend import Recommender
from terminal.errors import UserError

IDS = np.arange(1000, 1030)


@pytest.fixture
def recommender():
    torch.manual_seed(0)
    model = GRU4Rec(len(IDS), hidden_size=5, num_layers=2, embedding_dim=4, dropout_hidden=0.5)
    return Recommender(model, ItemIndex(IDS))


def scores_by_hand(recommender, items):
    """Click by click, one session alone."""
    hidden = recommender.model.initial_hidden(1)
    for item in items:
        scores, hidden = recommender.model.score_all(torch.tensor([item - 1000]), hidden, torch.tensor([False]))
    return {int(IDS[i]): s for i, s in enumerate(scores[0].tolist())}


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_best_scores_come_first(recommender, exclude_seen):
    items = [1003, 1008, 1003, 1020]
    scores = scores_by_hand(recommender, items)
    if exclude_seen:
        scores = {item: s for item, s in scores.items() if item not in items}
    expected = sorted(scores, key=scores.get, reverse=True)[:7]
    got = recommender.recommend(items, k=7, exclude_seen=exclude_seen)
    assert [item for item, _ in got] == expected
    assert [s for _, s in got] == pytest.approx([scores[item] for item in expected], abs=1e-6)


def test_unknown_items_are_passed_over_and_nothing_known_is_refused(recommender):
    assert recommender.recommend([5, 1003, 7, 1008]) == recommender.recommend([1003, 1008])
    with pytest.raises(ValueError, match="none of these items"):
        recommender.recommend([5, 7])
    with pytest.raises(ValueError, match="expected 1 to 30"):
        recommender.recommend([1003], k=31)


def test_when_all_items_are_seen_fewer_are_recommended(recommender):
    assert len(recommender.recommend(list(IDS[:28]), k=10, exclude_seen=True)) == 2


def random_sessions(n_sessions=700):
    rng = np.random.default_rng(0)
    return {10 * s + 3: rng.choice(IDS, rng.integers(1, 9)).tolist() for s in range(n_sessions)}


def write_sessions(path, sessions):
    lines = [f"{item},x,{session}" for session, items in sessions.items() for item in items]
    path.write_text("ItemID,extra,SessionID\n" + "\n".join(lines) + "\n")


def test_a_file_of_sessions_gives_what_single_sessions_give(recommender, tmp_path, capsys):
    sessions = random_sessions()
    sessions[43] = [5, 1001, 6]  # two unknown items
    sessions[53] = [7]  # nothing known
    write_sessions(tmp_path / "s.csv", sessions)
    got = {}
    for table in recommend.recommend_for_file(recommender, tmp_path / "s.csv", k=3, exclude_seen=True):
        for row in table.to_pylist():
            got.setdefault(row["SessionID"], []).append((row["Rank"], row["ItemID"], row["Score"]))
    assert set(got) == set(sessions) - {53}
    for session, rows in got.items():
        expected = recommender.recommend(sessions[session], k=3, exclude_seen=True)
        assert [(rank, item) for rank, item, _ in rows] == [(i + 1, item) for i, (item, _) in enumerate(expected)]
        assert [s for *_, s in rows] == pytest.approx([s for _, s in expected], abs=1e-5)
    complaints = capsys.readouterr().err
    assert "passed over 3 items that the model does not know: 5, 6, 7\n" in complaints
    assert "1 sessions have no item" in complaints


def test_sessions_are_streamed_whole(tmp_path):
    sessions = random_sessions(300_000)
    write_sessions(tmp_path / "s.csv", sessions)
    n_batches, seen = 0, {}
    for session, item in stream_sessions(tmp_path / "s.csv"):
        n_batches += 1
        ids, lengths = np.unique(session, return_counts=True)
        assert not set(ids.tolist()) & seen.keys()
        seen |= dict(zip(ids.tolist(), lengths.tolist(), strict=True))
        assert len(item) == len(session)
    assert n_batches > 3
    assert seen == {session: len(items) for session, items in sessions.items()}


def test_sessions_of_text_are_streamed_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("clicks.delimited.READ_AT_ONCE", 2**20)
    sessions = {f"{'s' * 50}{s}": [f"{i:060d}" for i in items] for s, items in random_sessions(6000).items()}
    write_sessions(tmp_path / "s.csv", sessions)
    got, n_batches = {}, 0
    for session, item in stream_sessions(tmp_path / "s.csv", text_items=True):
        n_batches += 1
        assert not set(session) & got.keys()
        for s, i in zip(session, item, strict=True):
            got.setdefault(s, []).append(i)
    assert n_batches > 3
    assert got == sessions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SessionID,Item\n1,2\n", "the header lacks ItemID"),
        ("SessionID,ItemID\n1,2\n1,x\n", "line 3: ItemID is 'x', expected an integer"),
        ("SessionID,ItemID\n1,0x1f\n", "line 2: ItemID is '0x1f', expected an integer"),
    ],
)
def test_bad_session_files_are_refused(tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        list(stream_sessions(tmp_path / "s.csv"))


def test_the_script(small_log, run_script, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_log / "data", tmp_path / "data")
    run_script("main.py", "--data_folder", "data", "--n_epochs", 1, "--hidden_size", 8, "--device", "cpu")
    (model,) = tmp_path.glob("checkpoint/*/model_00000.pt")
    run_script("recommend.py", "--load_model", model, "--sessions", "data/recSys15Test.txt", "--k", 4)
    with open(tmp_path / "recommendations.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["SessionID", "ItemID", "Rank", "Score"]
    test_sessions = {line.split(",")[0] for line in (tmp_path / "data/recSys15Test.txt").read_text().splitlines()[1:]}
    assert len(rows) == 4 * len(test_sessions)

    items = f"999,{rows[0]['ItemID']}"
    shown = run_script("recommend.py", "--load_model", model, "--items", items, "--k", 3, "--exclude_seen")
    assert "does not know: 999" in shown.stderr
    assert len(shown.stdout.splitlines()) == 4
    assert rows[0]["ItemID"] not in shown.stdout
    for arguments, message in {
        ("--items", "999"): "knows none",
        ("--k", 5): "one of the arguments --items --sessions --similar --export_items is required",
    }.items():
        failed = run_script("recommend.py", "--load_model", model, *arguments, expect=2)
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
    monkeypatch.chdir(tmp_path)
    for arguments, message in {
        ("--items", "a,b"): "is not a list of item ids",
        ("--sessions", "nowhere.csv"): "cannot read nowhere.csv",
        ("--items", rows[0]["ItemID"], "--k", 500): "--k 500 is more than the",
    }.items():
        with pytest.raises(UserError, match=message):
            in_process(monkeypatch, capsys, model, *arguments)
    check_what_restricts_and_what_else_there_is(partial(in_process, monkeypatch, capsys, model), rows)


def in_process(monkeypatch, capsys, model, *arguments):
    """What the script prints, and what it says beside that."""
    monkeypatch.setattr(sys, "argv", ["recommend.py", "--load_model", str(model), *map(str, arguments)])
    recommend.main()
    return capsys.readouterr()


def check_what_restricts_and_what_else_there_is(run, rows):
    best, others = rows[0]["ItemID"], sorted({row["ItemID"] for row in rows} - {rows[0]["ItemID"]})
    Path("some.txt").write_text("\n".join([best, *others[:3], "5"]))
    Path("out.txt").write_text(best)
    shown = run("--items", best, "--candidates", "some.txt", "--exclude", "out.txt", "--k", 9)
    assert {line.split()[1] for line in shown.out.splitlines()[1:]} == set(others[:3])
    assert "some.txt: the model does not know 1 of 5 items: 5" in shown.err
    shown = run("--items", "5", "--fallback", "popular", "--k", 2)
    assert "clicks" in shown.out.splitlines()[0]
    assert "knows none of these --items: popular items, with their clicks in training" in shown.err
    assert (
        len(shown.out.splitlines()) == len(run("--items", "", "--fallback", "popular", "--k", 2).out.splitlines()) == 3
    )
    similar = run("--similar", best, "--k", 5).out
    assert "cosine" in similar
    assert best not in similar
    assert (
        "items.parquet: 3 items"
        in run("--export_items", "items.parquet", *"--candidates some.txt --exclude out.txt".split()).err
    )
    Path("none.txt").write_text("5")
    for arguments, message in {
        ("--similar", "5"): "--similar: the model does not know the item '5'",
        ("--items", best, "--candidates", "none.txt"): "--candidates none.txt: no item that the model knows may be",
        (
            "--items",
            best,
            "--candidates",
            "out.txt",
            "--exclude",
            "out.txt",
        ): "--candidates out.txt and --exclude out.txt:",
        ("--export_items", "items.csv"): "ends in .csv, expected",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            run(*arguments)


@pytest.mark.parametrize(
    ("text", "numbers", "texts"),
    [
        ("-24,-25", [-24, -25], ["-24", "-25"]),
        ("-24", [-24], ["-24"]),
        (" 7, 8", [7, 8], None),
        ('"a,b",-c', "not a list of item ids, such as 1000,1029", ["a,b", "-c"]),
        ("1,,2", "has a comma with no item id", "has a comma with no item id"),
        ("1, ", "has a comma with no item id", "has a comma with no item id"),
        ("1_0", "not a list of item ids", ["1_0"]),
        ("1\t,2", [1, 2], "not a list of item ids"),
        ("a\udcff,1", "no text in UTF-8: type it", "no text in UTF-8: type it"),
    ],
)
def test_items_of_a_command_line(text, numbers, texts):
    flags = recommend.make_parser().parse_args(["--load_model", "x", "--items", text])
    for index, expected in ((ItemIndex(IDS), numbers), (ItemIndex(np.array(["a", "b"], dtype=object)), texts)):
        if isinstance(expected, list):
            assert recommend.parse_items(flags.items, index) == expected
        elif expected:
            with pytest.raises(UserError, match=expected) as caught:
                recommend.parse_items(flags.items, index)
            assert str(caught.value).isprintable()


def test_a_value_that_looks_like_a_flag_is_explained():
    with pytest.raises(
        UserError, match="--items -x,1: what begins with - is joined to its flag by =, as in --items=-x"
    ):
        recommend.make_parser().parse_args(["--load_model", "x", "--items", "-x,1"])
    for line in (["--items", "--k", "3"], ["--items"]):
        with pytest.raises(UserError, match="--items: expected one argument"):
            recommend.make_parser().parse_args(["--load_model", "x", *line])


def test_the_documented_lines_of_python_run(recommender, tmp_path):
    """Importing the module from elsewhere needs nothing but its folder on the path."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from recommend import Recommender; print(Recommender.load)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)

"""Random damage to click files, checkpoints and ranks files: a right result or a clear refusal, never anything else."""

import copy
import csv
import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import DAMAGES, damaged, damaged_bytes, edits, fuzz, one_sentence
from hypothesis import given
from hypothesis import strategies as st

from clicks.clickfile import read_clicks, read_raw_clicks, write_click_files
from clicks.clicklog import read_log
from clicks.logformat import LogFormat
from clicks.synthetic import synthetic_clicks
from comparison.ranksfile import RankedClicks, read_ranks, write_ranks
from preprocessing import TRAIN_ONLY, VALID, split
from runs import runfolder
from runs.parameters import resumed_parameters, training_parameters
from runs.restoring import restored, saved_parameters
from runs.runfolder import RunFolder, read_checkpoint, sealed
from runs.trainingrun import TrainingRun
from terminal.errors import UserError

RAW_LINE = "12,2014-04-07T10:51:09.277Z,214536502,0"
PREPARED_LINE = "12,214536502,1396867869.277"


def by_hand(content: bytes, line_pattern: str) -> list[tuple[str, ...]]:
    """The clicks that a careful person reads from a text, or None for a line that is not one."""
    text = content.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line]
    return [match.groups() if (match := re.fullmatch(line_pattern, line)) else None for line in lines]


@fuzz
@given(st.integers(1, 4), edits, st.booleans())
def test_raw_click_files(tmp_path_factory, n_lines, changes, packed):
    path = tmp_path_factory.mktemp("fuzz") / ("clicks.dat.gz" if packed else "clicks.dat")
    content = damaged(f"{RAW_LINE}\n" * n_lines, changes)
    path.write_bytes(gzip.compress(content) if packed else content)
    space = r"[ \t]*"
    rows = by_hand(content, rf"{space}(-?[0-9]+){space},([^,]*),{space}(-?[0-9]+){space},[^,]*")
    try:
        clicks = read_raw_clicks(path)
    except UserError as error:
        one_sentence(error, path)
    else:
        assert None not in rows
        assert [(int(row[0]), int(row[2])) for row in rows] == list(
            zip(clicks.session.tolist(), clicks.item.tolist(), strict=True)
        )
    try:
        usable = read_raw_clicks(path, skip_bad_lines=True)
    except UserError as error:
        assert "holds no clicks" in str(error)
    else:
        good = [(int(row[0]), int(row[2])) for row in rows if row]
        assert 0 < len(usable) <= len(good)
        assert set(zip(usable.session.tolist(), usable.item.tolist(), strict=True)) <= set(good)


@fuzz
@given(st.integers(1, 4), edits)
def test_prepared_click_files(tmp_path_factory, n_lines, changes):
    path = tmp_path_factory.mktemp("fuzz") / "clicks.txt"
    content = damaged("SessionID,ItemID,Time\n" + f"{PREPARED_LINE}\n" * n_lines, changes)
    path.write_bytes(content)
    try:
        clicks = read_clicks(path)
    except UserError as error:
        one_sentence(error, path)
    else:
        assert len(clicks) > 0
        assert (np.abs(clicks.time) < 10**15).all()


@fuzz
@given(st.integers(1, 4), edits, st.booleans())
def test_click_logs(tmp_path_factory, n_lines, changes, packed):
    path = tmp_path_factory.mktemp("fuzz") / ("log.csv.gz" if packed else "log.csv")
    content = b"who,what,when\n" + damaged('u7,"a,b",1396867869277\n12,,1396867869278\n' * n_lines, changes)
    path.write_bytes(gzip.compress(content) if packed else content)
    rows = []
    for line in filter(None, re.split(r"\r\n|\n|\r", content.decode("utf-8", "surrogateescape"))):
        try:
            who, what, when = next(csv.reader([line], strict=True))
            is_number = re.fullmatch(r"[ \t]*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t]*", when)
            is_text = not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", who + what)
            fits = is_number and abs(float(when)) < 1e15 and is_text
            rows.append((who, what, round(float(when))) if fits else None)
        except (ValueError, csv.Error):
            rows.append(None)
    rows = rows[1:]  # the header
    clicks_by_hand = [row for row in rows if row and row[0] and row[1]]
    for skip in (False, True):
        try:
            clicks, _ = read_log(
                [path], LogFormat("who", "when", "what", "milliseconds", nulls=()), skip_bad_lines=skip
            )
        except UserError as error:
            one_sentence(error, path)
            assert not clicks_by_hand or (None in rows and not skip)
        else:
            assert skip or None not in rows
            ids = [
                [str(i) if names is None else names[i].as_py() for i in column.tolist()]
                for column, names in ((clicks.session, clicks.session_names), (clicks.item, clicks.item_names))
            ]
            assert list(zip(*ids, clicks.time.tolist(), strict=True)) == clicks_by_hand


@fuzz
@given(st.binary(max_size=200))
def test_files_of_anything(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    for name, read in (("a.dat", read_raw_clicks), ("a.gz", read_raw_clicks), ("a.txt", read_clicks)):
        (folder / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            read(folder / name)
        one_sentence(caught.value, folder / name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint within an epoch, and the flags and files to go on from it."""
    folder = tmp_path_factory.mktemp("run")
    files = split(synthetic_clicks(n_sessions=400, n_items=30, n_days=4, seed=0))
    write_click_files({folder / name: files[name] for name in (TRAIN_ONLY, VALID)})
    flags = {"data_folder": str(folder), "hidden_size": 3, "device": "cpu", "momentum": 0.1, "k_eval": [5]}
    run = TrainingRun(training_parameters(flags))
    run.progress.hidden, run.progress.step, run.progress.n_clicks = [run.model.initial_hidden(50)], 3, 150
    path = RunFolder.create(folder).write_checkpoint(run.checkpoint(0, run.progress))
    return path, flags


def load(path: Path, flags: dict) -> TrainingRun:
    """Everything that evaluating and resuming do with a checkpoint before the first step."""
    checkpoint = read_checkpoint(path)
    parameters = saved_parameters(checkpoint, path)
    run = TrainingRun(resumed_parameters(parameters, flags | {"load_model": str(path)}), checkpoint)
    restored(checkpoint, run.parameters, path)
    return run


@fuzz
@given(st.integers(0, 2**32 - 1), st.sampled_from(DAMAGES))
def test_damaged_bytes_of_a_checkpoint(tmp_path_factory, saved, seed, damage):
    path, flags = saved
    content = damaged_bytes(path.read_bytes(), damage, seed)
    hurt = tmp_path_factory.mktemp("fuzz") / "model.pt"
    hurt.write_bytes(content)
    if content == path.read_bytes():
        load(hurt, flags)
    else:
        with pytest.raises(UserError) as caught:
            load(hurt, flags)
        one_sentence(caught.value, hurt)


JUNK = (None, -1, 0, 10**9, 2**70, 1.5, float("nan"), "", "x", [], {}, [[1]], True, torch.zeros(0), torch.zeros(2, 3))


def places(value, path=()):
    """The keys that lead to every part of nested dicts and lists."""
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


@fuzz
@given(st.integers(0, 10**6), st.integers(1, 255), st.sampled_from(["flip", "cut", "insert"]))
def test_damaged_bytes_of_a_ranks_file(tmp_path_factory, place, value, damage):
    path = tmp_path_factory.mktemp("fuzz") / "ranks.parquet"
    numbers = np.arange(300)
    write_ranks(
        path, RankedClicks(numbers, np.ones_like(numbers), numbers, numbers, numbers % 7 + 1.0, numbers, 7, "x")
    )
    expected = read_ranks(path)
    content = bytearray(path.read_bytes())
    place %= len(content)
    if damage == "flip":
        content[place] ^= value
    elif damage == "cut":
        del content[place:]
    else:
        content[place:place] = bytes([value])
    path.write_bytes(content)
    try:
        ranked = read_ranks(path)
    except UserError as error:
        one_sentence(error, path)
    else:
        for name in ("session", "position", "item", "target", "rank", "support"):
            assert np.array_equal(getattr(ranked, name), getattr(expected, name))


@fuzz
@given(st.integers(0, 10**6), st.integers(0, len(JUNK) - 1), st.booleans())
def test_whole_checkpoints_with_wrong_content(tmp_path_factory, saved, place, junk, delete):
    path, flags = saved
    checkpoint = copy.deepcopy(read_checkpoint(path))
    all_places = list(places(checkpoint))
    *way, last = all_places[place % len(all_places)]
    parent = checkpoint
    for key in way:
        parent = parent[key]
    if delete:
        del parent[last]
    else:
        parent[last] = JUNK[junk]
    wrong = tmp_path_factory.mktemp("fuzz") / "model.pt"
    wrong.write_bytes(b"".join(sealed(checkpoint)))
    try:
        run = load(wrong, flags)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert run.model.output_embedding.shape == (len(run.index), 3)
        RunFolder.create(wrong.parent).write_metrics(run.history)


def test_the_list_of_places_reaches_into_everything(saved):
    found = set(places(read_checkpoint(saved[0])))
    assert {(name,) for name in runfolder.CONTENT} <= found
    assert ("parameters", "lr") in found
    assert ("optimizer", "state", "output_embedding", 0) in found
    assert ("within_epoch", "hidden") in found

"""Clicks are known by what is fed of them: any change of it is another checksum, and nothing else is."""

import hashlib
import struct
import time

import numpy as np
import pytest
import torch
from conftest import make_sessions
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clicks.itemindex import ItemIndex
from dataset import Sessions
from preprocessing import TRAIN_ONLY, VALID
from runs.epochs import train_epochs
from runs.parameters import parse_flags, resumed_parameters, training_parameters
from runs.runfolder import RunFolder, read_checkpoint, write_checkpoint
from runs.trainingdata import TrainingData, checksum
from runs.trainingrun import TrainingRun
from terminal.errors import UserError

some_sessions = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=4), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(some_sessions, some_sessions)
def test_other_sessions_have_another_checksum(one, other):
    assume(one != other)
    assert checksum(*make_sessions(one)) != checksum(*make_sessions(other))


def test_it_is_of_every_machine():
    """Packed by hand; and whatever types and order of bytes an array has."""
    sessions, index = make_sessions([[7, 5, 7], [5, 5]])
    packed = (
        b"2 items, 2 sessions"
        + struct.pack("<2q", 7, 5)
        + struct.pack("<2q", 3, 2)
        + struct.pack("<5i", *b"\0\1\0\1\1")
    )
    with_times, sessions = sessions, Sessions(sessions.items, sessions.offsets)
    assert checksum(sessions, index) == hashlib.sha256(packed).hexdigest()[:16]
    packed += with_times.times.astype("<i8").tobytes()
    assert checksum(with_times, index) == hashlib.sha256(packed).hexdigest()[:16]
    big_endian = Sessions(sessions.items.astype(">i4"), sessions.offsets.astype(">i8"))
    assert checksum(big_endian, index) == checksum(sessions, index)
    texts = [ItemIndex(np.array(ids, dtype=object)) for ids in (["7", "5"], ["75", ""], ["ж", "5"])]
    assert len({checksum(sessions, each) for each in [index, *texts]}) == 4


def test_it_takes_no_time():
    rng = np.random.default_rng(0)
    offsets = np.arange(0, 2_000_001, 4)
    sessions = Sessions(rng.integers(0, 37_483, 2_000_000).astype(np.int32), offsets)
    began = time.perf_counter()
    checksum(sessions, ItemIndex(np.arange(37_483)))
    assert time.perf_counter() - began < 1, "31 million clicks must not take more than a second or two"


LINE = "--hidden_size 4 --batch_size 8 --device cpu --n_epochs 2"


def shifted_boundaries(lines):
    """The same clicks of the same items in their order, but one session ends a click later: counts stay the same."""
    header, *clicks = lines
    rows = [line.split(",") for line in clicks]
    sessions = [row[0] for row in rows]
    end = next(i for i in range(3, len(rows)) if sessions[i] != sessions[i - 1] and sessions.count(sessions[i]) > 2)
    rows[end][0], rows[end][2] = rows[end - 1][0], rows[end - 1][2]
    return [header, *(",".join(row) for row in rows)]


def other_items(lines):
    """Two clicks of a file in each other's place."""
    header, *clicks = lines
    rows = [line.split(",") for line in clicks]
    other = next(i for i in range(len(rows)) if rows[i][1] != rows[0][1])
    rows[0][1], rows[other][1] = rows[other][1], rows[0][1]
    return [header, *(",".join(row) for row in rows)]


@pytest.fixture
def ended(data_folder, tmp_path):
    """A checkpoint after an epoch, its parameters, and a copy of its files to change."""
    for name in (TRAIN_ONLY, VALID):
        (tmp_path / name).write_bytes((data_folder / name).read_bytes())
    parameters = training_parameters(parse_flags(f"{LINE} --n_epochs 1 --data_folder {tmp_path}".split()))
    run = TrainingRun(parameters)
    train_epochs(run, RunFolder.create(tmp_path / "checkpoint"))
    (path,) = tmp_path.glob("checkpoint/*/model_00000.pt")
    return path, tmp_path


def go_on(path, line=""):
    checkpoint = read_checkpoint(path)
    flags = parse_flags(f"--load_model {path} --n_epochs 2 {line}".split())
    return TrainingRun(resumed_parameters(checkpoint["parameters"], flags), checkpoint)


def test_training_goes_on_with_the_same_sessions_wherever_they_are(ended):
    path, folder = ended
    assert read_checkpoint(path)["checksums"] == go_on(path).data.checksums
    (folder / "elsewhere").mkdir()
    for name in (TRAIN_ONLY, VALID):
        (folder / name).rename(folder / "elsewhere" / name)
    go_on(path, f"--data_folder {folder / 'elsewhere'}")


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [(TRAIN_ONLY, shifted_boundaries, "trained"), (VALID, other_items, "evaluated"), (VALID, lambda x: x[:-3], "ev")],
)
def test_other_sessions_of_the_same_counts_are_refused(ended, name, change, what):
    path, folder = ended
    before = TrainingData.read(str(folder), TRAIN_ONLY, VALID, True)
    (folder / name).write_text("\n".join(change((folder / name).read_text().splitlines())) + "\n")
    after = TrainingData.read(str(folder), TRAIN_ONLY, VALID, True)
    assert torch.equal(before.support, after.support)
    assert before.index.ids.tolist() == after.index.ids.tolist()
    with pytest.raises(UserError, match=f"was {what}.* on other clicks than those of .*{name}: name .* without --load"):
        go_on(path)
    with pytest.raises(UserError, match="other clicks .*: put these back, or start anew in another --checkpoint_dir"):
        go_on(path, "--resume")


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_warning(ended, capsys):
    path, folder = ended
    checkpoint = read_checkpoint(path)
    del checkpoint["checksums"]
    write_checkpoint(path, checkpoint)
    run = go_on(path)
    assert (
        "model_00000.pt is of an earlier version, which noted of its clicks the items alone" in capsys.readouterr().err
    )
    assert run.checkpoint(1, None)["checksums"] == run.data.checksums
    (folder / TRAIN_ONLY).write_text((folder / VALID).read_text())
    with pytest.raises(UserError, match="was trained on other clicks"):
        go_on(path)

"""A folder of prepared files and its record: all of one making, or refused."""

import os
import subprocess
import sys

import pytest
from conftest import ENVIRONMENT, ROOT

from clicks import prepared
from clicks.prepared import RECORD, TEST, TRAIN_FULL, TRAIN_ONLY, VALID, is_prepared, read_record, refuse_mixture
from clicks.synthetic import synthetic_clicks, write_raw_clicks
from preprocessing import main
from runs.trainingdata import TrainingData
from terminal import atomicfile
from terminal.errors import UserError

FILES = (TRAIN_FULL, TEST, TRAIN_ONLY, VALID)


@pytest.fixture
def prepare(tmp_path):
    """Prepare a folder from synthetic clicks of a seed; gives the folder."""

    def run(seed):
        raw = tmp_path / f"clicks{seed}.dat"
        write_raw_clicks(raw, synthetic_clicks(n_sessions=400, n_items=30, n_days=5, seed=seed))
        main(["--dataset", "yoochoose", "--clicks", str(raw), "--data_folder", str(tmp_path / "data")])
        return tmp_path / "data"

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(folder):
    return TrainingData.read(str(folder), TRAIN_ONLY, VALID, True)


def test_the_record_tells_how_the_files_were_made(prepare):
    folder = prepare(1)
    record = read_record(folder)
    assert record.dataset == "yoochoose"
    assert record.is_of("yoochoose")
    assert set(record.files) == set(FILES)
    for name, file in record.files.items():
        lines = (folder / name).read_text().splitlines()[1:]
        assert file["clicks"] == len(lines)
        assert file["sessions"] == len({line.partition(",")[0] for line in lines})
        assert file["bytes"] == (folder / name).stat().st_size
    assert is_prepared(folder, "yoochoose")
    assert not is_prepared(folder, "rees46")
    read(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_making_is_noticed(prepare, tmp_path, name):
    """By whoever reads it, if it has the same size; by whoever reads any, if not."""
    folder = prepare(1)
    other = folder / name
    content = bytearray(other.read_bytes())
    content[-3] = ord("7") if content[-3] != ord("7") else ord("6")
    other.write_bytes(content)
    with pytest.raises(UserError, match="do not belong together.* run `.*` again, or delete preprocessing.json"):
        refuse_mixture(other)
    other.write_bytes(content + b"1,2,3\n")
    for each in FILES:
        with pytest.raises(UserError, match=f"{name} and .*{RECORD} do not belong together"):
            refuse_mixture(folder / each)
    if name == TRAIN_ONLY:
        with pytest.raises(UserError, match="do not belong together"):
            read(folder)
    (folder / RECORD).unlink()
    refuse_mixture(other)


@pytest.mark.parametrize("n_renamed", range(1, 5))
def test_a_process_that_ends_between_two_renames_leaves_what_is_refused(prepare, tmp_path, monkeypatch, n_renamed):
    folder = prepare(1)
    program = (
        "import os, sys\nfrom preprocessing import main\nreplace, n = os.replace, [0]\n"
        "def then_die(*arguments):\n    replace(*arguments); n[0] += 1\n"
        f"    if n[0] == {n_renamed}:\n        os._exit(9)\n"
        "os.replace = then_die\nmain(sys.argv[1:])\n"
    )
    write_raw_clicks(tmp_path / "new.dat", synthetic_clicks(n_sessions=400, n_items=30, n_days=5, seed=2))
    flags = ["--clicks", str(tmp_path / "new.dat"), "--data_folder", str(folder)]
    killed = subprocess.run([sys.executable, "-c", program, *flags], cwd=ROOT, env=ENVIRONMENT, capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    for name in FILES:
        with pytest.raises(UserError, match="do not belong together"):
            refuse_mixture(folder / name)
    main(flags)
    read(folder)
    assert {path.name for path in folder.iterdir()} == {*FILES, RECORD}, "nothing unfinished stays"


def test_a_full_disk_at_the_last_file_leaves_all_as_they_were(prepare, monkeypatch):
    folder = prepare(1)
    before = contents(folder)
    n_flushed, fsync = [0], os.fsync

    def full_at_the_fifth(descriptor):
        n_flushed[0] += 1
        if n_flushed[0] == 5:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(atomicfile.os, "fsync", full_at_the_fifth)
        with pytest.raises(UserError, match="No space left on device"):
            prepare(2)
    assert contents(folder) == before
    read(folder)


def test_a_damaged_record_is_said(prepare):
    folder = prepare(1)
    (folder / RECORD).write_text("{")
    with pytest.raises(UserError, match=r"preprocessing\.json is damaged: run preprocessing\.py again, or delete it"):
        read(folder)
    assert prepared.read_record(folder.parent) is None

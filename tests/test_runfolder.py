"""Run folders and checkpoints: data only, whole or refused."""

import csv
import pickle
import shutil
import threading

import pytest
import torch

from runs.runfolder import (
    FORMAT_VERSION,
    RunFolder,
    checkpoints_newest_first,
    read_checkpoint,
    remove_unfinished_checkpoints,
    sealed,
)
from terminal.atomicfile import HOST
from terminal.errors import UserError

CHECKPOINT = {
    "parameters": {"lr": 0.1, "k_eval": [5, 20], "final_act": None, "shared": False},
    "item_ids": torch.arange(4),
    "support": torch.ones(4, dtype=torch.int64),
    "model": {"weight": torch.randn(4, 2)},
    "optimizer": {"state": {"weight": [torch.zeros(4, 2)]}},
    "epoch": 3,
    "within_epoch": None,
    "history": [{"epoch": 0, "train_loss": 0.5}],
    "random_state": {"cpu": torch.get_rng_state()},
}


@pytest.fixture
def saved(tmp_path):
    return RunFolder.create(tmp_path / "checkpoint").write_checkpoint(CHECKPOINT)


def test_checkpoint_comes_back_as_it_was(saved):
    assert saved.name == "model_00003.pt"
    loaded = read_checkpoint(saved)
    assert loaded.pop("format_version") == FORMAT_VERSION
    assert loaded["parameters"] == CHECKPOINT["parameters"]
    assert torch.equal(loaded["model"]["weight"], CHECKPOINT["model"]["weight"])
    assert set(loaded) == set(CHECKPOINT)


def test_epochs_that_are_deleted_are_the_earlier_ones_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    names = ["model_00001.pt", "model_00002.pt", "model_99999.pt", "model_100000.pt", "model_100001.pt"]
    others = ["model_best.pt", "model_.pt", "mean.pt", "partial.pt", "model_00001.txt"]
    for name in names + others:
        (tmp_path / name).touch()
    folder.delete_epochs_before(99_999)
    assert {path.name for path in tmp_path.iterdir()} == {*names[2:], *others}
    folder.delete_epochs_before(100_001)
    assert {path.name for path in tmp_path.iterdir()} == {*names[4:], *others}


def test_torch_reads_a_checkpoint_without_this_suite(saved):
    loaded = torch.load(saved, weights_only=True)
    assert torch.equal(loaded["model"]["weight"], CHECKPOINT["model"]["weight"])


def test_a_single_flipped_bit_is_noticed_anywhere(saved):
    content = saved.read_bytes()
    for position in (0, 5, len(content) // 3, len(content) - 75, len(content) - 74, len(content) - 1):
        flipped = bytearray(content)
        flipped[position] ^= 4
        saved.write_bytes(flipped)
        with pytest.raises(UserError, match=r"model_00003\.pt is damaged"):
            read_checkpoint(saved)


def test_folder_is_named_by_the_minute_and_never_taken_twice(tmp_path):
    names = [RunFolder.create(tmp_path).path.name for _ in range(3)]
    assert len(set(names)) == 3
    assert names[0][:8].isdigit()
    assert len(names[0]) == 8


def test_parameters_and_metrics_are_plain_text(tmp_path):
    run = RunFolder.create(tmp_path)
    run.write_parameters(CHECKPOINT["parameters"])
    assert (run.path / "parameter.txt").read_text() == "lr=0.1\nk_eval=5 20\nfinal_act=None\nshared=False\n"
    run.write_metrics([{"epoch": 0, "recall@20": 0.25}, {"epoch": 1, "recall@20": 0.5}])
    with open(run.path / "metrics.csv") as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "0", "recall@20": "0.25"},
            {"epoch": "1", "recall@20": "0.5"},
        ]


class Payload:
    def __reduce__(self):
        return print, ("code ran",)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, capsys):
    path = tmp_path / "model.pt"
    path.write_bytes(b"".join(sealed(CHECKPOINT | {"format_version": FORMAT_VERSION, "parameters": Payload()})))
    with pytest.raises(UserError, match=r"model\.pt holds something else than tensors and plain values"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match=r"model\.pt is damaged or not a checkpoint"):
        read_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_off_checkpoint_is_refused(saved, part):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=r"model_00003\.pt is damaged"):
        read_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"format_version": None}, "not a checkpoint of this suite"),
        ({"model": None}, "lacks model"),
        ({"history": 3, "epoch": "x"}, "lacks epoch, history"),
    ],
)
def test_other_versions_and_missing_parts_are_named(tmp_path, change, message):
    (tmp_path / "m.pt").write_bytes(b"".join(sealed({"format_version": FORMAT_VERSION} | CHECKPOINT | change)))
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "m.pt")


def test_weights_alone_and_missing_files_are_refused(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"".join(sealed(CHECKPOINT["model"])))
    with pytest.raises(UserError, match="not a checkpoint of this suite"):
        read_checkpoint(tmp_path / "m.pt")
    with pytest.raises(UserError, match="no checkpoint .*nowhere"):
        read_checkpoint(tmp_path / "nowhere.pt")


def run_in(checkpoint_dir, name, **parameters):
    """A run's folder with its parameters and a checkpoint of them."""
    folder = RunFolder(checkpoint_dir / name)
    folder.path.mkdir(parents=True)
    folder.write_parameters(CHECKPOINT["parameters"] | parameters)
    return folder.write_checkpoint(CHECKPOINT | {"parameters": CHECKPOINT["parameters"] | parameters})


def test_checkpoints_of_other_experiments_are_not_read(tmp_path, monkeypatch):
    of_all = [
        run_in(tmp_path, "with", n_epochs=3),
        run_in(tmp_path, "more", newer=1, n_epochs=3),
        run_in(tmp_path, "text", data_folder="a\nlr=0.3\udcff ж", n_epochs=3),
        run_in(tmp_path, "unnamed"),
        run_in(tmp_path, "other", n_epochs=33),
        run_in(tmp_path, "another", n_epochs=3, lr=0.2),
        run_in(tmp_path, "lists", n_epochs=3, k_eval=[5]),
    ]
    (tmp_path / "lists" / "parameter.txt").unlink()
    read = []
    monkeypatch.setattr("runs.runfolder.read_checkpoint", lambda path: read.append(path))
    wanted = CHECKPOINT["parameters"] | {"n_epochs": 3}
    for more, expected in (
        ({}, {"with", "more", "text", "unnamed", "lists"}),
        ({"data_folder": "a\nlr=0.3\udcff ж"}, {"with", "more", "text", "unnamed", "lists"}),
        ({"data_folder": "b"}, {"with", "more", "unnamed", "lists"}),
    ):
        read.clear()
        list(checkpoints_newest_first(tmp_path, wanted | more))
        assert {path.parent.name for path in read} == expected
        assert read == sorted(set(of_all) & set(read), key=lambda path: -path.stat().st_mtime_ns)


def test_a_checkpoint_that_another_run_deletes_meanwhile_is_passed_over(tmp_path, monkeypatch, capsys):
    deleted, kept, damaged = (run_in(tmp_path, name) for name in ("a", "b", "c"))
    damaged.write_bytes(b"x")
    (tmp_path / "a" / "nowhere.pt").symlink_to("nowhere")  # deleted before anyone asks for its time
    (tmp_path / "file").touch()
    read = read_checkpoint

    def delete_first(path):
        deleted.unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr("runs.runfolder.read_checkpoint", delete_first)
    assert [path for path, _ in checkpoints_newest_first(tmp_path, {})] == [kept]
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert f"{damaged} is damaged" in said
    assert list(checkpoints_newest_first(tmp_path / "nowhere", {})) == []


def test_listing_while_others_write_and_delete(tmp_path):
    """Each folder and file may be gone between two looks at it."""
    stop = threading.Event()

    def write_and_delete():
        while not stop.is_set():
            for name in ("x", "y"):
                folder = RunFolder(tmp_path / name)
                folder.path.mkdir(exist_ok=True)
                folder.write_parameters({"lr": 0.1})
                for number in range(8):
                    (folder.path / f"model_{number:05d}.pt").touch()
                shutil.rmtree(folder.path)

    other = threading.Thread(target=write_and_delete)
    other.start()
    try:
        for _ in range(300):
            assert list(checkpoints_newest_first(tmp_path, {"lr": 0.1})) == []
    finally:
        stop.set()
        other.join()


def test_of_unfinished_files_those_of_checkpoints_are_removed_and_no_others(tmp_path):
    path = run_in(tmp_path, "07240927")
    names = ["partial.pt", "model_00003.pt", "notes.txt"]
    left = [path.with_name(f".{name}.{HOST}.{2**22 + 1}.tmp") for name in names]
    for each in [*left, tmp_path / left[0].name]:
        each.touch()
    remove_unfinished_checkpoints(tmp_path)
    assert [each.exists() for each in [path, *left, tmp_path / left[0].name]] == [True, False, False, True, True]
    remove_unfinished_checkpoints(tmp_path / "nowhere")


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot create the folder .*file"):
        RunFolder.create(tmp_path / "file" / "checkpoint")

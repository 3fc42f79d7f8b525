"""The mean of several epochs is a checkpoint like any other, and nothing but epochs of one run is averaged."""

import csv
import re

import numpy as np
import pytest
import torch

import main
from recommend import Recommender
from runs.averaging import average
from runs.epochs import train_epochs
from runs.parameters import parse_flags, training_parameters
from runs.runfolder import RunFolder, read_checkpoint, write_checkpoint
from runs.trainingrun import TrainingRun
from terminal.errors import UserError

LINE = "--hidden_size 4 --batch_size 8 --n_epochs 3 --device cpu"


def trained(folder, data_folder, seed=1, more=""):
    """The checkpoints of three epochs."""
    line = f"{LINE} --data_folder {data_folder} --seed {seed} {more}"
    folder.mkdir()
    run_folder = RunFolder.create(folder)
    train_epochs(TrainingRun(training_parameters(parse_flags(line.split()))), run_folder)
    return sorted(run_folder.path.glob("*.pt"))


@pytest.fixture(scope="module")
def epochs(data_folder, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("average") / "run", data_folder)


def test_it_is_the_last_epoch_with_the_mean_of_all_weights(epochs):
    for paths in (epochs, epochs[::-1], epochs[1:]):
        mean, single = average(paths), [read_checkpoint(path) for path in paths]
        for name, weight in mean["model"].items():
            expected = np.mean([checkpoint["model"][name].double().numpy() for checkpoint in single], axis=0)
            np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5, atol=1e-7)
            assert not torch.equal(weight, single[0]["model"][name])
        last = read_checkpoint(epochs[-1])
        assert mean["epoch"] == last["epoch"] == 2
        assert mean["history"] == last["history"]


def test_it_evaluates_and_recommends(epochs, data_folder, run_script, tmp_path):
    said = run_script("tools.average", *epochs, "--output", "mean.pt").stdout
    assert said == "mean.pt: the mean of 3 epochs up to epoch 2\n"
    line = run_script("main.py", "--is_eval", "--load_model", "mean.pt", "--data_folder", data_folder).stdout
    single = [
        f"Recall@20: {row['recall@20']:.6f} MRR@20: {row['mrr@20']:.6f}\n"
        for row in read_checkpoint(epochs[-1])["history"]
    ]
    assert line.startswith("Recall@20: ")
    assert line not in single
    items = read_checkpoint(epochs[0])["item_ids"][:2].tolist()
    scores = [dict(Recommender.load(path).recommend(items, k=5)) for path in (tmp_path / "mean.pt", *epochs)]
    assert all(len(each) == 5 for each in scores)
    assert scores[0] not in scores[1:]


def test_other_runs_and_repeated_epochs_are_refused(epochs, data_folder, tmp_path):
    other = trained(tmp_path / "other", data_folder, seed=2)
    with pytest.raises(UserError, match="is of another run than"):
        average([epochs[0], other[1]])
    with pytest.raises(UserError, match="is a single epoch: name two at least"):
        average(epochs[:1])
    with pytest.raises(UserError, match="are both of epoch 1: name every epoch once"):
        average([*epochs, epochs[1]])


def test_an_epoch_of_other_items_or_half_an_epoch_is_refused(epochs, tmp_path):
    checkpoint = read_checkpoint(epochs[1])
    write_checkpoint(tmp_path / "items.pt", checkpoint | {"item_ids": checkpoint["item_ids"] + 1})
    with pytest.raises(UserError, match="is of another run than"):
        average([epochs[0], tmp_path / "items.pt"])
    write_checkpoint(tmp_path / "half.pt", checkpoint | {"within_epoch": {}})
    with pytest.raises(UserError, match="was saved within an epoch"):
        average([epochs[0], tmp_path / "half.pt"])


def test_epochs_on_other_sessions_are_of_another_run(epochs, tmp_path):
    """Where checkpoints say which they were; those of earlier versions, which a run may begin with, do not."""
    checkpoint = read_checkpoint(epochs[1])
    write_checkpoint(tmp_path / "other.pt", checkpoint | {"checksums": checkpoint["checksums"] | {"train": "0" * 16}})
    with pytest.raises(UserError, match="other.pt is of another run than"):
        average([epochs[0], tmp_path / "other.pt"])
    del checkpoint["checksums"]
    write_checkpoint(tmp_path / "before.pt", checkpoint)
    for paths in ([tmp_path / "before.pt", epochs[0]], [epochs[0], tmp_path / "before.pt", epochs[2]]):
        assert average(paths)["epoch"] == max(read_checkpoint(path)["epoch"] for path in paths)


def test_a_mean_is_not_averaged_again(epochs, tmp_path):
    write_checkpoint(tmp_path / "mean.pt", average(epochs[1:]))
    with pytest.raises(UserError, match="mean.pt is a mean of epochs already"):
        average([epochs[0], tmp_path / "mean.pt"])


def test_weights_that_do_not_fit_are_refused(epochs, tmp_path):
    checkpoint = read_checkpoint(epochs[1])
    write_checkpoint(tmp_path / "cut.pt", checkpoint | {"model": checkpoint["model"] | {"output_bias": torch.zeros(3)}})
    with pytest.raises(UserError, match="does not fit together"):
        average([epochs[0], tmp_path / "cut.pt"])


def test_no_file_is_replaced(epochs, run_script):
    before = epochs[0].read_bytes()
    said = run_script("tools.average", *epochs[1:], "--output", epochs[0], expect=2).stderr
    assert said.endswith("is there already: name another file\n")
    assert epochs[0].read_bytes() == before


def test_training_does_not_go_on_from_a_mean(epochs, data_folder, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    write_checkpoint(folder / "mean.pt", average(epochs))
    with pytest.raises(UserError, match="mean.pt is the mean of several epochs: go on from one of them"):
        main.run({"load_model": str(folder / "mean.pt"), "n_epochs": 4})
    main.run(parse_flags(f"{LINE} --data_folder {data_folder} --seed 1 --resume --checkpoint_dir {tmp_path}".split()))
    assert "starting anew" in capsys.readouterr().out


def run_main(data_folder, tmp_path, more):
    line = f"{LINE.replace('--n_epochs 3', '')} --data_folder {data_folder} --seed 1 --checkpoint_dir {tmp_path} {more}"
    assert main.run(parse_flags(line.split())) == 0


def test_a_run_averages_its_last_epochs_and_says_both_figures(epochs, data_folder, tmp_path, capsys):
    run_main(data_folder, tmp_path, "--n_epochs 3 --average 2 --keep_checkpoints 1")
    (folder,) = tmp_path.iterdir()
    left = sorted(path.name for path in folder.glob("*.pt"))
    assert left == ["model_00002.pt", "model_mean.pt"]
    expected = average(epochs[1:])["model"]
    mean = read_checkpoint(folder / "model_mean.pt")
    assert all(torch.equal(weight, mean["model"][name]) for name, weight in expected.items())
    *_, last = mean["history"]
    said = capsys.readouterr().out.splitlines()[-1]
    figures, alone = re.fullmatch(
        rf"mean of epochs 1 to 2 (.*) \(epoch 2 alone: (.*)\) {folder}/model_mean.pt", said
    ).groups()
    assert alone == f"{last['recall@20']:.6f} {last['mrr@20']:.6f}"
    run_main(data_folder, tmp_path, f"--is_eval --load_model {folder / 'model_mean.pt'}")
    assert capsys.readouterr().out == figures + "\n"
    assert figures != f"Recall@20: {last['recall@20']:.6f} MRR@20: {last['mrr@20']:.6f}"
    (row,) = csv.DictReader((folder / "mean.csv").read_text().splitlines())
    assert row.pop("epochs") == "1 to 2"
    assert (
        "Recall@20: {recall@20:.6f} MRR@20: {mrr@20:.6f}".format_map({k: float(v) for k, v in row.items()}) == figures
    )

    before = (folder / "model_mean.pt").stat().st_mtime_ns
    run_main(data_folder, tmp_path, "--n_epochs 3 --average 2 --keep_checkpoints 1 --resume")
    assert (folder / "model_mean.pt").stat().st_mtime_ns == before, "it is there already"


def test_a_run_that_was_cut_off_before_its_mean_makes_it(epochs, data_folder, tmp_path):
    run_main(data_folder, tmp_path, "--n_epochs 3")
    (folder,) = tmp_path.iterdir()
    run_main(data_folder, tmp_path, "--n_epochs 3 --average 3 --resume")
    assert torch.equal(
        read_checkpoint(folder / "model_mean.pt")["model"]["output_bias"], average(epochs)["model"]["output_bias"]
    )


def test_epochs_of_the_run_that_it_went_on_from_count_and_missing_ones_are_told_before_training(
    epochs, data_folder, tmp_path, capsys
):
    half, rest = tmp_path / "half", tmp_path / "rest"
    run_main(data_folder, half, "--n_epochs 2")
    (folder,) = half.iterdir()
    run_main(data_folder, rest, f"--load_model {folder / 'model_00001.pt'} --n_epochs 3 --average 3")
    (mean,) = rest.glob("*/model_mean.pt")
    assert torch.equal(read_checkpoint(mean)["model"]["output_bias"], average(epochs)["model"]["output_bias"])
    (folder / "model_00000.pt").unlink()
    with pytest.raises(
        UserError, match="needs the checkpoints of epochs 0 to 2, and that of epoch 0 is gone: lower it"
    ):
        run_main(data_folder, tmp_path / "none", f"--load_model {folder / 'model_00001.pt'} --n_epochs 3 --average 3")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("average_of", [1, 4])
def test_a_number_of_epochs_that_cannot_be_is_refused(data_folder, tmp_path, average_of):
    with pytest.raises(
        UserError, match=f"--average {average_of} is no number of epochs from 2 to --n_epochs 3: --average 0"
    ):
        run_main(data_folder, tmp_path, f"--n_epochs 3 --average {average_of}")

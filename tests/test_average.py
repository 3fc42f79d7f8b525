"""The mean of several epochs is a checkpoint like any other, and nothing but epochs of one run is averaged."""

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

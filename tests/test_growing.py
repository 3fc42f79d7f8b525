"""A model grows: other clicks, new items, and everything else as if it had just gone on."""

import copy
import re

import numpy as np
import pyarrow as pa
import pytest
import torch

import main
from clicks.clickfile import Clicks, write_click_files
from clicks.itemindex import ItemIndex
from clicks.synthetic import synthetic_clicks
from dataset import encode_sessions
from model import GRU4Rec
from preprocessing import TRAIN_ONLY, VALID
from recommend import Recommender
from runs.growing import grown
from runs.parameters import parse_flags, resumed_parameters, training_parameters
from runs.restoring import restored_for_evaluation
from runs.runfolder import RunFolder, read_checkpoint, write_checkpoint
from runs.trainingdata import TrainingData, read_valid_sessions
from runs.trainingrun import TrainingRun
from terminal.errors import UserError
from training import EpochProgress

BASE = "--hidden_size 4 --batch_size 16 --device cpu"
MODES = {
    "one-hot": "--num_layers 2 --bptt 2",
    "separate": "--embedding_dim 3 --loss_type CrossEntropy --n_sample 5 --logq 1",
    "shared": "--constrained_embedding --loss_type BPR-max --n_sample 5 --dropout_input 0.3",
}
OPTIMIZERS = {
    "Adagrad": "",
    "Adagrad with momentum": "--momentum 0.4",
    "RMSProp with momentum": "--optimizer_type RMSProp --momentum 0.4",
    "Adadelta": "--optimizer_type Adadelta",
    "Adam": "--optimizer_type Adam",
    "SGD": "--optimizer_type SGD",
    "SGD with momentum": "--optimizer_type SGD --momentum 0.4",
}


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """Prepared files."""
    folder = tmp_path_factory.mktemp("today")
    clicks = synthetic_clicks(n_sessions=80, n_items=30, n_days=4, seed=0)
    write_click_files({folder / name: clicks for name in (TRAIN_ONLY, VALID)})
    return folder


@pytest.fixture(scope="module")
def tomorrow(tmp_path_factory):
    """Prepared files in which half of the items are new, and half of those before are gone."""
    folder = tmp_path_factory.mktemp("tomorrow")
    clicks = synthetic_clicks(n_sessions=60, n_items=30, n_days=4, seed=1)
    later = Clicks(clicks.session + 10_000, clicks.item + 15, clicks.time + 10**9)
    write_click_files({folder / name: later for name in (TRAIN_ONLY, VALID)})
    return folder


def run(line, folder):
    """Run main.py: the checkpoints of its run folder."""
    before = set(folder.glob("*"))
    assert main.run(parse_flags(f"{line} --checkpoint_dir {folder}".split())) == 0
    (run_folder,) = set(folder.glob("*")) - before
    return sorted(run_folder.glob("model_*.pt"))


def grow(path, folder, data, more=""):
    return run(f"--load_model {path} --grow --data_folder {data} {more}", folder)


def trained(data, folder, more="--n_epochs 1"):
    """The checkpoint of the last epoch of a run that writes nothing else and evaluates nothing."""
    run = TrainingRun(training_parameters(parse_flags(f"{BASE} --data_folder {data} {more}".split())))
    for epoch in range(run.parameters.n_epochs):
        run.progress = EpochProgress(epoch)
        run.train_epoch()
    path = folder / "base.pt"
    write_checkpoint(path, run.checkpoint(epoch, None))
    return path


@pytest.fixture(scope="module")
def base(today, tmp_path_factory):
    """A checkpoint after two epochs."""
    return trained(today, tmp_path_factory.mktemp("base"), f"--n_epochs 2 {MODES['shared']} --momentum 0.2")


def same(one, other):
    """Whether nested containers of tensors are equal to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


CASES = [(mode, "Adagrad") for mode in MODES] + [("shared", name) for name in OPTIMIZERS if name != "Adagrad"]


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def every_kind(request, today, tmp_path_factory):
    """A checkpoint after an epoch, of every input mode and every kind of optimizer's state."""
    mode, optimizer = request.param
    return trained(today, tmp_path_factory.mktemp("kind"), f"--n_epochs 1 {MODES[mode]} {OPTIMIZERS[optimizer]}")


def test_growing_by_nothing_is_going_on(every_kind, today, tmp_path):
    path = every_kind
    (on,), (by_nothing,) = run(f"--load_model {path} --n_epochs 2", tmp_path), grow(path, tmp_path, today)
    on, by_nothing = read_checkpoint(on), read_checkpoint(by_nothing)
    for name in ("model", "optimizer", "item_ids", "support", "checksums", "random_state", "epoch"):
        assert same(on[name], by_nothing[name]), name
    (row,), (*_, last) = by_nothing["history"], on["history"]
    assert {name: row[name] for name in row if "second" not in name} == {
        name: last[name] for name in row if name in last and "second" not in name
    }
    assert (by_nothing["parameters"]["n_epochs"], on["grown_from"]) == (2, [])


def test_growing_alone_adds_rows_and_changes_nothing(every_kind, tomorrow, tmp_path):
    path = every_kind
    before = read_checkpoint(path)
    parameters, model, index = restored_for_evaluation(before, path, {"device": "cpu"})
    data = TrainingData.read(str(tomorrow), TRAIN_ONLY, VALID, True, known=index)
    n_known, n_items = len(index), len(data.index)
    after = grown(copy.deepcopy(before), parameters, data, path)
    assert n_items > n_known > 15
    path = tmp_path / "grown.pt"
    write_checkpoint(path, after)
    _, larger, larger_index = restored_for_evaluation(read_checkpoint(path), path, {"device": "cpu"})
    assert larger_index.ids[:n_known].tolist() == index.ids.tolist()
    assert same(before["random_state"], after["random_state"])
    is_table = {name: name in model.table_names for name in before["model"]}
    for name, weight in before["model"].items():
        assert torch.equal(after["model"][name][: len(weight)], weight)
        assert len(after["model"][name]) == (n_items if is_table[name] else len(weight))
        for old, new in zip(before["optimizer"]["state"][name], after["optimizer"]["state"][name], strict=True):
            assert torch.equal(new[: len(old)], old)
            assert not new[len(old) :].any()
            assert new.shape == after["model"][name].shape
    sessions, hidden = torch.tensor([0, 3, n_known - 1]), torch.rand(model.num_layers, 3, 4)
    starts = torch.zeros(3, dtype=torch.bool)
    (ours, _), (theirs, _) = (each.eval().score_all(sessions, hidden, starts) for each in (larger, model))
    torch.testing.assert_close(ours[:, :n_known], theirs, rtol=1e-6, atol=1e-7)


def checkpoint_of(n_items, sigma, ids=None, **others):
    """A checkpoint of a model that was never trained, and its parameters."""
    flags = {"sigma": sigma, "hidden_size": 7, "n_epochs": 1, "device": "cpu"} | others
    parameters = training_parameters(flags)
    index = ItemIndex(np.arange(n_items) if ids is None else ids)
    data = data_of(index, n_items)
    return TrainingRun(parameters, data=data).checkpoint(0, None), parameters


def data_of(index, n_clicked):
    """Some sessions on the first items of an index."""
    items = np.arange(200) % n_clicked
    clicks = Clicks(np.arange(200) // 2, np.asarray(index.ids)[items], np.arange(200))
    sessions, _ = encode_sessions(clicks, index)
    return TrainingData(index, sessions, torch.from_numpy(np.maximum(sessions.support(len(index)), 1)), sessions)


@pytest.mark.parametrize("others", [{}, {"embedding_dim": 3}, {"constrained_embedding": True}])
@pytest.mark.parametrize(("sigma", "low", "high"), [(-1, -1, 1), (-2, 0, 1), (0.3, -0.3, 0.3)])
def test_new_rows_follow_the_rule_of_new_weights(others, sigma, low, high):
    before, parameters = checkpoint_of(30, sigma, **others)
    data = data_of(ItemIndex(np.arange(5_030)), 30)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    after = grown(before, parameters, data, "x.pt")["model"]
    assert torch.equal(torch.get_rng_state(), state), "other random numbers are not disturbed"
    torch.manual_seed(6)
    assert same(after, grown(before, parameters, data, "x.pt")["model"])
    assert not after["output_bias"][30:].any()
    for name, columns in (("output_embedding", 7), ("input_weight", 7), ("input_embedding", 3)):
        if name in after:
            rows = after[name][30:].double().flatten().numpy()
            limit = 1 if sigma > 0 else np.sqrt(6 / (5_030 + columns))
            position = np.sort((rows - low * limit) / ((high - low) * limit))
            assert position[0] >= 0
            assert position[-1] <= 1
            farthest = np.abs(position - np.linspace(0, 1, len(position))).max()  # Kolmogorov and Smirnov's distance
            assert farthest < 1.95 / np.sqrt(len(position)), "p < 0.001 that these are uniform"
            assert len(np.unique(rows)) > 0.9 * len(rows)


def test_rows_of_two_growths_are_not_the_same_numbers():
    before, parameters = checkpoint_of(30, -1)
    once = grown(before, parameters, data_of(ItemIndex(np.arange(60)), 30), "x.pt")
    twice = grown(once, parameters, data_of(ItemIndex(np.arange(90)), 30), "y.pt")
    rows = twice["model"]["output_embedding"]
    assert torch.equal(rows[:60], once["model"]["output_embedding"])
    assert np.isin(rows[60:].numpy(), rows[30:60].numpy()).mean() < 0.1
    fresh = TrainingRun(parameters, data=data_of(ItemIndex(np.arange(60)), 30)).model.output_embedding
    assert np.isin(rows[30:60].numpy(), fresh.detach().numpy()).mean() < 0.1, "nor those of a new model"
    assert [each["n_items"] for each in twice["grown_from"]] == [30, 60]


def test_items_that_are_gone_count_as_one_click_and_all_others_anew(base, tomorrow, tmp_path):
    (path,) = grow(base, tmp_path, tomorrow, "--n_epochs 1")
    checkpoint = read_checkpoint(path)
    rows = [line.split(",") for line in (tomorrow / TRAIN_ONLY).read_text().splitlines()[1:]]
    clicked = [int(item) for _, item, _ in rows]
    known = read_checkpoint(base)["item_ids"].tolist()
    ids = checkpoint["item_ids"].tolist()
    assert ids[: len(known)] == known
    assert sorted(ids) == sorted({*known, *clicked})
    assert checkpoint["support"].tolist() == [max(clicked.count(item), 1) for item in ids]
    assert 1 in checkpoint["support"][: len(known)]


def test_what_has_grown_evaluates_recommends_averages_and_says_where_it_comes_from(base, tomorrow, tmp_path, capsys):
    first, second = grow(base, tmp_path, tomorrow, "--n_epochs 2 --average 2 --lr 0.05")[:2]
    said = capsys.readouterr().out
    assert re.search(rf"growing {base}: (\d+) new items, (\d+) known, (\d+) of them gone", said)
    assert (first.name, second.name) == ("model_00002.pt", "model_00003.pt")
    (noted,) = read_checkpoint(second)["grown_from"]
    assert noted == {
        "checkpoint": str(base),
        "epoch": 1,
        "train_data": TRAIN_ONLY,
        "checksums": read_checkpoint(base)["checksums"],
        "n_items": len(read_checkpoint(base)["item_ids"]),
    }
    told = (second.parent / "parameter.txt").read_text()
    assert f"load_model={base}\n" in told
    assert "grow=True\nresume=False\n" in told
    assert "lr=0.05\n" in told
    mean = second.parent / "model_mean.pt"
    last = read_checkpoint(second)["history"][-1]
    assert main.run(parse_flags(f"--is_eval --load_model {second}".split())) == 0
    assert capsys.readouterr().out.endswith(f"Recall@20: {last['recall@20']:.6f} MRR@20: {last['mrr@20']:.6f}\n")
    assert main.run(parse_flags(f"--is_eval --load_model {mean}".split())) == 0
    ids = read_checkpoint(second)["item_ids"].tolist()
    for item in (ids[0], ids[-1]):  # one of before, one of tomorrow
        assert {each for each, _ in Recommender.load(second).recommend([item], len(ids))} == set(ids)


def test_a_grown_run_that_was_cut_off_goes_on_to_the_same_bits(base, tomorrow, tmp_path):
    *_, whole = grow(base, tmp_path, tomorrow, "--n_epochs 2")
    (half,) = grow(base, tmp_path, tomorrow, "--n_epochs 1 --save_every 7")
    (rest,) = run(f"--load_model {half} --n_epochs 4", tmp_path)
    for name in ("model", "optimizer", "random_state", "support", "checksums", "grown_from"):
        assert same(read_checkpoint(whole)[name], read_checkpoint(rest)[name]), name
    assert [row["epoch"] for row in read_checkpoint(rest)["history"]] == [2, 3]

    class Keeper:
        def is_due(self, step):
            return step == 9

        def keep(self, progress):
            write_checkpoint(tmp_path / "partial.pt", run_again.checkpoint(progress.epoch, progress))

    checkpoint = read_checkpoint(half)
    run_again = TrainingRun(
        resumed_parameters(checkpoint["parameters"], {"n_epochs": 4, "load_model": str(half)}), checkpoint
    )
    run_again.train_epoch(Keeper())
    (from_within,) = run(f"--load_model {tmp_path / 'partial.pt'}", tmp_path)
    assert same(read_checkpoint(from_within)["model"], read_checkpoint(whole)["model"])


def test_a_run_anew_does_not_take_a_grown_one_for_its_own(base, tomorrow, tmp_path, capsys):
    grow(base, tmp_path, tomorrow, "--n_epochs 1")
    line = f"{BASE} --data_folder {tomorrow} {MODES['shared']} --momentum 0.2 --n_epochs 3 --resume"
    run(line, tmp_path)
    assert "starting anew" in capsys.readouterr().out


def text_clicks(clicks, name_of):
    numbers, items = np.unique(clicks.item, return_inverse=True)
    names = pa.array(list(map(name_of, numbers.tolist())), pa.large_string())
    return Clicks(clicks.session, items.astype(np.int64), clicks.time, item_names=names)


@pytest.mark.parametrize(
    ("before", "after", "ids"),
    [
        (str, str, str),
        (lambda item: f"a{item}", lambda item: f"a{item}", str),
        (None, str, int),  # in quotes, and integers all the same
        (None, lambda item: f"0{item}", str),
        (str, None, str),
    ],
)
def test_ids_are_integers_or_text(before, after, ids, tmp_path):
    clicks = synthetic_clicks(n_sessions=60, n_items=12, n_days=1, seed=0)
    later = Clicks(clicks.session, clicks.item + 6, clicks.time)
    for folder, each, name_of in (("old", clicks, before), ("new", later, after)):
        (tmp_path / folder).mkdir()
        named = text_clicks(each, name_of) if name_of else each
        write_click_files({tmp_path / folder / name: named for name in (TRAIN_ONLY, VALID)})
    path = trained(tmp_path / "old", tmp_path, "--n_epochs 1 --k_eval 5")
    (path,) = grow(path, tmp_path / "runs", tmp_path / "new")
    recommender = Recommender.load(path)
    expected = {(before or str)(item) for item in clicks.item.tolist()}
    expected |= {(after or str)(item) for item in later.item.tolist()}
    assert set(recommender.index.ids.tolist()) == set(map(ids, expected))
    item = (after or str)(int(later.item.max()))
    assert len(recommender.recommend([item], k=5)) == 5
    (again,) = run(f"--load_model {path} --n_epochs 3", tmp_path / "runs")
    assert same(read_checkpoint(again)["item_ids"], read_checkpoint(path)["item_ids"])
    sessions = read_valid_sessions(tmp_path / "new" / VALID, recommender.index)
    assert len(sessions.items) == len(later)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--hidden_size 5", "--hidden_size 5 differs from the checkpoint's 4, which a model that grows keeps"),
        ("--num_layers 2", "--num_layers 2 differs"),
        ("--constrained_embedding false", "--constrained_embedding False differs"),
        ("--embedding_dim 3", "--embedding_dim 3 differs"),
        ("--reset_gate before", "--reset_gate before differs"),
        ("--optimizer_type Adam", "--optimizer_type Adam differs"),
        ("--seed 1", "--seed 1 differs"),
        ("--sigma 0.1", "--sigma 0.1 differs"),
        ("--momentum 0", "--momentum 0.0 differs from the checkpoint's 0.2, and one of them is none"),
        ("--average 3", "--average 3 is no number of epochs from 2 to --n_epochs 2: --average 0"),
        ("--patience 3 --valid_data none", "gives none: name a file, or --patience 0"),
        ("--batch_size 100000", "--batch_size 100000 is more than the"),
        ("--train_data nowhere.txt", "nowhere.txt"),
        ("--resume", "--grow needs --load_model FILE, the checkpoint that grows, and no --resume"),
    ],
)
def test_wrong_uses_are_sentences(more, sentence, base, tomorrow, tmp_path):
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        grow(base, tmp_path, tomorrow, more)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*"))


def test_what_cannot_grow_says_so(base, tomorrow, today, tmp_path):
    with pytest.raises(UserError, match="--grow needs --load_model FILE"):
        run(f"--grow --data_folder {tomorrow}", tmp_path)
    checkpoint = read_checkpoint(base)
    wrong = {
        "is the mean of several epochs: grow one of them": {"optimizer": {}},
        "was saved within an epoch: go on to its end first": {"within_epoch": {}},
        "does not fit together: its support": {"support": torch.ones(2, dtype=torch.int64)},
        "does not fit together: 'state'": {"optimizer": {"step_number": 1}},
        "does not fit together: it grew from an epoch that comes after it": {"grown_from": [{"epoch": 2}]},
        "does not fit together: the optimizer state": {
            "optimizer": checkpoint["optimizer"] | {"state": {name: [] for name in checkpoint["model"]}}
        },
    }
    for sentence, part in wrong.items():
        write_checkpoint(tmp_path / "wrong.pt", checkpoint | part)
        with pytest.raises(UserError, match=re.escape(sentence)):
            grow(tmp_path / "wrong.pt", tmp_path / "runs", tomorrow)
    for junk in (None, {}, "x", {"epoch": None}, {"epoch": torch.zeros(2)}, {"epoch": -2}):
        write_checkpoint(tmp_path / "wrong.pt", checkpoint | {"grown_from": [junk]})
        with pytest.raises(UserError, match="wrong.pt does not fit together"):
            run(f"--load_model {tmp_path / 'wrong.pt'} --n_epochs 3 --data_folder {today}", tmp_path)
    with pytest.raises(UserError, match=r"other clicks.*go on with others by --grow, or start anew"):
        run(f"--load_model {base} --n_epochs 3 --data_folder {tomorrow}", tmp_path)
    (path,) = grow(base, tmp_path / "runs", tomorrow, "--n_epochs 1")
    with pytest.raises(
        UserError, match="takes epochs of before the model grew, whose clicks were others: lower it to 2"
    ):
        run(f"--load_model {path} --n_epochs 4 --average 3", tmp_path)
    with pytest.raises(UserError, match="other clicks than those of"):
        run(f"--load_model {path} --n_epochs 4 --data_folder {today}", tmp_path)


def test_what_may_change_does(base, tomorrow, tmp_path):
    line = "--n_epochs 1 --batch_size 5 --loss_type CrossEntropy --lr 0.3 --dropout_input 0 --momentum 0.3 --k_eval 3"
    (path,) = grow(base, tmp_path, tomorrow, line)
    saved = read_checkpoint(path)["parameters"]
    expected = {"batch_size": 5, "loss_type": "CrossEntropy", "final_act": "softmax", "lr": 0.3, "momentum": 0.3}
    assert expected.items() <= saved.items()
    (default,) = grow(path, tmp_path, tomorrow)
    assert read_checkpoint(default)["parameters"]["n_epochs"] == 4, "one more, as before, beside the three"
    assert RunFolder(default.parent).path != path.parent
    assert isinstance(Recommender.load(default).model, GRU4Rec)

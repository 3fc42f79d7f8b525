"""Every flag reaches what it is for: a run with it differs from one without, in the way that it should."""

import copy
import re

import pytest
import torch
from conftest import make_sessions

from evaluation import evaluate
from faster.device import choose_device
from main import evaluate_checkpoint, run
from preprocessing import TRAIN_ONLY
from runs.epochs import train_epochs
from runs.parameters import THEMES, parse_flags, training_parameters
from runs.presets import PRESETS
from runs.restoring import make_model
from runs.runfolder import RunFolder, read_checkpoint
from runs.trainingdata import TrainingData
from runs.trainingrun import TrainingRun
from terminal.atomicfile import HOST
from terminal.errors import UserError

BASE = "--hidden_size 4 --batch_size 8 --n_epochs 1 --device cpu"


def trained(line, data_folder, tmp_path):
    """The weights after an epoch, as one vector per table or matrix."""
    flags = parse_flags(f"{BASE} --data_folder {data_folder} {line}".split())
    run = TrainingRun(training_parameters(flags))
    folder = RunFolder.create(tmp_path)
    train_epochs(run, folder)
    return run, folder


def same_weights(line, other, data_folder, tmp_path):
    first, second = (trained(each, data_folder, tmp_path)[0].model.state_dict() for each in (line, other))
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.equal(first[name], second[name]) for name in first
    )


CHANGES = [
    ("", "--time_sort false"),
    ("", "--hidden_size 5"),
    ("", "--num_layers 2"),
    ("", "--embedding_dim 4"),
    ("", "--constrained_embedding"),
    ("", "--dropout_input 0.2"),
    ("", "--dropout_hidden 0"),
    ("", "--reset_gate after"),
    ("--constrained_embedding", "--constrained_embedding --reset_gate before"),
    ("", "--final_act linear"),
    ("", "--final_act relu"),
    ("", "--final_act leaky-0.2"),
    ("", "--sigma 0.3"),
    ("", "--loss_type BPR"),
    ("", "--n_sample 4"),
    ("--n_sample 4", "--n_sample 4 --sample_alpha 0"),
    ("--loss_type BPR-max", "--loss_type BPR-max --bpreg 0.1"),
    ("--loss_type CrossEntropy", "--loss_type CrossEntropy --logq 1"),
    ("--loss_type CrossEntropy --n_sample 4 --logq 1", "--loss_type CrossEntropy --n_sample 4 --logq 0.5"),
    ("", "--optimizer_type RMSProp"),
    ("", "--optimizer_type Adadelta"),
    ("", "--optimizer_type Adam"),
    ("--optimizer_type SGD", "--optimizer_type SGD --momentum 0.5"),
    ("", "--lr 0.02"),
    ("", "--momentum 0.1"),
    ("", "--weight_decay 0.1"),
    ("", "--eps 0.1"),
    ("", "--bptt 3"),
    ("", "--batch_size 9"),
    ("", "--n_epochs 2"),
    ("", "--seed 23"),
    ("", f"--seed {22 + 2**32}"),
    (f"--n_sample 4 --seed {2**32}", f"--n_sample 4 --seed {2**33}"),
]
NO_CHANGES = [
    ("", ""),
    ("", "--k_eval 3 5"),
    ("", "--tie_breaking median"),
    ("", "--remind 0.5"),
    ("", "--metrics ndcg coverage popularity"),
    ("", "--patience 1"),
    ("", "--save_every 3"),
    ("--loss_type CrossEntropy", "--loss_type CrossEntropy --final_act softmax_logit"),
    ("--optimizer_type Adam", "--optimizer_type SparseAdam"),
    ("", "--reset_gate before"),
]


@pytest.mark.parametrize(("line", "other"), CHANGES)
def test_flags_that_change_the_weights(line, other, data_folder, tmp_path):
    assert not same_weights(line, other, data_folder, tmp_path)


@pytest.mark.parametrize(("line", "other"), NO_CHANGES)
def test_flags_that_do_not(line, other, data_folder, tmp_path):
    assert same_weights(line, other, data_folder, tmp_path)


def test_no_flag_of_the_model_the_loss_or_the_optimizer_is_missing_above():
    tried = " ".join(other for _, other in CHANGES)
    for theme in ("model", "loss and negative samples", "optimizer"):
        assert all(f"--{parameter.name} " in f"{tried} " for parameter in THEMES[theme])


def test_a_seed_of_one_word_is_that_of_pytorch(data_folder):
    """As it was before seeds of two words became others than their first word."""
    for seed in (0, 22, 2**32 - 1):
        run = TrainingRun(training_parameters(parse_flags(f"{BASE} --data_folder {data_folder} --seed {seed}".split())))
        torch.manual_seed(seed)
        assert torch.equal(run.model.output_embedding, make_model(run.parameters, len(run.index)).output_embedding)


def told(capsys, lengths, line):
    """A run on sessions of these lengths, and what making it said on stderr."""
    sessions, index = make_sessions([[i % 7 for i in range(length)] for length in [7, *lengths]])
    data = TrainingData(index, sessions, torch.from_numpy(sessions.support(7)), make_sessions([[0, 1]])[0])
    flags = parse_flags(f"--hidden_size 2 --batch_size 8 --k_eval 5 --device cpu {line}".split())
    return TrainingRun(training_parameters(flags), data=data), capsys.readouterr().err


def test_clicks_that_are_left_out_are_told(capsys):
    """One session of 10,000 clicks among short ones: from when it is alone on, nothing is left to compare with."""
    lengths = [4] * 79 + [10_000]
    run, said = told(capsys, lengths, "")
    run.train_epoch()
    assert run.progress.n_clicks == run.n_next_clicks < 500
    assert (n_all := run.sessions.n_next_clicks) == 10_242
    assert f"81 sessions on 7 items, {run.n_next_clicks} next clicks to train on" in run.describe()
    assert said.startswith(f"warning: {n_all - run.n_next_clicks:,} of {n_all:,} next clicks are not trained on: ")
    assert "--n_sample 1, or more, trains on all" in said
    run, said = told(capsys, lengths, "--n_sample 1")
    assert f"{n_all:,} next clicks to train on" in run.describe()
    assert said == ""


def test_a_percent_may_be_left_out_without_a_warning(capsys):
    left_out = {}
    for n_short in range(100, 400, 20):
        run, said = told(capsys, [4] * n_short + [10], "")
        n_all = run.sessions.n_next_clicks
        left_out[n_short] = n_all - run.n_next_clicks > n_all / 100
        assert bool(said) == left_out[n_short]
    assert set(left_out.values()) == {True, False}


def test_the_epoch_ends_with_two_lanes_only_where_they_are_the_only_negatives(data_folder, tmp_path):
    alone, sampled = (trained(line, data_folder, tmp_path)[0] for line in ("--n_sample 0", "--n_sample 3"))
    runs = {"alone": alone, "sampled": sampled}
    n_steps = {name: sum(len(block) for block in run.feed.batches) for name, run in runs.items()}
    assert min(alive for block in alone.feed.batches for alive in block.alive) >= 2
    assert min(alive for block in sampled.feed.batches for alive in block.alive) == 1
    assert n_steps["alone"] < n_steps["sampled"]
    assert sum(sum(block.alive) for block in sampled.feed.batches) == sampled.sessions.n_next_clicks


def test_evaluation_heeds_ties_and_cutoffs(data_folder, tmp_path, capsys):
    run, folder = trained("--k_eval 3", data_folder, tmp_path)
    path = folder.path / "model_00000.pt"
    checkpoint = read_checkpoint(path)
    checkpoint["model"]["output_embedding"][:] = 0  # every item ties with every other
    checkpoint["model"]["output_bias"][:] = 0
    del checkpoint["format_version"]
    path = folder.write_checkpoint(checkpoint)
    capsys.readouterr()
    printed = {}
    for ties in ("standard", "conservative", "median"):
        evaluate_checkpoint(parse_flags(["--is_eval", "--load_model", str(path), "--tie_breaking", ties]))
        printed[ties] = capsys.readouterr().out
    assert printed["standard"] == "Recall@3: 1.000000 MRR@3: 1.000000\n"
    assert printed["conservative"] == printed["median"] == "Recall@3: 0.000000 MRR@3: 0.000000\n"
    evaluate_checkpoint(parse_flags(["--is_eval", "--load_model", str(path), "--k_eval", "5", "2", "5"]))
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["Recall@2", "Recall@5"]
    assert evaluate(run.model, run.valid_sessions, (3,)).recall[3] == run.history[0]["recall@3"]


def test_evaluation_reminds_while_training_and_afterwards(data_folder, tmp_path, capsys):
    run, folder = trained("--k_eval 3 --remind 2.5", data_folder, tmp_path)
    plain, reminded = (evaluate(run.model, run.valid_sessions, (3,), bonus=bonus) for bonus in (0, 2.5))
    assert run.history[0]["recall@3"] == reminded.recall[3] != plain.recall[3]
    for flags, expected in (([], reminded), (["--remind", "0"], plain)):
        capsys.readouterr()
        evaluate_checkpoint(parse_flags(["--is_eval", "--load_model", str(folder.path / "model_00000.pt"), *flags]))
        assert capsys.readouterr().out == expected.line(3) + "\n"


@pytest.mark.parametrize("line", ["--resume --n_epochs 2", "--resume --seed 7", "", "--load_model {} --n_epochs 2"])
def test_the_next_run_clears_away_what_a_killed_one_had_begun(line, data_folder, tmp_path):
    _, folder = trained("", data_folder, tmp_path)
    left = folder.path / f".model_00001.pt.{HOST}.{2**22 + 1}.tmp"
    left.touch()
    model = folder.path / "model_00000.pt"
    base = "" if "load_model" in line else f"{BASE} --data_folder {data_folder}"
    assert run(parse_flags(f"{base} {line.format(model)} --checkpoint_dir {tmp_path}".split())) == 0
    assert model.exists()
    assert not left.exists()


def test_a_run_may_keep_the_checkpoints_of_its_last_epochs_only(data_folder, tmp_path):
    _, folder = trained("--n_epochs 3 --keep_checkpoints 2", data_folder, tmp_path)
    assert sorted(path.name for path in folder.path.glob("*.pt")) == ["model_00001.pt", "model_00002.pt"]
    assert len(read_checkpoint(folder.path / "model_00002.pt")["history"]) == 3


def test_a_preset_on_going_on_must_be_the_checkpoints_setting(data_folder, tmp_path, capsys):
    preset = PRESETS["iclr2016-top1-100"].flags
    _, folder = trained(f"{preset} --batch_size 8 --n_epochs 1", data_folder, tmp_path)
    path = folder.path / "model_00000.pt"
    with pytest.raises(UserError, match="--batch_size 50 differs from the checkpoint's 8"):
        run({"load_model": str(path), "preset": "iclr2016-top1-100"})
    with pytest.raises(UserError, match="differs from the checkpoint's TOP1"):
        run({"load_model": str(path), "preset": "iclr2016-bpr-100"})
    flags = {"load_model": str(path), "preset": "iclr2016-top1-100", "batch_size": 8, "n_epochs": 1}
    assert run(flags) == 0
    assert "1 of 1 epochs are done" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "every", "n_partial"), [(1e9, 0, 1), (0, 0, "steps"), (1e9, 10, "tenths")])
def test_saving_within_an_epoch_goes_by_the_clock_or_by_steps(
    seconds, every, n_partial, data_folder, tmp_path, monkeypatch
):
    written = []
    write = RunFolder.write_checkpoint
    monkeypatch.setattr("runs.epochs.SAVE_SECONDS", seconds)
    monkeypatch.setattr(
        RunFolder, "write_checkpoint", lambda folder, c: (written.append(c["within_epoch"]), write(folder, c))[1]
    )
    run, _ = trained(f"--save_every {every}", data_folder, tmp_path)
    n_steps = sum(len(block) for block in run.feed.batches)
    expected = {"steps": n_steps + 1, "tenths": n_steps // 10 + 1}.get(n_partial, n_partial)
    assert written[-1] is None
    assert len([progress for progress in written if progress]) == expected
    assert written[-2]["step"] == n_steps


def test_a_checkpoint_within_an_epoch_has_a_hidden_state_for_every_click_of_bptt(data_folder, tmp_path):
    kept = []

    class Keeper:
        def is_due(self, step):
            return step == 7

        def keep(self, progress):
            kept.append(copy.deepcopy(whole.checkpoint(0, progress)))

    parameters = training_parameters(parse_flags(f"{BASE} --data_folder {data_folder} --bptt 3".split()))
    whole = TrainingRun(parameters)
    whole.train_epoch(Keeper())
    path = RunFolder.create(tmp_path).write_checkpoint(kept[0])
    rest = TrainingRun(parameters, read_checkpoint(path))
    rest.train_epoch()
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(whole.model.parameters(), rest.model.parameters(), strict=True)
    )

    before_bptt = copy.deepcopy(kept[0])  # a checkpoint of the versions before --bptt has a tensor here
    before_bptt["within_epoch"]["hidden"] = before_bptt["within_epoch"]["hidden"][0]
    with pytest.raises(UserError, match="does not fit together: it has 1 hidden states for --bptt 3"):
        TrainingRun(parameters, before_bptt)
    kept[0]["within_epoch"]["hidden"].pop()
    with pytest.raises(UserError, match="does not fit together: it has 2 hidden states for --bptt 3"):
        TrainingRun(parameters, kept[0])


def test_an_epoch_says_how_long_the_others_will_take(data_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("runs.epochs.about", lambda seconds: f"{seconds:.3f}")
    run, _ = trained("--n_epochs 3", data_folder, tmp_path)
    said = capsys.readouterr().out
    assert said.startswith(f"reading {data_folder / TRAIN_ONLY}\n")
    left = [re.findall(r"s, ([\d.]+) left\)", line) for line in said.splitlines() if line.startswith("epoch")]
    trained_for = [row["seconds"] for row in run.history]
    assert left[2] == []
    assert 2 * trained_for[0] < float(left[0][0]) < 2 * trained_for[0] + 5
    assert trained_for[1] < float(left[1][0]) < trained_for[1] + 5


def test_weights_that_are_no_numbers_are_not_saved(data_folder, tmp_path, monkeypatch):
    train_epoch = TrainingRun.train_epoch

    def overflow_at_the_last_step(run, *others):
        train_epoch(run, *others)
        run.model.output_bias.data[3] = float("inf")

    monkeypatch.setattr(TrainingRun, "train_epoch", overflow_at_the_last_step)
    with pytest.raises(UserError, match=r"output_bias holds NaN or infinite.*lower --lr \(now 1\), --sigma \(now 20\)"):
        trained("--lr 1 --sigma 20", data_folder, tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


def test_the_device_of_a_checkpoint_is_not_asked_for_again(data_folder, tmp_path):
    run, folder = trained("", data_folder, tmp_path)
    assert "device=cpu\n" in (folder.path / "parameter.txt").read_text()
    checkpoint = run.checkpoint(0, None)
    checkpoint["parameters"] = checkpoint["parameters"] | {"device": "cuda:7"}
    path = folder.write_checkpoint(checkpoint)
    assert evaluate_checkpoint(parse_flags(["--is_eval", "--load_model", str(path)])) == 0


def test_a_gpu_that_pytorch_cannot_use_is_not_taken(monkeypatch, capsys):
    def fail(device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nand more")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    used = []
    monkeypatch.setattr("faster.device._use", used.append)
    assert choose_device(None).type == "cuda"
    assert choose_device("cuda:0") == torch.device("cuda:0")
    assert used == [torch.device("cuda"), torch.device("cuda:0")]

    monkeypatch.setattr("faster.device._use", fail)
    assert choose_device("cpu").type == "cpu"
    assert capsys.readouterr().err == ""
    assert choose_device(None).type == "cpu"
    assert "was built without this GPU's kernels (CUDA error: no kernel image" in capsys.readouterr().err
    with pytest.raises(UserError, match="cuda:0 cannot be used .*no kernel image"):
        choose_device("cuda:0")
    with pytest.raises(UserError, match="--device cuda:1 is not here"):
        choose_device("cuda:1")

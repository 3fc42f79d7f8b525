"""The scripts as a user runs them: in processes of their own, in an empty folder, from files to figures."""

import csv
import importlib
import re
import shutil
import sys

import pytest
import torch

from clicks.prepared import RECORD
from preprocessing import TEST, TRAIN_FULL, TRAIN_ONLY, VALID
from terminal.errors import UserError

SETTING = (
    "--loss_type CrossEntropy --constrained_embedding --hidden_size 16 --batch_size 16 --dropout_hidden 0.3 --lr 0.1 "
    "--momentum 0.2 --n_sample 32 --sample_alpha 0.5 --logq 1 --k_eval 5 20 --device cpu"
).split()


@pytest.fixture
def prepared(small_log, tmp_path):
    """A folder with small prepared files where main.py looks by default."""
    shutil.copy(small_log / "clicks.dat", tmp_path)
    return shutil.copytree(small_log / "data", tmp_path / "data" / "preprocessed_data")


def only_run_folder(tmp_path, name="checkpoint"):
    (folder,) = (tmp_path / name).iterdir()
    return folder


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def test_preprocessing_prints_what_it_writes(prepared, run_script, tmp_path):
    assert {path.name for path in prepared.iterdir()} == {TRAIN_FULL, TEST, TRAIN_ONLY, VALID, RECORD}
    printed = run_script("preprocessing.py", "--clicks", "clicks.dat", "--data_folder", "elsewhere").stdout
    for name in (TRAIN_FULL, TEST, TRAIN_ONLY, VALID):
        lines = (tmp_path / "elsewhere" / name).read_text().splitlines()[1:]
        sessions, items, _ = zip(*(line.split(",") for line in lines), strict=True)
        counts = rf"{name}\s+{len(lines):,}\s+{len(set(sessions)):,}\s+{len(set(items)):,}\n"
        assert re.search(counts, printed)
    assert "published" not in printed

    shutil.copy(tmp_path / "clicks.dat", tmp_path / "data" / "yoochoose-clicks.dat")
    found = run_script("preprocessing.py").stdout
    assert found.startswith("reading data/yoochoose-clicks.dat\n")
    assert "differs from the published 31,637,239 clicks in 7,966,257 sessions on 37,483 items" in found


def test_preprocessing_with_the_challenges_test_file(prepared, run_script, tmp_path):
    shutil.copy(tmp_path / "clicks.dat", tmp_path / "test.dat")
    printed = run_script("preprocessing.py", "--clicks", "clicks.dat", "--test_clicks", "test.dat").stdout
    assert "do not compare with the paper's" in printed


def test_train_evaluate_and_what_a_run_leaves(prepared, run_script, tmp_path):
    trained = run_script("main.py", *SETTING, "--n_epochs", 2)
    folder = only_run_folder(tmp_path)
    assert re.fullmatch(r"\d{8}", folder.name)
    assert {path.name for path in folder.iterdir()} == {
        "parameter.txt",
        "metrics.csv",
        "model_00000.pt",
        "model_00001.pt",
    }
    parameters = dict(line.split("=", 1) for line in (folder / "parameter.txt").read_text().splitlines())
    assert (parameters["lr"], parameters["k_eval"], parameters["final_act"]) == ("0.1", "5 20", "softmax")
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row["seconds"]) > 0 and int(row["clicks_per_second"]) > 0 for row in rows)
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])

    (prepared / TRAIN_ONLY).unlink()  # evaluating needs the checkpoint and the validation file, nothing else
    for epoch, row in enumerate(rows):
        evaluated = run_script("main.py", "--is_eval", "--load_model", folder / f"model_{epoch:05d}.pt").stdout
        expected = [
            f"Recall@{k}: {float(row[f'recall@{k}']):.6f} MRR@{k}: {float(row[f'mrr@{k}']):.6f}" for k in (5, 20)
        ]
        assert evaluated.splitlines() == expected
        assert f"epoch {epoch} " in trained.stdout
        assert " ".join(expected) in trained.stdout
    one = run_script("main.py", "--is_eval", "--load_model", folder / "model_00001.pt", "--k_eval", 20).stdout
    assert one == expected[1] + "\n"
    conservative = run_script(
        "main.py", "--is_eval", "--load_model", folder / "model_00001.pt", "--tie_breaking", "conservative"
    )
    assert conservative.stdout.startswith("Recall@5: ")


@pytest.mark.parametrize(
    "setting",
    [
        SETTING,
        pytest.param(["--device", "cpu", "--n_epochs", "9"], marks=pytest.mark.long),
        pytest.param(
            "--loss_type BPR-max --num_layers 2 --embedding_dim 8 --hidden_size 8 --optimizer_type Adam".split(),
            marks=pytest.mark.long,
        ),
    ],
    ids=["shared", "default", "two layers"],
)
def test_a_resumed_run_is_bit_identical(prepared, run_script, tmp_path, setting):
    run_script("main.py", *setting, "--n_epochs", 2, "--checkpoint_dir", "whole")
    run_script("main.py", *setting, "--n_epochs", 1, "--checkpoint_dir", "half")
    first = only_run_folder(tmp_path, "half") / "model_00000.pt"
    run_script("main.py", "--load_model", first, "--n_epochs", 2, "--checkpoint_dir", "rest")
    whole, rest = only_run_folder(tmp_path, "whole"), only_run_folder(tmp_path, "rest")
    expected, resumed = weights(whole / "model_00001.pt"), weights(rest / "model_00001.pt")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert not (rest / "model_00000.pt").exists()

    def figures(folder):
        with open(folder / "metrics.csv") as file:
            return [(row["epoch"], row["train_loss"], row["recall@20"]) for row in csv.DictReader(file)]

    assert figures(rest) == figures(whole)
    done = run_script("main.py", "--load_model", rest / "model_00001.pt", "--n_epochs", 2, "--checkpoint_dir", "none")
    assert "2 of 2 epochs are done; raise --n_epochs" in done.stdout
    assert not (tmp_path / "none").exists()


@pytest.mark.cuda
def test_checkpoints_move_between_devices_and_deterministic_runs_repeat(prepared, run_script, tmp_path):
    on_cuda = [*SETTING[:-1], "cuda", "--deterministic"]
    run_script("main.py", *on_cuda, "--n_epochs", 2, "--checkpoint_dir", "whole")
    run_script("main.py", *on_cuda, "--n_epochs", 1, "--checkpoint_dir", "half")
    first = only_run_folder(tmp_path, "half") / "model_00000.pt"
    run_script("main.py", "--load_model", first, "--n_epochs", 2, "--checkpoint_dir", "rest")
    expected = weights(only_run_folder(tmp_path, "whole") / "model_00001.pt")
    resumed = weights(only_run_folder(tmp_path, "rest") / "model_00001.pt")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)

    figures = [
        re.findall(r"[\d.]+$", run_script("main.py", "--is_eval", "--load_model", first, "--device", device).stdout)
        for device in ("cpu", "cuda")
    ]
    assert float(figures[0][0]) == pytest.approx(float(figures[1][0]), abs=1e-3)
    run_script("main.py", "--load_model", first, "--n_epochs", 2, "--device", "cpu", "--checkpoint_dir", "on_cpu")
    (on_cpu,) = (tmp_path / "on_cpu").glob("*/model_00001.pt")
    run_script("main.py", "--load_model", on_cpu, "--n_epochs", 3, "--device", "cuda", "--checkpoint_dir", "back")


def test_mistakes_end_with_one_sentence(prepared, run_script, tmp_path, monkeypatch):
    run_script("main.py", *SETTING, "--n_epochs", 1)
    model = only_run_folder(tmp_path) / "model_00000.pt"
    (tmp_path / "junk.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "blocked").touch()
    (tmp_path / "other").mkdir()
    shutil.copy(prepared / TRAIN_FULL, tmp_path / "other" / TRAIN_ONLY)
    shutil.copy(prepared / VALID, tmp_path / "other" / VALID)
    mistakes = {
        ("main.py", "--data_folder", "nowhere"): "nowhere/recSys15TrainOnly.txt",
        ("main.py", "--batch_size", 100000): "--batch_size 100000 is more than",
        ("main.py", "--k_eval", 5000): "--k_eval 5000 is more than",
        ("main.py", "--device", "cuda:99"): "--device cuda:99",
        ("main.py", "--device", "meta"): "--device meta",
        ("main.py", "--checkpoint_dir", "blocked/x"): "cannot create the folder blocked/x",
        ("main.py", "--is_eval"): "--is_eval needs --load_model",
        ("main.py", "--is_eval", "--load_model", "junk.pt"): "junk.pt",
        ("main.py", "--load_model", "nowhere.pt"): "nowhere.pt",
        ("main.py", "--load_model", model.parent): "is a folder; name a file in it, such as",
        ("main.py", "--valid_data", "recsys15valid.txt"): f"there are {TEST}, {TRAIN_FULL}, {TRAIN_ONLY}, {VALID}",
        ("main.py", "--n_epoch", 2): "did you mean --n_epochs?",
        ("main.py", "--load_model", model, "--n_epochs", 2, "--lr", 3): "--lr 3.0 differs",
        ("main.py", "--load_model", model, "--n_epochs", 2, "--data_folder", "other"): "other clicks",
        ("main.py", "--lr", 1e30, "--loss_type", "BPR-max", "--n_epochs", 1): "lower --lr",
        ("tools/benchmark.py", "loading", "--n_runs", 0): "--n_runs: '0' is not a whole number",
        ("preprocessing.py",): "no yoochoose-clicks.dat",
        ("preprocessing.py", "--clicks", "junk.pt"): "junk.pt, line 1",
    }
    monkeypatch.chdir(tmp_path)
    for (script, *arguments), expected in mistakes.items():
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(UserError, match=re.escape(expected)) as caught:
            importlib.import_module(script.removesuffix(".py").replace("/", ".")).main()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (("main.py", "--data_folder", "nowhere"), "error: no file nowhere/recSys15TrainOnly.txt"),
        (("main.py", "--n_epoch", 2), "error: unrecognized arguments: --n_epoch 2 (did you mean --n_epochs?)"),
        (("preprocessing.py",), "error: no yoochoose-clicks.dat"),
    ],
)
def test_a_mistake_ends_a_script_with_its_sentence_alone_and_code_2(run_script, line, error):
    process = run_script(*line, expect=2)
    assert process.stderr.startswith(error)
    assert process.stderr.count("\n") == 1


def test_refusing_a_file_never_ends_in_an_abort(run_script, tmp_path):
    """Arrow's threads must have nothing of Python's in their hands when the interpreter ends."""
    (tmp_path / TRAIN_ONLY).write_text("SessionID,ItemID,Time\n")
    for _ in range(3):
        process = run_script("main.py", "--data_folder", ".", expect=2)
        assert process.stderr == f"error: {TRAIN_ONLY} holds no clicks\n"


def test_items_that_training_never_saw_are_named(prepared, run_script):
    (prepared / RECORD).unlink()
    with open(prepared / VALID, "a") as file:
        file.write("999999,123,1396900000\n999999,214500001,1396900001\n")
    process = run_script("main.py", "--n_epochs", 1, "--hidden_size", 4)
    assert "warning: data/preprocessed_data/recSys15Valid.txt: dropped 2 clicks" in process.stderr


def test_the_demo_learns(run_script):
    printed = run_script("tools.demo").stdout
    popular, ours = (
        [float(figure) for figure in re.findall(r"@20: ([\d.]+)", line)] for line in printed.strip().splitlines()[-2:]
    )
    assert ours[0] > 2 * popular[0]
    assert ours[1] > 2 * popular[1]

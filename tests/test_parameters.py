"""Flags: their defaults are the paper's, their values are checked, and none is ignored in silence."""

import re

import pytest

from runs.parameters import (
    LOSSES,
    OPTIMIZERS,
    PARAMETERS,
    evaluation_parameters,
    parse_flags,
    resumed_parameters,
    same_experiment,
    training_parameters,
    with_preset,
)
from runs.presets import PRESETS, preset_table
from terminal.errors import UserError


def parsed(line: str):
    return training_parameters(parse_flags(line.split()))


def test_defaults_are_the_papers_top1_row():
    p = parsed("")
    assert (p.loss_type, p.hidden_size, p.num_layers, p.batch_size) == ("TOP1", 100, 1, 50)
    assert (p.dropout_hidden, p.dropout_input, p.lr, p.momentum, p.n_epochs) == (0.5, 0.0, 0.01, 0.0, 10)
    assert (p.n_sample, p.embedding_dim, p.constrained_embedding) == (0, 0, False)
    assert (p.final_act, p.optimizer_type, p.k_eval) == ("tanh", "Adagrad", [20])


def test_every_flag_of_the_suites_and_papers_is_known():
    known = (
        "hidden_size num_layers batch_size dropout_input dropout_hidden n_epochs k_eval optimizer_type final_act lr "
        "weight_decay momentum eps seed sigma embedding_dim constrained_embedding loss_type n_sample sample_alpha "
        "bpreg logq time_sort data_folder train_data valid_data is_eval load_model checkpoint_dir device tie_breaking"
    )
    assert set(known.split()) <= set(PARAMETERS)


def test_only_named_flags_are_returned():
    assert parse_flags([]) == {}
    assert parse_flags("--k_eval 5 20 -seed 7 -sigma -2".split()) == {"k_eval": [5, 20], "seed": 7, "sigma": -2.0}


@pytest.mark.parametrize("text", ["1,5,20", "20,5 1", "1 5 20", "5,1,20,5 20"])
def test_cutoffs_may_have_commas_or_spaces_between_them(text):
    assert parse_flags(f"--k_eval {text}".split()) == {"k_eval": [1, 5, 20]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("", True), (" True", True), (" true", True), (" 1", True), (" False", False), (" 0", False), (" no", False)],
)
def test_switches_mean_what_they_say(text, value):
    assert parsed(f"--constrained_embedding{text}").constrained_embedding is value
    assert parsed(f"--time_sort{text}").time_sort is value


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_optimizers_are_known_by_any_usual_spelling(name):
    for spelling in (name, name.lower(), name.upper()):
        assert parsed(f"--loss_type {spelling}").loss_type == name
    assert parsed("--loss_type cross-entropy").loss_type == "CrossEntropy"
    for optimizer in OPTIMIZERS:
        assert parsed(f"--optimizer_type {optimizer.lower()}").optimizer_type == optimizer


@pytest.mark.parametrize(
    ("loss", "final_act"),
    [("TOP1", "tanh"), ("BPR", "tanh"), ("CrossEntropy", "softmax"), ("TOP1-max", "elu-0.5"), ("BPR-max", "elu-0.5")],
)
def test_final_activation_follows_the_loss(loss, final_act):
    assert parsed(f"--loss_type {loss}").final_act == final_act
    assert parsed(f"--loss_type {loss} --final_act linear").final_act == "linear"


@pytest.mark.parametrize(
    "line",
    [
        "--lr 0",
        "--lr -1",
        "--lr nan",
        "--lr inf",
        "--dropout_hidden 1",
        "--dropout_input -0.1",
        "--momentum 1",
        "--batch_size 0",
        "--batch_size 2.5",
        "--n_sample -1",
        "--k_eval",
        "--k_eval 0",
        "--k_eval 20 x",
        "--k_eval 20,x",
        "--k_eval 20,",
        "--sigma 0",
        "--sigma -3",
        "--eps 0",
        "--seed -1",
        "--weight_decay -1",
        "--loss_type hinge",
        "--optimizer_type LBFGS",
        "--final_act selu",
        "--time_sort maybe",
        "--tie_breaking random",
        "--no_such_flag 1",
        "--hidden 100",
        "--loss_type CrossEntropy --final_act tanh",
        "--final_act softmax",
        "--loss_type BPR-max --final_act softmax_logit",
        "--constrained_embedding --embedding_dim 50",
        "--batch_size 1",
        "--optimizer_type SparseAdam --weight_decay 0.1",
    ],
)
def test_nonsense_is_refused_in_one_sentence_that_names_the_flag(line):
    with pytest.raises(UserError) as caught:
        parsed(line)
    message = str(caught.value)
    assert "\n" not in message
    assert any(word.lstrip("-") in message for word in line.split() if word.startswith("--"))


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("--sample_alpha 0.5", "sample_alpha"),
        ("--bpreg 2", "bpreg"),
        ("--loss_type BPR-max --logq 1", "logq"),
        ("--optimizer_type Adam --momentum 0.5", "momentum"),
        ("--optimizer_type SGD --eps 0.1", "eps"),
    ],
)
def test_a_flag_without_effect_is_named(capsys, line, flag):
    parsed(line)
    assert f"warning: --{flag} has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--n_sample 10 --sample_alpha 0.5",
        "--loss_type BPR-max --bpreg 2",
        "--loss_type CrossEntropy --logq 1 --final_act softmax_logit",
        "--optimizer_type SGD --momentum 0.5",
        "--batch_size 1 --n_sample 5",
    ],
)
def test_flags_with_an_effect_are_not_warned_of(capsys, line):
    parsed(line)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_and_without_surprise(capsys, name):
    parsed(f"--preset {name}")
    assert capsys.readouterr().err == ""
    named = set(parse_flags(PRESETS[name].flags.split()))
    assert {"loss_type", "hidden_size", "batch_size", "dropout_hidden", "lr"} <= named


def test_flags_win_over_a_preset_and_the_change_is_told(capsys):
    p = parsed("--preset cikm2018-bprmax --lr 0.1 --batch_size 32 --seed 3")
    assert (p.loss_type, p.lr, p.momentum, p.batch_size, p.bpreg, p.seed) == ("BPR-max", 0.1, 0.3, 32, 1.0, 3)
    assert capsys.readouterr().out == "preset cikm2018-bprmax, with --lr 0.1 instead of 0.2\n"


def test_presets_are_listed_with_their_figures():
    lines = preset_table().splitlines()
    assert len(lines) == 1 + len(PRESETS)
    assert any(re.search(r"^authors-best +0\.7283 +0\.3205 +YooChoose \[A\]$", line) for line in lines)


def test_resuming_takes_the_checkpoints_parameters():
    saved = vars(parsed("--lr 0.2 --n_epochs 3"))
    resumed = resumed_parameters(saved, parse_flags("--n_epochs 5 --lr 0.2 --load_model m.pt --device cpu".split()))
    assert (resumed.lr, resumed.n_epochs, resumed.load_model, resumed.device) == (0.2, 5, "m.pt", "cpu")
    with pytest.raises(UserError, match=r"--lr 0\.1 differs from the checkpoint's 0\.2"):
        resumed_parameters(saved, parse_flags("--lr 0.1".split()))


def test_a_preset_is_the_experiment_of_its_flags():
    saved = vars(parsed(PRESETS["authors-best"].flags))
    assert same_experiment(saved, parsed("--preset authors-best"))
    assert not same_experiment(saved, parsed("--preset authors-best --lr 0.1"))
    assert not same_experiment(saved, parsed("--preset iclr2016-top1-100"))
    resumed = resumed_parameters(saved, with_preset(parse_flags("--preset authors-best --n_epochs 12".split())))
    assert (resumed.loss_type, resumed.n_epochs) == ("CrossEntropy", 12)
    with pytest.raises(UserError, match="differs from the checkpoint's"):
        resumed_parameters(saved, with_preset(parse_flags("--preset iclr2016-top1-100".split())))


def test_evaluating_takes_cutoffs_and_ties_and_names_the_rest(capsys):
    saved = vars(parsed(""))
    flags = parse_flags("--is_eval --load_model m.pt --k_eval 5 10 --tie_breaking median --lr 3".split())
    evaluated = evaluation_parameters(saved, flags)
    assert (evaluated.k_eval, evaluated.tie_breaking, evaluated.lr) == ([5, 10], "median", 0.01)
    assert capsys.readouterr().err == "warning: --lr has no effect with --is_eval\n"

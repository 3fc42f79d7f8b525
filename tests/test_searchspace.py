"""Search spaces: every kind of line, every kind of mistake, and that what is suggested is what a flag takes."""

from pathlib import Path

import optuna
import pytest

from baselines.registry import BASELINES, parse_row
from runs.parameters import parse_flags, training_parameters
from runs.presets import PRESETS
from runs.searchspace import Choice, Range, read_space
from terminal.errors import UserError

SPACES = Path(__file__).parent.parent / "spaces"


@pytest.fixture
def space_of(tmp_path):
    def read(text):
        path = tmp_path / "space.txt"
        path.write_text(text, encoding="utf-8")
        return read_space(path)

    return read


def test_every_kind_of_line(space_of):
    space = space_of(
        "# a comment\n\n"
        "loss_type crossentropy\n"
        "constrained_embedding  TRUE # another\n"
        "final_act softmax softmax_logit\n"
        "hidden_size\t4 .. 12 step 4\n"
        "batch_size 8..64 log\n"
        "n_sample 0 .. 5\n"
        "lr 1e-3 .. 0.5 log\n"
        "momentum 0 .. 0.3 step 0.1\n"
        "dropout_hidden 0 .. 0.5\n"
    )
    assert space.fixed == {"loss_type": "CrossEntropy", "constrained_embedding": True}
    assert space.searched == {
        "final_act": Choice(("softmax", "softmax_logit")),
        "hidden_size": Range(4, 12, 4),
        "batch_size": Range(8, 64, log=True),
        "n_sample": Range(0, 5),
        "lr": Range(0.001, 0.5, log=True),
        "momentum": Range(0.0, 0.3, 0.1),
        "dropout_hidden": Range(0.0, 0.5),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = {name: set() for name in space.searched}
    for _ in range(200):
        values = space.suggest(study.ask())
        assert values.keys() == space.searched.keys()
        for name, value in values.items():
            assert value in space.searched[name]
            seen[name].add(value)
            assert parse_flags([f"--{name}", str(value)]) == {name: value}
    assert seen["final_act"] == {"softmax", "softmax_logit"}
    assert seen["hidden_size"] == {4, 8, 12}
    assert seen["n_sample"] == {0, 1, 2, 3, 4, 5}
    assert seen["momentum"] == {0.0, 0.1, 0.2, 0.3}  # and not 0.30000000000000004
    assert sum(value < 0.0224 for value in seen["lr"]) > 60  # half of them: by factors
    assert all(len(f"{value:.12g}") <= 9 for value in seen["lr"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lrr 0.1 0.2", "lrr: it is no flag of main.py (did you mean lr?)"),
        ("xyzzy 1 2", "xyzzy: it is no flag of main.py"),
        ("n_epochs 3 5", "n_epochs: it is no setting of"),
        ("valid_data recSys15Test.txt x.txt", "valid_data: it is no setting of"),
        ("seed 1 .. 9", "seed: it is no setting of"),
        ("lr", "lr: it has no values"),
        ("lr # 0.1", "lr: it has no values"),
        ("lr 0.1 fast", "lr: 'fast' is not a number above 0"),
        ("lr 0 .. 1", "lr: '0' is not a number above 0"),
        ("lr 0.1 .. inf", "lr: 'inf' is not a number above 0"),
        ("lr 0.1 .. nan", "lr: 'nan' is not a number above 0"),
        ("momentum 0.5 .. 1", "momentum: '1' is not a number from 0 to below 1"),
        ("hidden_size 1.5 .. 3", "hidden_size: '1.5' is not a whole number"),
        ("hidden_size 4 .. 8 step 0.5", "hidden_size: '0.5' is not a whole number"),
        ("lr 0.1 .. 0.2 step 0", "lr: '0' is not a number above 0"),
        ("lr 0.1 0.1", "lr: it has a value twice"),
        ("lr 0.2 .. 0.1", "lr: 0.2 .. 0.1 does not go upwards"),
        ("lr 0.1 .. 0.1", "lr: 0.1 .. 0.1 does not go upwards"),
        ("momentum 0 .. 0.9 step 0.2", "momentum: steps of 0.2 do not lead from 0 to 0.9"),
        ("momentum 0 .. 0.9 log", "momentum: 0 has no logarithm"),
        ("lr 0.1 .. 0.2 log step 0.1", "lr: it has '0.1 .. 0.2 log step 0.1', expected LOW .. HIGH"),
        ("lr .. 0.2", "lr: it has '.. 0.2', expected LOW .. HIGH"),
        ("lr 0.1 .. 0.2 .. 0.3", "lr: it has '0.1 .. 0.2 .. 0.3', expected LOW .. HIGH"),
        ("loss_type BPR .. TOP1", "loss_type: it takes no numbers"),
        ("loss_type BPR TOP2", "loss_type: 'TOP2' is not one of"),
        ("bpreg 1 2", "bpreg: it stands in a line above, too"),
    ],
)
def test_a_mistake_is_named_with_its_line(line, expected, space_of):
    with pytest.raises(UserError) as error:
        space_of(f"# comment\nbpreg 0 .. 2\n{line}\nmomentum 0 0.1 0.2\n")
    assert f"space.txt, line 3, {expected}" in str(error.value)


def test_a_file_without_a_choice_is_refused(space_of, tmp_path):
    for text in ("", "# nothing\n", "lr 0.1\nloss_type BPR\n"):
        with pytest.raises(UserError, match="leaves nothing to choose"):
            space_of(text)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for name in ("none.txt", "bytes.txt", "."):
        with pytest.raises(UserError, match="cannot read the space"):
            read_space(tmp_path / name)


@pytest.mark.parametrize(("name", "preset"), [("bprmax", "authors-retailrocket"), ("crossentropy", "authors-best")])
def test_the_shipped_spaces_have_the_setting_that_the_readme_starts_from(name, preset):
    space = read_space(SPACES / f"{name}.txt")
    base = vars(training_parameters(parse_flags(PRESETS[preset].flags.split())))
    assert {name: base[name] for name in space.fixed} == space.fixed
    assert [name for name, values in space.searched.items() if base[name] not in values] == []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        flags = space.fixed | space.suggest(study.ask())
        training_parameters(parse_flags([word for name, value in flags.items() for word in (f"--{name}", str(value))]))


def test_the_shipped_space_of_a_baseline_has_its_defaults():
    known = BASELINES["V-STAN"].settings
    space = read_space(SPACES / "vstan.txt", {name: setting.kind for name, setting in known.items()})
    assert set(space.searched) == set(known)
    assert all(known[name].default in values for name, values in space.searched.items())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        values = space.suggest(study.ask())
        row = " ".join(f"{name}={value}" for name, value in values.items())
        assert parse_row(f"V-STAN {row}") == ("V-STAN", values)


def test_a_space_of_a_baseline_knows_its_settings_alone(tmp_path):
    (tmp_path / "space.txt").write_text("k 1 2\nlr 0.1 0.2\n")
    with pytest.raises(UserError, match="line 2, lr: it is none of k, sample$"):
        read_space(tmp_path / "space.txt", {name: each.kind for name, each in BASELINES["VS-KNN"].settings.items()})

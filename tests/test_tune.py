"""The search: trials are the runs that their lines describe, a study goes on, and the test file comes last."""

import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import tune
from baselines.registry import fit_row, parse_row, row_of
from clicks.clickfile import write_click_files
from clicks.synthetic import synthetic_clicks
from evaluation import Metrics
from preprocessing import TEST, TRAIN_FULL, TRAIN_ONLY, VALID, split
from reproduce import Files, reported
from runs import searched
from runs.epochs import train_epochs
from runs.parameters import parse_flags, training_parameters
from runs.runfolder import RunFolder
from runs.trainingrun import TrainingRun
from terminal.errors import UserError
from training import Diverged

SPACE = """
loss_type BPR-max
constrained_embedding true
n_sample 8
batch_size 16
hidden_size 4 8 100
dropout_hidden 0 .. 0.5 step 0.25
lr 0.02 .. 0.5 log
"""


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    files = split(synthetic_clicks(n_sessions=400, n_items=30, n_days=4, seed=0))
    write_click_files({folder / name: files[name] for name in (TRAIN_ONLY, VALID, TRAIN_FULL, TEST)})
    return folder


@pytest.fixture
def tuned(data_folder, tmp_path):
    """Run tune.py in this process; returns its study's trials."""

    def run(*flags, space=SPACE, study="study.db", folder=data_folder, exit_code=0):
        (tmp_path / "space.txt").write_text(space)
        files = ["--space", str(tmp_path / "space.txt"), "--study", str(tmp_path / study), "--data_folder", str(folder)]
        device = [] if "--baseline" in flags else ["--device", "cpu"]
        assert tune.main([*files, *device, *map(str, flags)]) == exit_code
        return tune.open_study(tmp_path / study).trials

    return run


def history_of(line, data_folder, tmp_path):
    """Recall@20 and MRR@20 after every epoch, as main.py writes them to metrics.csv."""
    flags = parse_flags(shlex.split(f"--data_folder {data_folder} --device cpu {line}"))
    run = TrainingRun(training_parameters(flags))
    train_epochs(run, RunFolder.create(tmp_path / "runs"))
    return [(row["recall@20"], row["mrr@20"]) for row in run.history]


@pytest.fixture
def made_up(monkeypatch):
    """Have settings train to made-up figures: MRR@20 after each epoch, by a function of the parameters."""

    def use(curve_of):
        class Run:
            def __init__(self, mrr):
                self.mrr = mrr

            def evaluate(self):
                return Metrics({"recall": {20: 2 * self.mrr}, "mrr": {20: self.mrr}}, 1)

        def epochs_of(parameters, stopper):
            return map(Run, curve_of(parameters)[: parameters.n_epochs])

        monkeypatch.setattr(searched, "epochs_of", epochs_of)

    return use


def test_a_trial_is_the_run_of_main_with_its_flags(tuned, data_folder, tmp_path, capsys):
    trials = tuned("--n_trials", 3, "--n_epochs", 2)
    printed = capsys.readouterr().out
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    base = "--loss_type BPR-max --constrained_embedding --n_sample 8 --batch_size 16"
    for trial in trials:
        setting = trial.user_attrs["setting"]
        history = history_of(f"{base} {setting} --n_epochs 2", data_folder, tmp_path)
        assert trial.intermediate_values == {epoch: mrr for epoch, (_, mrr) in enumerate(history)}
        best = max(history, key=lambda figures: figures[1])
        assert (trial.user_attrs["recall"], trial.value) == best
        assert trial.user_attrs["n_epochs"] == 1 + history.index(best)
        assert f"trial {trial.number}: MRR@20 {best[1]:.4f} Recall@20 {best[0]:.4f} after" in printed
    table = printed.partition("setting\n")[2].splitlines()
    assert [int(line.split()[0]) for line in table] == sorted(range(3), key=lambda number: -trials[number].value)
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".db", ".txt"}


def test_a_study_that_goes_on_is_the_one_that_was_never_stopped(tuned, made_up, capsys):
    stop_at = []

    def curve_of(parameters):
        if len(calls) in stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
            stop_at.remove(len(calls))
            raise KeyboardInterrupt  # as the Stopper does
        calls.append(parameters)
        return [parameters.lr]

    calls = []
    made_up(curve_of)
    whole = tuned("--n_trials", 14, study="whole.db")
    calls = []
    stop_at += [0, 11]
    for _ in range(2):
        capsys.readouterr()
        tuned("--n_trials", 14, exit_code=143)
        assert capsys.readouterr().out.endswith("stopped by SIGTERM; go on with the same line\n")
    both = tuned("--n_trials", 14)
    assert [trial.number for trial in both if trial.state.name == "FAIL"] == [0, 12]
    assert [trial.params for trial in both if trial.state.name != "FAIL"] == [trial.params for trial in whole]
    assert (whole[0].params["hidden_size"], whole[0].params["dropout_hidden"]) == (100, 0.5)  # those of the base
    assert len({trial.user_attrs["setting"] for trial in whole}) > 10
    assert max(trial.value for trial in whole[10:]) > 0.9 * 0.5  # it has learned where the best are
    capsys.readouterr()
    assert len(tuned("--n_trials", 5)) == 16
    printed = capsys.readouterr().out
    assert "14 of 5 trials are done" in printed
    assert "importance: lr 0." in printed
    assert len(printed.partition("setting\n")[2].partition("importance")[0].splitlines()) == 10


def test_a_study_refuses_what_it_was_not_made_with(tuned, made_up, data_folder, tmp_path):
    made_up(lambda parameters: [0.5])
    tuned("--n_trials", 1)
    tuned("--n_trials", 2, space=f"# only a comment\n{SPACE}")
    others = {
        "hidden_size was 4 8 100, and is 4 8 now": SPACE.replace("4 8 100", "4 8"),
        "lr was 0.02 .. 0.5 log, and is 0.02 .. 0.5 now": SPACE.replace(" log", ""),
        "base was .* --batch_size 16, and is .* --batch_size 17 now": SPACE.replace("size 16", "size 17"),
        "momentum was absent, and is 0 0.5 now": SPACE + "momentum 0 0.5",
    }
    for expected, space in others.items():
        with pytest.raises(UserError, match=expected.replace("0 0.5", "0.0 0.5")):
            tuned("--n_trials", 3, space=space)
    with pytest.raises(UserError, match="n_epochs was 10, and is 9 now"):
        tuned("--n_trials", 3, "--n_epochs", 9)
    with pytest.raises(UserError, match="base was --loss_type .* and is --preset authors-best"):
        tuned("--n_trials", 3, "--preset", "authors-best")
    (tmp_path / "other").mkdir()
    for name, source in ((TRAIN_ONLY, TRAIN_FULL), (VALID, VALID)):
        (tmp_path / "other" / name).write_bytes((data_folder / source).read_bytes())
    with pytest.raises(UserError, match="clicks was .* name another file with --study"):
        tuned("--n_trials", 3, folder=tmp_path / "other")
    assert len(tune.open_study(tmp_path / "study.db").trials) == 2


def copied(data_folder, folder, swapped):
    """A copy of the prepared files, with two clicks of one of them in each other's place."""
    folder.mkdir()
    for name in (TRAIN_ONLY, VALID, TRAIN_FULL, TEST):
        header, *rows = [line.split(",") for line in (data_folder / name).read_text().splitlines()]
        if name == swapped:
            other = next(i for i in range(len(rows)) if rows[i][1] != rows[0][1])
            rows[0][1], rows[other][1] = rows[other][1], rows[0][1]
        (folder / name).write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    return folder


@pytest.mark.parametrize("swapped", [TRAIN_ONLY, VALID])
def test_a_study_refuses_other_clicks_of_the_same_counts(tuned, made_up, data_folder, tmp_path, swapped):
    made_up(lambda parameters: [0.5])
    tuned("--n_trials", 1)
    tuned("--n_trials", 2, folder=copied(data_folder, tmp_path / "same", swapped=None))
    with pytest.raises(UserError, match="checksums was .* name another file with --study"):
        tuned("--n_trials", 3, folder=copied(data_folder, tmp_path / "other", swapped))
    assert len(tune.open_study(tmp_path / "study.db").trials) == 2


def test_a_study_of_an_earlier_version_goes_on_with_a_warning_and_takes_note(
    tuned, made_up, data_folder, tmp_path, capsys
):
    made_up(lambda parameters: [0.5])
    tuned("--n_trials", 1)
    study = tune.open_study(tmp_path / "study.db")
    made_with = study.user_attrs["made_with"]
    study.set_user_attr("made_with", {name: value for name, value in made_with.items() if name != "checksums"})
    capsys.readouterr()
    assert len(tuned("--n_trials", 2)) == 2
    assert "study.db was begun by an earlier version" in capsys.readouterr().err
    assert study.user_attrs["made_with"] == made_with
    with pytest.raises(UserError, match="checksums was"):
        tuned("--n_trials", 3, folder=copied(data_folder, tmp_path / "other", VALID))


def test_another_test_file_is_measured_anew(tuned, made_up, data_folder, tmp_path, capsys):
    figures = iter([0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
    made_up(lambda parameters: [next(figures)])
    tuned("--n_trials", 1, "--n_epochs", 1, "--final")
    assert "MRR@20 0.2000 ± 0.1000" in capsys.readouterr().out
    tuned("--n_trials", 1, "--n_epochs", 1, "--final")
    assert "MRR@20 0.2000 ± 0.1000" in capsys.readouterr().out
    other = copied(data_folder, tmp_path / "other", TEST)
    for is_new in (True, False):
        tuned("--n_trials", 1, "--n_epochs", 1, "--final", folder=other)
        printed = capsys.readouterr()
        assert "MRR@20 0.6000 ± 0.2000" in printed.out
        assert ("is of other clicks, or of an earlier version: measured anew" in printed.err) == is_new


def test_the_base_is_the_first_trial_where_the_space_has_it(tuned, made_up, capsys):
    made_up(lambda parameters: [0.5])
    space = "hidden_size 192 .. 256 step 32\nlr 0.01 .. 0.5 log\n"
    first, second = tuned("--n_trials", 2, "--preset", "authors-retailrocket", space=space)
    assert first.user_attrs["setting"] == "--hidden_size 224 --lr 0.05"
    assert second.user_attrs["setting"] != first.user_attrs["setting"]
    assert capsys.readouterr().err == ""
    (first,) = tuned("--n_trials", 1, "--preset", "authors-best", space=space, study="other.db")
    assert first.params["lr"] == 0.2
    assert "does not have the base's --hidden_size 100: the first" in capsys.readouterr().err


def test_trials_that_fall_behind_are_cut_off(tuned, made_up):
    """Five run to their end; later ones must reach the median of the others' third epoch, or of a later one."""
    curves = iter(
        [[0.1 * trial + 0.01 * epoch for epoch in range(10)] for trial in range(1, 6)]
        + [
            [0.1] * 10,  # below the median of the third epoch
            [0.335, 0.0, 0.0, 0.0, 0.0],  # not below it at its best, but without a better one for three epochs
            [0.335, 0.0, 0.0, 0.336, 0.345, 0.0, 0.0],  # neither, until the sixth epoch, whose median is 0.35
        ]
    )
    made_up(lambda parameters: next(curves))
    trials = tuned("--n_trials", 8)
    ended = [(trial.state.name, len(trial.intermediate_values)) for trial in trials]
    assert ended[:5] == [("COMPLETE", 10)] * 5
    assert ended[5:] == [("PRUNED", 3), ("COMPLETE", 4), ("PRUNED", 6)]
    assert trials[6].value == 0.335
    assert trials[6].user_attrs["n_epochs"] == 1
    assert trials[7].user_attrs["n_epochs"] == 5


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ("batch_size 16 400", "--batch_size 400 is more than the"),
        ("loss_type BPR\nbatch_size 16\nfinal_act tanh softmax", "--final_act softmax belongs to CrossEntropy"),
        ("optimizer_type SGD\nloss_type BPR-max\nfinal_act linear\nlr 1e-9 1e30", "the loss became "),
    ],
)
def test_what_diverges_or_makes_no_sense_is_a_trial_with_a_sentence(space, problem, tuned, capsys):
    trials = tuned("--n_trials", 5, "--n_epochs", 1, space=space)
    printed = capsys.readouterr().out
    good, bad = ([trial for trial in trials if trial.state.name == state] for state in ("COMPLETE", "PRUNED"))
    assert len(good) + len(bad) == 5
    assert len({str(trial.params) for trial in good}) == len({str(trial.params) for trial in bad}) == 1
    for trial in bad:
        assert trial.user_attrs["problem"].startswith(problem)
        assert f"trial {trial.number}: {trial.user_attrs['problem']} (" in printed


def test_a_space_without_a_good_setting_is_refused(tuned):
    with pytest.raises(UserError, match="no trial has come to its end"):
        tuned("--n_trials", 3, space="batch_size 5000 5001")


def test_too_little_memory_is_a_trial_and_a_mistake_of_ours_is_not(tuned, made_up, tmp_path):
    def fail(error):
        def curve_of(parameters):
            if parameters.hidden_size == 8:
                raise error
            return [0.5]

        return curve_of

    space = "hidden_size 4 8\nlr 0.1 0.2"
    on_the_cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")
    on_cuda = torch.cuda.OutOfMemoryError("CUDA out of memory: of 8 GiB\nand")
    for name, error in (("a", MemoryError()), ("b", on_the_cpu), ("c", on_cuda)):
        made_up(fail(error))
        trials = tuned("--n_trials", 4, space=space, study=f"{name}.db")
        assert {trial.params["hidden_size"] for trial in trials if trial.state.name == "PRUNED"} == {8}
    assert {"CUDA out of memory: of 8 GiB"} < {trial.user_attrs.get("problem") for trial in trials}
    for error in (IndexError("ours"), RuntimeError("CUDA error: an illegal memory access was encountered")):
        made_up(fail(error))
        with pytest.raises(type(error)):
            tuned("--n_trials", 4, space=space, study="d.db")
        assert tune.open_study(tmp_path / "d.db").trials[-1].state.name == "FAIL"
    made_up(lambda parameters: [0.5])
    finished = [trial for trial in tuned("--n_trials", 4, space=space, study="d.db") if trial.state.is_finished()]
    assert [trial.state.name for trial in finished].count("COMPLETE") == 4


def test_the_trial_of_a_killed_process_is_not_counted(tuned, made_up, tmp_path):
    made_up(lambda parameters: [0.5])
    tuned("--n_trials", 1)
    study = tune.open_study(tmp_path / "study.db")
    with pytest.warns(UserWarning, match="Heartbeat"):
        trial = study.ask()
    study._storage.record_heartbeat(trial._trial_id)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")
    database.close()
    states = [trial.state.name for trial in tuned("--n_trials", 3)]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_confirming_chooses_by_the_mean_of_the_seeds(tuned, made_up, capsys):
    """The setting that looked best by luck loses to another, whose best epoch on average is not that of any seed."""
    curves = {  # by learning rate, then seed: 22 is that of the trials
        0.1: {22: [0.5, 0.6], 1: [0.1, 0.2], 2: [0.1, 0.2]},
        0.2: {22: [0.5, 0.5, 0.5], 1: [0.5, 0.41, 0.1], 2: [0.1, 0.41, 0.5]},
        0.3: {22: [0.4], 1: [0.35], 2: []},
    }

    def curve_of(parameters):
        of_seed = curves[parameters.lr]
        return of_seed[parameters.seed] or (_ for _ in ()).throw(FloatingPointError("diverged"))

    made_up(curve_of)
    space = "lr 0.1 0.2 0.3"
    tuned("--n_trials", 12, "--confirm", 2, space=space)
    printed = capsys.readouterr()
    assert "seed 2: diverged" in printed.err
    assert printed.out.count("seed 1: ") == printed.out.count("seed 2: ") == 3
    curves[0.1][3] = curves[0.2][3] = [0.41, 0.41, 0.41]
    curves[0.3][3] = [0.2]
    tuned("--n_trials", 12, "--confirm", 3, "--final", space=space)
    printed = capsys.readouterr().out
    assert printed.count("seed 1: ") == printed.count("seed 2: ") == 1  # on the test file; on valid only seed 3 is new
    assert printed.count("seed 3: ") == 3 + 1
    assert "0.4100 ± 0.0000       2  --lr 0.2" in printed
    assert "chosen:  --lr 0.2 --n_epochs 2" in printed.replace("chosen: --", "chosen:  --")
    assert "Recall@20 0.8200 ± 0.0000 MRR@20 0.4100 ± 0.0000" in printed


def test_the_test_file_is_read_last_and_gives_the_figures_of_main(tuned, data_folder, tmp_path, capsys, monkeypatch):
    choosing = tmp_path / "choosing"
    choosing.mkdir()
    for name in (TRAIN_ONLY, VALID):
        (choosing / name).write_bytes((data_folder / name).read_bytes())
    tuned("--n_trials", 2, "--n_epochs", 2, "--confirm", 1, folder=choosing)
    with pytest.raises(UserError, match=TRAIN_FULL):
        tuned("--n_trials", 3, "--n_epochs", 2, "--final", folder=choosing)
    tuned("--n_trials", 2, "--n_epochs", 2, "--final")
    printed = capsys.readouterr().out
    line = printed.splitlines()[-1].removeprefix("python main.py ")
    assert f"--train_data {TRAIN_FULL} --valid_data {TEST}" in line
    for seed in (1, 2, 3):
        recall, mrr = history_of(f"{line} --seed {seed}", data_folder, tmp_path)[-1]
        assert f"seed {seed}: Recall@20 {recall:.4f} MRR@20 {mrr:.4f}\n" in printed

    monkeypatch.delattr(searched, "epochs_of")  # what has been measured is not measured again
    tuned("--n_trials", 2, "--n_epochs", 2, "--final")
    assert capsys.readouterr().out.splitlines()[-2:] == printed.splitlines()[-2:]


def figures_of(row, folder, train_data, test_data):
    """MRR@20 and Recall@20 of a baseline's row, as reproduce.py has them."""
    files = Files(folder, train_data, test_data)
    result = reported(fit_row(row, files.train, len(files.index)).ranks(files.test))
    return result["mrr"], result["recall"]


def test_a_baseline_is_chosen_on_valid_and_measured_as_reproduce_does(tuned, data_folder, tmp_path, capsys):
    choosing = tmp_path / "choosing"
    choosing.mkdir()
    for name in (TRAIN_ONLY, VALID):
        (choosing / name).write_bytes((data_folder / name).read_bytes())
    flags, space = ("--baseline", "VS-KNN", "--n_trials", 4), "k 5 10 20 100\nsample 30\n"
    trials = tuned(*flags, space=space, folder=choosing)
    assert trials[0].user_attrs["setting"] == "k=100"  # that of the baseline, as far as the space has it
    for trial in trials:
        row = f"VS-KNN sample=30 {trial.user_attrs['setting']}"
        assert (trial.value, trial.user_attrs["recall"]) == figures_of(row, data_folder, TRAIN_ONLY, VALID)
        assert trial.user_attrs["n_epochs"] == 1
    with pytest.raises(UserError, match=TRAIN_FULL):
        tuned(*flags, "--final", space=space, folder=choosing)
    tuned(*flags, "--final", space=space)
    *_, figures, line = capsys.readouterr().out.splitlines()
    best = max(trials, key=lambda trial: trial.value).user_attrs["setting"]
    start, row = line.split(" --rows ")
    assert start == f"python reproduce.py --data_folder {data_folder}"
    assert parse_row(row.strip("'")) == parse_row(row_of(*parse_row(f"VS-KNN sample=30 {best}")))
    mrr, recall = figures_of(row.strip("'"), data_folder, TRAIN_FULL, TEST)
    assert figures == f"{TEST}: Recall@20 {recall:.4f} MRR@20 {mrr:.4f}:"


def test_a_search_of_a_baseline_refuses_flags_of_the_model_and_settings_of_others(tuned):
    for flag, value in (("--preset", "authors-best"), ("--n_epochs", 5), ("--confirm", 2)):
        with pytest.raises(UserError, match=f"{flag} is for the model"):
            tuned("--baseline", "STAN", flag, value, space="k 1 2")
    with pytest.raises(UserError, match="line 1, lambda_idf: it is none of k, sample, lambda_spw"):
        tuned("--baseline", "STAN", space="lambda_idf 1 2")
    with pytest.raises(UserError, match="argument --baseline: invalid choice: 'POP'"):
        tuned("--baseline", "POP", space="k 1 2")
    tuned("--baseline", "SR", "--n_trials", 1, space="rules 1 20")
    with pytest.raises(UserError, match="base was SR, and is VS-KNN now"):
        tuned("--baseline", "VS-KNN", "--n_trials", 1, space="k 1 20")


def test_mistakes(tuned, tmp_path, monkeypatch):
    (tmp_path / "text.db").write_text("no database, but a text that is long enough to be one")
    for name in ("text.db", "."):
        with pytest.raises(UserError, match="is no study, nor can it become one: .* name another with --study"):
            tuned(study=name)
    for flag in ("--n_trials", "--n_epochs", "--n_jobs"):
        with pytest.raises(UserError, match=f"{flag}: '0' is not a whole number from 1"):
            tuned(flag, 0)
    with pytest.raises(UserError, match="invalid choice: 'authors-worst'"):
        tuned("--preset", "authors-worst")
    monkeypatch.setattr(tune, "optuna", None)
    with pytest.raises(UserError, match="pip install optuna"):
        tuned()


def test_trials_side_by_side_end_with_the_process_that_began_them_and_go_on(tuned, data_folder, tmp_path):
    (tmp_path / "space.txt").write_text(SPACE)
    files = ["--space", "space.txt", "--study", "study.db", "--data_folder", str(data_folder)]
    command = [sys.executable, "-W", "error", str(ROOT / "tune.py"), *files, "--device", "cpu", "--n_epochs", "4"]
    process = subprocess.Popen(
        [*command, "--n_jobs", "2", "--n_trials", "300"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": ""},
    )
    printed = [process.stdout.readline() for _ in range(5)]
    process.kill()
    _, errors = process.communicate(timeout=30)  # which ends when all processes that could print have ended
    assert [line.split(" ")[0] for line in printed] == ["reading", "study.db:", "trial", "trial", "trial"], errors
    assert "Traceback" not in errors
    trials = tune.open_study(tmp_path / "study.db").trials
    states = [trial.state.name for trial in trials]
    assert states.count("RUNNING") <= 2
    assert 3 <= (n_finished := states.count("COMPLETE") + states.count("PRUNED")) < 300
    assert len({trial.user_attrs.get("setting") for trial in trials}) > len(trials) // 2

    trials = tuned("--n_epochs", 4, "--n_trials", n_finished + 1)
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") + states.count("PRUNED") == n_finished + 1


def test_settings_are_compared_over_the_seeds_that_are_asked_for():
    class Study:
        user_attrs = {
            "confirmed": {
                "--lr 0.1": {"1": [0.1, 0.2], "2": [0.1, 0.2], "3": [0.9, 0.9]},
                "--lr 0.2": {"2": [0.2, 0.3], "1": [0.4, 0.3]},
                "--lr 0.3": {"1": [0.9]},
            }
        }

    assert tune.chosen(Study(), 2) == ("--lr 0.2", 1)
    assert tune.chosen(Study(), 0) == ("--lr 0.1", 2)


def test_the_mean_of_the_seeds_chooses_and_not_the_best_of_them():
    class Study:
        user_attrs = {
            "confirmed": {
                "--lr 0.1": {"1": [0.1, 0.9], "2": [0.1, 0.1]},
                "--lr 0.2": {"1": [0.4, 0.8, 0.1], "2": [0.8, 0.5, 0.2]},
                "--lr 0.3": {"1": [0.5, 0.1], "2": [0.5, 0.1]},
            }
        }

    assert tune.chosen(Study(), 2) == ("--lr 0.2", 2)


def test_a_setting_that_diverges_on_train_full_is_said(monkeypatch):
    def diverge(*_):
        raise Diverged(0, 7, float("nan"))
        yield

    monkeypatch.setattr(searched, "epochs_of", diverge)
    flags = Namespace(searched=searched.SearchedModel({}, Path("data"), "cpu"))
    with pytest.raises(UserError, match="seed 2: the loss became nan at step 7 of epoch 0: --lr 9"):
        tune.test_figures(("--lr 9", 2), None, flags)

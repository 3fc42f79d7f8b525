"""Pictures show the figures of their runs, and a run without matplotlib or TensorBoard goes on without them."""

import csv
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from comparison.compare import Estimate
from comparison.report import picture
from main import run
from runs.parameters import parse_flags
from runs.plot import bars, learning_curves, write_picture
from runs.runfolder import RunFolder
from terminal.atomicfile import write_csv
from terminal.errors import UserError
from tools.plot import read_history, what_differs

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def without_matplotlib():
    """The tests of this file have it."""


def history(n_epochs, *ks, seed=0):
    rng = np.random.default_rng(seed)
    columns = ["train_loss", *(f"{name}@{k}" for k in ks for name in ("recall", "mrr"))]
    return [{"epoch": epoch} | {column: rng.random() for column in columns} for epoch in range(n_epochs)]


def test_every_figure_of_every_run_is_a_line_with_its_name():
    runs = {"a": history(3, 5, 20), "b lr=0.1": history(5, 20, seed=1)}
    drawn = {}
    for axes in learning_curves(runs).axes:
        for line in axes.lines:
            drawn[axes.get_title(), line.get_label()] = line
    assert {key: line.get_xydata().tolist() for key, line in drawn.items()} == {
        (title, label): [[row["epoch"], row[column]] for row in runs[run]]
        for title, name in (("Recall", "recall"), ("MRR", "mrr"))
        for label, run, column in (
            ("a @5", "a", f"{name}@5"),
            ("a @20", "a", f"{name}@20"),
            ("b lr=0.1 @20", "b lr=0.1", f"{name}@20"),
        )
    } | {("training loss", run): [[row["epoch"], row["train_loss"]] for row in runs[run]] for run in runs}
    one, other, third = (drawn["MRR", label] for label in ("a @5", "a @20", "b lr=0.1 @20"))
    assert one.get_color() == other.get_color() != third.get_color()
    assert one.get_linestyle() != other.get_linestyle() == third.get_linestyle()


@pytest.mark.parametrize("blank", [None, ""])
def test_epochs_that_were_not_evaluated_are_left_out_and_samples_are_named(blank):
    rows = history(5, 20)
    for epoch in (0, 2):
        rows[epoch] |= {"recall@20": blank, "mrr@20": blank}
    loss, recall, mrr = (axes.lines[0].get_xdata().tolist() for axes in learning_curves({"a": rows}).axes)
    assert (loss, recall, mrr) == ([0, 1, 2, 3, 4], [1, 3, 4], [1, 3, 4])
    without = [{"epoch": epoch, "train_loss": 1.0} for epoch in range(2)]
    assert [axes.get_title() for axes in learning_curves({"a": without}).axes] == ["training loss"]
    sample = history(2, "20 of 9 sessions")
    assert [axes.get_title() for axes in learning_curves({"a": sample}).axes][1:] == [
        "Recall@20 of 9 sessions",
        "MRR@20 of 9 sessions",
    ]


def test_the_legend_has_what_there_is_to_tell_apart():
    def legend(runs):
        return [text.get_text() for legend in learning_curves(runs).legends for text in legend.get_texts()]

    assert legend({"a": history(2, 20)}) == []
    assert legend({"a": history(2, 5, 20)}) == ["@5", "@20"]
    assert legend({"a": history(2, 20), "b": history(1, 20)}) == ["a", "b"]
    one, several = (learning_curves({"a": history(2, *ks)}) for ks in ((20,), (5, 20)))
    assert [axes.get_title() for axes in one.axes] == ["training loss", "Recall@20", "MRR@20"]
    assert [axes.get_title() for axes in several.axes] == ["training loss", "Recall", "MRR"]


def test_a_metric_that_was_asked_for_has_a_picture_and_others_have_none():
    rows = [{"epoch": 0, "train_loss": 0.5, "ndcg@20": 0.1, "coverage@20": 0.7, "seconds": 1.0}]
    assert [axes.get_title() for axes in learning_curves({"a": rows}).axes] == [
        "training loss",
        "NDCG@20",
        "Coverage@20",
    ]


def test_a_comparison_is_drawn_with_its_intervals():
    """Dots are figures and differences, lines their intervals, as far as there are some; of the first cutoff."""
    common = {"n_next_clicks": 90, "metric": "recall", "k": 5}
    whole, group = ({"by": by, "group": label, "n_sessions": n} for by, label, n in (("all", "", 40), ("x", "1", 9)))
    estimates = [
        Estimate(**common, **whole, name="a", minus="", value=0.5, low=0.4, high=0.6),
        Estimate(**common, **whole, name="b", minus="", value=0.7, low=0.6, high=0.8),
        Estimate(**common, **whole, name="b", minus="a", value=0.2, low=0.1, high=0.3, p=0.01, p_holm=0.01),
        Estimate(**common, **group, name="b", minus="a", value=0.1, low=np.nan, high=np.nan),
    ]
    estimates += [replace(each, k=20, value=0.9) for each in estimates]
    figures, differences = picture(estimates).axes
    assert figures.get_title() == "Recall@5"
    assert [label.get_text() for label in figures.get_yticklabels()] == ["a", "b"]
    assert figures.lines[0].get_xydata().tolist() == [[0.5, 0], [0.7, 1]]
    assert [part.tolist() for part in figures.collections[0].get_segments()] == [
        [[0.4, 0], [0.6, 0]],
        [[0.6, 1], [0.8, 1]],
    ]
    assert [label.get_text() for label in differences.get_yticklabels()] == ["all", "x: 1"]
    assert differences.lines[0].get_xydata().tolist() == [[0.2, 0], [0.1, 1]]
    assert differences.collections[0].get_segments()[0].tolist() == [[0.1, 0], [0.3, 0]]
    assert len(picture(estimates[:1]).axes) == 1


def test_bars_have_the_mean_and_dots_the_values():
    figure = bars({"Recall@20": {"POP": [0.1], "best": [0.2, 0.4]}, "MRR@20": {"POP": [0.01], "best": [0.3, 0.1]}})
    widths = [[bar.get_width() for bar in axes.patches] for axes in figure.axes]
    assert np.allclose(widths, [[0.1, 0.3], [0.01, 0.2]])
    dots = [axes.collections[0].get_offsets().tolist() for axes in figure.axes]
    assert dots == [[[0.1, 0], [0.2, 1], [0.4, 1]], [[0.01, 0], [0.3, 1], [0.1, 1]]]


@pytest.fixture
def train(data_folder, tmp_path):
    """Trains and gives the run folder."""

    def run_main(line):
        base = f"--hidden_size 4 --device cpu --data_folder {data_folder} --checkpoint_dir {tmp_path}"
        before = set(tmp_path.iterdir())
        assert run(parse_flags(f"{base} {line}".split())) == 0
        return ({*tmp_path.iterdir()} - before or before).pop()

    return run_main


def test_a_run_draws_after_every_epoch(train, monkeypatch):
    drawn = []
    monkeypatch.setattr("runs.epochs.learning_curves", lambda runs: drawn.append(runs) or learning_curves(runs))
    folder = train("--n_epochs 2 --k_eval 5 20")
    assert (folder / "metrics.png").read_bytes().startswith(PNG)
    assert [list(runs) for runs in drawn] == [[folder.name]] * 2
    shown = [{name: str(value) for name, value in row.items()} for row in drawn[-1][folder.name]]
    assert shown == read_history(folder)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda monkeypatch: monkeypatch.setitem(sys.modules, "matplotlib.figure", None), "is not installed: pip"),
        (
            lambda monkeypatch: monkeypatch.setattr("runs.epochs.learning_curves", lambda runs: 1 / 0),
            "matplotlib failed: division by zero",
        ),
    ],
)
def test_a_run_that_cannot_draw_says_so_once_and_goes_on(train, monkeypatch, capsys, broken, reason):
    broken(monkeypatch)
    folder = train("--n_epochs 3")
    said = "".join(capsys.readouterr())
    assert said.count("no metrics.png: ") == 1
    assert reason in said
    assert not (folder / "metrics.png").exists()
    assert len(read_history(folder)) == 3


def test_a_picture_that_cannot_be_written_is_a_mistake_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        write_picture(lambda: learning_curves({"a": history(1, 20)}), tmp_path / "nowhere" / "x.png")
    (tmp_path / "x.png").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_picture(lambda: 1 / 0, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def tensorboard_scalars(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_figures_also_after_resuming(train):
    folder = train("--n_epochs 1 --tensorboard")
    assert train("--n_epochs 3 --tensorboard --resume") == folder
    rows = read_history(folder)
    scalars = tensorboard_scalars(folder)
    assert set(scalars) == set(rows[0]) - {"epoch"}
    for name, values in scalars.items():
        assert values == [(int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-6)) for row in rows]


def test_tensorboard_has_nothing_of_epochs_that_were_not_evaluated(train):
    scalars = tensorboard_scalars(train("--n_epochs 3 --eval_every 2 --tensorboard"))
    assert [epoch for epoch, _ in scalars["mrr@20"]] == [1, 2]
    assert [epoch for epoch, _ in scalars["train_loss"]] == [0, 1, 2]


def test_without_tensorboard_a_run_says_so_and_goes_on(train, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    folder = train("--n_epochs 2 --tensorboard")
    assert capsys.readouterr().err.count("TensorBoard is not installed: pip install tensorboard") == 1
    assert len(read_history(folder)) == 2
    assert not list(folder.glob("events*"))


def test_runs_are_named_by_what_differs(tmp_path):
    folders = [tmp_path / name for name in ("one/0101", "two/0102", "two/0101")]
    for folder, lr, device in zip(folders, ("0.1", "0.2", "0.1"), ("cpu", "cuda", "cuda"), strict=True):
        folder.mkdir(parents=True)
        RunFolder(folder).write_parameters({"lr": lr, "eps": 1e-6, "device": device})
    assert what_differs(folders[:2]) == ["0101 lr=0.1", "0102 lr=0.2"]
    assert what_differs(folders[1:2]) == ["0102"]
    assert what_differs([folders[0], folders[2]]) == list(map(str, folders[::2]))
    (folders[1] / "parameter.txt").unlink()
    assert what_differs(folders[:2]) == ["0101 lr=0.1 eps=1e-06", "0102"]
    for folder, preset in zip(folders[:2], ("authors-best", "authors-coveo"), strict=True):
        RunFolder(folder).write_parameters({"preset": preset, "n_epochs": len(preset)})
    assert what_differs(folders[:2]) == ["0101 preset=authors-best", "0102 preset=authors-coveo"]


def test_plot_as_a_user_runs_it(run_script, tmp_path):
    for name in ("0101", "0102"):
        (tmp_path / "checkpoint" / name).mkdir(parents=True)
        write_csv(tmp_path / "checkpoint" / name / "metrics.csv", history(2, 20))
    runs = ("checkpoint/0101", "checkpoint/0102")
    assert run_script("tools.plot", *runs, PYTHONPATH=str(ROOT)).stdout == "curves.png: 2 runs\n"
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    refused = run_script("tools.plot", *runs, "--output", "x.png", expect=2)
    assert refused.stderr == "error: no x.png: matplotlib is not installed: pip install matplotlib\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a run writes it after an epoch"),
        ("epoch,train_loss\n", "has no epoch yet"),
        ("epoch,train_loss\n0\n", "not a table of a run"),
        ("epoch,recall@20\n0,x\n", "not a table of a run"),
        ("a,b\n1,2\n", "not a table of a run"),
        ("\xff\xfe", "cannot read"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read_history(tmp_path)


def test_a_folder_of_runs_is_told_from_a_run(tmp_path):
    (tmp_path / "0101").mkdir()
    with open(tmp_path / "0101" / "metrics.csv", "w") as file:
        csv.writer(file).writerow(["epoch"])
    with pytest.raises(UserError, match=r"name a run folder in it, such as .*0101"):
        read_history(tmp_path)


def test_a_row_with_more_values_than_columns_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train_loss,recall@20,mrr@20\n0,1.5,0.1,0.05,7\n")
    with pytest.raises(UserError, match="not a table of a run"):
        read_history(tmp_path)

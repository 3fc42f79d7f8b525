"""Six training runs of the authors' PyTorch code, step by step: batches, losses, weights, metrics."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import feed_of, needs_compiler

from clicks.clickfile import Clicks
from clicks.itemindex import ItemIndex
from dataset import SessionParallelBatches, encode_sessions
from evaluation import evaluate
from faster.compilation import choose_step
from faster.cudagraph import GraphedStep
from lossfunction import make_loss_function
from model import GRU4Rec
from optimizer import Optimizer, adagrad
from training import EpochProgress, TrainingStep, train_epoch, training_step

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parent / "golden"
ARRAYS = np.load(GOLDEN / "authors_pytorch_golden.npz")
CASES = json.loads((GOLDEN / "authors_pytorch_golden.json").read_text())


def golden_clicks(name: str) -> Clicks:
    session, item, seconds = ARRAYS[name].T
    return Clicks(session, item, seconds * 1000)


def golden_weights(case: str, moment: str) -> dict[str, torch.Tensor]:
    """The authors' parameters under our names and in our order of gates.

    Their embedding modes use PyTorch's cell, whose update gate weighs the old state: it is one minus the paper's z, and
    since sigmoid(-a) = 1 - sigmoid(a), the two differ by the sign of that gate's weights.
    """
    prefix = f"{case}/{moment}/"
    theirs = {name[len(prefix) :]: torch.from_numpy(ARRAYS[name]) for name in ARRAYS.files if name.startswith(prefix)}
    ours = {"output_embedding": theirs["Wy.weight"], "output_bias": theirs["By.weight"][:, 0]}
    size = ours["output_embedding"].shape[1]
    if "GE.Wx0.weight" in theirs:
        reorder = torch.cat((torch.arange(size, 3 * size), torch.arange(size)))  # c, r, z to r, z, c
        ours["input_weight"] = theirs["GE.Wx0.weight"][:, reorder]
        ours["cells.0.weight"] = torch.cat((theirs["GE.Wrz0"], theirs["GE.Wh0"]), dim=1).T
        ours["cells.0.bias"] = theirs["GE.Bh0"][reorder]
    sign = torch.ones(3 * size)
    sign[size : 2 * size] = -1
    for layer in range(sum(name.endswith("weight_ih") for name in theirs)):
        ours[f"projections.{layer}.weight"] = sign[:, None] * theirs[f"G.{layer}.weight_ih"]
        ours[f"projections.{layer}.bias"] = sign * theirs[f"G.{layer}.bias_ih"]
        ours[f"cells.{layer}.weight"] = sign[:, None] * theirs[f"G.{layer}.weight_hh"]
        ours[f"cells.{layer}.bias"] = sign * theirs[f"G.{layer}.bias_hh"]
    if "E.weight" in theirs:
        ours["input_embedding"] = theirs["E.weight"]
    return ours


class Recorded:
    """Stands in for the sampler with the negatives that the authors' code drew, and compares the mini-batches."""

    def __init__(self, case: str, batch_size: int, device: torch.device):
        self.case, self.batch_size, self.device = case, batch_size, device
        self.steps_seen = 0
        self.steps_per_epoch = len(ARRAYS[f"{case}/losses"]) // CASES[case]["params"]["n_epochs"]

    def check_batch(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        for name, row in (("inputs", inputs), ("targets", targets)):
            padded = np.concatenate((row.numpy(), np.full(self.batch_size - len(row), -1)))
            np.testing.assert_array_equal(ARRAYS[f"{self.case}/{name}"][self.steps_seen], padded)
        self.steps_seen += 1

    def draw(self, n_steps: int, epoch: int, first_step: int) -> torch.Tensor:
        if CASES[self.case]["params"]["n_sample"] == 0:
            return torch.empty(n_steps, 0, dtype=torch.int64, device=self.device)
        first = epoch * self.steps_per_epoch + first_step
        return torch.from_numpy(ARRAYS[f"{self.case}/negatives"][first : first + n_steps]).to(self.device)


class NotingStep:
    """Notes the loss of every step."""

    def __init__(self, step: TrainingStep):
        self.step = step
        self.losses = []

    def __call__(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss, hidden = self.step(*arguments)
        self.losses.append(loss.item())
        return loss, hidden


class NotingSteps(NotingStep):
    """Notes the losses of a step that takes many at once, too."""

    def __init__(self, step: GraphedStep):
        super().__init__(step)
        self.n_at_once = step.n_at_once

    def take_many(self, *arguments: Any) -> tuple[Sequence[torch.Tensor], list[torch.Tensor]]:
        losses, states = self.step.take_many(*arguments)
        self.losses += [loss.item() for loss in losses]
        return losses, states


COMPILED_QUICKLY = ("xe_shared_logq_sampled", "bprmax_onehot_sampled", "xe_separate_two_layers")
COMPILED = [
    pytest.param(case, "on", id=f"{case}-compiled", marks=[] if case in COMPILED_QUICKLY else [pytest.mark.long])
    for case in CASES
]


@pytest.mark.parametrize("case", CASES)
def test_golden_run(case):
    train_golden_run(case, NotingStep(training_step))


@needs_compiler
@pytest.mark.parametrize(("case", "compilation"), COMPILED)
def test_golden_run_compiled(case, compilation, capsys):
    train_golden_run(case, NotingStep(choose_step(compilation, CPU)))
    assert capsys.readouterr().err == ""  # where compilation fails, it says so


@pytest.mark.parametrize("n_at_once", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_golden_run_as_on_a_gpu(case, n_at_once, as_on_a_gpu, capsys, monkeypatch):
    monkeypatch.setattr(GraphedStep, "n_at_once", n_at_once)
    step = GraphedStep(training_step)
    train_golden_run(case, NotingSteps(step))
    assert (step.graph_of_many is not None) == (n_at_once > 1)
    assert capsys.readouterr().err == ""


@pytest.mark.cuda
@pytest.mark.parametrize(("case", "compilation"), [*(pytest.param(case, "auto", id=case) for case in CASES), *COMPILED])
def test_golden_run_on_cuda(case, compilation, capsys, monkeypatch):
    """Not compiled, and compiled: either way in graphs, of one step and of three."""
    monkeypatch.setattr(GraphedStep, "n_at_once", 3)
    step = choose_step(compilation, torch.device("cuda"))
    train_golden_run(case, NotingSteps(step), torch.device("cuda"), tolerance=1e-4)
    assert step.graph_of_many is not None
    assert capsys.readouterr().err == ""


def train_golden_run(case: str, step: NotingStep, device: torch.device = CPU, tolerance: float = 1e-5) -> None:
    """Train as the authors' code did, and compare all that it recorded, weights to ten times the tolerance of losses.

    On a CPU all ranks are the same, too; on CUDA one may be another.
    """
    p = CASES[case]["params"]
    clicks = golden_clicks("train")
    index = ItemIndex.of(clicks)
    np.testing.assert_array_equal(index.ids, ARRAYS[f"{case}/item_ids"])
    sessions, _ = encode_sessions(clicks, index)
    support = torch.from_numpy(sessions.support(len(index)))

    cross_entropy = p["loss"] == "cross-entropy"
    final_act = "softmax" if cross_entropy else f"elu-{p['elu_param']}" if p["elu_param"] else "linear"
    model = GRU4Rec(
        len(index),
        hidden_size=p["layers"][0],
        num_layers=len(p["layers"]),
        embedding_dim=p.get("embedding", 0),
        constrained_embedding=p["constrained_embedding"],
        final_act=final_act,
    )
    model.load_state_dict(golden_weights(case, "init"))
    model.to(device)
    optimizer = Optimizer(model.network_parameters(), model.item_tables(), adagrad(p["learning_rate"], p["momentum"]))
    loss_function = make_loss_function(
        "CrossEntropy" if cross_entropy else "BPR-max",
        bpreg=p.get("bpreg", 0.0),
        logq=p.get("logq", 0.0),
        sample_alpha=p.get("sample_alpha", 0.0),
        support=support.to(device),
    )
    batches = SessionParallelBatches(sessions, p["batch_size"], min_alive=1 if p["n_sample"] else 2, block_steps=7)
    recorded = Recorded(case, p["batch_size"], device)
    for epoch in range(p["n_epochs"]):
        for block in batches:
            for inputs, targets, _, _ in map(block.step, range(len(block))):
                recorded.check_batch(inputs, targets)
        feed, progress = feed_of(model, batches, recorded), EpochProgress(epoch)
        train_epoch(model, optimizer, loss_function, feed, progress, step=step)
    np.testing.assert_allclose(step.losses, ARRAYS[f"{case}/losses"], rtol=0, atol=tolerance)
    for name, weight in golden_weights(case, "final").items():
        torch.testing.assert_close(model.state_dict()[name].cpu(), weight, rtol=0, atol=10 * tolerance)

    test_sessions, n_dropped = encode_sessions(golden_clicks("test"), index)
    assert n_dropped == 0
    one_rank = 1 / test_sessions.n_next_clicks if device.type == "cuda" else 0.0
    for tie_breaking, theirs in CASES[case]["metrics"].items():
        ours = evaluate(model, test_sessions, (1, 5, 10), tie_breaking, batch_size=4)
        for k in (1, 5, 10):
            assert ours.recall[k] == pytest.approx(theirs[f"recall@{k}"], rel=0, abs=one_rank)
            assert ours.mrr[k] == pytest.approx(theirs[f"mrr@{k}"], abs=1e-7 + one_rank)  # from a float32 sum

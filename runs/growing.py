"""Growing (``--grow``): a checkpoint that goes on with other clicks, and learns the items that it did not know.

Its items keep their rows, whether they are clicked or not. New ones get rows behind these: weights as a new model of so
many items would draw them, and an optimizer's state of zeros, which is what every row begins with. All the rest goes on
as if an epoch had ended. What it was before is noted in ``grown_from``: file, epoch, clicks, and number of items.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataset import seed_of
from optimizer import make_rule
from runs.combinations import DEFAULT_FINAL_ACT, refuse_contradictions, warn_of_no_effect
from runs.parameters import shown
from runs.restoring import make_model, misfit, restored
from runs.runfolder import is_mean
from runs.trainingdata import TrainingData
from terminal.errors import UserError

# What a grown model keeps: what its weights are, the rule of new ones, and what the optimizer's state is of.
KEPT = (
    *("hidden_size", "num_layers", "embedding_dim", "constrained_embedding", "reset_gate"),
    *("sigma", "seed", "optimizer_type"),
)


def grown_parameters(checkpoint: dict[str, Any], saved: dict[str, Any], flags: dict[str, Any], path: Path) -> Namespace:
    """The parameters of a checkpoint with those of the flags, which may be all but the ones that it keeps.

    Args:
        checkpoint: an epoch that has ended.
        saved: its parameters.
        flags: ``n_epochs`` counts passes over the new clicks.
        path: of the checkpoint.

    Raises:
        UserError: the checkpoint cannot grow, or not with these flags.
    """
    if is_mean(checkpoint):
        raise UserError(f"{path} is the mean of several epochs: grow one of them")
    if checkpoint["within_epoch"] is not None:
        raise UserError(f"{path} was saved within an epoch: go on to its end first, without --grow")
    for name in KEPT:
        if flags.get(name, saved[name]) != saved[name]:
            raise UserError(
                f"--{name} {shown(flags[name])} differs from the checkpoint's {shown(saved[name])}, which a model that "
                "grows keeps: leave the flag out, or start anew without --load_model"
            )
    p = Namespace(**saved | {"device": None, "n_epochs": saved["n_epochs"] - first_epoch(checkpoint, path)} | flags)
    if p.loss_type != saved["loss_type"] and "final_act" not in flags:
        p.final_act = DEFAULT_FINAL_ACT[p.loss_type]
    n_states = [make_rule(p.optimizer_type, p.lr, momentum, p.eps)[1] for momentum in (p.momentum, saved["momentum"])]
    if n_states[0] != n_states[1]:
        raise UserError(
            f"--momentum {p.momentum} differs from the checkpoint's {saved['momentum']}, and one of them is none: the "
            "optimizer's state is another, so leave the flag out, or start anew without --load_model"
        )
    refuse_contradictions(p)
    warn_of_no_effect(p, flags)
    p.load_model, p.grow = str(path), True
    p.n_epochs += checkpoint["epoch"] + 1
    return p


def first_epoch(checkpoint: dict[str, Any], path: Path | str) -> int:
    """The first epoch on the clicks that a checkpoint was trained on last: 0, unless it has grown.

    Raises:
        UserError: what the checkpoint says of its growth makes no sense.
    """
    try:
        first = checkpoint["grown_from"][-1]["epoch"] + 1 if checkpoint.get("grown_from") else 0
        if not isinstance(first, int) or not 0 <= first <= checkpoint["epoch"] + 1:
            raise ValueError("it grew from an epoch that comes after it")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise misfit(path, error) from error
    return first


def grown(checkpoint: dict[str, Any], parameters: Namespace, data: TrainingData, path: Path) -> dict[str, Any]:
    """A checkpoint as if its last epoch had been on other clicks, from which training goes on.

    Args:
        checkpoint: an epoch that has ended.
        parameters: of :func:`grown_parameters`.
        data: the other clicks; its items begin with those of the checkpoint.
        path: of the checkpoint.

    Returns:
        All of :data:`runs.runfolder.CONTENT`. The history is empty: its figures were of other clicks.

    Raises:
        UserError: the checkpoint's parts contradict each other.
    """
    model, index = restored(checkpoint, parameters, path)
    n_known, n_items = len(index), len(data.index)
    fresh, weights = _fresh_model(parameters, n_known, n_items), model.state_dict()
    try:
        state = {
            name: [torch.cat((each, each.new_zeros(n_items - n_known, *each.shape[1:]))) for each in of_weight]
            if name in model.table_names
            else of_weight
            for name, of_weight in checkpoint["optimizer"]["state"].items()
        }
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise misfit(path, error) from error
    tables = {name: torch.cat((weights[name], fresh.pop(name)[n_known:])) for name in model.table_names}
    before = {
        "checkpoint": str(path),
        "epoch": checkpoint["epoch"],
        "train_data": checkpoint["parameters"].get("train_data"),
        "checksums": checkpoint.get("checksums", {}),
        "n_items": n_known,
    }
    return checkpoint | {
        "parameters": vars(parameters),
        "item_ids": data.index.state(),
        "support": data.support,
        "checksums": data.checksums,
        "model": weights | tables,
        "optimizer": checkpoint["optimizer"] | {"state": state},
        "history": [],
        "grown_from": [*checkpoint.get("grown_from", []), before],
    }


def _fresh_model(parameters: Namespace, n_known: int, n_items: int) -> dict[str, Tensor]:
    """Weights of a new model of so many items; they depend on the seed and on how many items were known.

    No other random numbers are touched, and none are the same: the place of negative samples has two numbers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(parameters.seed, 0, 0, n_known))
        return make_model(parameters, n_items).state_dict()

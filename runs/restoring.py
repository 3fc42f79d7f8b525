"""A model and its items, made new or brought back from a checkpoint."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from clicks.itemindex import ItemIndex
from faster.device import choose_device
from model import GRU4Rec
from runs.parameters import checked_parameters, evaluation_parameters
from terminal.errors import UserError


def make_model(parameters: Namespace, n_items: int) -> GRU4Rec:
    """A model with fresh weights."""
    return GRU4Rec(
        n_items,
        hidden_size=parameters.hidden_size,
        num_layers=parameters.num_layers,
        embedding_dim=parameters.embedding_dim,
        constrained_embedding=parameters.constrained_embedding,
        dropout_input=parameters.dropout_input,
        dropout_hidden=parameters.dropout_hidden,
        reset_gate=parameters.reset_gate,
        final_act=parameters.final_act,
        sigma=parameters.sigma,
    )


def restored_for_evaluation(
    checkpoint: dict[str, Any], path: Path, flags: dict[str, Any]
) -> tuple[Namespace, GRU4Rec, ItemIndex]:
    """The parameters of a checkpoint with the flags of an evaluation, its model on their device, and its items.

    Raises:
        UserError: the checkpoint's parts contradict each other, or there is no such device.
    """
    parameters = evaluation_parameters(saved_parameters(checkpoint, path), flags)
    model, index = restored(checkpoint, parameters, path)
    return parameters, model.to(choose_device(parameters.device)), index


def saved_parameters(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The parameters of a checkpoint, each of them checked.

    Raises:
        UserError: one is unknown, or has a value that no flag could give it.
    """
    try:
        return checked_parameters(checkpoint["parameters"])
    except ValueError as error:
        raise misfit(path, error) from error


def restored(checkpoint: dict[str, Any], parameters: Namespace, path: Path) -> tuple[GRU4Rec, ItemIndex]:
    """A model with the weights of a checkpoint, and its items; parameters alone cannot make it take memory.

    Args:
        path: of the checkpoint, for the error.

    Raises:
        UserError: its parameters, items, support and weights are not of one model.
    """
    weights, support, index = checkpoint["model"], checkpoint["support"], items_of(checkpoint, path)
    if support.shape != (len(index),) or support.dtype != torch.int64 or not bool((support > 0).all()):
        raise misfit(path, "its support is not that of its items")
    fits = (
        all(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in weights.values())
        and sum(str(name).startswith("cells.") for name in weights) == 2 * parameters.num_layers
    )
    if fits:
        try:
            with torch.device("meta"):
                model = make_model(parameters, len(index))
            model.load_state_dict(weights, assign=True)
        except (RuntimeError, TypeError, AttributeError):
            fits = False
    if not fits:
        raise misfit(path, "its weights are not those of its parameters and its items")
    return model, index


def items_of(checkpoint: dict[str, Any], path: Path | str) -> ItemIndex:
    """The items of a checkpoint.

    Raises:
        UserError: they are no list of ids.
    """
    try:
        return ItemIndex.from_state(checkpoint["item_ids"])
    except ValueError as error:
        raise misfit(path, error) from error


def misfit(path: Path | str, reason: object) -> UserError:
    """The error of a checkpoint whose parts contradict each other."""
    return UserError(f"{path} does not fit together: {reason}")

"""The mean of the weights of several epochs of a run, as a checkpoint of its own.

Late in training, weights wander around a good place more than they go to a better one, and the middle of where they
were is often a better model than any of them (Izmailov et al., Averaging Weights Leads to Wider Optima and Better
Generalization, UAI 2018). The mean is evaluated and recommends like every checkpoint, but training cannot go on from
it. The figures of its history are those of single epochs.
"""

import argparse
from pathlib import Path
from typing import Any

from runs.parameters import FREE_ON_RESUME
from runs.restoring import restored, saved_parameters
from runs.runfolder import EXAMPLE, is_mean, read_checkpoint
from terminal.errors import UserError


def average(paths: list[Path]) -> dict[str, Any]:
    r"""A checkpoint with the mean of the weights of some epochs, :math:`\frac{1}{n} \sum_k w_k`.

    It has no optimizer state, so that training does not go on from it; all the rest is the last epoch's.

    Raises:
        UserError: a file is unusable, or they are not different ended epochs of one run.
    """
    if len(paths) < 2:
        raise UserError(f"{paths[0]} is a single epoch: name two at least")
    last, of_run, of_clicks, by_epoch, total = None, None, None, {}, {}
    for path in paths:
        checkpoint = _read_epoch(path)
        run, clicks = _what_a_run_keeps(checkpoint), checkpoint.get("checksums")
        of_run, of_clicks = of_run or run, of_clicks or clicks  # earlier versions did not note the latter
        if run != of_run or clicks not in (None, of_clicks):
            raise UserError(f"{path} is of another run than {paths[0]}: name epochs of one run")
        epoch = checkpoint["epoch"]
        if epoch in by_epoch:
            raise UserError(f"{by_epoch[epoch]} and {path} are both of epoch {epoch}: name every epoch once")
        by_epoch[epoch] = path
        for name, weight in checkpoint["model"].items():
            total[name] = total.get(name, 0) + weight.double()
        if last is None or epoch > last["epoch"]:
            last = checkpoint
    return last | {"model": {name: (weight / len(paths)).float() for name, weight in total.items()}}


def _read_epoch(path: Path) -> dict[str, Any]:
    """A checkpoint whose weights fit its parameters and its items, without its optimizer's state."""
    checkpoint = read_checkpoint(path)
    if is_mean(checkpoint):
        raise UserError(f"{path} is a mean of epochs already: name the epochs themselves")
    if checkpoint["within_epoch"] is not None:
        raise UserError(f"{path} was saved within an epoch: name ended epochs, such as {EXAMPLE}")
    parameters = saved_parameters(checkpoint, path)
    restored(checkpoint, argparse.Namespace(**parameters), path)  # its weights fit, or that says what does not
    return checkpoint | {"parameters": parameters, "optimizer": {}}


def _what_a_run_keeps(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], list[int | str], list[int]]:
    """What is the same in all checkpoints of a run, wherever its files are: parameters, items, support."""
    parameters = {name: value for name, value in checkpoint["parameters"].items() if name not in FREE_ON_RESUME}
    items = checkpoint["item_ids"]
    return parameters, items if isinstance(items, list) else items.tolist(), checkpoint["support"].tolist()

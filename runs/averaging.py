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
from runs.runfolder import EXAMPLE, MEAN, RunFolder, figures, is_mean, read_checkpoint, write_checkpoint
from runs.trainingrun import TrainingRun
from terminal.errors import UserError


def epochs_to_average(run: TrainingRun) -> range:
    """The epochs whose mean the run is asked for with ``--average``; none where it is not."""
    p = run.parameters
    return range(p.n_epochs - p.average, p.n_epochs)


def refuse_missing_epochs(run: TrainingRun, folder: RunFolder | None) -> None:
    """Make sure before training that what ended before can be averaged at the end.

    Args:
        folder: of the run; None where it is to have a new one.

    Raises:
        UserError: the checkpoint of an epoch is neither in the folder nor beside the one that the run went on from.
    """
    epochs = epochs_to_average(run)
    if epochs and epochs[0] < run.first_epoch:
        n_here = epochs[-1] + 1 - run.first_epoch
        raise UserError(
            f"--average {len(epochs)} takes epochs of before the model grew, whose clicks were others: "
            + (f"lower it to {n_here}" if n_here > 1 else "name --average 0")
        )
    missing = [epoch for epoch in epochs if epoch < run.progress.epoch and not _checkpoint_of(epoch, run, folder)]
    if missing and not (folder and folder.has_mean_of(epochs)):
        n_left = epochs[-1] - missing[-1]
        raise UserError(
            f"--average {len(epochs)} needs the checkpoints of epochs {epochs[0]} to {epochs[-1]}, and that of epoch "
            f"{missing[-1]} is gone: " + (f"lower it to {n_left}" if n_left > 1 else "name --average 0")
        )


def write_mean(run: TrainingRun, folder: RunFolder) -> None:
    """Write the mean of a run's last epochs to its folder, evaluate it, and print its figures beside the last epoch's.

    Raises:
        UserError: a checkpoint cannot be read, or the mean not be written.
    """
    epochs, p = epochs_to_average(run), run.parameters
    if folder.has_mean_of(epochs):
        return
    mean, path = average([_checkpoint_of(epoch, run, folder) for epoch in epochs]), folder.path / MEAN
    write_checkpoint(path, mean)
    said = f"mean of epochs {epochs[0]} to {epochs[-1]}"
    of_mean = {}
    if run.valid_sessions:
        model, _ = restored(mean, p, path)
        metrics = run.evaluate(model.to(run.device))
        of_mean = figures(metrics, p.eval_sessions)
        last = " ".join(
            "not evaluated" if run.history[-1][name] is None else f"{run.history[-1][name]:.6f}" for name in of_mean
        )
        said += f" {' '.join(metrics.line(k) for k in p.k_eval)}{run.sample} (epoch {epochs[-1]} alone: {last})"
    folder.write_mean_metrics(epochs, of_mean)
    print(f"{said} {path}", flush=True)


def _checkpoint_of(epoch: int, run: TrainingRun, folder: RunFolder | None) -> Path | None:
    """The checkpoint of an ended epoch, of this run or of the one that it went on from."""
    went_on_from = RunFolder(Path(run.parameters.load_model).parent) if run.parameters.load_model else None
    paths = [each.epoch_path(epoch) for each in (folder, went_on_from) if each]
    return next((path for path in paths if path.exists()), None)


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

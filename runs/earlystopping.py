"""Early stopping (``--patience``): which epoch of a run is its best one, and when to wait for a better one no longer.

What counts is MRR@K of the smallest K on the validation file. The papers train for a fixed number of epochs.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from evaluation import METRICS
from runs.restoring import misfit
from runs.runfolder import RunFolder, column_of

History = list[dict[str, Any]]  # a row of metrics.csv per epoch, one at least; figures are None where there are none
WATCHED = "mrr"


def watched(parameters: Namespace) -> str:
    """The column that counts; it says so where it is of a sample of sessions."""
    return column_of(WATCHED, parameters.k_eval[0], parameters.eval_sessions)


def best_row(history: History, parameters: Namespace) -> dict[str, Any] | None:
    """The row of the best epoch, the earliest of equal ones; None where none was evaluated."""
    column = watched(parameters)
    return max((row for row in history if row[column] is not None), key=lambda row: row[column], default=None)


def kept_epoch(history: History, parameters: Namespace) -> int | None:
    """The epoch whose checkpoint ``--keep_checkpoints`` must not delete."""
    best = best_row(history, parameters) if parameters.patience else None
    return best and best["epoch"]


def is_patience_over(history: History, parameters: Namespace) -> bool:
    """Whether the last epochs, as many as the patience, were no better than one before; the last must be evaluated."""
    if not parameters.patience or not history or history[-1][watched(parameters)] is None:
        return False
    return history[-1]["epoch"] - best_row(history, parameters)["epoch"] >= parameters.patience


def stopped_early(checkpoint: dict[str, Any], parameters: Namespace, path: Path) -> bool:
    """Whether the run of a checkpoint is at its end with this patience.

    Raises:
        UserError: the checkpoint's history is none.
    """
    try:
        return is_patience_over(checkpoint["history"], parameters)
    except (KeyError, TypeError, AttributeError) as error:
        raise misfit(path, "its history has other columns") from error


def outcome(history: History, parameters: Namespace, folder: RunFolder | None) -> str:
    """The best epoch, its figure and its checkpoint, in a line.

    Args:
        folder: of the run; the epochs before a ``--load_model`` are beside that one.
    """
    row = best_row(history, parameters)
    if row is None:
        return "no epoch has been evaluated yet"
    folders = [folder] if folder else []
    folders += [RunFolder(Path(parameters.load_model).parent)] if parameters.load_model else []
    paths = [path for path in (each.epoch_path(row["epoch"]) for each in folders) if path.exists()]
    where = paths[0] if paths else "its checkpoint is in the folder of an earlier run"
    figure = watched(parameters).replace(WATCHED, METRICS[WATCHED])
    return f"best epoch: {row['epoch']}, {figure}: {row[watched(parameters)]:.6f}, {where}"

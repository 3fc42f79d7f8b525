"""Early stopping (``--patience``): which epoch of a run is its best one, and when to wait for a better one no longer.

What counts is MRR@K of the smallest K on the validation file. The papers train for a fixed number of epochs.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from evaluation import METRICS
from runs.restoring import misfit
from runs.runfolder import RunFolder

History = list[dict[str, Any]]  # a row of metrics.csv per epoch, one at least
WATCHED = "mrr"


def best_row(history: History, parameters: Namespace) -> dict[str, Any]:
    """The row of the best epoch; the earliest of equal ones."""
    return max(history, key=lambda row: row[f"{WATCHED}@{parameters.k_eval[0]}"])


def kept_epoch(history: History, parameters: Namespace) -> int | None:
    """The epoch whose checkpoint ``--keep_checkpoints`` must not delete."""
    return best_row(history, parameters)["epoch"] if parameters.patience else None


def is_patience_over(history: History, parameters: Namespace) -> bool:
    """Whether the last epochs, as many as the patience, were no better than one before."""
    if not parameters.patience or not history:
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
    k, row = parameters.k_eval[0], best_row(history, parameters)
    folders = [folder] if folder else []
    folders += [RunFolder(Path(parameters.load_model).parent)] if parameters.load_model else []
    paths = [path for path in (each.epoch_path(row["epoch"]) for each in folders) if path.exists()]
    where = paths[0] if paths else "its checkpoint is in the folder of an earlier run"
    return f"best epoch: {row['epoch']}, {METRICS[WATCHED]}@{k}: {row[f'{WATCHED}@{k}']:.6f}, {where}"

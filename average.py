"""The mean of the weights of several epochs of a run, as a checkpoint of its own.

    python average.py checkpoint/07240927/model_0000[5-9].pt --output mean.pt
    python main.py --is_eval --load_model mean.pt

Late in training, weights wander around a good place more than they go to a better one, and the middle of where they
were is often a better model than any of them (Izmailov et al., Averaging Weights Leads to Wider Optima and Better
Generalization, UAI 2018). The mean is evaluated and recommends like every checkpoint. All but its weights is the last
epoch's: the figures of its history, too, are those of single epochs.
"""

from errors import FlagParser, UserError, run_script

# isort: split
import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parameters import evaluation_parameters, same_experiment
from runfolder import EXAMPLE, read_checkpoint, write_checkpoint
from trainingrun import restored_model, saved_parameters


def mean_weights(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    r"""The mean of the weights of models of one kind, :math:`\frac{1}{n} \sum_k w_k`, by name."""
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}


def average(paths: list[Path]) -> dict[str, Any]:
    """The checkpoint of the last of some epochs, with the mean of the weights of all.

    Raises:
        UserError: a file is unusable, or they are not different ended epochs of one run.
    """
    epochs = [_read_epoch(path) for path in paths]
    _, first_parameters, first_items = epochs[0]
    for path, (_, parameters, items) in zip(paths, epochs, strict=True):
        if items != first_items or not same_experiment(vars(first_parameters), parameters):
            raise UserError(f"{path} is of another run than {paths[0]}: name epochs of one run")
    checkpoints = {checkpoint["epoch"]: checkpoint for checkpoint, _, _ in epochs}
    if len(checkpoints) < max(len(paths), 2):
        raise UserError(f"{', '.join(map(str, paths))}: name two epochs at least, and none of them twice")
    weights = mean_weights([checkpoint["model"] for checkpoint in checkpoints.values()])
    return checkpoints[max(checkpoints)] | {"model": weights}


def _read_epoch(path: Path) -> tuple[dict[str, Any], Namespace, list[int | str]]:
    """A checkpoint whose weights fit its parameters and its items; and these."""
    checkpoint = read_checkpoint(path)
    if checkpoint["within_epoch"] is not None:
        raise UserError(f"{path} was saved within an epoch: name ended epochs, such as {EXAMPLE}")
    parameters = evaluation_parameters(saved_parameters(checkpoint, path), {"load_model": str(path)})
    restored_model(parameters, checkpoint)
    items = checkpoint["item_ids"]
    return checkpoint, parameters, items if isinstance(items, list) else items.tolist()


def parse_flags() -> argparse.Namespace:
    parser = FlagParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="FILE", help="checkpoints of main.py")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint to write")
    return parser.parse_args()


def main() -> None:
    flags = parse_flags()
    if any(flags.output.resolve() == path.resolve() for path in flags.checkpoints):
        raise UserError(f"--output {flags.output} is one of the checkpoints to average: name another file")
    checkpoint = average(flags.checkpoints)
    write_checkpoint(flags.output, checkpoint)
    print(f"{flags.output}: the mean of {len(flags.checkpoints)} epochs up to epoch {checkpoint['epoch']}")


if __name__ == "__main__":
    run_script(main)

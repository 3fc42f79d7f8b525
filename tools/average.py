"""The mean of the weights of several epochs of a run, as a checkpoint of its own, see :mod:`runs.averaging`.

python -m tools.average checkpoint/07240927/model_0000[5-9].pt --output mean.pt
python main.py --is_eval --load_model mean.pt
"""

from terminal.errors import UserError, run_script

# isort: split
from pathlib import Path

from runs.averaging import average
from runs.runfolder import write_checkpoint
from terminal.flags import FlagParser


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="FILE", help="checkpoints of main.py")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint to write")
    return parser


def main() -> None:
    flags = make_parser().parse_args()
    if flags.output.exists():
        raise UserError(f"--output {flags.output} is there already: name another file")
    checkpoint = average(flags.checkpoints)
    write_checkpoint(flags.output, checkpoint)
    print(f"{flags.output}: the mean of {len(flags.checkpoints)} epochs up to epoch {checkpoint['epoch']}")


if __name__ == "__main__":
    run_script(main)

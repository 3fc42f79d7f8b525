"""A trained model for other programs: an ONNX file, and a text file with an item id a line beside it.

    python export.py --load_model checkpoint/07240927/model_00009.pt --output model.onnx
    python export.py --load_model FILE --k 100

Inputs are ``click`` [sessions], item indices (an id's line in the text file, from 0; -1 for an unknown item), and
``state`` [layers, sessions, units], zeros where a session begins. Outputs are ``new_state``, to go on from, and
``items`` and ``scores`` [sessions, k]. ``serving/server.py`` is an example of a server: it needs no PyTorch.
"""

from terminal.errors import UserError, run_script

# isort: split
import sys
from pathlib import Path

from serving.onnxgraph import ids_path, write_onnx
from serving.recommender import Recommender
from terminal.flags import COUNT, FlagParser
from terminal.memory import memory_for


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument("--load_model", type=Path, required=True, help="checkpoint of main.py")
    parser.add_argument(
        "--output",
        type=Path,
        help="the ONNX file; ids are beside it, in NAME.items.txt (NAME.onnx beside the checkpoint)",
    )
    parser.add_argument("--k", type=COUNT, default=20, help="how many items the graph recommends (%(default)s)")
    return parser


@memory_for("writing ONNX takes the model several times over: free some")
def main() -> None:
    flags = make_parser().parse_args()
    output = flags.output or flags.load_model.with_suffix(".onnx")
    if output.suffix != ".onnx":
        raise UserError(f"--output {output} does not end in .onnx")
    recommender = Recommender.load(flags.load_model, "cpu")
    if flags.k > len(recommender.index):
        raise UserError(f"--k {flags.k} is more than the {len(recommender.index):,} items of {flags.load_model}")
    write_onnx(recommender, output, flags.k)
    print(f"{output}: {output.stat().st_size / 1e6:,.1f} MB", file=sys.stderr)
    print(f"{ids_path(output)}: {len(recommender.index):,} items", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)

"""Which recommender is better, and how sure that is: figures of ranks files, with intervals and differences.

    python main.py --is_eval --load_model checkpoint/07240927/model_00009.pt --ranks a.parquet
    python main.py --is_eval --load_model checkpoint/07241130/model_00009.pt --ranks b.parquet
    python -m tools.compare a.parquet b.parquet
    python -m tools.compare reproduction/ranks/*.parquet --output comparison

Files of one name are runs of one recommender with different seeds. The name is what stands before the file, NAME=FILE,
or what the file calls itself, as those of ``reproduce.py`` do, or the file's.
"""

from terminal.errors import run_script

# isort: split
import argparse
from pathlib import Path

from comparison.compare import as_rows, compare, read_runs
from comparison.report import picture, report
from runs.plot import try_to_write_picture
from runs.trainingdata import refuse_large_cutoffs
from terminal.atomicfile import atomic_write, make_folder, write_csv
from terminal.flags import COUNT, SEED, FlagParser, whole_number

N_DRAWS = whole_number(100, 1_000_000)


def named_file(text: str) -> tuple[str, Path]:
    """The name and the path of FILE or NAME=FILE; an empty name where there is none."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and path and not Path(text).exists() else ("", Path(text))


def make_parser() -> FlagParser:
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="+", type=named_file, metavar="[NAME=]FILE", help="ranks that main.py or reproduce.py wrote"
    )
    parser.add_argument("--k_eval", nargs="+", type=COUNT, default=[20], help="cutoffs K, one or more (20)")
    parser.add_argument(
        "--all_pairs", action="store_true", help="show the difference of every two (default: to the first)"
    )
    parser.add_argument("--n_draws", type=N_DRAWS, default=10_000, help="draws of the bootstrap (%(default)s)")
    parser.add_argument("--seed", type=SEED, default=1, help="of the draws (%(default)s)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="also write comparison.md, comparison.csv and comparison.png here"
    )
    return parser


def main() -> None:
    flags = make_parser().parse_args()
    runs = read_runs(flags.files)
    cutoffs = sorted(set(flags.k_eval))
    n_items = next(iter(runs.values()))[0].n_items
    if n_items is not None:
        refuse_large_cutoffs(cutoffs, n_items)
    estimates = compare(runs, cutoffs, flags.all_pairs, flags.n_draws, flags.seed)
    text = report(runs, estimates, flags.n_draws)
    print(text, end="")
    if flags.output:
        make_folder(flags.output)
        with atomic_write(flags.output / "comparison.md") as file:
            file.write(text.encode())
        write_csv(flags.output / "comparison.csv", as_rows(estimates))
        try_to_write_picture(lambda: picture(estimates), flags.output / "comparison.png")
        print(f"\nwritten to {flags.output}")


if __name__ == "__main__":
    run_script(main)

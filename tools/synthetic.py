"""A file of synthetic clicks in YooChoose's raw format, which ``preprocessing.py --clicks`` reads.

python -m tools.synthetic --output data/demo/clicks.dat
"""

from terminal.errors import run_script

# isort: split
from pathlib import Path

from clicks.synthetic import synthetic_clicks, write_raw_clicks
from terminal.atomicfile import make_folder
from terminal.flags import SEED, FlagParser, whole_number


def make_parser() -> FlagParser:
    parser = FlagParser(description="Write synthetic clicks in YooChoose's raw format.")
    parser.add_argument("--output", type=Path, default=Path("data/demo/clicks.dat"), help="file to write (%(default)s)")
    parser.add_argument("--n_sessions", type=whole_number(1, 10**8), default=30_000, help="sessions (%(default)s)")
    parser.add_argument("--n_items", type=whole_number(1, 10**6), default=2_000, help="items (%(default)s)")
    parser.add_argument("--n_days", type=whole_number(1, 1000), default=10, help="days that they span (%(default)s)")
    parser.add_argument("--seed", type=SEED, default=22, help="seed of the draws (%(default)s)")
    return parser


def main() -> None:
    flags = make_parser().parse_args()
    clicks = synthetic_clicks(flags.n_sessions, flags.n_items, flags.n_days, flags.seed)
    make_folder(flags.output.parent)
    write_raw_clicks(flags.output, clicks)
    print(f"{flags.output}: {len(clicks):,} clicks in {flags.n_sessions:,} sessions on {flags.n_items:,} items")


if __name__ == "__main__":
    run_script(main)

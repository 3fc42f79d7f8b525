"""Recommendations of a trained model: for some items, for the sessions of a file, or from Python.

    python recommend.py --load_model checkpoint/07240927/model_00009.pt --items 214536502,214536500
    python recommend.py --load_model FILE --sessions sessions.csv --k 20 --output recommendations.csv

``sessions.csv`` has the columns SessionID and ItemID, the clicks of a session together and in order. The output has a
row per recommendation: SessionID, ItemID, Rank (from 1), Score. Item ids are those of the training clicks, integers or
text. From Python::

    recommender = Recommender.load("checkpoint/07240927/model_00009.pt")
    recommender.recommend([214536502, 214536500], k=5)
"""

from terminal.errors import UserError, listed, run_script, warn

# isort: split
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from clicks.clickfile import session_offsets, stream_sessions
from clicks.itemindex import ItemIndex
from evaluation import rows_at_once
from runs.parameters import PARAMETERS
from serving.recommender import Recommender
from terminal.atomicfile import atomic_write
from terminal.flags import COUNT, FlagParser
from terminal.memory import memory_for

BATCH_SIZE = 512  # sessions side by side, at most
OUTPUT = ("SessionID", "ItemID", "Rank", "Score")


def recommend_for_file(recommender: Recommender, path: Path, k: int, exclude_seen: bool) -> Iterator[pa.Table]:
    """Recommendations for the sessions of a file, some sessions at a time; says at the end what it passed over."""
    unknown: set[int | str] = set()
    n_skipped = 0
    n_rows = rows_at_once(len(recommender.index), recommender.model.output_bias.device, BATCH_SIZE)
    for session, item in stream_sessions(path, recommender.index.is_text):
        known = recommender.index.encode(item)
        unknown.update(item[known < 0].tolist())
        n_skipped += len(session_offsets(session)) - len(session_offsets(session[known >= 0]))
        session, known = session[known >= 0], known[known >= 0]
        offsets = session_offsets(session)
        for first in range(0, len(offsets) - 1, n_rows):
            bounds = offsets[first : first + n_rows + 1]
            sessions = np.split(known[bounds[0] : bounds[-1]], bounds[1:-1] - bounds[0])
            ids, scores = recommender.recommend_batch(sessions, k, exclude_seen)
            left = np.isfinite(scores)
            rank = np.broadcast_to(np.arange(1, k + 1), scores.shape)
            columns = np.repeat(session[bounds[:-1]], left.sum(axis=1)), ids[left], rank[left], scores[left]
            yield pa.table(dict(zip(OUTPUT, columns, strict=True)))
    name_unknown(sorted(unknown))
    if n_skipped:
        warn(f"{path}: {n_skipped:,} sessions have no item that the model knows, and get no recommendations")


def write_recommendations(recommender: Recommender, sessions: Path, output: Path, k: int, exclude_seen: bool) -> int:
    """Write the recommendations for a file of sessions, whole or not at all; how many there are."""
    n_rows = 0
    with atomic_write(output) as file:
        file.write((",".join(OUTPUT) + "\n").encode())
        for table in recommend_for_file(recommender, sessions, k, exclude_seen):
            pa.csv.write_csv(table, file, pa.csv.WriteOptions(include_header=False))
            n_rows += table.num_rows
    return n_rows


def name_unknown(ids: list[int | str]) -> None:
    if ids:
        warn(f"passed over {len(ids):,} items that the model does not know: {listed(ids)}")


def parse_items(text: str, index: ItemIndex) -> list[int | str]:
    """The ids in a list with commas between them; one that has a comma itself stands in double quotes.

    Raises:
        UserError: the ids of the model are integers, and these are not.
    """
    try:
        items = next(csv.reader([text], skipinitialspace=True), [])
        return items if index.is_text else [int(item) for item in items]
    except (ValueError, csv.Error) as error:
        example = f"{index.ids[0]},{index.ids[-1]}"
        raise UserError(f"--items {text!r} is not a list of item ids, such as {example}") from error


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument("--load_model", type=Path, required=True, help="checkpoint of main.py")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", help="ids of the items clicked so far, separated by commas")
    what.add_argument("--sessions", type=Path, help="file with the columns SessionID and ItemID")
    parser.add_argument(
        "--output", type=Path, default=Path("recommendations.csv"), help="with --sessions (%(default)s)"
    )
    parser.add_argument("--k", type=COUNT, default=20, help="how many to recommend (%(default)s)")
    parser.add_argument("--exclude_seen", action="store_true", help="leave out items that the session has clicked")
    parser.add_argument("--device", help=PARAMETERS["device"].help)
    return parser


@memory_for("recommending takes the model and some rows of scores of all items: free some, or name another --device")
def main() -> None:
    flags = make_parser().parse_args()
    recommender = Recommender.load(flags.load_model, flags.device)
    if flags.k > len(recommender.index):
        raise UserError(f"--k {flags.k} is more than the {len(recommender.index):,} items of {flags.load_model}")
    if flags.items is not None:
        items = parse_items(flags.items, recommender.index)
        known = recommender.index.encode(items)
        name_unknown([item for item, index in zip(items, known, strict=True) if index < 0])
        if (known < 0).all():
            raise UserError("the model knows none of these --items")
        print(f"{'rank':>4}  {'item':>12}  {'score':>9}")
        for rank, (item, item_score) in enumerate(recommender.recommend(items, flags.k, flags.exclude_seen), 1):
            print(f"{rank:>4}  {item:>12}  {item_score:>9.4f}")
        return
    n_rows = write_recommendations(recommender, flags.sessions, flags.output, flags.k, flags.exclude_seen)
    print(f"{flags.output}: {n_rows:,} recommendations", file=sys.stderr)  # the file may be /dev/stdout


if __name__ == "__main__":
    run_script(main)

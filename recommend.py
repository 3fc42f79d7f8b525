"""Recommendations of a trained model: for some items, for the sessions of a file, or from Python.

    python recommend.py --load_model checkpoint/07240927/model_00009.pt --items 214536502,214536500
    python recommend.py --load_model FILE --sessions sessions.csv --k 20 --output recommendations.csv

``sessions.csv`` has the columns SessionID and ItemID, the clicks of a session together and in order. The output has a
row per recommendation: SessionID, ItemID, Rank (from 1), Score. Item ids are those of the training clicks, integers or
text. What else a trained model is good for stands in ``docs/serving.md``. From Python::

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

from clicks.clickfile import session_offsets
from clicks.itemindex import ItemIndex
from clicks.sessionfile import read_sessions
from clicks.textkinds import is_integer, is_plain_text
from evaluation import rows_at_once
from runs.parameters import PARAMETERS
from serving.itemvectors import FORMATS, write_item_vectors
from serving.ranking import FALLBACKS
from serving.recommender import Recommender
from serving.selection import read_ids
from terminal.atomicfile import atomic_write
from terminal.flags import COUNT, FlagParser
from terminal.memory import memory_for

BATCH_SIZE = 512  # sessions side by side, at most
OUTPUT = ("SessionID", "ItemID", "Rank", "Score")
BY = "By"  # the further column with a fallback: whose recommendations these are, the model's or the fallback's


def recommend_for_file(
    recommender: Recommender, path: Path, k: int, exclude_seen: bool, fallback: str | None = None
) -> Iterator[pa.Table]:
    """Recommendations for the sessions of a file, some sessions at a time; says at the end what it passed over.

    With a fallback, sessions of which the model knows nothing have rows, too, and the column By tells whose they are.
    """
    unknown: set[int | str] = set()
    n_skipped = 0
    n_rows = rows_at_once(len(recommender.index), recommender.model.output_bias.device, BATCH_SIZE)
    for session, item in read_sessions(path, recommender.index.is_text):
        known = recommender.index.encode(item)
        unknown.update(item[known < 0].tolist())
        all_offsets = session_offsets(session)
        n_known = np.add.reduceat(known >= 0, all_offsets[:-1], dtype=np.int64)
        n_skipped += int((n_known == 0).sum())
        kept = n_known >= (0 if fallback else 1)
        ids_of_sessions = session[all_offsets[:-1]][kept]
        offsets = np.concatenate(([0], np.cumsum(n_known[kept])))
        known = known[known >= 0]
        for first in range(0, len(offsets) - 1, n_rows):
            bounds = offsets[first : first + n_rows + 1]
            sessions = np.split(known[bounds[0] : bounds[-1]], bounds[1:-1] - bounds[0])
            ids, scores = recommender.recommend_batch(sessions, k, exclude_seen, fallback)
            left = np.isfinite(scores)
            n_left = left.sum(axis=1)
            rank = np.broadcast_to(np.arange(1, k + 1), scores.shape)
            columns = [np.repeat(ids_of_sessions[first : first + n_rows], n_left), ids[left], rank[left], scores[left]]
            if fallback:
                columns.append(np.repeat(np.where(np.diff(bounds) > 0, "model", fallback), n_left))
            yield pa.table(dict(zip(columns_of(fallback), columns, strict=True)))
    name_unknown(sorted(unknown))
    if n_skipped:
        given = f"get {fallback} items" if fallback else "get no recommendations"
        warn(f"{path}: {n_skipped:,} sessions have no item that the model knows, and {given}")


def columns_of(fallback: str | None) -> tuple[str, ...]:
    """The columns of the output."""
    return (*OUTPUT, BY) if fallback else OUTPUT


def write_recommendations(
    recommender: Recommender, sessions: Path, output: Path, k: int, exclude_seen: bool, fallback: str | None = None
) -> int:
    """Write the recommendations for a file of sessions, whole or not at all; how many there are."""
    n_rows = 0
    with atomic_write(output) as file:
        file.write((",".join(columns_of(fallback)) + "\n").encode())
        for table in recommend_for_file(recommender, sessions, k, exclude_seen, fallback):
            pa.csv.write_csv(table, file, pa.csv.WriteOptions(include_header=False))
            n_rows += table.num_rows
    return n_rows


def name_unknown(ids: list[int | str]) -> None:
    if ids:
        warn(f"passed over {len(ids):,} items that the model does not know: {listed(ids)}")


def parse_items(text: str, index: ItemIndex) -> list[int | str]:
    """The ids in a list with commas between them; one that has a comma itself stands in double quotes.

    Raises:
        UserError: there is nothing between two commas, or the ids of the model are integers, and these are not.
    """
    refuse_broken_encoding("--items", text)
    try:
        items = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:
        items = [text]
    if items != [text] and not all(item.strip() for item in items):
        raise UserError(f"--items {text!r} has a comma with no item id before or behind it: leave it out")
    if not all(map(is_plain_text if index.is_text else is_integer, items)):
        example = f"{index.ids[0]},{index.ids[-1]}"
        raise UserError(f"--items {text!r} is not a list of item ids, such as {example}")
    return items if index.is_text else [int(item) for item in items]


def refuse_broken_encoding(flag: str, text: str) -> None:
    """Make sure that what a terminal handed over is text.

    Raises:
        UserError: some of its bytes are none in this terminal's encoding.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{flag} {text!r} is no text in UTF-8: type it in a terminal that has UTF-8") from error


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument("--load_model", type=Path, required=True, help="checkpoint of main.py")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", help="ids of the items clicked so far, separated by commas")
    what.add_argument("--sessions", type=Path, help="file with the columns SessionID and ItemID")
    what.add_argument("--similar", metavar="ID", help="the items whose output vectors are most like this item's")
    what.add_argument(
        "--export_items", type=Path, metavar="FILE", help=f"write ids, vectors and biases: {' or '.join(FORMATS)}"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("recommendations.csv"), help="with --sessions (%(default)s)"
    )
    parser.add_argument("--k", type=COUNT, default=20, help="how many to recommend (%(default)s)")
    parser.add_argument("--exclude_seen", action="store_true", help="leave out items that the session has clicked")
    parser.add_argument(
        "--candidates", type=Path, metavar="FILE", help="recommend these items alone: a file with an id a line"
    )
    parser.add_argument("--exclude", type=Path, metavar="FILE", help="do not recommend these: a file with an id a line")
    parser.add_argument(
        "--fallback",
        choices=FALLBACKS,
        help="what a session gets of which the model knows no item: popular, the items with the most clicks in "
        "training, scored by how many (nothing)",
    )
    parser.add_argument("--device", help=PARAMETERS["device"].help)
    return parser


def restricted(recommender: Recommender, candidates: Path | None, exclude: Path | None) -> Recommender:
    """A recommender of what --candidates and --exclude leave.

    Raises:
        UserError: a file cannot be read, or nothing is left.
    """
    ids = [path and read_ids(path, recommender.index) for path in (candidates, exclude)]
    try:
        return recommender.among(*ids)
    except ValueError as error:
        given = " and ".join(
            f"{name} {path}" for name, path in (("--candidates", candidates), ("--exclude", exclude)) if path
        )
        raise UserError(f"{given}: {error}; ids are such as {recommender.index.ids[0]}") from error


def print_list(items: list[tuple[int | str, float]], title: str, digits: int = 4) -> None:
    """Print items, best first, with what they are ranked by."""
    print(f"{'rank':>4}  {'item':>12}  {title:>9}")
    for rank, (item, value) in enumerate(items, 1):
        print(f"{rank:>4}  {item:>12}  {value:>9.{digits}f}")


@memory_for("recommending takes the model and some rows of scores of all items: free some, or name another --device")
def main() -> None:
    flags = make_parser().parse_args()
    recommender = Recommender.load(flags.load_model, flags.device)
    if flags.k > len(recommender.index):
        raise UserError(f"--k {flags.k} is more than the {len(recommender.index):,} items of {flags.load_model}")
    recommender = restricted(recommender, flags.candidates, flags.exclude)
    if flags.items is not None:
        items = parse_items(flags.items, recommender.index)
        known = recommender.index.encode(items) if items else np.zeros(0)
        name_unknown([item for item, index in zip(items, known, strict=True) if index < 0])
        by_fallback = bool((known < 0).all())
        if by_fallback and not flags.fallback:
            raise UserError("the model knows none of these --items")
        if by_fallback:
            warn(f"the model knows none of these --items: {flags.fallback} items, with their clicks in training")
        found = recommender.recommend(items, flags.k, flags.exclude_seen, fallback=flags.fallback)
        print_list(found, *(("clicks", 0) if by_fallback else ("score",)))
    elif flags.similar is not None:
        refuse_broken_encoding("--similar", flags.similar)
        try:
            print_list(recommender.similar(flags.similar, flags.k), "cosine")
        except ValueError as error:
            raise UserError(f"--similar: {error}") from error
    elif flags.export_items is not None:
        n_items = write_item_vectors(recommender, flags.export_items)
        print(f"{flags.export_items}: {n_items:,} items", file=sys.stderr)
    else:
        arguments = flags.sessions, flags.output, flags.k, flags.exclude_seen, flags.fallback
        n_rows = write_recommendations(recommender, *arguments)
        print(f"{flags.output}: {n_rows:,} recommendations", file=sys.stderr)  # the file may be /dev/stdout


if __name__ == "__main__":
    run_script(main)

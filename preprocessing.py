"""Raw clicks, of YooChoose or any other log, to the train, valid and test files: the filters and splits of the paper.

Sessions of one click are dropped, so are items with fewer than five clicks; the last day is the test set, a session is
never cut in two, and clicks on items that training never saw leave the test set ([1] Hidasi et al., ICLR 2016,
"Experiments", and the authors' own script).

    python preprocessing.py --clicks yoochoose-clicks.dat                                    # the paper's protocol
    python preprocessing.py --clicks yoochoose-clicks.dat --test_clicks yoochoose-test.dat   # the challenge's test file
    python preprocessing.py --clicks FILE --columns session,time,item --time_format iso      # another log, see clicklog
"""

from terminal.errors import UserError, run_script

# isort: split
import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clicks.clickfile import DAY, Clicks, concatenated, read_raw_clicks, session_offsets, write_click_files
from clicks.clicklog import LogFormat, read_log, sessions_of_users, time_kind
from terminal.atomicfile import make_folder
from terminal.errors import warn
from terminal.flags import FlagParser, whole_number
from terminal.progress import about

DATA_FOLDER = Path("data/preprocessed_data")
TRAIN_FULL, TEST = "recSys15TrainFull.txt", "recSys15Test.txt"
TRAIN_ONLY, VALID = "recSys15TrainOnly.txt", "recSys15Valid.txt"

SECONDS_A_BYTE = 26 / 1.5e9  # measured on a file of the size of YooChoose

MIN_SESSION_CLICKS = 2
MIN_ITEM_CLICKS = 5

LOCAL_PLACES = (Path("data"), Path("data/raw"), Path("data/raw_data"), Path())
KAGGLE_INPUT = Path("/kaggle/input")
USUAL_NAMES = ("yoochoose-clicks.dat", "yoochoose-clicks.dat.gz")
PLAUSIBLE = np.datetime64("1990"), np.datetime64("2100")  # times of clicks
WHERE_TO_GET_IT = "https://www.kaggle.com/datasets/chadgostopp/recsys-challenge-2015"


@dataclass(frozen=True)
class Size:
    """How much a file holds; ``items`` is None where the paper gives no number."""

    clicks: int
    sessions: int
    items: int | None

    def __str__(self) -> str:
        on_items = "" if self.items is None else f" on {self.items:,} items"
        return f"{self.clicks:,} clicks in {self.sessions:,} sessions{on_items}"


PUBLISHED = {TRAIN_FULL: Size(31_637_239, 7_966_257, 37_483), TEST: Size(71_222, 15_324, None)}  # [1], "Experiments"


def drop_short_sessions(clicks: Clicks) -> Clicks:
    """Drop sessions of fewer than two clicks. Clicks of a session must lie together, as everywhere in this file."""
    lengths = np.diff(session_offsets(clicks.session))
    return clicks.select(np.repeat(lengths >= MIN_SESSION_CLICKS, lengths))


def drop_rare_items(clicks: Clicks) -> Clicks:
    """Drop clicks on items with fewer than five clicks."""
    code, item_ids = pd.factorize(clicks.item)
    clicks_of = np.bincount(code, minlength=len(item_ids))
    return clicks.select(clicks_of[code] >= MIN_ITEM_CLICKS)


def filter_clicks(raw: Clicks) -> Clicks:
    """The paper's filters in their order: short sessions, rare items, and sessions that became short by that."""
    return drop_short_sessions(drop_rare_items(drop_short_sessions(raw.sorted())))


def last_days(clicks: Clicks, n_days: int) -> Clicks:
    """The sessions that begin within the last ``n_days`` days before the latest click of all."""
    offsets = session_offsets(clicks.session)
    recent = clicks.time[offsets[:-1]] >= clicks.time.max() - n_days * DAY
    return clicks.select(np.repeat(recent, np.diff(offsets)))


def split_last_day(clicks: Clicks) -> tuple[Clicks, Clicks]:
    """Split off the sessions whose last click lies within a day of the latest click of all.

    Args:
        clicks: filtered clicks, sorted by session and time.

    Returns:
        The earlier sessions, and those of the last day after :func:`keep_known_items`.
    """
    offsets = session_offsets(clicks.session)
    last_click = clicks.time[offsets[1:] - 1]
    earlier = np.repeat(last_click < clicks.time.max() - DAY, np.diff(offsets))
    train = clicks.select(earlier)
    return train, keep_known_items(clicks.select(~earlier), train)


def keep_known_items(clicks: Clicks, train: Clicks) -> Clicks:
    """From a test or valid set, drop clicks on items that its training set lacks, then sessions of one click."""
    return drop_short_sessions(clicks.select(np.isin(clicks.item, pd.unique(train.item))))


def split(raw: Clicks, raw_test: Clicks | None = None) -> dict[str, Clicks]:
    """All four files from raw clicks, by name.

    Args:
        raw: raw clicks in any order.
        raw_test: the challenge's own test clicks; given, they are the test set and all of ``raw`` is training data.

    Raises:
        UserError: a file would be empty.
    """
    clicks = filter_clicks(raw)
    del raw  # on 33 million clicks, every copy that is let go counts
    if len(clicks) == 0:
        raise UserError(
            f"no clicks are left after the filters: sessions need {MIN_SESSION_CLICKS} clicks, items {MIN_ITEM_CLICKS}"
        )
    if raw_test is None:
        train_full, test = split_last_day(clicks)
    else:
        train_full, test = clicks, keep_known_items(raw_test.sorted(), clicks)
    n_days = np.ptp(clicks.time) / DAY
    del clicks
    train_only, valid = split_last_day(train_full) if len(train_full) else (train_full, train_full)
    files = {TRAIN_FULL: train_full, TEST: test, TRAIN_ONLY: train_only, VALID: valid}
    if empty := [name for name, content in files.items() if len(content) == 0]:
        raise UserError(
            f"{', '.join(empty)} would be empty: the filtered clicks span "
            f"{n_days:.1f} days, and the splits take a test day and a validation day off the end"
        )
    return files


def size_of(clicks: Clicks) -> Size:
    """Count clicks, sessions and items."""
    return Size(len(clicks), len(session_offsets(clicks.session)) - 1, len(pd.unique(clicks.item)))


def find_clicks(kaggle_input: Path = KAGGLE_INPUT) -> Path:
    """The YooChoose click file where the README or Kaggle put it.

    Args:
        kaggle_input: the folder in which Kaggle has the attached data sets, each in a folder of its own.

    Raises:
        UserError: it is in none of these places.
    """
    for name in USUAL_NAMES:
        for place in LOCAL_PLACES:
            if (place / name).is_file():
                return place / name
        if found := sorted(kaggle_input.glob(f"**/{name}")):
            return found[0]
    raise UserError(
        f"no {USUAL_NAMES[0]} in {', '.join(map(str, LOCAL_PLACES))} or {kaggle_input}: download it from "
        f"{WHERE_TO_GET_IT} into data/ (on Kaggle: attach that data set), or say where it is with --clicks"
    )


def equals_published(name: str, size: Size) -> bool:
    """Whether a file holds just as much as [1] reports."""
    published = PUBLISHED.get(name)
    if published is None or (size.clicks, size.sessions) != (published.clicks, published.sessions):
        return False
    return published.items in (None, size.items)


def make_parser() -> FlagParser:
    parser = FlagParser(__doc__)
    parser.add_argument(
        "--clicks",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="raw clicks, plain or .gz, one file or several (default: YooChoose's, looked for in data/ and on Kaggle)",
    )
    parser.add_argument(
        "--test_clicks",
        type=Path,
        metavar="FILE",
        help="the challenge's yoochoose-test.dat: it becomes the test set, and all of --clicks is training data "
        "(default: the last day is the test set, as in the paper)",
    )
    parser.add_argument(
        "--columns",
        metavar="SESSION,TIME,ITEM",
        help="read a log with a header, and in it the columns of these names; TIME may be DATES+MILLISECONDS, two "
        "columns to add (default: YooChoose's format, without a header)",
    )
    parser.add_argument("--sep", metavar="CHARACTER", help="what separates the log's columns; \\t: a tab (default: ,)")
    parser.add_argument(
        "--time_format",
        metavar="FORMAT",
        help="of the log's times: seconds or milliseconds since the epoch, iso (2019-10-01 23:59:59 and the like), or "
        "a pattern of Python's strptime such as %%d.%%m.%%Y %%H:%%M; a time without a zone is UTC",
    )
    parser.add_argument(
        "--session_gap",
        type=float,
        metavar="MINUTES",
        help="the log has users in place of sessions: a session of a user ends with a longer pause than this",
    )
    parser.add_argument(
        "--keep",
        action="append",
        metavar="COLUMN=VALUE[,VALUE]",
        help="keep the log's lines with one of these values in a column; may be given several times",
    )
    parser.add_argument(
        "--skip_bad_lines",
        action="store_true",
        help="skip lines that are not clicks, and count them (default: refuse the file and write nothing)",
    )
    parser.add_argument(
        "--last_days",
        type=whole_number(1, 100_000),
        help="for a quick look, take only the sessions of the last N days of --clicks (default: all)",
        metavar="N",
    )
    parser.add_argument(
        "--data_folder", type=Path, default=DATA_FOLDER, metavar="DIR", help="where the files go (default: %(default)s)"
    )
    return parser


def log_format(flags: argparse.Namespace) -> LogFormat | None:
    """What the flags say of a log with a header; None for YooChoose's format.

    Raises:
        UserError: they do not say all, or contradict each other.
    """
    if flags.columns is None:
        for name in ("sep", "time_format", "session_gap", "keep"):
            if getattr(flags, name) is not None:
                raise UserError(f"--{name} is for logs with a header: say with --columns which columns are to be read")
        return None
    if not flags.clicks:
        raise UserError("--columns needs --clicks FILE, the log to read")
    if flags.test_clicks:
        raise UserError("--test_clicks is for YooChoose's format; with --columns, the last day is the test set")
    columns = flags.columns.split(",")
    if len(columns) != 3 or not all(columns):
        raise UserError(f"--columns {flags.columns} is not three names, such as session,time,item")
    if flags.time_format is None:
        raise UserError(
            "--columns needs --time_format: seconds, milliseconds, iso or a pattern such as '%Y-%m-%d %H:%M:%S'"
        )
    try:
        time_kind(flags.time_format)
    except ValueError as error:
        raise UserError(f"--time_format {error}") from error
    separator = {None: ",", "\\t": "\t"}.get(flags.sep, flags.sep)
    if len(separator) != 1 or not separator.isascii() or separator in '"\r\n':
        raise UserError(f"--sep {flags.sep!r} is not a single ASCII character, or \\t for a tab")
    if flags.session_gap is not None and not 0 < flags.session_gap < float("inf"):
        raise UserError(f"--session_gap {flags.session_gap:g} is not a number of minutes above 0")
    keep: dict[str, list[str]] = {}
    for text in flags.keep or ():
        name, equals, values = text.partition("=")
        if not (name and equals):
            raise UserError(f"--keep {text} is not COLUMN=VALUE")
        keep.setdefault(name, []).extend(values.split(","))
    return LogFormat(*columns, flags.time_format, separator, keep)


def read_sessions_of_log(paths: list[Path], log: LogFormat, flags: argparse.Namespace) -> Clicks:
    """The clicks of a log, its users cut into sessions if ``--session_gap`` says so; prints what was found.

    Raises:
        UserError: the log is unusable.
    """
    clicks, counts = read_log(paths, log, flags.skip_bad_lines)
    left_out = {"that --keep does not keep": counts.filtered}
    left_out |= {f"without {log.session}": counts.without_session, f"without {log.item}": counts.without_item}
    if any(left_out.values()):
        print("left out: " + ", ".join(f"{number:,} lines {why}" for why, number in left_out.items() if number))
    of_users = ""
    if flags.session_gap is not None:
        of_users = f"{len(pd.unique(clicks.session)):,} users in "
        clicks = sessions_of_users(clicks, round(flags.session_gap * 60_000))
    n_sessions, n_items = len(pd.unique(clicks.session)), len(pd.unique(clicks.item))
    first, last = (np.datetime64(int(time), "ms") for time in (clicks.time.min(), clicks.time.max()))
    span = " to ".join(str(time.astype("datetime64[s]")).replace("T", " ") for time in (first, last))
    print(f"{len(clicks):,} clicks of {of_users}{n_sessions:,} sessions on {n_items:,} items, {span} UTC", flush=True)
    if first < PLAUSIBLE[0] or last >= PLAUSIBLE[1]:
        warn(f"clicks of {span}: is --time_format {flags.time_format} right?")
    return clicks


def reading_time(path: Path) -> str:
    """How long a large plain file takes, at the speed of two cores of a server."""
    size = path.stat().st_size if path.is_file() and path.suffix != ".gz" else 0
    return f" ({size / 1e9:.1f} GB: {about(size * SECONDS_A_BYTE)})" if size > 1e8 else ""


def read_asked_clicks(paths: list[Path], log: LogFormat | None, flags: argparse.Namespace) -> Clicks:
    """The clicks of the files, all or those of the last days."""
    if log:
        clicks = read_sessions_of_log(paths, log, flags)
    else:
        clicks = concatenated([read_raw_clicks(path, flags.skip_bad_lines) for path in paths])
    return last_days(clicks.sorted(), flags.last_days) if flags.last_days else clicks


def main(argv: list[str] | None = None) -> None:
    flags = make_parser().parse_args(argv)
    log = log_format(flags)
    paths = flags.clicks or [find_clicks()]
    to_read = [*paths, *filter(None, [flags.test_clicks])]
    print("reading " + " and ".join(f"{path}{reading_time(path)}" for path in to_read), flush=True)
    raw_test = read_raw_clicks(flags.test_clicks, flags.skip_bad_lines) if flags.test_clicks else None
    files = split(read_asked_clicks(paths, log, flags), raw_test)
    folder = make_folder(flags.data_folder)
    write_click_files({folder / name: clicks for name, clicks in files.items()})
    print(f"{'file':<24}{'clicks':>12}{'sessions':>12}{'items':>9}")
    is_yoochoose = len(paths) == 1 and paths[0].name in USUAL_NAMES and not log
    is_whole_yoochoose = is_yoochoose and not flags.test_clicks and not flags.last_days
    for name, clicks in files.items():
        size = size_of(clicks)
        remark = ""
        if equals_published(name, size):
            remark = "equals the published figures"
        elif name in PUBLISHED and is_whole_yoochoose:
            remark = f"differs from the published {PUBLISHED[name]}"
        print(f"{name:<24}{size.clicks:>12,}{size.sessions:>12,}{size.items:>9,}  {remark}".rstrip(), flush=True)
    if flags.test_clicks:
        print(
            "protocol: the challenge's test file; results do not compare with the paper's, which tests on the last day"
        )
    if flags.last_days:
        print(f"protocol: {flags.last_days} days only; results do not compare with the paper's, which has all of them")
    print(f"written to {folder}")


if __name__ == "__main__":
    run_script(main)

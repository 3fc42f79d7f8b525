"""Raw clicks, of YooChoose or any other log, to the train, valid and test files: the filters and splits of the paper.

Sessions of one click are dropped, so are items with fewer than five clicks; the last day is the test set, a session is
never cut in two, and clicks on items that training never saw leave the test set ([1] Hidasi et al., ICLR 2016,
"Experiments", and the authors' own script). Other data sets' figures were measured by other protocols: see
:class:`clicks.protocol.Protocol` for what may differ, and :mod:`clicks.datasets` for what each has.

    python preprocessing.py                                                          # YooChoose, the paper's protocol
    python preprocessing.py --dataset rees46                                         # another data set; list: show them
    python preprocessing.py --clicks FILE --columns session,time,item --time_format iso                # any other log
"""

from terminal.errors import UserError, run_script

# isort: split
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from clicks.clickfile import DAY, Clicks, concatenated, read_raw_clicks, session_offsets
from clicks.clicklog import read_events
from clicks.datasets import PUBLISHED, YOOCHOOSE, equals_published, find_files
from clicks.doubts import doubt_the_last_days, doubts_about_files, doubts_about_sessions, doubts_about_users
from clicks.flags import dataset_table, log_format, make_parser, parse_flags, protocol_of
from clicks.logformat import LogFormat
from clicks.opening import PARQUET, kind_of
from clicks.prepared import DATA_FOLDER, TEST, TRAIN_FULL, TRAIN_ONLY, VALID, Record, Size, size_of, write_prepared
from clicks.protocol import LATEST, OWN, PAPER, Protocol
from clicks.sessions import Handling, sessions_of
from clicks.times import UNITS, other_unit
from terminal.atomicfile import make_folder
from terminal.errors import warn
from terminal.memory import give_back_freed_memory
from terminal.progress import about

SECONDS_A_BYTE = 26 / 1.5e9  # measured on a file of the size of YooChoose
MIN_SESSION_CLICKS = 2
MIN_ITEM_CLICKS = 5
PLAUSIBLE = np.array(["1990", "2100"], dtype="datetime64[ms]").astype(np.int64)  # times of clicks


Say = Callable[[str, Clicks], None]  # is told what each step left


def say_nothing(step: str, clicks: Clicks) -> None:
    pass


def without(clicks: Clicks, dropped: np.ndarray) -> Clicks:
    """The clicks but for some. Where clicks know their lines, those on the same line of another file go, too."""
    if clicks.line is not None:
        lines = np.zeros(clicks.line.max(initial=0) + 1, dtype=np.bool_)
        lines[clicks.line[dropped]] = True
        dropped = lines[clicks.line]
    return clicks.select(~dropped)


def merge_repeats(clicks: Clicks) -> Clicks:
    """Of several clicks of a session on one item in a row, keep the first."""
    repeated = np.zeros(len(clicks), dtype=np.bool_)
    repeated[1:] = (clicks.session[1:] == clicks.session[:-1]) & (clicks.item[1:] == clicks.item[:-1])
    return without(clicks, repeated)


def drop_short_sessions(clicks: Clicks) -> Clicks:
    """Drop sessions of fewer than two clicks. Clicks of a session must lie together, as everywhere in this file."""
    lengths = np.diff(session_offsets(clicks.session))
    return without(clicks, np.repeat(lengths < MIN_SESSION_CLICKS, lengths))


def drop_rare_items(clicks: Clicks) -> Clicks:
    """Drop clicks on items with fewer than five clicks."""
    code, item_ids = pd.factorize(clicks.item)
    is_rare = (np.bincount(code, minlength=len(item_ids)) < MIN_ITEM_CLICKS)[code]
    del code
    return without(clicks, is_rare)


FILTERS = (
    ("sessions of one click dropped", drop_short_sessions),
    ("items of fewer than five dropped", drop_rare_items),
)


def filter_clicks(raw: Clicks, protocol: Protocol = PAPER, say: Say = say_nothing) -> Clicks:
    """The paper's filters in their order: short sessions, rare items, and sessions that became short by that.

    With ``repeat_filters``, on and on until neither filter drops anything.
    """
    clicks = raw.sorted()
    del raw  # on 33 million clicks, every copy that is let go counts
    say("sessions of the log", clicks)
    if protocol.merge_repeats:
        clicks = merge_repeats(clicks)
        say("repeated clicks merged", clicks)
    n_done = n_idle = 0
    while n_idle < len(FILTERS) if protocol.repeat_filters else n_done < 3:
        what, drop = FILTERS[n_done % len(FILTERS)]
        n_before, clicks = len(clicks), drop(clicks)
        say(what, clicks)
        n_done, n_idle = n_done + 1, n_idle + 1 if len(clicks) == n_before else 0
    return replace(clicks, line=None)


def last_days(clicks: Clicks, n_days: int) -> Clicks:
    """The sessions that begin within the last ``n_days`` days before the latest click of all."""
    offsets = session_offsets(clicks.session)
    recent = clicks.time[offsets[:-1]] >= clicks.time.max() - n_days * DAY
    return clicks.select(np.repeat(recent, np.diff(offsets)))


def split_at(clicks: Clicks, split_time: int, protocol: Protocol = PAPER) -> tuple[Clicks, Clicks]:
    """Split off the sessions that end (or begin, see :class:`Protocol`) at a time or later.

    Args:
        clicks: filtered clicks, sorted by session and time.
        split_time: in milliseconds.

    Returns:
        The earlier sessions, and the later ones after :func:`keep_known_items`, if the protocol has it.
    """
    offsets = session_offsets(clicks.session)
    lengths = np.diff(offsets)
    decisive = offsets[1:] - 1 if protocol.split_by == "end" else offsets[:-1]
    is_later = clicks.time[decisive] >= split_time
    n_late = np.where(is_later, lengths, 0)
    if cuts := protocol.across == "cut":
        is_late = clicks.time >= split_time
        n_late = np.add.reduceat(is_late, offsets[:-1], dtype=np.int32)
    in_train = np.repeat(~is_later & (lengths - n_late >= MIN_SESSION_CLICKS), lengths)
    in_held_out = np.repeat(is_later & (n_late >= MIN_SESSION_CLICKS), lengths)
    if cuts:
        in_train &= ~is_late
        in_held_out &= is_late
    train, held_out = clicks.select(in_train), clicks.select(in_held_out)
    return train, held_out if protocol.unknown_items == "keep" else keep_known_items(held_out, train)


def keep_known_items(clicks: Clicks, train: Clicks) -> Clicks:
    """From a test or valid set, drop clicks on items that its training set lacks, then sessions of one click."""
    return drop_short_sessions(clicks.select(np.isin(clicks.item, pd.unique(train.item))))


def split(
    raw: Clicks, raw_test: Clicks | None = None, protocol: Protocol = PAPER, say: Say = say_nothing
) -> dict[str, Clicks]:
    """All four files from raw clicks, by name.

    Args:
        raw: raw clicks in any order.
        raw_test: the challenge's own test clicks; given, they are the test set and all of ``raw`` is training data.
        protocol: the paper's, or another one.
        say: is told what each step left.

    Raises:
        UserError: a file would be empty.
    """
    handed_on = [raw]
    del raw  # so that nobody has it any more once the filters let it go
    clicks = filter_clicks(handed_on.pop(), protocol, say)
    if len(clicks) == 0:
        raise UserError(
            f"no clicks are left after the filters: sessions need {MIN_SESSION_CLICKS} clicks, items {MIN_ITEM_CLICKS}"
        )
    first, latest, days = clicks.time.min(), clicks.time.max(), protocol.test_days * DAY
    last_time = latest if protocol.last_time in (OWN, LATEST) else protocol.last_time
    if raw_test is None:
        last_time -= days
        train_full, test = split_at(clicks, last_time, protocol)
        doubt_the_last_days(train_full, last_time, test)
    else:
        train_full, test = clicks, keep_known_items(raw_test.sorted(), clicks)
    del clicks
    if protocol.last_time == OWN and len(train_full):
        last_time = train_full.time.max()
    train_only, valid = split_at(train_full, last_time - days, protocol)
    doubt_the_last_days(train_only, last_time - days, valid)
    files = {TRAIN_FULL: train_full, TEST: test, TRAIN_ONLY: train_only, VALID: valid}
    if empty := [name for name, content in files.items() if len(content) == 0]:
        raise UserError(
            f"{', '.join(empty)} would be empty: the filtered clicks span {(latest - first) / DAY:.1f} days, "
            f"{span(first, latest)}, and the splits take {protocol.test_days} test days and as many "
            "validation days off the end"
        )
    return files


def span(first: int, last: int) -> str:
    """A time to another, in words that have no fractions of seconds."""
    times = (str(np.datetime64(int(time), "ms").astype("datetime64[s]")).replace("T", " ") for time in (first, last))
    return " to ".join(times)


class Steps:
    """Tells what each step left, in a table and for the record."""

    WIDTH = 34

    def __init__(self):
        self.rows: list[dict[str, str | int]] = []

    def __call__(self, step: str, clicks: Clicks) -> None:
        size = size_of(clicks)
        if not self.rows:
            print(f"{'step or file':<{self.WIDTH}}{'clicks':>13}{'sessions':>13}{'items':>11}")
        self.rows.append({"step": step} | asdict(size))
        self.print_row(step, size)

    def print_row(self, what: str, size: Size, remark: str = "") -> None:
        row = f"{what:<{self.WIDTH}}{size.clicks:>13,}{size.sessions:>13,}{size.items:>11,}  {remark}"
        print(row.rstrip(), flush=True)


def read_sessions_of_log(paths: list[Path], log: LogFormat, flags: Namespace) -> Clicks:
    """The clicks of a log, its users cut into sessions if ``--session_gap`` says so; prints what was found.

    Raises:
        UserError: the log is unusable.
    """
    lines, counts, ends = read_events(paths, log, bool(flags.skip_bad_lines), bool(flags.cut_first))
    give_back_freed_memory()
    left_out = {"that --keep does not keep": counts.filtered}
    left_out |= counts.without(log)
    if any(left_out.values()):
        print("left out: " + ", ".join(f"{number:,} lines {why}" for why, number in left_out.items() if number))
    has_users = flags.session_gap is not None
    doubts_about_files(lines, ends, paths, has_users or bool(flags.sessions_per_file))
    if has_users:
        doubts_about_users(lines, log.session)
    of_users = f"{len(lines.session_names):,} users in " if has_users else ""
    handed_on = [lines]
    del lines  # so that its arrays go as soon as others take their places
    clicks = sessions_of(handed_on.pop(), ends, Handling.of(flags))
    n_sessions, n_items = len(pd.unique(clicks.session)), len(pd.unique(clicks.item))
    times = span(clicks.time.min(), clicks.time.max())
    print(f"{len(clicks):,} clicks of {of_users}{n_sessions:,} sessions on {n_items:,} items, {times} UTC", flush=True)
    if not all(PLAUSIBLE[0] <= time < PLAUSIBLE[1] for time in (clicks.time.min(), clicks.time.max())):
        warn(f"clicks of {times}: is --time_format {flags.time_format} right?{_looks_like(clicks, flags.time_format)}")
    return clicks


def _looks_like(clicks: Clicks, time_format: str) -> str:
    """The unit in which times of clicks would be plausible, as a hint; nothing if none is."""
    if time_format not in UNITS:
        return ""
    return other_unit(f"{clicks.time.max() / 1000 / UNITS[time_format]:.0f}")


def read_raw_sessions(paths: list[Path], flags: Namespace) -> Clicks:
    """The clicks of files in YooChoose's format.

    Raises:
        UserError: a file is unusable.
    """
    for path in paths:
        if kind_of(path) == PARQUET:
            raise UserError(
                f"{path} is a Parquet file: say with --columns SESSION,TIME,ITEM and --time_format where it has what"
            )
    parts = [read_raw_clicks(path, bool(flags.skip_bad_lines)) for path in paths]
    if flags.drop_by_line:
        parts = [replace(part, line=np.arange(len(part), dtype=np.int32)) for part in parts]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    lines = concatenated(parts)
    doubts_about_files(lines, ends, paths, bool(flags.sessions_per_file))
    return sessions_of(lines, ends, Handling.of(flags))


def reading_time(path: Path) -> str:
    """How long a large plain file takes, at the speed of two cores of a server."""
    size = path.stat().st_size if path.is_file() and kind_of(path) is None else 0
    return f" ({size / 1e9:.1f} GB: {about(size * SECONDS_A_BYTE)})" if size > 1e8 else ""


def read_asked_clicks(paths: list[Path], log: LogFormat | None, flags: Namespace) -> Clicks:
    """The clicks of the files, all or those of the last days, by session and time."""
    clicks = read_sessions_of_log(paths, log, flags) if log else read_raw_sessions(paths, flags)
    clicks = clicks.sorted(in_place=True)
    give_back_freed_memory()
    doubts_about_sessions(clicks, log.session if log else "session", are_cut=flags.session_gap is not None)
    return last_days(clicks, flags.last_days) if flags.last_days else clicks


def remark_on(name: str, size: Size, flags: Namespace) -> str:
    """How a file's size compares with the published one, where there is one."""
    if equals_published(name, size):
        return "equals the published figures"
    if name in PUBLISHED and flags.dataset == YOOCHOOSE and not flags.changes:
        return f"differs from the published {PUBLISHED[name]}"
    return ""


def what_compares(flags: Namespace) -> str:
    """Which published figures compare with those that are measured on the files, in a line or none."""
    if flags.test_clicks:
        return "the challenge's test file; results do not compare with the paper's, which tests on the last day"
    if flags.last_days:
        return f"{flags.last_days} days only; results do not compare with the paper's, which has all of them"
    if flags.dataset and flags.changes:
        return f"not that of --dataset {flags.dataset} ({flags.changes}); results do not compare with published ones"
    return str(protocol_of(flags))


def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(make_parser(__doc__), argv)
    if flags.dataset == "list":
        print(dataset_table())
        return
    log = log_format(flags)
    paths = flags.clicks or find_files(flags.dataset)
    to_read = [*paths, *filter(None, [flags.test_clicks])]
    print("reading " + " and ".join(f"{path}{reading_time(path)}" for path in to_read), flush=True)
    raw_test = read_raw_clicks(flags.test_clicks, bool(flags.skip_bad_lines)) if flags.test_clicks else None
    steps, protocol = Steps(), protocol_of(flags)
    files = split(read_asked_clicks(paths, log, flags), raw_test, protocol, steps)
    sizes = {name: size_of(clicks) for name, clicks in files.items()}
    command = shlex.join(["python", "preprocessing.py", *(sys.argv[1:] if argv is None else argv)])
    record = Record(command, flags.dataset, flags.changes, str(protocol), steps.rows, files={})
    folder = make_folder(flags.data_folder)
    write_prepared(folder, files, sizes, record)
    for name, size in sizes.items():
        steps.print_row(name, size, remark_on(name, size, flags))
    print(f"protocol: {what_compares(flags)}")
    print(
        f"written to {folder}" + ("" if folder == DATA_FOLDER else f", which main.py reads with --data_folder {folder}")
    )


if __name__ == "__main__":
    run_script(main)

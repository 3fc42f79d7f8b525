"""The flags of preprocessing.py: what they mean, which of them a data set stands for, and which contradict others."""

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from clicks.datasets import DATASETS, YOOCHOOSE, are_its_files, is_usual_name
from clicks.logformat import NULLS, LogFormat
from clicks.prepared import DATA_FOLDER
from clicks.protocol import ENDS, LATEST, MANNERS, OWN, UNKNOWN_ITEMS, Protocol
from clicks.sessions import ORDERS
from clicks.times import UNITS, from_iso, time_kind
from terminal.errors import UserError, did_you_mean
from terminal.flags import SWITCH, FlagParser, Kind, whole_number

OF_A_LOG = ("sep", "time_format", "first_date", "keep", "null", "session_gap", "cut_first")
NO_MATTER = ("dataset", "clicks", "data_folder")  # they do not change what a data set's clicks become


def make_parser(doc: str | None = None) -> FlagParser:
    parser = FlagParser(doc)

    def switch(group: Any, name: str, meaning: str) -> None:
        group.add_argument(f"--{name}", type=SWITCH, nargs="?", const=True, metavar=SWITCH.metavar, help=meaning)

    files = parser.add_argument_group("files")
    files.add_argument(
        "--dataset",
        type=DATASET,
        metavar=DATASET.metavar,
        help=f"a public data set ({', '.join(DATASETS)}): all flags that its log and its protocol need, except those "
        "that other flags name; list: show the data sets (default: yoochoose, if --columns is not there)",
    )
    files.add_argument(
        "--clicks",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="raw clicks, plain or compressed (gz, bz2, xz, zst, zip), "
        "one file or several (default: the data set's, as found in data/ or on Kaggle)",
    )
    files.add_argument(
        "--test_clicks",
        type=Path,
        metavar="FILE",
        help="the challenge's yoochoose-test.dat: it becomes the test set, and all of --clicks is training data "
        "(default: the last day is the test set, as in the paper)",
    )
    switch(
        files,
        "sessions_per_file",
        "every file of --clicks numbers its sessions (or users) for itself: the same id in two files is two sessions",
    )
    switch(
        files,
        "skip_bad_lines",
        "skip lines that are not clicks, and count them (default: refuse the file and write nothing)",
    )
    files.add_argument(
        "--last_days",
        type=whole_number(1, 100_000),
        help="for a quick look, take only the sessions of the last N days of --clicks (default: all)",
        metavar="N",
    )
    files.add_argument(
        "--data_folder", type=Path, default=DATA_FOLDER, metavar="DIR", help="where the files go (default: %(default)s)"
    )
    log = parser.add_argument_group("the log")
    log.add_argument(
        "--columns",
        metavar="SESSION,TIME,ITEM",
        help="read a log whose columns have names (text with a header, Parquet, or JSON lines), and in it these; TIME "
        "may be DATES+MILLISECONDS, two columns to add (default: YooChoose's format, which has no names)",
    )
    log.add_argument("--sep", metavar="CHARACTER", help="what separates the columns of text; \\t: a tab (default: ,)")
    log.add_argument(
        "--time_format",
        metavar="FORMAT",
        help="of the log's times: seconds, milliseconds, microseconds or nanoseconds since the epoch, "
        "iso (2019-10-01 23:59:59 and the like), or "
        "a pattern of Python's strptime such as %%d.%%m.%%Y %%H:%%M; a time without a zone is UTC",
    )
    switch(log, "first_date", "DATES+MILLISECONDS: add to a session's earliest date (default: to each line's own)")
    switch(log, "whole_seconds", "cut off the fractions of seconds, before anything else")
    log.add_argument(
        "--session_gap",
        type=float,
        metavar="MINUTES",
        help="the log has users in place of sessions: a session of a user ends with a longer pause than this",
    )
    log.add_argument(
        "--keep",
        action="append",
        metavar="COLUMN=VALUE[,VALUE]",
        help="keep the log's lines with one of these values in a column; may be given several times",
    )
    log.add_argument(
        "--null",
        nargs="+",
        metavar="TEXT",
        help="what stands for no session and no item: these lines are left out, as are those with nothing at all "
        f"(default: {' '.join(filter(None, NULLS))}; --null '' : nothing else)",
    )
    switch(
        log,
        "cut_first",
        "--session_gap counts pauses between all lines of a user (default: between those that --keep keeps)",
    )
    log.add_argument(
        "--order",
        type=one_of(ORDERS),
        metavar="NAME",
        help="of clicks of a session at the same time: as in the log (log, the default), by item id (id), or by the "
        "item's first appearance in the log (appearance; then users come in the order of theirs, too)",
    )
    protocol = parser.add_argument_group("the protocol")
    switch(protocol, "merge_repeats", "of several clicks on an item in a row, keep the first")
    switch(
        protocol,
        "repeat_filters",
        "drop sessions of one click and items of fewer than five again and again, until nothing changes (default: "
        "sessions, items, and sessions again)",
    )
    protocol.add_argument(
        "--test_days",
        type=whole_number(1, 10_000),
        metavar="N",
        help="days in the test set, and as many in the valid set (default: 1)",
    )
    protocol.add_argument(
        "--split_by",
        type=one_of(ENDS),
        metavar="NAME",
        help="test sessions are those that end (end, the default) or begin (beginning) in the test days",
    )
    protocol.add_argument(
        "--across",
        type=one_of(MANNERS),
        metavar="NAME",
        help="a session across a split stays whole (whole, the default), or what is on the other side is cut off (cut)",
    )
    protocol.add_argument(
        "--last_time",
        type=LAST_TIME,
        metavar=LAST_TIME.metavar,
        help="what the days are counted back from: the latest click of what is split, the valid days from train full's "
        "(own, the default); for both splits the latest click of all (latest), or a constant such as 2019-12-01",
    )
    protocol.add_argument(
        "--unknown_items",
        type=one_of(UNKNOWN_ITEMS),
        metavar="NAME",
        help="clicks in a test set on items that its training set lacks: drop (the default) or keep",
    )
    switch(
        protocol,
        "drop_by_line",
        "a click that is dropped takes those on the same line of the other files with it, as in the script of "
        "yoochoose-2023",
    )
    return parser


def one_of(names: tuple[str, ...]) -> Kind:
    """One of some names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}{did_you_mean(text, names)}")
        return text

    return Kind(parse, "NAME")


def _parse_last_time(text: str) -> str | int:
    if text in (OWN, LATEST):
        return text
    try:
        return from_iso(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not own, latest, or a time such as 2019-12-01 or 2019-12-01T12:00") from error


DATASET = one_of(("list", *DATASETS))
LAST_TIME = Kind(_parse_last_time, "own|latest|TIME")


def parse_flags(parser: FlagParser, argv: list[str] | None = None) -> Namespace:
    """The flags of a command line, those of its data set among them.

    ``dataset`` is what the clicks are: None if that cannot be said. ``changes`` are the flags that make them other than
    the data set's.

    Raises:
        UserError: a flag is unknown, or its value makes no sense.
    """
    nothing = {action.dest: None for action in parser._actions}

    def named(line: list[str] | None) -> dict[str, Any]:
        flags = vars(parser.parse_args(line, Namespace(**nothing)))
        return {name: value for name, value in flags.items() if value is not None}

    given = named(argv)
    dataset = given.get("dataset")
    if dataset is None and "columns" not in given and all(is_usual_name(p, YOOCHOOSE) for p in given.get("clicks", ())):
        dataset = YOOCHOOSE
    of_dataset = named(shlex.split(DATASETS[dataset].flags)) if dataset in DATASETS else {}
    flags = vars(parser.parse_args([])) | of_dataset | given | {"dataset": dataset}
    changes = [name for name, value in given.items() if name not in NO_MATTER and value != of_dataset.get(name)]
    if dataset in DATASETS and "clicks" in given and not are_its_files(given["clicks"], dataset):
        changes.append("clicks")
    return Namespace(**flags, changes=" ".join(f"--{name} {_shown(flags[name])}" for name in changes))


def _shown(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else shlex.quote(str(value))


def log_format(flags: Namespace) -> LogFormat | None:
    """What the flags say of a log with a header; None for YooChoose's format.

    Raises:
        UserError: they do not say all, or contradict each other.
    """
    if flags.columns is None:
        for name in OF_A_LOG:
            if getattr(flags, name) is not None:
                raise UserError(
                    f"--{name} is for logs whose columns have names: say with --columns which columns are to be read"
                )
        return None
    if flags.drop_by_line:
        raise UserError("--drop_by_line is for YooChoose's format: leave it out, or --columns")
    if not (flags.clicks or flags.dataset):
        raise UserError("--columns needs --clicks FILE, the log to read")
    if flags.test_clicks:
        raise UserError("--test_clicks is for YooChoose's format; with --columns, the last day is the test set")
    columns = flags.columns.split(",")
    if len(columns) != 3 or not all(columns):
        raise UserError(f"--columns {flags.columns} is not three names, such as session,time,item")
    if flags.time_format is None:
        raise UserError(
            f"--columns needs --time_format: {', '.join(UNITS)}, iso or a pattern such as '%Y-%m-%d %H:%M:%S'"
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
    if flags.cut_first and flags.session_gap is None:
        raise UserError("--cut_first needs --session_gap MINUTES, which cuts users into sessions")
    keep: dict[str, list[str]] = {}
    for text in flags.keep or ():
        name, equals, values = text.partition("=")
        if not (name and equals):
            raise UserError(f"--keep {text} is not COLUMN=VALUE")
        keep.setdefault(name, []).extend(values.split(","))
    return LogFormat(
        *columns,
        flags.time_format,
        separator,
        keep,
        bool(flags.first_date),
        NULLS if flags.null is None else flags.null,
    )


def protocol_of(flags: Namespace) -> Protocol:
    """What the flags say of the protocol."""
    return Protocol(**{name: value for name in Protocol.__annotations__ if (value := getattr(flags, name)) is not None})


def dataset_table() -> str:
    """All data sets with their files, protocols and published figures, for a terminal."""
    lines = ["python preprocessing.py --dataset NAME, where NAME is"]
    for name, dataset in DATASETS.items():
        lines += [
            "",
            f"{name}: {dataset.called}",
            f"  files      {', '.join(dataset.files)}",
            f"  from       {dataset.source}",
            f"  protocol   {protocol_of(parse_flags(make_parser(), ['--dataset', name]))}",
            f"  flags      {dataset.flags or 'none: the defaults'}",
            "  published  Recall@20  MRR@20",
        ]
        lines += [f"             {recall:9.4f}  {mrr:6.4f}  {row}" for row, (recall, mrr) in dataset.published.items()]
    return "\n".join(lines)

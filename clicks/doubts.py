"""What is odd about clicks that are read without complaint: each doubt a warning with its number, and what to do."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clicks.clickfile import DAY, Clicks, session_offsets
from terminal.errors import warn

MUCH, AT_LEAST = 0.01, 1000  # of all clicks, one session or user has so many
SHARED = 0.1  # of a file's sessions, so many are in earlier files, too


def doubts_about_files(lines: Clicks, file_ends: Sequence[int], paths: Sequence[Path], own_sessions: bool) -> None:
    """Warn of a file whose clicks were there before, or whose sessions go on in another one.

    Args:
        lines: those of all files, in their order.
        file_ends: where each file's lines end.
        paths: the files.
        own_sessions: every file has sessions of its own, or the log has users, which are the same in all files.
    """
    parts = [slice(start, end) for start, end in zip((0, *file_ends), file_ends, strict=False)]
    before: list[np.ndarray] = []
    for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
        twin = next((earlier for earlier in range(number) if _are_equal(lines, parts[earlier], part)), None)
        if twin is not None:
            warn(
                f"{path} holds the same {part.stop - part.start:,} clicks as {paths[twin]}, so that each counts twice: "
                "leave one of the two files out"
            )
        elif not own_sessions and len(paths) > 1:
            sessions = pd.unique(lines.session[part])
            shared = np.count_nonzero(np.isin(sessions, np.concatenate(before))) if before else 0
            before.append(sessions)
            if shared > SHARED * len(sessions):
                warn(
                    f"{shared:,} of the {len(sessions):,} sessions of {path} are in the files before it, too, and go "
                    "on in it: if every file numbers its sessions for itself, add --sessions_per_file"
                )


def _are_equal(lines: Clicks, one: slice, other: slice) -> bool:
    return one.stop - one.start == other.stop - other.start and all(
        np.array_equal(column[one], column[other]) for column in (lines.time, lines.item, lines.session)
    )


def doubts_about_users(lines: Clicks, column: str) -> None:
    """Warn of a user who has too many of a log's lines. Users are text, numbered."""
    n_clicks = np.bincount(lines.session)
    _doubt_the_share(n_clicks, lambda most: lines.session_names[most].as_py(), column)


def doubts_about_sessions(clicks: Clicks, column: str, are_cut: bool) -> None:
    """Warn of a session that has too many of all clicks, and of sessions that last for days.

    Args:
        clicks: by session, then time.
        column: of the log, what sessions are called in it.
        are_cut: they were cut out of the clicks of users.
    """
    offsets = session_offsets(clicks.session)

    def name(session: int) -> object:
        number = clicks.session[offsets[session]]
        return number if clicks.session_names is None else clicks.session_names[int(number)].as_py()

    if not are_cut:
        _doubt_the_share(np.diff(offsets), name, column)
    duration = clicks.time[offsets[1:] - 1] - clicks.time[offsets[:-1]]
    if n_long := np.count_nonzero(duration > DAY):
        longest = int(duration.argmax())
        remedy = (
            "lower --session_gap" if are_cut else "if these are users, cut them into sessions with --session_gap 60"
        )
        warn(
            f"{n_long:,} of {len(duration):,} sessions last longer than a day, {name(longest)} the longest, "
            f"{duration[longest] / DAY:,.1f} days: {remedy}"
        )


def _doubt_the_share(n_clicks: np.ndarray, name: Callable[[int], object], what: str) -> None:
    most, n_all = int(n_clicks.argmax()), n_clicks.sum()
    if n_clicks[most] >= AT_LEAST and n_clicks[most] > MUCH * n_all:
        warn(
            f"{what} {name(most)} has {n_clicks[most]:,} of {n_all:,} clicks ({n_clicks[most] / n_all:.0%}): if it "
            "stands for many people or a robot, leave its lines out of the log"
        )


def doubt_the_last_days(train: Clicks, split_time: int, held_out: Clicks) -> None:
    """Warn of test or valid days that begin long after the last click of training: a wrong date may have made them."""
    if len(train) and len(held_out) and (idle := split_time - train.time.max()) > DAY:
        last, begin = (np.datetime64(int(time), "ms").item() for time in (train.time.max(), split_time))
        n_sessions = len(session_offsets(held_out.session)) - 1
        warn(
            f"{len(held_out):,} clicks in {n_sessions:,} sessions are held out from {begin} on, but training ends "
            f"{idle / DAY:,.1f} days before, {last}: if the latest click has a wrong date, leave it out, or count the "
            "days back from another time with --last_time"
        )

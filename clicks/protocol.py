"""A protocol: what becomes of clicks between a log and the four files. preprocessing.py does what it says."""

from dataclasses import dataclass

import numpy as np

OWN, LATEST = "own", "latest"
ENDS, MANNERS, UNKNOWN_ITEMS = ("end", "beginning"), ("whole", "cut"), ("drop", "keep")


@dataclass(frozen=True)
class Protocol:
    """What the flags of these names ask for; the defaults are the paper's ([1] Hidasi et al., ICLR 2016).

    Attributes:
        merge_repeats: of clicks on one item in a row, keep the first.
        repeat_filters: drop short sessions and rare items again and again, until nothing changes; or once.
        split_by: which click of a session says on which side of a split it is, its last (``end``) or its first one.
        across: a session that lies across a split stays ``whole``, or what is on the other side is ``cut`` off.
        test_days: days in the test set, and as many in the valid set.
        last_time: what days are counted back from: the latest click of what is split (``own``), so that the valid days
            end with train full; the latest click of all, for both splits (``latest``), or a constant, in milliseconds
            since the epoch: then the valid days are those before the test days.
        unknown_items: what becomes of clicks in a test or valid set on items that its training set lacks.
        drop_by_line: a click that a filter drops takes those on the same line of the other files with it. The authors'
            script for ``yoochoose-2023`` does that, because it numbers the lines of each file from 0.
    """

    merge_repeats: bool = False
    repeat_filters: bool = False
    split_by: str = "end"
    across: str = "whole"
    test_days: int = 1
    last_time: str | int = OWN
    unknown_items: str = "drop"
    drop_by_line: bool = False

    def __str__(self) -> str:
        """The protocol in a line."""
        days = "the last day" if self.test_days == 1 else f"the last {self.test_days} days"
        if self.last_time == LATEST:
            days += " before the latest click of all"
        elif self.last_time != OWN:
            days += f" before {np.datetime64(self.last_time, 'ms').item():%Y-%m-%d %H:%M:%S}"
        parts = {
            "repeated clicks merged": self.merge_repeats,
            "sessions of one click and items of fewer than five dropped": not self.repeat_filters,
            "sessions of one click and items of fewer than five dropped until nothing changes": self.repeat_filters,
            "a dropped click takes those on its line of other files with it": self.drop_by_line,
            f"test: sessions that {'end' if self.split_by == 'end' else 'begin'} in {days}": True,
            "cut at a split": self.across == "cut",
            "without items unknown to training": self.unknown_items == "drop",
        }
        return "; ".join(part for part, applies in parts.items() if applies)


PAPER = Protocol()

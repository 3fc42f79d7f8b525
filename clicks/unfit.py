"""What does not fit in a file of clicks: the first of it is refused with its place, or all is left out and counted."""

from dataclasses import dataclass
from pathlib import Path

from terminal.errors import UserError, warn


@dataclass
class Unfit:
    """Tells of it.

    Attributes:
        path: the file.
        place: what it is made of, lines or rows.
        skip: leave out what does not fit.
    """

    path: Path
    place: str
    skip: bool
    n_skipped: int = 0
    first: str = ""

    def take(self, number: int, problem: str) -> None:
        """A line or a row, counted from 1, and what is wrong with it.

        Raises:
            UserError: it is not to be skipped.
        """
        if not self.skip:
            raise UserError(f"{self.path}, {self.place} {number}: {problem}")
        self.first = self.first or f"{self.place} {number}: {problem}"
        self.n_skipped += 1

    def say(self) -> None:
        """Say on stderr what was skipped, if anything was."""
        if self.n_skipped:
            warn(f"{self.path}: skipped {self.n_skipped:,} {self.place}s that are not clicks; {self.first}")

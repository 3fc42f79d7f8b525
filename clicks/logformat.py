"""Where a click log has what: its columns by their names, and what each of them holds, whatever form the log is in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from clicks.textkinds import TEXT_OR_NOTHING, ColumnKind
from clicks.times import DIFFERENCE, time_kind
from terminal.errors import UserError, did_you_mean, listed

NULLS = ("", "NA", "NULL", "null", "NaN", "nan", "None", r"\N")  # what stands for no id


@dataclass(frozen=True)
class LogFormat:
    """What the user says of a log.

    Attributes:
        session: name of the column of sessions, or of users.
        time: that of times; or ``DATES+MILLISECONDS``, where a second column has milliseconds to add to the first.
        item: that of items.
        time_format: of times, see :func:`clicks.times.time_kind`.
        separator: between the columns of text, a single ASCII character.
        keep: by column, the values of the lines to keep.
        first_date: milliseconds are added to the earliest date of the click's session, not to that of its line.
        nulls: what stands for no session and no item, beside nothing at all.
    """

    session: str
    time: str
    item: str
    time_format: str
    separator: str = ","
    keep: dict[str, list[str]] = field(default_factory=dict)
    first_date: bool = False
    nulls: Sequence[str] = NULLS

    def columns_among(
        self, names: Sequence[str], where: str, is_text: bool = False
    ) -> tuple[list[str], dict[str, ColumnKind]]:
        """The columns that make the time, and what every column that is to be read holds.

        Args:
            names: of all columns that the log has.
            where: the file, and the place in it that the names are from, for a message.
            is_text: the names are told apart by the separator.

        Raises:
            UserError: a column is not there, or it is asked for twice.
        """
        of_time = [self.time] if self.time in names else self.time.split("+")
        if len(of_time) > 2:
            raise UserError(f"{self.time} is more than two columns: expected a column of times, or DATES+MILLISECONDS")
        named = [self.session, self.item, *of_time]
        if twice := [name for name in named if named.count(name) > 1]:
            raise UserError(f"--columns names {twice[0]!r} twice")
        if times := [name for name in self.keep if name in of_time]:
            raise UserError(f"--keep {times[0]} filters by the column of times, which cannot be")
        kinds = dict.fromkeys((self.session, self.item, *self.keep), TEXT_OR_NOTHING)
        kinds |= dict(zip(of_time, (time_kind(self.time_format), DIFFERENCE), strict=False))
        for name in kinds:
            if names.count(name) != 1:
                raise UserError(f"{where}: {self._why_not_a_column(name, names, is_text)}")
        return of_time, kinds

    def _why_not_a_column(self, name: str, names: Sequence[str], is_text: bool) -> str:
        """Why a name does not name a column."""
        if name in names:
            return f"there are {names.count(name)} columns {name!r}"
        wrong_separator = is_text and len(names) == 1
        hint = f" (is --sep {self.separator!r} right?)" if wrong_separator else did_you_mean(name, names)
        return f"there is no column {name!r}{hint}; there are {listed(names) or 'none'}"

"""The scale of the numbers under `rating`: stars, votes, points out of ten, or percentages.

A 1 is the worst of five stars and the better of two votes. One row doesn't tell, all the ratings of
a file do.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

from tunetrail.errors import SampleError, UserError

# Columns that may hold an object with a `rating`; Open WebUI's `annotation` always has votes.
_RATED = ("feedback", "thumbs", "vote")
_LONGEST_NUMBER = 10


class RatingScale(StrEnum):
    """What the numbers under `rating` are."""

    STARS = "1 to 5 stars"
    TEN = "0 to 10 points"
    PERCENT = "percentages"
    VOTES = "votes of 1 and -1"
    VOTES_AND_NONE = "votes of 1, 0 and -1"


_RANGES = {RatingScale.STARS: (1, 5), RatingScale.TEN: (0, 10), RatingScale.PERCENT: (0, 100)}


class ScaleOfRows:
    """The scale of the ratings in some rows, which are read for it when the first one is met.

    Most files have no ratings. Only the others are read twice.

    Args:
        read: Returns all rows.
        message_columns: The columns that hold messages, which may be rated as well.

    Attributes:
        found: The scale; None as long as no rating was met.
    """

    def __init__(
        self, read: Callable[[], Iterable[Any]] = tuple, message_columns: Sequence[str] = ()
    ) -> None:
        self.found: RatingScale | None = None
        self._read = read
        self._message_columns = message_columns

    def scale(self) -> RatingScale:
        """Return the scale; stars if the rows have no ratings.

        Raises:
            UserError: The rows can't be read to their end.
        """
        if self.found is None:
            try:
                self.found = find_scale(self._read(), self._message_columns) or RatingScale.STARS
            # It would reject the row with the rating, and concerns the whole file.
            except SampleError as error:
                raise UserError(str(error)) from error
        return self.found


_current: ContextVar[ScaleOfRows | None] = ContextVar("rating_scale", default=None)


def current_scale() -> RatingScale:
    """Return the scale of the file that is being read; stars unless `using_scale` says more."""
    scale_of_rows = _current.get()
    return scale_of_rows.scale() if scale_of_rows else RatingScale.STARS


@contextmanager
def using_scale(scale_of_rows: ScaleOfRows) -> Iterator[None]:
    """Read the numbers under `rating` on the scale of some rows."""
    token = _current.set(scale_of_rows)
    try:
        yield
    finally:
        _current.reset(token)


def find_scale(rows: Iterable[Any], message_columns: Sequence[str]) -> RatingScale | None:
    """Return the scale on which all ratings of some rows lie; None if there are no ratings."""
    # Of a million ratings, only a few differ.
    ratings = {rating for row in rows for rating in _ratings_of(row, message_columns)}
    if not ratings:
        return None

    low, high = min(ratings), max(ratings)
    if low < 0:
        return RatingScale.VOTES_AND_NONE
    # Without a single -1, a 0 may be a rejection or no vote: only the 1 is known.
    if low == 0 and high <= 1:
        return RatingScale.VOTES
    if 5 < high <= 10:
        return RatingScale.TEN
    return RatingScale.PERCENT if 10 < high <= 100 else RatingScale.STARS


def _ratings_of(row: Any, message_columns: Sequence[str]) -> Iterator[float]:
    """Yield the numbers under `rating` in a row and in its messages."""
    if not isinstance(row, Mapping):
        return
    values = [row.get("rating")]
    if isinstance(values[0], Mapping):
        values = [values[0].get(key) for key in ("rating", "score", "value")]
    for column in _RATED:
        if isinstance(row.get(column), Mapping):
            values.append(row[column].get("rating"))
    for value in values:
        yield from _number_in(value)

    for column in message_columns:
        messages = row.get(column)
        for message in messages if isinstance(messages, list) else ():
            yield from _ratings_of(message, ())


def _number_in(value: Any) -> Iterator[float]:
    # CSV has text only. A text such as "4/5" names its own scale.
    is_text = isinstance(value, str) and len(value) <= _LONGEST_NUMBER
    if not is_text and (isinstance(value, bool) or not isinstance(value, int | float)):
        return
    try:
        rating = float(value)
    except (ValueError, OverflowError):
        return
    # A larger one is on no scale, and an error when it is read.
    if abs(rating) <= 100:
        yield rating


def is_accepted(score: float, scale: RatingScale) -> bool | None:
    """Return whether a rating accepts the answer; None if it isn't on the scale.

    From the middle of a scale on, it does: 3 of 5 stars, 5 of 10 points, 50 %.
    """
    if scale not in _RANGES:
        return {1.0: True, -1.0: False}.get(score)
    low, high = _RANGES[scale]
    return 2 * score >= low + high if low <= score <= high else None


def shown_rating(score: float, scale: RatingScale) -> str:
    """Return a rating as a person reads it."""
    units = {
        RatingScale.STARS: " of 5 stars",
        RatingScale.TEN: " of 10 points",
        RatingScale.PERCENT: " %",
    }
    return f"{score:g}{units.get(scale, '')}"

"""What one value of a sample may be: a test and a checked conversion for each type of column.

Parsing rejects a row if one of its values fails here; the validation step tests stored rows with
the same functions.
"""

import math
import numbers
from typing import Any

from tunetrail.errors import SampleError

ROLES = ("system", "user", "assistant", "tool")
"""The roles of stored messages."""
_SHOWN_CHARACTERS = 60
_VERDICTS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def is_text(value: Any) -> bool:
    """Tell whether a value is a string of valid Unicode."""
    return isinstance(value, str) and _surrogate_position(value) is None


def is_number(value: Any) -> bool:
    """Tell whether a value is a real number; NaN and infinity are, truth values aren't."""
    # The first two only save time: NumPy's numbers are known by the slower test.
    # True and False are integers to Python, but in a file of rows they are a mistake.
    return isinstance(value, int | float | numbers.Real) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Tell whether a value is a number that fits a finite float."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an integer larger than any float
        return False


def is_weight(value: Any) -> bool:
    """Tell whether a value is a finite number above 0."""
    return is_finite_number(value) and value > 0.0


def is_verdict(value: Any) -> bool:
    """Tell whether a value is True or False."""
    # NumPy's truth values, which Parquet files give, are of another class.
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")


def is_vector(value: Any) -> bool:
    """Tell whether a value is a non-empty list or array of numbers, finite or not."""
    components = as_list(value)
    return bool(components) and all(map(is_number, components))


def checked_text(value: Any, column: str) -> str:
    """Return a text; raises `SampleError` unless it is a string of valid Unicode."""
    # Nearly every value of nearly every row.
    if type(value) is str and value.isascii():
        return value
    if not isinstance(value, str):
        raise SampleError(
            f"{column} must be a string, got {type(value).__name__} ({shortened(value)})."
        )
    position = _surrogate_position(value)
    if position is not None:
        raise SampleError(f"{column} must be valid Unicode, got a lone surrogate at {position}.")
    return value


def checked_label(value: Any, column: str) -> str:
    """Return a label as text; integers and truth values are labels, too.

    Raises:
        SampleError: The value is none of these, or no valid Unicode.
    """
    # 1 and "1" are the same class, and so are true and "True", as pandas writes it to CSV.
    return str(value) if isinstance(value, int) else checked_text(value, column)


def checked_number(value: Any, column: str) -> float:
    """Return a number as a float; raises `SampleError` unless it is finite."""
    if not is_finite_number(value):
        raise SampleError(f"{column} must be a finite number, got {shortened(value)}.")
    return float(value)


def checked_weight(value: Any, column: str) -> float:
    """Return a weight as a float; raises `SampleError` unless it is finite and above 0."""
    weight = checked_number(value, column)
    if weight <= 0.0:
        raise SampleError(
            f"{column} must be above 0, got {shortened(value)}. Leave the row out, or its {column}."
        )
    return weight


def checked_verdict(value: Any, column: str) -> bool:
    """Return whether an answer was accepted; raises `SampleError` unless the value says so."""
    # CSV knows text only, and Parquet files of other libraries hold 0 and 1.
    word = str(value).strip().casefold()
    if word not in _VERDICTS:
        raise SampleError(
            f"{column} must be true or false, got {shortened(value)}. Leave the row out."
        )
    return _VERDICTS[word]


def checked_group(value: Any, column: str) -> str:
    """Return the name of a group; raises `SampleError` unless it is a string or an integer."""
    if type(value) is not str and not isinstance(value, str | int):
        raise SampleError(f"{column} must be a string or an integer, got {type(value).__name__}.")
    return str(value)


def checked_vector(value: Any, column: str) -> list[float]:
    """Return a vector as a list of floats; raises `SampleError` if it is empty or not finite."""
    vector = as_list(value)
    if not vector:
        raise SampleError(f"{column} must be a non-empty list of numbers, got {shortened(value)}.")
    return [checked_number(component, column) for component in vector]


def shortened(value: Any, most_characters: int = _SHOWN_CHARACTERS) -> str:
    """Return a value as an error message shows it."""
    text = repr(value)
    return text if len(text) <= most_characters else text[: most_characters - 3] + "..."


def _surrogate_position(text: str) -> int | None:
    """Return the position of the first character that can't be stored as UTF-8, or None."""
    # Found from the string's header, without reading its characters.
    if text.isascii():
        return None
    # JSON can hold half of a character ("\\ud800"); no tokenizer and no database takes it.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def as_list(value: Any) -> list[Any]:
    """Return the elements of a list, tuple or array; any other value has none."""
    if type(value) is list:
        return value.copy()
    # NumPy's arrays and pandas' columns are known by their method: this module imports neither.
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else []

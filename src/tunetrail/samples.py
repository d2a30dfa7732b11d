"""The vocabulary of samples: their kinds, their shapes, and the check that turns a row into a sample.

A shape is found from the columns of a row and never guessed from its content. Knows nothing of files or databases.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tunetrail.errors import SampleError, did_you_mean


class SampleKind(StrEnum):
    """What a sample teaches: an embedding model or a language model."""

    EMBEDDING = "embedding"
    LLM = "llm"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleShape:
    """One set of columns that a sample may have."""

    name: str
    kind: SampleKind
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Required columns, then the optional ones."""
        return self.required + self.optional


SHAPES = (
    SampleShape(name="pair", kind=SampleKind.EMBEDDING, required=("anchor", "positive"), optional=("negative",)),
    SampleShape(name="score", kind=SampleKind.EMBEDDING, required=("sentence1", "sentence2", "score")),
    SampleShape(name="label", kind=SampleKind.EMBEDDING, required=("text", "label")),
    SampleShape(name="vector", kind=SampleKind.EMBEDDING, required=("text", "embedding")),
    SampleShape(name="text", kind=SampleKind.EMBEDDING, required=("text",)),
    SampleShape(name="completion", kind=SampleKind.LLM, required=("input", "output")),
    SampleShape(name="chat", kind=SampleKind.LLM, required=("messages",)),
    SampleShape(name="document", kind=SampleKind.LLM, required=("text",)),
)
GROUP_COLUMN = "group"
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row to learn from.

    Attributes:
        kind: What it teaches.
        shape: The name of its shape in `SHAPES`.
        content: The values of the shape's columns, JSON-serialisable.
        group: Rows of one group stay on one side of every split.
        metadata: Columns that no shape knows; kept, never trained on.
    """

    kind: SampleKind
    shape: str
    content: Mapping[str, Any]
    group: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of kind, content and group: equal for equal samples."""
        text = json.dumps([str(self.kind), dict(self.content), self.group], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


def shape_named(name: str, kind: SampleKind) -> SampleShape:
    """Return the shape of that name and kind; raises `SampleError` for an unknown name."""
    for shape in SHAPES:
        if shape.name == name and shape.kind == kind:
            return shape
    known = [shape.name for shape in SHAPES if shape.kind == kind]
    raise SampleError(
        f"shape must be one of {', '.join(known)} for {kind} samples, got {name!r}.{did_you_mean(name, known)}"
    )


def find_shape(columns: Iterable[str], kind: SampleKind) -> SampleShape:
    """Return the shape of `kind` that has the most of these columns.

    Raises:
        SampleError: No shape of that kind has all its required columns here.
    """
    present = set(columns)
    fitting = [shape for shape in SHAPES if shape.kind == kind and present.issuperset(shape.required)]
    if not fitting:
        shapes = "; ".join(", ".join(shape.required) for shape in SHAPES if shape.kind == kind)
        known = [column for shape in SHAPES if shape.kind == kind for column in shape.columns]
        unknown = sorted(present - set(known))
        hint = next((hint for column in unknown if (hint := did_you_mean(column, known))), "")
        raise SampleError(
            f"columns must hold one of [{shapes}] for {kind} samples, got [{', '.join(sorted(present))}].{hint}"
        )
    return max(fitting, key=lambda shape: len(shape.required))


def parse_sample(row: Mapping[str, Any], kind: SampleKind) -> Sample:
    """Check one row and return it as a sample; empty texts pass here and are set aside by the validation step.

    A value of None (or NaN outside `score`) counts as an absent column. Columns of no shape are kept as metadata.

    Raises:
        SampleError: A column is missing, misspelt or of the wrong type; the message is the reason kept with the row.
    """
    present = {str(column): value for column, value in row.items() if not _is_absent(value)}
    shape = find_shape(present, kind)
    content = {column: _checked(column, present[column]) for column in shape.columns if column in present}
    group = present.get(GROUP_COLUMN)
    if group is not None and not isinstance(group, str | int):
        raise SampleError(f"group must be a string or an integer, got {type(group).__name__}.")
    rest = {column: value for column, value in present.items() if column not in (*shape.columns, GROUP_COLUMN)}
    for column in rest:
        hint = did_you_mean(column, [name for name in (*shape.optional, GROUP_COLUMN) if name not in present])
        if hint:
            raise SampleError(f"column {column!r} is unknown.{hint} Rename or remove it.")
    return Sample(
        kind=kind,
        shape=shape.name,
        content=content,
        group=None if group is None else str(group),
        metadata=rest,
    )


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _checked(column: str, value: Any) -> Any:
    if column == "score":
        return _checked_number(column, value)
    if column == "embedding":
        return _checked_vector(value)
    if column == "messages":
        return _checked_messages(value)
    if column == "label" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise SampleError(f"{column} must be a string, got {type(value).__name__} ({_shortened(value)}).")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SampleError(f"{column} must be valid Unicode, got a lone surrogate at {error.start}.") from error
    return value


def _checked_number(column: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise SampleError(f"{column} must be a finite number, got {_shortened(value)}.")
    return number


def _checked_vector(value: Any) -> list[float]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value:
        raise SampleError(f"embedding must be a non-empty list of numbers, got {_shortened(value)}.")
    return [_checked_number("embedding", number) for number in value]


def _checked_messages(value: Any) -> list[dict[str, str]]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value:
        raise SampleError(f"messages must be a non-empty list of {{role, content}}, got {_shortened(value)}.")
    messages = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise SampleError(f"messages[{number}] must have role and content, got {_shortened(message)}.")
        role, content = message["role"], _checked("messages[].content", message["content"])
        if role not in ROLES:
            raise SampleError(f"messages[{number}].role must be one of {', '.join(ROLES)}, got {role!r}.")
        messages.append({"role": role, "content": content})
    if all(message["role"] != "assistant" for message in messages):
        raise SampleError("messages must have an assistant turn to learn from, got none.")
    return messages


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenRow:
    """A piece of a file that is no row at all, such as a line of broken JSON.

    Attributes:
        text: The piece as it was read.
        reason: What is wrong with it and where.
    """

    text: str
    reason: str

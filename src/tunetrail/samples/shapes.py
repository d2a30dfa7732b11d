"""Sample shapes: which columns a sample may have, and what each of them is for.

This is the one place that describes a shape: losses, metrics, row files and checks look it up
here. Further kinds and shapes can be registered from outside the package.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, ClassVar

from tunetrail.errors import SampleError, did_you_mean
from tunetrail.extensions import FAMILIES

GROUP_COLUMN = "group"
TIMESTAMP_COLUMN = "timestamp"
WEIGHT_COLUMN = "weight"
TOOLS_COLUMN = "tools"
COMMON_COLUMNS = (GROUP_COLUMN, TIMESTAMP_COLUMN, WEIGHT_COLUMN)
"""Columns that a row of any shape may have in addition to its content."""


class SampleKind(str):
    """What a sample teaches: `embedding`, `llm`, or another registered kind.

    A kind is its name, so it can be stored, compared and printed as text.

    Raises:
        SampleError: No kind of that name is registered.
    """

    __slots__ = ()
    EMBEDDING: ClassVar["SampleKind"]
    LLM: ClassVar["SampleKind"]

    def __new__(cls, name: str) -> "SampleKind":
        """Return the registered kind of that name."""
        if not is_sample_kind(name):
            known = ", ".join(_KINDS)
            raise SampleError(
                f"kind must be one of {known}, got {name!r}.{did_you_mean(str(name), _KINDS)}"
            )
        return _KINDS[name]

    @classmethod
    def register(cls, name: str) -> "SampleKind":
        """Add a kind and return it; a kind that is known already stays as it is."""
        return _KINDS.setdefault(name, str.__new__(cls, name))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process starts without the kinds and shapes that were registered in this one,
        # so a kind takes its shapes along. They contain the kind, hence a state, not arguments.
        registered = [shape for shape in shapes_of_kind(self) if shape not in _BUILT_IN]
        return _restore_kind, (str(self),), registered or None

    def __setstate__(self, shapes: "list[SampleShape]") -> None:
        for shape in shapes:
            register_shape(shape)


_KINDS: dict[str, SampleKind] = {}


def _restore_kind(name: str) -> SampleKind:
    # A function of the module, because cloudpickle copies a class's methods with their globals.
    return SampleKind.register(name)


SampleKind.EMBEDDING = SampleKind.register("embedding")
SampleKind.LLM = SampleKind.register("llm")


class ColumnType(Enum):
    """What the values of a column are."""

    TEXT = auto()
    """One text."""
    LABEL = auto()
    """The name of a class."""
    NUMBER = auto()
    """A finite number."""
    VECTOR = auto()
    """A list of finite numbers."""
    MESSAGES = auto()
    """The turns of a conversation, each with `role` and `content`; an assistant's are learnt."""
    TURNS = auto()
    """The turns before an answer."""
    TOOLS = auto()
    """The tools that a model may call: their schemas as JSON text."""
    GROUP = auto()
    """The name of a group of rows."""
    TIMESTAMP = auto()
    """A moment."""
    WEIGHT = auto()
    """A finite number above 0."""
    VERDICT = auto()
    """Whether an answer was accepted: True, or False if it was rejected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleShape:
    """One set of columns that a sample may have, and what each of them is for.

    Attributes:
        name: Its name, different from the name of every other shape of any kind.
        kind: The kind of the samples.
        required: Columns that every sample has.
        optional: Columns that a sample may have.
        types: Types of the columns that hold something other than one text.
        documents: Texts that an embedding model reads as documents; it reads others as queries.
        target: Columns with what is learnt from the other columns: a label, a score, a vector, the
            answer to write, a preferred answer and a rejected one, or an answer and the verdict on
            it. Empty if the model learns from the texts themselves.
        distinct: Two texts that have to differ: if they are equal, the row teaches nothing.
        reworded: The text that can be reworded without changing what the row teaches, if any.
        passage: The text that a query can be written for, if any.
        compares_rows: Whether the rows of a batch are compared with one another. One row alone
            teaches nothing then, and equal rows have to stay apart.
        objective: Samples of one kind and one objective can be trained together. Empty for the name
            of the shape, whose samples are then trained on by themselves.
    """

    name: str
    kind: SampleKind
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    types: Mapping[str, ColumnType] = field(default_factory=dict, hash=False)
    documents: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    distinct: tuple[str, str] | None = None
    reworded: str | None = None
    passage: str | None = None
    compares_rows: bool = False
    objective: str = ""

    def __post_init__(self) -> None:
        # The class is frozen, so a default that depends on another field is set by this detour.
        if not self.objective:
            object.__setattr__(self, "objective", self.name)

    @property
    def columns(self) -> tuple[str, ...]:
        """Required columns, then the optional ones."""
        return self.required + self.optional

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns that hold one text each."""
        return tuple(column for column in self.columns if column not in self.types)

    @property
    def input_texts(self) -> tuple[str, ...]:
        """Required texts that aren't the target. Rows in which they are nearly equal are twins."""
        other_columns = {*self.optional, *self.target}
        return tuple(column for column in self.texts if column not in other_columns)

    @property
    def target_is_written(self) -> bool:
        """Whether text that the model learns to write is in the target."""
        return any(map(self._is_written, self.target))

    @property
    def judged_by(self) -> str | None:
        """The column of the target that isn't written, such as a label; None if there is none."""
        return next((column for column in self.target if not self._is_written(column)), None)

    def _is_written(self, column: str) -> bool:
        return self.types.get(column, ColumnType.TEXT) in (ColumnType.TEXT, ColumnType.MESSAGES)

    @property
    def truncatable(self) -> tuple[str, ...]:
        """Texts that may be shortened to the model's length.

        None may be if the target is written: cut off, it teaches a model to stop in the middle.
        """
        return () if self.target_is_written else self.texts

    @property
    def is_preference(self) -> bool:
        """Whether the target is a choice between two answers, the preferred one first."""
        return len(self.target) == 2 and all(map(self._is_written, self.target))


_BUILT_IN = (
    # In-batch negatives: the positives of other rows are wrong answers to an anchor.
    SampleShape(
        name="pair",
        kind=SampleKind.EMBEDDING,
        required=("anchor", "positive"),
        optional=("negative",),
        documents=("positive", "negative"),
        distinct=("anchor", "positive"),
        reworded="anchor",
        passage="positive",
        compares_rows=True,
    ),
    # The similarity of two texts, on any scale.
    SampleShape(
        name="score",
        kind=SampleKind.EMBEDDING,
        required=("sentence1", "sentence2", "score"),
        types={"score": ColumnType.NUMBER},
        target=("score",),
    ),
    # Texts of one label belong together, texts of different labels apart.
    SampleShape(
        name="label",
        kind=SampleKind.EMBEDDING,
        required=("text", "label"),
        types={"label": ColumnType.LABEL},
        target=("label",),
        reworded="text",
        passage="text",
        compares_rows=True,
    ),
    # Distillation: another model's vector of a text. There is no passage, since a query that is
    # written for the text would have another vector.
    SampleShape(
        name="vector",
        kind=SampleKind.EMBEDDING,
        required=("text", "embedding"),
        types={"embedding": ColumnType.VECTOR},
        target=("embedding",),
        reworded="text",
    ),
    # Unsupervised: a text is compared with itself, seen twice with different dropout.
    SampleShape(
        name="text",
        kind=SampleKind.EMBEDDING,
        required=("text",),
        reworded="text",
        passage="text",
        compares_rows=True,
    ),
    # Supervised fine-tuning on an answer, or on the assistant's turns of a conversation.
    SampleShape(
        name="completion",
        kind=SampleKind.LLM,
        required=("input", "output"),
        target=("output",),
        distinct=("input", "output"),
        reworded="input",
        objective="supervised",
    ),
    SampleShape(
        name="chat",
        kind=SampleKind.LLM,
        required=("messages",),
        optional=(TOOLS_COLUMN,),
        types={"messages": ColumnType.MESSAGES, TOOLS_COLUMN: ColumnType.TOOLS},
        target=("messages",),
        objective="supervised",
    ),
    # Continued pretraining: all of the text is learnt, so it may end anywhere.
    SampleShape(name="document", kind=SampleKind.LLM, required=("text",), objective="supervised"),
    # Preference optimisation: the chosen answer has to become likelier than the rejected one.
    SampleShape(
        name="preference",
        kind=SampleKind.LLM,
        required=("prompt", "chosen", "rejected"),
        target=("chosen", "rejected"),
        distinct=("chosen", "rejected"),
        reworded="prompt",
        objective="preference",
    ),
    # The same after several turns, or with tools.
    SampleShape(
        name="preference_chat",
        kind=SampleKind.LLM,
        required=("prompt_messages", "chosen", "rejected"),
        optional=(TOOLS_COLUMN,),
        types={"prompt_messages": ColumnType.TURNS, TOOLS_COLUMN: ColumnType.TOOLS},
        target=("chosen", "rejected"),
        distinct=("chosen", "rejected"),
        objective="preference",
    ),
    # A verdict on a single answer: an accepted one has to become likelier, a rejected one less so.
    SampleShape(
        name="verdict",
        kind=SampleKind.LLM,
        required=("prompt", "completion", "accepted"),
        types={"accepted": ColumnType.VERDICT},
        target=("completion", "accepted"),
        distinct=("prompt", "completion"),
        reworded="prompt",
        objective="kto",
    ),
    # The same after several turns, or with tools.
    SampleShape(
        name="verdict_chat",
        kind=SampleKind.LLM,
        required=("prompt_messages", "completion", "accepted"),
        optional=(TOOLS_COLUMN,),
        types={
            "prompt_messages": ColumnType.TURNS,
            "accepted": ColumnType.VERDICT,
            TOOLS_COLUMN: ColumnType.TOOLS,
        },
        target=("completion", "accepted"),
        objective="kto",
    ),
)

_SHAPES: dict[str, SampleShape] = {}
_COLUMN_TYPES: dict[str, ColumnType] = {
    GROUP_COLUMN: ColumnType.GROUP,
    TIMESTAMP_COLUMN: ColumnType.TIMESTAMP,
    WEIGHT_COLUMN: ColumnType.WEIGHT,
}


def register_shape(shape: SampleShape) -> SampleShape:
    """Add a shape that samples can have, and return it; the same shape can be registered twice.

    Raises:
        SampleError: Another shape has that name, or gives one of the columns another type.
    """
    if _SHAPES.get(shape.name, shape) != shape:
        raise SampleError(f"shape must have a name of its own, got {shape.name!r}.")

    # Cells of a file are read before it is known which shape a row has, and rows of several shapes
    # share a frame: a column has to mean the same in all of them.
    column_types = {column: shape.types.get(column, ColumnType.TEXT) for column in shape.columns}
    for column, column_type in column_types.items():
        known_type = _COLUMN_TYPES.get(column, column_type)
        if known_type is not column_type:
            raise SampleError(
                f"column {column!r} of the shape {shape.name} must be of type {known_type.name}, "
                f"as in other shapes, got {column_type.name}."
            )

    _COLUMN_TYPES.update(column_types)
    _SHAPES[shape.name] = shape
    return shape


for _shape in _BUILT_IN:
    register_shape(_shape)


def all_shapes() -> tuple[SampleShape, ...]:
    """Return every registered shape, in the order of their registration."""
    return tuple(_SHAPES.values())


def shape_count() -> int:
    """Return the number of registered shapes."""
    return len(_SHAPES)


def shapes_of_kind(kind: str) -> tuple[SampleShape, ...]:
    """Return the shapes that samples of a kind can have."""
    return tuple(shape for shape in _SHAPES.values() if shape.kind == kind)


def sample_kinds() -> tuple[SampleKind, ...]:
    """Return every registered kind of sample, in the order of their registration.

    A kind of an installed package is registered by its model family, which is imported when the
    kind is first asked for by its name.
    """
    return tuple(_KINDS.values())


def is_sample_kind(name: str) -> bool:
    """Tell whether there is a kind of that name, ours or one of an installed package."""
    if name not in _KINDS:
        FAMILIES.load_all()
    return name in _KINDS


def shape_named(name: str) -> SampleShape:
    """Return the shape of that name; raises `SampleError` for an unknown one."""
    if name not in _SHAPES:
        FAMILIES.load_all()
    if name not in _SHAPES:
        hint = did_you_mean(str(name), _SHAPES)
        raise SampleError(f"shape must be one of {', '.join(_SHAPES)}, got {name!r}.{hint}")
    return _SHAPES[name]


def is_document(column: str) -> bool:
    """Tell whether an embedding model reads the texts of a column as documents, not as queries."""
    return any(column in shape.documents for shape in _SHAPES.values())


def column_type(column: str) -> ColumnType:
    """Return the type of a column in the shapes that have it; a column of no shape holds text."""
    return _COLUMN_TYPES.get(column, ColumnType.TEXT)


def holds_turns(column: str) -> bool:
    """Tell whether the values of a column are lists of messages."""
    return column_type(column) in (ColumnType.MESSAGES, ColumnType.TURNS)

"""The losses of embedding models: one record each, with everything about a loss except its formula.

A new loss is a record in `LOSSES` and a constructor of the same name in
`tunetrail.learning.embedding.losses.constructors`. An installed package adds a record that builds
its own formula.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from tunetrail import extensions
from tunetrail.samples import SampleKind, shape_named, shapes_of_kind

if TYPE_CHECKING:
    from tunetrail.config.embedding import LossConfig


class Negatives(Enum):
    """Where a loss takes its negatives from."""

    NONE = "none: the loss learns from scores, labels or target vectors"
    IN_BATCH = "other rows of the batch; a row's own negative joins them"
    ONLY_IN_BATCH = "other rows of the batch; rows must not have negatives of their own"
    OWN = "each row's own negative, which must be there"


class Teaching(Enum):
    """What a loss learns from a teacher."""

    VECTORS = "the teacher's vector of each text"
    SCORES = "the teacher's scores of each row's positive and negative"
    GUIDANCE = "the teacher's vectors of all texts, which tell false negatives from true ones"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRule:
    """What the scores of `sentence1, sentence2, score` samples must be.

    Attributes:
        rule: The rule in words, for the error message.
        advice: What to do about a score that breaks it.
        holds: Tells whether a score keeps to it.
    """

    rule: str
    advice: str
    holds: Callable[[float], bool]


# The loss compares the score with a cosine.
_COSINE = ScoreRule(
    rule="between -1 and 1", advice="Scale it", holds=lambda score: -1.0 <= score <= 1.0
)
# The contrastive losses pull together or push apart; a score in between says neither.
_BINARY = ScoreRule(
    rule="0 (different) or 1 (equal)", advice="Round it", holds=lambda score: score in (0.0, 1.0)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A loss of embedding models.

    Attributes:
        name: Its name in the configuration.
        shapes: The sample shapes that it learns from as they are.
        taught_shapes: The sample shapes that it learns from only with a teacher.
        teaching: What the teacher gives; None if the loss never has one.
        negatives: Where its negatives come from.
        options: The fields of `LossConfig` that it has, except `orthogonality`, which all have.
        distances: The values that its option `distance` takes.
        score_rule: What the samples' scores must be; None if any finite number will do.
        row_wise: Whether a batch's loss is the mean over its rows, so that the gradients of the
            pieces of a batch add up to the gradient of the whole.
        learns_from_single_row: Whether one row by itself teaches it anything although it isn't
            row-wise.
        views: How often each text goes through the model, each time with other dropout.
        build: For a loss of an installed package: takes its options and returns the loss, a
            function of the vectors, a tensor [rows, dimensions] for each text column, and of the
            target [rows], or [rows, dimensions] for `vector` samples; None for other samples. It
            returns a tensor with a single number. See `build_vector_loss`.
        options_class: The dataclass of these options; None if it has none.
    """

    name: str
    shapes: tuple[str, ...] = ()
    taught_shapes: tuple[str, ...] = ()
    teaching: Teaching | None = None
    negatives: Negatives = Negatives.NONE
    options: tuple[str, ...] = ()
    distances: tuple[str, ...] = ()
    score_rule: ScoreRule | None = None
    row_wise: bool = False
    learns_from_single_row: bool = False
    views: int = 1
    build: Callable[[Any], Callable[..., Any]] | None = None
    options_class: type[Any] | None = None

    @property
    def all_options(self) -> tuple[str, ...]:
        """The fields of `LossConfig` that it has."""
        return (*self.options, "orthogonality")

    @property
    def all_shapes(self) -> tuple[str, ...]:
        """The sample shapes that it learns from, with a teacher or without."""
        return (*self.shapes, *self.taught_shapes)

    @property
    def target_is_vector(self) -> bool:
        """Whether the target is a vector of the model's own space."""
        return "vector" in self.shapes

    @property
    def takes_target(self) -> bool:
        """Whether the loss learns from a target, of the samples' own or the teacher's."""
        targets = [shape_named(shape).target for shape in self.shapes]
        return self.teaching is not None or any(targets)

    def is_row_wise(self, options: "LossConfig") -> bool:
        """Tell whether a batch's loss is the mean over its rows, given the options."""
        # The regularisation compares the vectors of a batch with each other.
        return self.row_wise and not options.orthogonality

    def learns_alone(self, *, with_negative: bool) -> bool:
        """Tell whether a batch of one row, with or without its own negative, teaches anything."""
        # A row's own negative suffices for a softmax over two passages.
        has_negative = with_negative and self.negatives is Negatives.IN_BATCH
        return self.row_wise or self.learns_from_single_row or has_negative


_RANKING_OPTIONS = (
    "scale",
    "similarity",
    "directions",
    "partition_mode",
    "hardness_mode",
    "hardness_strength",
)
_ALL_DISTANCES = ("cosine", "euclidean", "manhattan")
# The losses that compare all texts of a batch have no manhattan distance.
_BATCH_DISTANCES = ("cosine", "euclidean")

# The order matters: `auto` takes the first loss of a shape, or the first that has a teacher.
_RECORDS = (
    Loss(
        name="multiple_negatives_ranking",
        shapes=("pair",),
        negatives=Negatives.IN_BATCH,
        options=_RANKING_OPTIONS,
    ),
    Loss(
        name="multiple_negatives_symmetric_ranking",
        shapes=("pair",),
        negatives=Negatives.IN_BATCH,
        options=("scale", "similarity"),
    ),
    Loss(
        # Looks for the hardest negative of each anchor among the other rows.
        name="mega_batch_margin",
        shapes=("pair",),
        negatives=Negatives.ONLY_IN_BATCH,
        options=("positive_margin", "negative_margin"),
    ),
    Loss(
        name="triplet",
        shapes=("pair",),
        negatives=Negatives.OWN,
        options=("distance", "margin"),
        distances=_ALL_DISTANCES,
        row_wise=True,
    ),
    Loss(
        # The teacher guides only: it says which rows of the batch aren't true negatives.
        name="gist_embed",
        taught_shapes=("pair",),
        teaching=Teaching.GUIDANCE,
        negatives=Negatives.IN_BATCH,
        options=(
            "temperature",
            "margin",
            "margin_strategy",
            "contrast_anchors",
            "contrast_positives",
        ),
    ),
    Loss(
        # Learns the teacher's margin between a positive and a negative, so both must be there.
        name="margin_mse",
        taught_shapes=("pair",),
        teaching=Teaching.SCORES,
        negatives=Negatives.OWN,
        options=("similarity",),
        row_wise=True,
    ),
    Loss(
        name="distill_kl_div",
        taught_shapes=("pair",),
        teaching=Teaching.SCORES,
        negatives=Negatives.OWN,
        options=("temperature", "similarity"),
        row_wise=True,
    ),
    Loss(name="cosent", shapes=("score",), options=("scale", "similarity")),
    Loss(name="angle", shapes=("score",), options=("scale",)),
    Loss(
        name="cosine_similarity",
        shapes=("score",),
        score_rule=_COSINE,
        row_wise=True,
    ),
    Loss(
        name="contrastive",
        shapes=("score",),
        options=("distance", "margin"),
        distances=_ALL_DISTANCES,
        score_rule=_BINARY,
        row_wise=True,
    ),
    # A sum over the hard rows of a batch: one row is learnt from, but halves don't add up.
    Loss(
        name="online_contrastive",
        shapes=("score",),
        options=("distance", "margin"),
        distances=_ALL_DISTANCES,
        score_rule=_BINARY,
        learns_from_single_row=True,
    ),
    Loss(name="supervised_contrastive", shapes=("label",), options=("temperature",)),
    Loss(
        name="batch_all_triplet",
        shapes=("label",),
        options=("distance", "margin"),
        distances=_BATCH_DISTANCES,
    ),
    Loss(
        name="batch_hard_triplet",
        shapes=("label",),
        options=("distance", "margin"),
        distances=_BATCH_DISTANCES,
    ),
    Loss(
        name="batch_semi_hard_triplet",
        shapes=("label",),
        options=("distance", "margin"),
        distances=_BATCH_DISTANCES,
    ),
    Loss(
        name="batch_hard_soft_margin_triplet",
        shapes=("label",),
        options=("distance",),
        distances=_BATCH_DISTANCES,
    ),
    Loss(
        # Two passes of a text with other dropout are its pair; other texts are its negatives.
        name="simcse",
        shapes=("text",),
        negatives=Negatives.ONLY_IN_BATCH,
        options=_RANKING_OPTIONS,
        views=2,
    ),
    *(
        Loss(
            name=name,
            shapes=("vector",),
            taught_shapes=("text",),
            teaching=Teaching.VECTORS,
            row_wise=True,
        )
        # With a teacher, plain texts get target vectors, and learn like texts that have one.
        for name in ("mse", "cosine", "l2")
    ),
)

LOSSES = {loss.name: loss for loss in _RECORDS}
"""Our own losses by name."""


def is_built_in(name: str) -> bool:
    """Tell whether a loss is one of our own, or the word for the first of a shape."""
    return name in LOSSES or name == "auto"


def loss_named(name: str) -> Loss:
    """Return the loss of that name, ours or an installed package's.

    Raises:
        ConfigError: There is none, two packages have one, or its package is broken.
    """
    if name not in LOSSES:
        loss: Loss = extensions.LOSSES.load(name)
        return loss
    extensions.LOSSES.check_unique(name)
    return LOSSES[name]


def losses_of(shape: str, *, taught: bool | None = None) -> tuple[str, ...]:
    """Return the names of a shape's losses.

    Args:
        shape: Name of the samples' shape.
        taught: True for the losses that need a teacher on this shape, False for the other ones,
            None for both.
    """
    untaught_names = tuple(loss.name for loss in _RECORDS if shape in loss.shapes)
    taught_names = tuple(loss.name for loss in _RECORDS if shape in loss.taught_shapes)
    if taught is None:
        return untaught_names + taught_names
    return taught_names if taught else untaught_names


EMBEDDING_LOSSES = {
    shape.name: losses_of(shape.name) for shape in shapes_of_kind(SampleKind.EMBEDDING)
}
"""The names of the losses by sample shape."""

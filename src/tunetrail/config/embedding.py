"""The embedding model, its prompts, its loss and its training."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tunetrail.config.checks import check, check_choice
from tunetrail.config.losses import (
    EMBEDDING_LOSSES,
    LOSSES,
    check_loss_options,
    check_teacher,
    losses_of,
)
from tunetrail.config.model_types import check_start
from tunetrail.config.training import TrainingConfig

_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
_CHOICES = {
    "similarity": ("cosine", "dot"),
    "distance": ("cosine", "euclidean", "manhattan"),
    "margin_strategy": ("absolute", "relative"),
    "partition_mode": ("joint", "per_direction"),
    "hardness_mode": ("in_batch_negatives", "hard_negatives", "all_negatives"),
}
_OPTIONS = "embedding.loss_options"


@dataclass(kw_only=True)
class LossConfig:
    """Options of the loss; null is the library's default, and an option that the loss doesn't have is refused.

    They have the names and meanings of sentence-transformers: `scale` multiplies similarities, `temperature` divides
    them. `directions` (of query_to_doc, query_to_query, doc_to_query, doc_to_doc) says what counts as a negative,
    `hardness_mode` which negatives weigh more the nearer they are. `orthogonality` adds so much of the global
    orthogonal regularisation (Zhang et al. 2017) to any loss.
    """

    scale: float | None = None
    temperature: float | None = None
    similarity: str | None = None
    distance: str | None = None
    margin: float | None = None
    margin_strategy: str | None = None
    positive_margin: float | None = None
    negative_margin: float | None = None
    directions: list[str] | None = None
    partition_mode: str | None = None
    hardness_mode: str | None = None
    hardness_strength: float | None = None
    contrast_anchors: bool | None = None
    contrast_positives: bool | None = None
    orthogonality: float | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) is not None:
                check_choice(f"{_OPTIONS}.{name}", getattr(self, name), choices)
        self._check_number(
            "above 0", lambda value: value > 0.0, "scale", "temperature", "hardness_strength"
        )
        self._check_number("at least 0", lambda value: value >= 0.0, "margin", "orthogonality")
        self._check_number(
            "between -1 and 1",
            lambda value: -1.0 <= value <= 1.0,
            "positive_margin",
            "negative_margin",
        )
        self._check_directions()
        check(
            (self.hardness_mode is None) == (self.hardness_strength is None),
            f"{_OPTIONS}.hardness_strength",
            f"{'null without' if self.hardness_mode is None else 'above 0 with'} a hardness_mode",
            self.hardness_strength,
        )

    def _check_number(self, rule: str, holds: Callable[[float], bool], *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            check(
                value is None or (math.isfinite(value) and holds(value)),
                f"{_OPTIONS}.{name}",
                rule,
                value,
            )

    def _check_directions(self) -> None:
        if self.directions is not None:
            for direction in self.directions:
                check_choice(f"{_OPTIONS}.directions", direction, _DIRECTIONS)
            different = len(set(self.directions)) == len(self.directions)
            check(
                different and "query_to_doc" in self.directions,
                f"{_OPTIONS}.directions",
                "all different, query_to_doc among them",
                self.directions,
            )
        within = {"query_to_query", "doc_to_doc"}.intersection(self.directions or ())
        check(
            self.partition_mode != "per_direction" or not within,
            f"{_OPTIONS}.partition_mode",
            f"joint with the directions {', '.join(sorted(within))}, which hold no positive",
            self.partition_mode,
        )


@dataclass(kw_only=True)
class FurtherLossesConfig:
    """The losses of further shapes of samples; null: not trained on, auto: the first loss of the shape."""

    pair: str | None = None
    score: str | None = None
    label: str | None = None
    vector: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        for shape, loss in self.losses.items():
            choices = ("auto", *losses_of(shape, taught=False))
            check_choice(f"embedding.also_train.{shape}", loss, choices)

    @property
    def losses(self) -> dict[str, str]:
        """The losses that are set, by shape."""
        return {
            shape: loss for shape in EMBEDDING_LOSSES if (loss := getattr(self, shape)) is not None
        }


@dataclass(kw_only=True)
class EmbeddingConfig:
    """The embedding model, its loss and its training.

    `shape` chooses the samples when a session holds several shapes. `start_from: root` goes on from the root version if
    it was made from the same base model. With `mini_batch_size` above 0, contrastive batches go through the model in
    pieces of that size (the cached loss).

    `also_train` names further shapes of the session to train on in the same run, each with its loss (auto: the first of
    its shape). Each batch has one shape; scores, validation, `loss_options`, the teacher and what is `auto` are
    those of `shape` alone.

    `matryoshka_dimensions` trains the first so many numbers of each vector too (Kusupati et al. 2022), with one of
    `matryoshka_weights` each (null: 1). `teacher` names the model, of the catalog or a folder, that the loss learns
    from.

    `query_prompt` goes before anchors and before the texts of all shapes but pairs, `document_prompt` before positives
    and negatives; their tokens count towards `max_length`, and the trained model keeps them under the names `query` and
    `document`. An empty one is none, even where the base model comes with its own.
    """

    model: str = "minilm"
    max_length: int = 128
    query_prompt: str = ""
    document_prompt: str = ""
    shape: str | None = None
    also_train: FurtherLossesConfig = field(default_factory=FurtherLossesConfig)
    loss: str = "auto"
    loss_options: LossConfig = field(default_factory=LossConfig)
    matryoshka_dimensions: list[int] = field(default_factory=list)
    matryoshka_weights: list[float] | None = None
    teacher: str | None = None
    mini_batch_size: int = 0
    start_from: str = "root"
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check(self.max_length >= 4, "embedding.max_length", "at least 4 tokens", self.max_length)
        for name in ("query_prompt", "document_prompt"):
            prompt = getattr(self, name)
            check(
                isinstance(prompt, str) and prompt.encode(errors="ignore").decode() == prompt,
                f"embedding.{name}",
                "a text of valid Unicode",
                prompt,
            )
        self._check_loss()
        self._check_further_losses()
        self._check_matryoshka()
        check(
            self.mini_batch_size >= 0,
            "embedding.mini_batch_size",
            "at least 0 (0: off)",
            self.mini_batch_size,
        )
        check_start("embedding", self.start_from)

    def _check_loss(self) -> None:
        """Check the loss as far as it is known while the samples' shape may still be open."""
        check(
            self.teacher != "",
            "embedding.teacher",
            "null or a model's name or folder",
            self.teacher,
        )
        if self.shape is not None:
            check_choice("embedding.shape", self.shape, tuple(EMBEDDING_LOSSES))
        check_choice("embedding.loss", self.loss, ("auto", *LOSSES))
        if self.shape is not None and self.loss != "auto":
            check_choice(
                f"embedding.loss for {self.shape} samples", self.loss, EMBEDDING_LOSSES[self.shape]
            )
        shapes = [shape for shape, losses in EMBEDDING_LOSSES.items() if self.loss in losses]
        if self.shape is not None or len(shapes) == 1:
            check_teacher(self.shape or shapes[0], self.loss, self.teacher)
        if self.loss != "auto":
            check_loss_options(LOSSES[self.loss], self.loss_options)

    def _check_further_losses(self) -> None:
        check(
            self.shape is not None or not self.also_train.losses,
            "embedding.shape",
            "the shape to score and compare by with also_train",
            self.shape,
        )
        check(
            self.shape not in self.also_train.losses,
            f"embedding.also_train.{self.shape}",
            "null for the shape that is scored, whose loss is embedding.loss",
            self.also_train.losses.get(str(self.shape)),
        )

    def _check_matryoshka(self) -> None:
        dimensions, weights = self.matryoshka_dimensions, self.matryoshka_weights
        check(
            all(dimension >= 1 for dimension in dimensions)
            and len(set(dimensions)) == len(dimensions),
            "embedding.matryoshka_dimensions",
            "different numbers, each at least 1",
            dimensions,
        )
        check(
            weights is None
            or (
                len(weights) == len(dimensions)
                and all(0.0 < weight < math.inf for weight in weights)
            ),
            "embedding.matryoshka_weights",
            f"null or {len(dimensions)} numbers above 0, one for each of matryoshka_dimensions",
            weights,
        )

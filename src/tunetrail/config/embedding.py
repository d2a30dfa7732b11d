"""Settings of the embedding model: its prompts, its loss and its training."""

from dataclasses import dataclass, field
from typing import Any

from tunetrail.config.checks import (
    POSITIVE,
    Rule,
    at_least,
    check,
    check_choice,
    check_settings,
    one_of,
    options_setting,
    setting,
)
from tunetrail.config.loss_choice import check_loss_options, check_teacher, resolve_loss
from tunetrail.config.losses import EMBEDDING_LOSSES, LOSSES, loss_named, losses_of
from tunetrail.config.training import START, TrainingConfig
from tunetrail.config.typed_options import check_names, options_of
from tunetrail.extensions import LOSSES as INSTALLED_LOSSES

_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
_OPTIONS = "embedding.loss_options"
_NOT_NEGATIVE = at_least(0)
_COSINE = Rule("between -1 and 1", lambda value: -1.0 <= value <= 1.0)
# A prompt with a lone surrogate can't be encoded, and would fail only in the tokenizer.
_UNICODE_TEXT = Rule(
    "a text of valid Unicode",
    lambda text: isinstance(text, str) and text.encode(errors="ignore").decode() == text,
)


@dataclass(kw_only=True)
class LossConfig:
    """Options of the loss, as sentence-transformers names them; null is its default."""

    # Every default is null, so that an option that was set can be told from one that wasn't: its
    # value depends on the loss, and a loss without the option refuses it.
    scale: float | None = setting(None, POSITIVE)
    """Factor of the similarities before the softmax, the inverse of a temperature; null is
    20."""

    temperature: float | None = setting(None, POSITIVE)
    """Divisor of the similarities: null is 0.01 for `gist_embed`, 1 for `distill_kl_div`
    and 0.05 for `supervised_contrastive`."""

    similarity: str | None = setting(None, one_of("cosine", "dot"))
    """Similarity of two vectors: `cosine` or the `dot` product. Null is cosine, except for
    `margin_mse` and `distill_kl_div`, which compare dot products."""

    distance: str | None = setting(None, one_of("cosine", "euclidean", "manhattan"))
    """Distance of two vectors. Null is euclidean for the triplet losses and cosine for the
    contrastive ones; the triplet losses of labels don't have manhattan."""

    margin: float | None = setting(None, _NOT_NEGATIVE)
    """Distance that a negative must keep: null is 5 for the triplet losses, 0.5 for the
    contrastive ones. For `gist_embed`: how much less similar to the anchor than the
    positive is a candidate must be, by the guide, to count as a negative; null is 0."""

    margin_strategy: str | None = setting(None, one_of("absolute", "relative"))
    """How `gist_embed` applies its margin: subtracted (`absolute`, the default) or as a
    share of the positive's similarity (`relative`)."""

    positive_margin: float | None = setting(None, _COSINE)
    """Cosine that `mega_batch_margin` wants a positive to reach; null is 0.8."""

    negative_margin: float | None = setting(None, _COSINE)
    """Cosine that `mega_batch_margin` wants a negative to stay below; null is 0.3."""

    directions: list[str] | None = None
    """What the ranking losses contrast, any of `query_to_doc` (always needed),
    `query_to_query`, `doc_to_query` and `doc_to_doc`; null is `[query_to_doc]`."""

    partition_mode: str | None = setting(None, one_of("joint", "per_direction"))
    """Whether the directions share one softmax (`joint`, the default) or have one each
    (`per_direction`)."""

    hardness_mode: str | None = setting(
        None, one_of("in_batch_negatives", "hard_negatives", "all_negatives")
    )
    """Which negatives weigh more the more similar they are to the anchor (Lan et al. 2025,
    https://arxiv.org/abs/2503.04812); null is none. Needs `hardness_strength`."""

    hardness_strength: float | None = setting(None, POSITIVE)
    """How much more these negatives weigh; the papers take 9 for the negatives of the batch
    and 5 for hard ones (EmbeddingGemma, Schechter Vera et al. 2025,
    https://arxiv.org/abs/2509.20354)."""

    contrast_anchors: bool | None = None
    """Whether `gist_embed` also contrasts anchors with each other; null is true."""

    contrast_positives: bool | None = None
    """Whether `gist_embed` also contrasts positives with each other; null is true."""

    orthogonality: float | None = setting(None, _NOT_NEGATIVE)
    """Weight of the global orthogonal regularisation (Zhang et al. 2017,
    https://arxiv.org/abs/1708.06320) that is added to any loss; null adds none."""

    def __post_init__(self) -> None:
        check_settings(_OPTIONS, self)
        self._check_directions()

        # Neither does anything without the other, so that half of the pair is a mistake.
        rule = "null without a hardness_mode"
        if self.hardness_mode is not None:
            rule = "above 0 with a hardness_mode"
        go_together = (self.hardness_mode is None) == (self.hardness_strength is None)
        check(go_together, f"{_OPTIONS}.hardness_strength", rule, self.hardness_strength)

    def _check_directions(self) -> None:
        directions = self.directions or []
        for direction in directions:
            check_choice(f"{_OPTIONS}.directions", direction, _DIRECTIONS)

        if self.directions is not None:
            are_different = len(set(directions)) == len(directions)
            rule = "all different, query_to_doc among them"
            is_valid = are_different and "query_to_doc" in directions
            check(is_valid, f"{_OPTIONS}.directions", rule, directions)

        # A direction within one side holds no positive: a softmax of its own would teach nothing.
        within_side = sorted({"query_to_query", "doc_to_doc"}.intersection(directions))
        check(
            self.partition_mode != "per_direction" or not within_side,
            f"{_OPTIONS}.partition_mode",
            f"joint with the directions {', '.join(within_side)}, which hold no positive",
            self.partition_mode,
        )


@dataclass(kw_only=True)
class FurtherLossesConfig:
    """Further shapes of samples to train on in the same run, each with its loss."""

    pair: str | None = None
    """Loss of pairs (`anchor, positive`); `auto` is the first loss of the shape, null
    doesn't train on it."""

    score: str | None = None
    """Loss of scored pairs (`sentence1, sentence2, score`), `auto` or null."""

    label: str | None = None
    """Loss of labelled texts (`text, label`), `auto` or null."""

    vector: str | None = None
    """Loss of texts with a target vector (`text, embedding`), `auto` or null."""

    text: str | None = None
    """Loss of plain texts (`text`), `auto` or null."""

    def __post_init__(self) -> None:
        for shape, loss in self.losses.items():
            # The teacher belongs to the scored shape, so that losses with one aren't offered here.
            further = INSTALLED_LOSSES.names()
            choices = ("auto", *losses_of(shape, taught=False), *further)
            check_choice(f"embedding.also_train.{shape}", loss, choices)
            if loss in further:
                resolve_loss(shape, loss)

    @property
    def losses(self) -> dict[str, str]:
        """The losses that are set, by shape."""
        losses = {shape: getattr(self, shape) for shape in EMBEDDING_LOSSES}
        return {shape: loss for shape, loss in losses.items() if loss is not None}


@dataclass(kw_only=True)
class EmbeddingConfig:
    """The embedding model, its prompts, its loss and its training."""

    model: str = "minilm"
    """Short name from the catalog, hub id or folder of the base model. The group
    `embedding=NAME` also sets what suits the model; this key changes the weights only."""

    max_length: int = setting(128, at_least(4, " tokens"))
    """Tokens of a text that the model reads, the prompt's included; the rest is cut off."""

    query_prompt: str = setting("", _UNICODE_TEXT)
    """Text before anchors, and before the texts of all other shapes. The trained model
    keeps it under the name `query`. An empty one is none, even if the base model comes with
    its own."""

    document_prompt: str = setting("", _UNICODE_TEXT)
    """Text before positives and negatives, kept by the trained model under the name
    `document`."""

    shape: str | None = setting(None, one_of(*EMBEDDING_LOSSES))
    """Shape of the samples to train on and to be scored by. Needed only if the session
    holds several shapes; null is the only one."""

    also_train: FurtherLossesConfig = field(default_factory=FurtherLossesConfig)
    """Further shapes of the session to train on, as in `{score: cosent}`. Each batch has
    one shape. Scores, validation, `loss_options`, the teacher and what is `auto` are about
    `shape` alone."""

    loss: str = setting("auto", one_of("auto", *LOSSES, point=INSTALLED_LOSSES))
    """Loss of the samples; it must be one of the losses of their shape. `auto` is the first
    loss of the shape, or with a teacher the first that learns from one."""

    loss_options: LossConfig = field(default_factory=LossConfig)
    """Options of the loss. An option that the loss doesn't have is refused."""

    extensions: dict[str, dict[str, Any]] = options_setting(INSTALLED_LOSSES)
    """Options of losses that installed packages add, by loss and option, as in
    `embedding.extensions.LOSS.OPTION=VALUE`."""

    matryoshka_dimensions: list[int] = field(default_factory=list)
    """Sizes, such as `[256, 128, 64]`, to which vectors are cut for the training as well,
    so that their beginnings are useful vectors (Matryoshka, Kusupati et al. 2022,
    https://arxiv.org/abs/2205.13147)."""

    matryoshka_weights: list[float] | None = None
    """Weight of the loss for each of `matryoshka_dimensions`; null weighs each 1."""

    teacher: str | None = setting(None, Rule("null or a model's name or folder", bool))
    """Model that the loss learns from, as a short name, hub id or folder; null is none."""

    mini_batch_size: int = setting(0, at_least(0, " (0: off)"))
    """Rows of the pieces in which a batch goes through the model while all its negatives
    count, for contrastive batches larger than memory (GradCache, Gao et al. 2021,
    https://arxiv.org/abs/2101.06983); 0 is off."""

    start_from: str = setting("root", START)
    """`root` continues from the current root version if it was made from the same base
    model; `base` always starts from the base model."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Hyperparameters of the training."""

    def __post_init__(self) -> None:
        check_settings("embedding", self)
        self._check_loss()
        self._check_further_losses()
        self._check_extensions()
        self._check_matryoshka()

    def _check_loss(self) -> None:
        """Check the loss as far as it is known: the shape may only follow from the samples."""
        if self.loss == "auto":
            if self.shape is not None:
                check_teacher(self.shape, self.loss, self.teacher)
            return
        loss = loss_named(self.loss)
        if self.shape is not None and self.shape not in loss.all_shapes:
            name = f"embedding.loss for {self.shape} samples"
            check_choice(name, self.loss, EMBEDDING_LOSSES[self.shape])

        # A loss with a single shape implies it: its teacher is then checked before any row is read.
        if self.shape is not None or len(loss.all_shapes) == 1:
            check_teacher(self.shape or loss.all_shapes[0], self.loss, self.teacher)
        check_loss_options(loss, self.loss_options)

    def _check_extensions(self) -> None:
        """Check the options of installed packages' losses, and that these are trained with."""
        losses = [self.loss, *self.also_train.losses.values()]
        used = [name for name in losses if name in INSTALLED_LOSSES.names()]
        check_names(
            "embedding.extensions", self.extensions, INSTALLED_LOSSES, "embedding.loss", used
        )
        for name in used:
            options_of(loss_named(name), "embedding.extensions", self.extensions)

    def _check_further_losses(self) -> None:
        losses = self.also_train.losses
        # The score decides about the promotion, so that its shape isn't guessed from the rows.
        rule = "the shape that is scored if also_train names further shapes"
        check(self.shape is not None or not losses, "embedding.shape", rule, self.shape)

        check(
            # Otherwise a shape would have two losses, and no rule for which of them counts.
            self.shape not in losses,
            f"embedding.also_train.{self.shape}",
            "null for the shape that is scored, whose loss is embedding.loss",
            losses.get(str(self.shape)),
        )

    def _check_matryoshka(self) -> None:
        dimensions, weights = self.matryoshka_dimensions, self.matryoshka_weights
        # A size that is there twice would weigh twice in the loss.
        are_different = len(set(dimensions)) == len(dimensions)
        are_sizes = all(dimension >= 1 for dimension in dimensions)
        name, rule = "embedding.matryoshka_dimensions", "different numbers, each at least 1"
        check(are_different and are_sizes, name, rule, dimensions)

        if weights is not None:
            is_complete = len(weights) == len(dimensions)
            count = len(dimensions)
            check(
                is_complete and all(map(POSITIVE.allows, weights)),
                "embedding.matryoshka_weights",
                f"null or {count} numbers above 0, one for each of matryoshka_dimensions",
                weights,
            )

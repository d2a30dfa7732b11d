"""The choice of a loss: which one a configuration means, and whether it fits the records and the model. No tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.config import EMBEDDING_LOSSES, EmbeddingConfig
from tunetrail.config.embedding import TEACHER_LOSSES, LossConfig, check_loss_options, check_teacher
from tunetrail.errors import ConfigError, SampleError

Record = Mapping[str, Any]

NEGATIVE_LOSSES = ("triplet", "margin_mse", "distill_kl_div")
"""Those that need a negative in every row."""


def needs_whole_columns(options: LossConfig) -> bool:
    """Whether a ranking loss with these options takes negatives only where every row has one."""
    return options.hardness_mode is not None or "doc_to_doc" in (options.directions or ())


def loss_name(shape: str, name: str, teacher: str | None = None) -> str:
    """Return the loss that `name` means for samples of that shape.

    Args:
        shape: Name of the samples' shape.
        name: A loss, or `auto`: the shape's default, with a teacher the default of those that learn from one.
        teacher: Name of the teacher, if there is one.

    Raises:
        ConfigError: The loss doesn't fit the shape, needs a teacher, or has no use for one.
    """
    check_fits(shape, name)
    check_teacher(shape, name, teacher)
    if name != "auto":
        return name
    return (EMBEDDING_LOSSES if teacher is None else TEACHER_LOSSES)[shape][0]


def check_fits(shape: str, name: str) -> None:
    """Raise `ConfigError` for a loss that isn't one of the shape's."""
    fitting = EMBEDDING_LOSSES[shape]
    if name not in ("auto", *fitting):
        raise ConfigError(
            f"embedding.loss must be one of auto, {', '.join(fitting)} for {shape} samples, got {name!r}."
        )


def check_loss(
    config: EmbeddingConfig, shape: str, records: Sequence[Record], dimensions: int
) -> str:
    """Return the name of the configured loss, once it fits the records and the model.

    Args:
        config: Says the loss, its options, its Matryoshka dimensions and its teacher.
        shape: Name of the samples' shape.
        records: What will be trained on.
        dimensions: Of the model's vectors.

    Raises:
        ConfigError: The loss doesn't fit the shape, or one of its options the loss or the model.
        SampleError: A row lacks what the loss needs.
    """
    name = loss_name(shape, config.loss, config.teacher)
    check_loss_options(name, config.loss_options)
    check_matryoshka(config.matryoshka_dimensions, dimensions)
    check_records(name, records, config.loss_options)
    return name


def check_matryoshka(matryoshka_dimensions: Sequence[int], dimensions: int) -> None:
    """Raise `ConfigError` for Matryoshka dimensions above those of the model's vectors."""
    largest = max(matryoshka_dimensions, default=0)
    if largest > dimensions:
        raise ConfigError(
            f"embedding.matryoshka_dimensions must be at most the model's {dimensions} dimensions, got {largest}."
        )


def check_records(name: str, records: Sequence[Record], options: LossConfig | None = None) -> None:
    """Raise `SampleError` where a row lacks what the loss of that name needs with its options."""
    with_negative = sum(bool(record.get("negative")) for record in records)
    check_negatives(name, with_negative, len(records), options or LossConfig())
    scores = [record["score"] for record in records] if records and "score" in records[0] else []
    if name == "cosine_similarity":
        wrong = next((score for score in scores if not -1.0 <= score <= 1.0), None)
        _refuse(name, wrong, "between -1 and 1", "Scale it")
    if name in ("contrastive", "online_contrastive"):
        wrong = next((score for score in scores if score not in (0.0, 1.0)), None)
        _refuse(name, wrong, "0 (different) or 1 (alike)", "Round it")


def check_negatives(name: str, negatives: int, rows: int, options: LossConfig) -> None:
    """Raise `SampleError` where the loss can't take so many negatives for so many rows."""
    in_every_row = name in NEGATIVE_LOSSES or (needs_whole_columns(options) and negatives > 0)
    if in_every_row and negatives < rows:
        among = " with hardness_mode or doc_to_doc" if name not in NEGATIVE_LOSSES else ""
        raise SampleError(
            f"negative must be in every row for the loss {name}{among}, got {negatives} for {rows} rows. "
            "Give each row one, or use multiple_negatives_ranking with its defaults."
        )
    if name == "mega_batch_margin" and negatives:
        raise SampleError(
            f"negative must be in no row for the loss mega_batch_margin, got {negatives}: it takes the hardest "
            "positive of another row. Leave them out, or use multiple_negatives_ranking."
        )


def _refuse(name: str, score: float | None, rule: str, way: str) -> None:
    if score is not None:
        raise SampleError(
            f"score must be {rule} for the loss {name}, got {score}. {way}, or use cosent."
        )

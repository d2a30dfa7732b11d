"""Whether a loss fits the records and the model that it is to train with. No tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.config import EmbeddingConfig
from tunetrail.config.embedding import LossConfig
from tunetrail.config.loss_choice import check_loss_options, choose_loss
from tunetrail.config.losses import Loss, Negatives
from tunetrail.errors import ConfigError, SampleError

Record = Mapping[str, Any]


def check_loss(
    config: EmbeddingConfig, shape: str, records: Sequence[Record], dimensions: int
) -> Loss:
    """Return the configured loss after checking that it fits the records and the model.

    Args:
        config: Says the loss, its options, its Matryoshka dimensions and its teacher.
        shape: Name of the samples' shape.
        records: The training records.
        dimensions: Number of dimensions of the model's vectors.

    Raises:
        ConfigError: The loss doesn't fit the shape, or one of its options the loss or the model.
        SampleError: A row lacks what the loss needs.
    """
    loss = choose_loss(shape, config.loss, config.teacher)
    check_loss_options(loss, config.loss_options)
    check_matryoshka(config.matryoshka_dimensions, dimensions)
    check_records(loss, records, config.loss_options)
    return loss


def check_matryoshka(matryoshka_dimensions: Sequence[int], dimensions: int) -> None:
    """Raise `ConfigError` for Matryoshka dimensions above the number that the vectors have."""
    largest = max(matryoshka_dimensions, default=0)
    if largest > dimensions:
        raise ConfigError(
            f"embedding.matryoshka_dimensions must be at most the model's {dimensions} dimensions, "
            f"got {largest}."
        )


def check_records(loss: Loss, records: Sequence[Record], options: LossConfig | None = None) -> None:
    """Raise `SampleError` if a row lacks what the loss needs with its options."""
    negatives = sum(bool(record.get("negative")) for record in records)
    check_negatives(loss, negatives, len(records), options or LossConfig())

    rule = loss.score_rule
    if rule is None:
        return
    for record in records:
        if not rule.holds(record["score"]):
            raise SampleError(
                f"score must be {rule.rule} for the loss {loss.name}, got {record['score']}. "
                f"{rule.advice}, or use cosent."
            )


def check_negatives(loss: Loss, negatives: int, rows: int, options: LossConfig) -> None:
    """Raise `SampleError` if the loss can't take this number of negatives for `rows` rows."""
    # Negatives are ranked as a column of their own here, so a row without one would shift them.
    needs_column = options.hardness_mode is not None or "doc_to_doc" in (options.directions or ())
    all_or_none = needs_column and negatives > 0
    needs_own = loss.negatives is Negatives.OWN

    if (needs_own or all_or_none) and negatives < rows:
        options_named = "" if needs_own else " with hardness_mode or doc_to_doc"
        raise SampleError(
            f"negative must be in every row for the loss {loss.name}{options_named}, "
            f"got {negatives} for {rows} rows. "
            "Give each row a negative, or use multiple_negatives_ranking with its defaults."
        )

    if loss.negatives is Negatives.ONLY_IN_BATCH and negatives:
        raise SampleError(
            f"negative must be in no row for the loss {loss.name}, got {negatives}: this loss "
            "takes other rows' texts as negatives. Drop the column, or use "
            "multiple_negatives_ranking."
        )

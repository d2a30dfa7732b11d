"""Check an embedding model's training: its batches teach something, its vectors are independent."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from tunetrail.config.losses import Loss
from tunetrail.errors import ConfigError, SampleError, TrainingError
from tunetrail.learning.embedding.encoder import TextColumn
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.evaluation_mode import undisturbed
from tunetrail.learning.preflight.checks import FamilyChecks, is_exact, sampled, share
from tunetrail.learning.preflight.findings import (
    PreflightFinding,
    Severity,
    broken_model,
    error,
    ok,
    warning,
)
from tunetrail.reporting.readable import counted

EQUAL_SHARE = 0.5
"""Share of pairs of equal texts above which the columns must be wrong."""
CUT_SHARE = 0.1
"""Share of texts that are cut off above which a warning is given."""
# In float32, and in half precision, where bfloat16 rounds every operation to 8 bits.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2
# A model that mixes texts up does so with any; few of them keep the check short.
_COMPARED = 4
_PREVIEWED, _PREVIEW_CHARACTERS = 2, 1000


def check_batches(trainer: Trainer, module: EmbeddingModule) -> PreflightFinding:
    """Check that batches have enough rows for the loss."""
    datamodule = _data(trainer)
    findings = []
    for shape, indices in datamodule.rows_by_shape(datamodule.train).items():
        records = [datamodule.train[index] for index in indices]
        findings.append(_check_batches_of(datamodule, shape, records, module.losses[shape]))

    # The worst shape speaks for all: a check has one finding.
    for severity in (Severity.ERROR, Severity.WARNING):
        for finding in findings:
            if finding.severity is severity:
                return finding
    return ok(findings[0].name, "; ".join(finding.message for finding in findings))


def _check_batches_of(
    datamodule: Any, shape: str, records: Sequence[Any], loss: Loss
) -> PreflightFinding:
    """Tell whether the batches of a shape hold enough rows for the loss to teach anything."""
    name = "rows per batch"
    rows, batches = len(records), len(datamodule.sampler_of(shape, records))
    in_words = f"{counted(rows, 'row')} in {'1 batch' if batches == 1 else f'{batches:,} batches'}"
    by_tokens = datamodule.batches.tokens
    if loss.learns_alone(with_negative=all(record.get("negative") for record in records)):
        return ok(name, f"{in_words} for the loss {loss.name}")

    if rows == 1:
        message = f"The training must have at least 2 rows for the loss {loss.name}, got 1."
        return error(name, message, SampleError)

    # As many batches as rows: each has a single one.
    if batches >= rows:
        rule = (
            "training.batches.tokens must allow several rows per batch"
            if by_tokens
            else "training.batch_size must be at least 2"
        )
        return error(
            name,
            f"{rule} for the loss {loss.name}, got {in_words}: "
            "a row by itself teaches it nothing. Raise it.",
            ConfigError,
        )

    # Fewer than two rows per batch on average: some batches have a single one.
    if by_tokens and batches * 2 > rows:
        return warning(
            name,
            f"training.batches.tokens={by_tokens} leaves many batches with one row, which teaches "
            f"the loss {loss.name} nothing: {in_words}. Raise it.",
        )

    if shape == datamodule.shape and len(datamodule.validation) == 1:
        message = f"The validation has one row, for which the loss {loss.name} is always the same."
        return warning(name, message)

    return ok(name, f"{in_words} for the loss {loss.name}")


def check_pairs(trainer: Trainer, module: EmbeddingModule) -> PreflightFinding:
    """Count the pairs whose texts are equal to the model, from which nothing is learnt."""
    name = "pairs"
    datamodule = _data(trainer)
    indices = datamodule.rows_by_shape(datamodule.train).get("pair", ())
    if not indices:
        return ok(name, "the rows aren't pairs")

    # Only texts that differ in case at most are tokenised: a model may read no case.
    equal = 0
    for index in indices:
        record = datamodule.train[index]
        anchor, positive = record["anchor"].strip(), record["positive"].strip()
        if anchor.casefold() == positive.casefold():
            anchor_ids, positive_ids = module.encoder.tokenized.ids([anchor, positive])
            equal += np.array_equal(anchor_ids, positive_ids)

    message = f"{share(equal, len(indices))} of the anchors equal their positive"
    if not equal:
        return ok(name, message)

    message += f" ({equal} of {len(indices)} rows)."
    if equal > EQUAL_SHARE * len(indices):
        return error(name, f"{message} Look at the rows' columns.", SampleError)
    return warning(name, message)


def check_lengths(trainer: Trainer, module: EmbeddingModule) -> PreflightFinding:
    """Count the texts that are as long as the model reads, and are probably cut off."""
    name = "lengths"
    # None for a model that reads texts of any length.
    longest = module.model.max_seq_length

    lengths: list[int] = []
    for column in _columns(trainer, sampled(_rows_of_own_shape(trainer))):
        lengths += map(len, module.encoder.tokenized.ids(column.texts, column.prompt))
    cut = sum(length >= longest for length in lengths) if longest else 0

    message = (
        f"{share(cut, max(len(lengths), 1))} of the texts fill max_length={longest} "
        "or are cut off there"
    )
    return warning(name, f"{message}.") if cut > CUT_SHARE * len(lengths) else ok(name, message)


def check_packing(trainer: Trainer, module: EmbeddingModule) -> PreflightFinding:
    """Compare the vectors of texts encoded together with the vectors of the same texts alone."""
    name = "packing"
    column = _columns(trainer, sampled(_rows_of_own_shape(trainer), _COMPARED))[0]
    single_vectors: list[Tensor] = []
    with undisturbed(module), torch.no_grad():
        (together,) = module.encoder([column])
        for text in column.texts:
            single_vectors += module.encoder([replace(column, texts=[text])])
    alone = torch.cat(single_vectors)
    # The encoder counts tokens for the training's cost; these are none of it.
    module.encoder.forget()

    if not bool(alone.isfinite().all()):
        return broken_model(name)

    # The bound is for a model whose vectors are all zero.
    difference = float((together - alone).abs().max() / alone.abs().max().clamp(min=1e-12))
    # Written so that a difference of NaN is an error.
    if not difference <= (_TOLERANCE if is_exact(module) else _HALF_TOLERANCE):
        return error(
            name,
            "Texts that go through the model together have other vectors than one by one, by "
            f"{difference:.1e}: they see each other. Set training.batches.padding_free=false.",
            TrainingError,
        )
    return ok(
        name,
        f"{len(column.texts)} texts have the same vectors in one batch as alone "
        f"(relative difference {difference:.1e})",
    )


def preview(trainer: Trainer, module: EmbeddingModule) -> str:
    """Return the first training rows as the model reads them, and what it learns for them."""
    rows = []
    for index, record in enumerate(_data(trainer).train[:_PREVIEWED]):
        lines = [f"Row {index}:"]
        for column in _columns(trainer, [index]):
            for ids in module.encoder.tokenized.ids(column.texts, column.prompt):
                text = module.model.tokenizer.decode(ids)
                lines.append(f"  read: {text[:_PREVIEW_CHARACTERS]}")
        for target in ("score", "label"):
            if target in record:
                lines.append(f"  learnt: {target} {record[target]}")
        rows.append("\n".join(lines))
    return "\n\n".join(rows)


def _columns(trainer: Trainer, rows: list[int]) -> list[TextColumn]:
    loader: Any = trainer.train_dataloader
    return list(loader.build(rows).columns)


def _data(trainer: Any) -> Any:
    return trainer.datamodule


def _rows_of_own_shape(trainer: Any) -> list[int]:
    """Return the indices of the rows of the shape that is scored."""
    datamodule = _data(trainer)
    rows: list[int] = datamodule.rows_by_shape(datamodule.train)[datamodule.shape]
    return rows


EMBEDDING_CHECKS = FamilyChecks(
    rows=(check_batches, check_pairs, check_lengths), model=(check_packing,), preview=preview
)

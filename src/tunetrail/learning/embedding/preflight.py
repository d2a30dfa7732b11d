"""Checks of an embedding model's training: batches that teach something, and vectors that don't depend on company."""

from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from tunetrail.config.losses import Loss
from tunetrail.errors import ConfigError, SampleError, TrainingError
from tunetrail.learning.embedding.encoder import TextColumn
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.evaluation_mode import evaluating
from tunetrail.learning.preflight.checks import FamilyChecks, sampled, share
from tunetrail.learning.preflight.findings import (
    PreflightFinding,
    Severity,
    broken_model,
    error,
    ok,
    warning,
)

EQUAL_SHARE = 0.5
CUT_SHARE = 0.1
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2
_COMPARED = 4
_PREVIEWED, _PREVIEW_CHARACTERS = 2, 1000


def check_company(trainer: lightning.Trainer, module: EmbeddingModule) -> PreflightFinding:
    """Look whether batches have enough rows for the loss."""
    data, found = _data(trainer), []
    for shape, numbers in data.rows_by_shape(data.train).items():
        records = [data.train[number] for number in numbers]
        found.append(_company(data, shape, records, module.losses[shape]))
    worst = [
        each
        for level in (Severity.ERROR, Severity.WARNING)
        for each in found
        if each.severity is level
    ]
    return worst[0] if worst else ok(found[0].name, "; ".join(each.message for each in found))


def _company(data: Any, shape: str, records: list[Any], loss: Loss) -> PreflightFinding:
    name = "rows per batch"
    alone = loss.learns_alone(with_negative=all(record.get("negative") for record in records))
    rows, batches = len(records), len(data.sampler_of(shape, records))
    if not alone and rows == 1:
        return error(
            name,
            f"The training must have at least 2 rows for the loss {loss.name}, got 1.",
            SampleError,
        )
    if not alone and batches >= rows:
        wanted = "training.batches.tokens must allow several rows per batch"
        if not data.batches.tokens:
            wanted = "training.batch_size must be at least 2"
        return error(
            name,
            f"{wanted} for the loss {loss.name}, got {rows} rows in {batches} batches: "
            "a row by itself teaches it nothing. Raise it.",
            ConfigError,
        )
    if not alone and data.batches.tokens and batches * 2 > rows:
        return warning(
            name,
            f"training.batches.tokens={data.batches.tokens} leaves many batches with one row, which teaches the loss "
            f"{loss.name} nothing: {rows} rows in {batches} batches. Raise it.",
        )
    if not alone and shape == data.shape and len(data.validation) == 1:
        return warning(
            name, f"The validation has one row, to which the loss {loss.name} is always the same."
        )
    return ok(name, f"{rows} rows in {batches} batches for the loss {loss.name}")


def check_pairs(trainer: lightning.Trainer, module: EmbeddingModule) -> PreflightFinding:
    """Count the pairs of texts that are the same to the model (it may read no case): nothing is learnt from them."""
    name = "pairs"
    data = _data(trainer)
    train = [data.train[number] for number in data.rows_by_shape(data.train).get("pair", ())]
    if not train:
        return ok(name, "the rows are no pairs")
    alike = [(record["anchor"].strip(), record["positive"].strip()) for record in train]
    alike = [pair for pair in alike if pair[0].casefold() == pair[1].casefold()]
    tokens = (module.encoder.tokenized.ids(pair) for pair in alike)
    equal = sum(np.array_equal(anchor, positive) for anchor, positive in tokens)
    message = f"{share(equal, len(train))} of the anchors equal their positive"
    if equal > EQUAL_SHARE * len(train):
        return error(
            name,
            f"{message} ({equal} of {len(train)} rows). Look at the rows' columns.",
            SampleError,
        )
    return (
        warning(name, f"{message} ({equal} of {len(train)} rows).") if equal else ok(name, message)
    )


def check_lengths(trainer: lightning.Trainer, module: EmbeddingModule) -> PreflightFinding:
    """Count the texts that are as long as the model reads, and are probably cut off."""
    name = "lengths"
    longest = module.model.max_seq_length
    columns = _columns(trainer, sampled(_own_rows(trainer)))
    lengths = [
        len(ids)
        for column in columns
        for ids in module.encoder.tokenized.ids(column.texts, column.prompt)
    ]
    cut = sum(bool(longest) and length >= longest for length in lengths)
    message = f"{share(cut, max(len(lengths), 1))} of the texts fill max_length={longest} or are cut off there"
    return warning(name, f"{message}.") if cut > CUT_SHARE * len(lengths) else ok(name, message)


def check_packing(trainer: lightning.Trainer, module: EmbeddingModule) -> PreflightFinding:
    """Compare the vectors of some texts that go through the model together with those of each by itself."""
    name = "packing"
    (column, *_) = _columns(trainer, sampled(_own_rows(trainer), _COMPARED))
    with evaluating(module), isolate_rng(), torch.no_grad():
        (together,) = module.encoder([column])
        alone = torch.cat(
            [
                module.encoder([TextColumn(texts=[text], prompt=column.prompt)])[0]
                for text in column.texts
            ]
        )
    module.encoder.forget()
    if not bool(alone.isfinite().all()):
        return broken_model(name)
    difference = float((together - alone).abs().max() / alone.abs().max().clamp(min=1e-12))
    exact = all(each.dtype == torch.float32 for each in module.parameters())
    if not difference <= (_TOLERANCE if exact else _HALF_TOLERANCE):
        return error(
            name,
            f"Texts that go through the model together have other vectors than one by one, by {difference:.1e}: they "
            "see each other. Set training.batches.padding_free=false.",
            TrainingError,
        )
    return ok(
        name,
        f"{len(column.texts)} texts have the same vectors together as one by one, to {difference:.1e}",
    )


def preview(trainer: lightning.Trainer, module: EmbeddingModule) -> str:
    """Return the first training rows as the model reads them, and what they are learnt for."""
    parts = []
    for number, record in enumerate(_data(trainer).train[:_PREVIEWED]):
        lines = [f"Row {number}:"]
        for column in _columns(trainer, [number]):
            for ids in module.encoder.tokenized.ids(column.texts, column.prompt):
                lines.append(f"  read: {module.model.tokenizer.decode(ids)[:_PREVIEW_CHARACTERS]}")
        target = {each: record[each] for each in ("score", "label") if each in record}
        lines += [f"  learnt: {name} {value}" for name, value in target.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _columns(trainer: lightning.Trainer, rows: list[int]) -> list[TextColumn]:
    loader: Any = trainer.train_dataloader
    return list(loader.build(rows).columns)


def _data(trainer: Any) -> Any:
    return trainer.datamodule


def _own_rows(trainer: Any) -> list[int]:
    """Return the numbers of the rows of the shape that is scored."""
    data = _data(trainer)
    rows: list[int] = data.rows_by_shape(data.train)[data.shape]
    return rows


EMBEDDING_CHECKS = FamilyChecks(
    rows=(check_company, check_pairs, check_lengths), model=(check_packing,), preview=preview
)

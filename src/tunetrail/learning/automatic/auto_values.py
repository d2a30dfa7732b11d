"""What takes the place of `auto` in a training's configuration: found by trials, once, and kept for the next time.

Knows no models: they are built by a function that comes in.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as lightning
import torch

from tunetrail.cache import ResultCache
from tunetrail.config import TrainingConfig
from tunetrail.config.training import AUTO
from tunetrail.errors import ConfigError
from tunetrail.learning.automatic.batch_size_finder import USABLE_SHARE, BatchSizeResult, divided
from tunetrail.learning.automatic.batch_size_trial import BatchSizeTrial
from tunetrail.learning.automatic.fingerprints import (
    length_fingerprint,
    machine_fingerprint,
    model_fingerprint,
    records_fingerprint,
)
from tunetrail.learning.automatic.learning_rate_finder import (
    STEPS,
    RangeTest,
    RangeTestResult,
    RateRange,
)
from tunetrail.learning.automatic.memory_meter import free_memory
from tunetrail.learning.automatic.trial_run import run_trial
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.precision import resolve_precision
from tunetrail.learning.training.records import Record
from tunetrail.learning.training.steps import StepLoader

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_FORMAT = 1
_NOMINAL_RATE = 1e-3
_GIB = 2.0**30
_ENOUGH = 4096
"""Records of a trial: more than a range test sees with the usual batches."""
_IRRELEVANT = (
    "num_epochs",
    "max_steps",
    "warmup_steps",
    "warmup_ratio",
    "schedule",
    "decay_ratio",
    "early_stopping_patience",
    "logging_steps",
    "validations_per_epoch",
    "checkpoints",
    "averaging",
    "guards",
    "learning_rate",
)
"""Settings of a training on which no learning rate found depends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoValues:
    """What was found for one training; empty where nothing was `auto`."""

    batch: BatchSizeResult | None = None
    rate: RangeTestResult | None = None

    def applied_to(self, training: TrainingConfig) -> TrainingConfig:
        """Return the training with numbers in the place of `auto`."""
        if self.batch is not None and training.batch_size == AUTO:
            batches = replace(training.batches, accumulate=self.batch.accumulate)
            training = replace(training, batch_size=self.batch.batch_size, batches=batches)
        if self.rate is not None and training.learning_rate == AUTO:
            training = replace(training, learning_rate=self.rate.rate)
        return training

    @property
    def mini_batch_size(self) -> int:
        """Rows of the pieces in which a micro-batch goes through the model; 0: not found, or whole."""
        return self.batch.mini_batch_size if self.batch else 0

    def report(self, on_metrics: MetricsSink) -> None:
        """Hand out the curve of the range test, if there was one: `finder/loss` and `finder/learning_rate` per step."""
        for step, (rate, loss) in enumerate(self.rate.curve if self.rate else ()):
            on_metrics({"finder/loss": loss, "finder/learning_rate": rate}, step)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: `batch_size` and `learning_rate`, each where it was found."""
        found = {"batch_size": self.batch, "learning_rate": self.rate}
        return {name: each.to_dict() for name, each in found.items() if each is not None}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "AutoValues":
        """Return what `to_dict` was made of."""
        batch, rate = plain.get("batch_size"), plain.get("learning_rate")
        return cls(
            batch=BatchSizeResult.from_dict(batch) if batch else None,
            rate=RangeTestResult.from_dict(rate) if rate else None,
        )


Build = Callable[
    [Sequence[Record], TrainingConfig], tuple[TrainedModule, lightning.LightningDataModule]
]
"""Takes records and a training without `auto`; returns module and data as that training would begin with them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSetup:
    """What a training is about.

    Attributes:
        build: Makes module and data.
        path: Folder of the model that training starts from.
        records: What is trained on.
        settings: Plain values of all else that the module depends on: lengths, adapter, loss, seed.
        in_mini_batches: Whether a step has to stay one batch, because the loss compares its rows.
        mini_batch_size: Above 0: the rows of a piece are given, and needn't be found.
        rates: Which learning rates are tried.
    """

    build: Build
    path: str
    records: Sequence[Record]
    settings: Mapping[str, Any]
    in_mini_batches: bool
    rates: RateRange
    mini_batch_size: int = 0


def find_auto_values(
    subject: TrialSetup, training: TrainingConfig, cache: ResultCache | None
) -> AutoValues:
    """Return the numbers for what is `auto` in a training; what an earlier one has found is taken from the cache.

    Raises:
        ConfigError: Not even one row fits into memory, or batches are cut by tokens.
    """
    found = AutoValues()
    if training.batch_size == AUTO:
        if training.batches.tokens:
            raise ConfigError(
                f"training.batches.tokens must be 0 with training.batch_size=auto, got {training.batches.tokens}: the "
                "tokens decide how large a batch is. Set one of the two."
            )
        found = replace(found, batch=_batch_size(subject, training, cache))
    if training.learning_rate == AUTO:
        found = replace(found, rate=_rate(subject, training, found, cache))
    return found


def _batch_size(
    subject: TrialSetup, training: TrainingConfig, cache: ResultCache | None
) -> BatchSizeResult:
    rows = -(-training.batches.effective_size // _ranks())
    if subject.in_mini_batches and subject.mini_batch_size:
        return divided(rows, subject.mini_batch_size, in_mini_batches=True)
    trial = _trial(
        replace(training, batch_size=1, batches=replace(training.batches, accumulate=1, workers=0))
    )
    module, data = subject.build(sampled(subject.records, training.batches.effective_size), trial)
    loader = data.train_dataloader()
    assert isinstance(loader, StepLoader)
    place = _Place(
        cache,
        "batch size",
        {
            "model": model_fingerprint(Path(subject.path), contents=False),
            "settings": subject.settings,
            "rows": min(rows, len(loader.steps.batches.lengths)),
            "in_pieces": subject.in_mini_batches,
            "lengths": length_fingerprint(loader.steps.batches.lengths.tolist()),
            "like_lengths": loader.steps.batches.by_length,
            "memory": asdict(training.memory),
            "state": [training.optimizer.name, training.averaging.kind],
            "precision": resolve_precision(training.precision, training.use_mixed_precision),
        },
    )
    found = place.read(BatchSizeResult.from_dict)
    if found is not None:
        if found.memory_bytes <= USABLE_SHARE * free_memory(_device()):
            _log_batch_size(found, "found before")
            return found
        logger.info(
            "training.batch_size=auto: less memory is free than when it was found; it is looked for again"
        )
    callback = BatchSizeTrial(trial, rows=rows, in_mini_batches=subject.in_mini_batches)
    run_trial(module, data, trial, callback, max_steps=1)
    assert callback.found is not None and callback.limit_bytes is not None
    place.write(callback.found.to_dict())
    _log_batch_size(callback.found, f"{callback.limit_bytes / _GIB:.1f} GiB may be taken")
    return callback.found


def _rate(
    subject: TrialSetup, training: TrainingConfig, found: AutoValues, cache: ResultCache | None
) -> RangeTestResult:
    trial = _trial(found.applied_to(training))
    plain = {name: value for name, value in asdict(trial).items() if name not in _IRRELEVANT}
    place = _Place(
        cache,
        "learning rate",
        {
            "model": model_fingerprint(Path(subject.path), contents=True),
            "settings": subject.settings,
            "training": {
                **plain,
                "precision": resolve_precision(trial.precision, trial.use_mixed_precision),
            },
            "records": records_fingerprint(subject.records),
            "rates": asdict(subject.rates),
            "steps": STEPS,
        },
    )
    rate = place.read(RangeTestResult.from_dict)
    if rate is not None:
        logger.info("training.learning_rate=auto: %s, found before", rate.rate)
        return rate
    module, data = subject.build(
        sampled(subject.records, trial.rows_per_batch * trial.batches.accumulate), trial
    )
    module.mini_batch_size = found.mini_batch_size or module.mini_batch_size
    callback = RangeTest(nominal=_NOMINAL_RATE, tried=subject.rates)
    run_trial(module, data, trial, callback, max_steps=STEPS)
    rate = callback.found(subject.rates)
    place.write(rate.to_dict())
    logger.info(
        "training.learning_rate=auto: %s, after a range test of %d steps",
        rate.rate,
        len(rate.curve),
    )
    return rate


def _trial(training: TrainingConfig) -> TrainingConfig:
    """Return a training with a rate to scale and without a schedule of its own."""
    return replace(
        training, learning_rate=_NOMINAL_RATE, schedule="constant", warmup_steps=0, warmup_ratio=0.0
    )


def _log_batch_size(found: BatchSizeResult, remark: str) -> None:
    speed = next(
        (
            each.tokens_per_second
            for each in found.measured
            if each.memory_bytes == found.memory_bytes
        ),
        0.0,
    )
    logger.info(
        "training.batch_size=auto: %d rows%s, %d times per step; %.0f tokens/s, %.1f GiB beside the model; %s",
        found.batch_size,
        f" in mini-batches of {found.mini_batch_size}" if found.mini_batch_size else "",
        found.accumulate,
        speed,
        found.memory_bytes / _GIB,
        remark,
    )


@dataclass(frozen=True)
class _Place:
    """Where a result is kept: it depends on `parts`, on this machine and on what computes."""

    cache: ResultCache | None
    kind: str
    parts: Mapping[str, Any] = field(repr=False)

    def read(self, parse: Callable[[Mapping[str, Any]], Result]) -> Result | None:
        """Return what is kept, None where there is nothing or it is broken."""
        if self.cache is None:
            return None
        try:
            return parse(json.loads(self._file(self.cache).read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, result: Mapping[str, Any]) -> None:
        """Keep a result."""
        if self.cache is not None:
            with self.cache.writing(self._file(self.cache)) as unfinished:
                unfinished.write_text(json.dumps(result))

    def _file(self, cache: ResultCache) -> Path:
        everything = {"format": _FORMAT, "machine": machine_fingerprint(), **self.parts}
        return (
            cache.place(self.kind, json.dumps(everything, sort_keys=True, default=str))
            / "found.json"
        )


def sampled(records: Sequence[Record], longest: int) -> Sequence[Record]:
    """Return enough records for a trial, in their order: all of a few, of many the longest and evenly spaced ones.

    Args:
        records: All of them.
        longest: How many of the longest are surely among them.
    """
    count = max(_ENOUGH, 8 * longest)
    if len(records) <= count:
        return records
    sizes = [sum(len(str(value)) for value in record.values()) for record in records]
    largest = sorted(range(len(records)), key=lambda number: -sizes[number])[:longest]
    spaced = (number * len(records) // count for number in range(count))
    return [records[number] for number in sorted({*largest, *spaced})]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _ranks() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1

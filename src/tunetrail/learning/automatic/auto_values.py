"""Find what replaces `auto` in a training's configuration: by trials, once, cached for later runs.

Knows no models: a function that is passed in builds them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tunetrail.cache import ResultCache
from tunetrail.config import TrainingConfig
from tunetrail.config.training import AUTO
from tunetrail.errors import ConfigError
from tunetrail.fingerprints import model_fingerprint, value_fingerprint
from tunetrail.learning.automatic.batch_size_finder import BatchSizeResult, divide_step
from tunetrail.learning.automatic.batch_size_trial import BatchSizeTrial, usable_bytes
from tunetrail.learning.automatic.cached_result import CachedResult
from tunetrail.learning.automatic.conditions import length_class, machine_conditions
from tunetrail.learning.automatic.learning_rate_finder import (
    STEPS,
    RangeTest,
    RangeTestResult,
    RateRange,
)
from tunetrail.learning.automatic.trial_run import run_trial
from tunetrail.learning.devices import CPU
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.training.console import progress_bar
from tunetrail.learning.training.micro_batches import MicroBatchData, MicroBatchLoader
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.precision import resolve_precision
from tunetrail.learning.training.records import Record

logger = logging.getLogger(__name__)


_NOMINAL_RATE = 1e-3
_GIB = 2.0**30
# Records of a trial: more than a range test sees with the usual batches.
_TRIAL_RECORDS = 4096
# Settings of a training that don't influence the learning rate of a range test.
_IRRELEVANT = (
    "num_epochs",
    "max_steps",
    "warmup_steps",
    "warmup_ratio",
    "schedule",
    "decay_ratio",
    "early_stopping_patience",
    "logging_steps",
    "monitor",
    "validations_per_epoch",
    "checkpoints",
    "averaging",
    "guards",
    "learning_rate",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoValues:
    """What replaces `auto` in one training; empty if nothing was `auto`."""

    batch: BatchSizeResult | None = None
    rate: RangeTestResult | None = None

    def applied_to(self, training: TrainingConfig) -> TrainingConfig:
        """Return the training with numbers in place of `auto`."""
        if self.batch is not None and training.batch_size == AUTO:
            batches = replace(training.batches, accumulate=self.batch.accumulate)
            training = replace(training, batch_size=self.batch.batch_size, batches=batches)
        if self.rate is not None and training.learning_rate == AUTO:
            training = replace(training, learning_rate=self.rate.rate)
        return training

    @property
    def mini_batch_size(self) -> int:
        """Rows of the mini-batches that go through the model; 0 if shares are undivided."""
        return self.batch.mini_batch_size if self.batch else 0

    def report(self, on_metrics: MetricsSink) -> None:
        """Report the curve of the range test, if any: `finder/loss` and `finder/learning_rate`."""
        if self.rate is None:
            return
        for step, (rate, loss) in enumerate(self.rate.curve):
            on_metrics({"finder/loss": loss, "finder/learning_rate": rate}, step)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: `batch_size` and `learning_rate`, each if it was `auto`."""
        plain: dict[str, Any] = {}
        if self.batch is not None:
            plain["batch_size"] = self.batch.to_dict()
        if self.rate is not None:
            plain["learning_rate"] = self.rate.to_dict()
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "AutoValues":
        """Return the values that `to_dict` has turned into plain values."""
        batch, rate = plain.get("batch_size"), plain.get("learning_rate")
        return cls(
            batch=BatchSizeResult.from_dict(batch) if batch else None,
            rate=RangeTestResult.from_dict(rate) if rate else None,
        )


Build = Callable[[Sequence[Record], TrainingConfig], tuple[TrainedModule, MicroBatchData]]
"""Takes records and a training without `auto`; returns module and data as they begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSetup:
    """What a trial needs to know of the training to come.

    Attributes:
        build: Builds module and data.
        path: Folder of the model that the training starts from.
        records: The training records.
        settings: Plain values of everything else that the module depends on: lengths, adapter,
            loss, seed.
        in_mini_batches: Whether a step has to stay one batch, because the loss compares its rows.
        mini_batch_size: Above 0, the configured rows of a mini-batch, which needn't be found.
        rates: The learning rates that are tried.
        ranks: Number of ranks of the training, each with a device of its own.
        device: The device on which the trials run; the ranks have the same kind.
    """

    build: Build
    path: str
    records: Sequence[Record]
    settings: Mapping[str, Any]
    in_mini_batches: bool
    rates: RateRange
    mini_batch_size: int = 0
    ranks: int = 1
    device: torch.device = CPU


def find_auto_values(
    setup: TrialSetup, training: TrainingConfig, cache: ResultCache | None
) -> AutoValues:
    """Return the numbers that replace `auto` in a training; earlier results come from the cache.

    The trials run in this process, before a training on several devices starts its ranks: they
    compute what one of these ranks will, so that all ranks begin with the same numbers.

    Raises:
        ConfigError: Not even one row fits into memory, or batches are cut by tokens.
    """
    values = AutoValues()
    if training.batch_size == AUTO:
        if training.batches.tokens:
            raise ConfigError(
                "training.batches.tokens must be 0 with training.batch_size=auto, got "
                f"{training.batches.tokens}: the tokens decide how large a batch is. Set one of "
                "the two."
            )
        values = replace(values, batch=_find_batch_size(setup, training, cache))

    # The range test runs with the batch size that the training will have.
    if training.learning_rate == AUTO:
        values = replace(values, rate=_find_learning_rate(setup, training, values, cache))
    return values


def _find_batch_size(
    setup: TrialSetup, training: TrainingConfig, cache: ResultCache | None
) -> BatchSizeResult:
    """Return the fastest batch size that fits, from the cache or by timing a single step."""
    rows, devices = training.batches.effective_size, setup.ranks
    # With a configured mini-batch there is nothing left to find.
    if setup.in_mini_batches and setup.mini_batch_size:
        return divide_step(rows, setup.mini_batch_size, in_mini_batches=True, devices=devices)

    # The trial builds its own batches from single rows.
    single_rows = replace(training.batches, accumulate=1, workers=0)
    trial = _trial_training(replace(training, batch_size=1, batches=single_rows))
    records = trial_records(setup.records, training.batches.effective_size)
    module, datamodule = setup.build(records, trial)
    loader = datamodule.train_dataloader()
    assert isinstance(loader, MicroBatchLoader)

    lengths = loader.batches.lengths.tolist()
    dependencies = {
        # What fits depends on the sizes of the weights, not on their values.
        "model": model_fingerprint(Path(setup.path), contents=False),
        "settings": setup.settings,
        "rows": min(rows, len(lengths)),
        "devices": devices,
        "in_pieces": setup.in_mini_batches,
        "lengths": length_class(lengths),
        "like_lengths": loader.batches.by_length,
        "memory": asdict(training.memory),
        "state": [training.optimizer.name, training.averaging.kind],
        "precision": _precision(setup, training),
        "machine": machine_conditions(setup.device),
    }
    cached = CachedResult(cache, "batch size", dependencies)
    with cached.computing():
        result = cached.read(BatchSizeResult.from_dict)
        if result is not None:
            # Another process may have taken memory in the meantime.
            if result.memory_bytes <= usable_bytes(module, setup.device, devices):
                _log_batch_size(result, "found before")
                return result
            logger.info(
                "training.batch_size=auto: less memory is free than when it was found; "
                "searching for it again"
            )

        search = BatchSizeTrial(
            training=trial, rows=rows, in_mini_batches=setup.in_mini_batches, devices=devices
        )
        run_trial(module, datamodule, trial, search, max_steps=1, device=setup.device)
        assert search.result is not None and search.limit_bytes is not None
        cached.write(search.result.to_dict())
    _log_batch_size(search.result, f"{search.limit_bytes / _GIB:.1f} GiB may be taken")
    return search.result


def _find_learning_rate(
    setup: TrialSetup, training: TrainingConfig, values: AutoValues, cache: ResultCache | None
) -> RangeTestResult:
    """Return the learning rate of a range test, from the cache or by running one."""
    trial = _trial_training(values.applied_to(training))

    relevant = asdict(trial)
    for name in _IRRELEVANT:
        del relevant[name]
    # The same `auto` is another precision on another machine.
    relevant["precision"] = _precision(setup, trial)
    dependencies = {
        # How far a step may go depends on the values of the weights as well.
        "model": model_fingerprint(Path(setup.path), contents=True),
        "settings": setup.settings,
        "training": relevant,
        "records": value_fingerprint(setup.records),
        "rates": asdict(setup.rates),
        "steps": STEPS,
        "machine": machine_conditions(setup.device),
    }
    cached = CachedResult(cache, "learning rate", dependencies)
    with cached.computing():
        result = cached.read(RangeTestResult.from_dict)
        if result is not None:
            logger.info("training.learning_rate=auto: %s, found before", result.rate)
            return result

        step_rows = trial.rows_per_batch * trial.batches.accumulate
        module, datamodule = setup.build(trial_records(setup.records, step_rows), trial)
        module.mini_batch_size = values.mini_batch_size or module.mini_batch_size
        _cut_as_on_devices(module, datamodule, trial, setup.ranks)

        with progress_bar() as bar:
            # Each batch goes through the model before all steps, and again in its own step.
            task = bar.add_task("Learning rate", total=2 * STEPS)
            advance = partial(bar.advance, task)
            range_test = RangeTest(nominal=_NOMINAL_RATE, tried=setup.rates, advance=advance)
            run_trial(module, datamodule, trial, range_test, max_steps=STEPS, device=setup.device)
        result = range_test.result()
        cached.write(result.to_dict())
    logger.info(
        "training.learning_rate=auto: %s, after a range test of %d steps",
        result.rate,
        len(result.curve),
    )
    return result


def _cut_as_on_devices(
    module: TrainedModule, data: MicroBatchData, training: TrainingConfig, devices: int
) -> None:
    """Have one device compute the micro-batches of several, a device's share at a time.

    The loss is still that of the whole micro-batch, and so is its gradient.
    """
    if devices == 1:
        return
    if not module.cuts_itself:
        data.parts = devices
        return

    # Rounded up, as the first ranks take the rows that are left over.
    share = -(-training.rows_per_batch // devices)
    module.mini_batch_size = min(module.mini_batch_size or share, share)


def _precision(setup: TrialSetup, training: TrainingConfig) -> str:
    return resolve_precision(training.precision, training.use_mixed_precision, setup.device.type)


def _trial_training(training: TrainingConfig) -> TrainingConfig:
    """Return a training with a rate to scale and without a schedule of its own."""
    return replace(
        training, learning_rate=_NOMINAL_RATE, schedule="constant", warmup_steps=0, warmup_ratio=0.0
    )


def _log_batch_size(result: BatchSizeResult, remark: str) -> None:
    speed = result.chosen.tokens_per_second if result.chosen else 0.0
    mini_batches = f" in mini-batches of {result.mini_batch_size}" if result.mini_batch_size else ""
    devices = f" over {result.devices} devices" if result.devices > 1 else ""
    logger.info(
        "training.batch_size=auto: %d rows%s%s, %d times per step; %.0f tokens/s, %.1f GiB in "
        "addition to the model; %s",
        result.batch_size,
        devices,
        mini_batches,
        result.accumulate,
        speed,
        result.memory_bytes / _GIB,
        remark,
    )


def trial_records(records: Sequence[Record], longest: int) -> Sequence[Record]:
    """Return enough records for a trial, in their order.

    If there are few records, that is all of them; otherwise the longest and evenly spaced ones.

    Args:
        records: All records.
        longest: Number of the longest records that are among them for sure.
    """
    count = max(_TRIAL_RECORDS, 8 * longest)
    if len(records) <= count:
        return records

    def characters(index: int) -> int:
        return sum(len(str(value)) for value in records[index].values())

    # The longest records decide what fits into memory.
    longest_first = sorted(range(len(records)), key=characters, reverse=True)
    evenly_spaced = (index * len(records) // count for index in range(count))
    return [records[index] for index in sorted({*longest_first[:longest], *evenly_spaced})]

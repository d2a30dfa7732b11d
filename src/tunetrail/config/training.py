"""Training: hyper-parameters, and how often they are tried in cross-validation."""

import math
from dataclasses import dataclass, field
from operator import attrgetter

from tunetrail.config.checks import check, check_choice, check_share
from tunetrail.errors import ConfigError

AUTO = "auto"
OPTIMIZERS = ("adamw", "adam", "adafactor", "sgd")
SCHEDULES = ("linear", "cosine", "constant", "inverse_sqrt", "wsd")
PRECISIONS = (AUTO, "32-true", "16-mixed", "bf16-mixed", "bf16-true")
_ADAM = ("optimizer.name", ("adamw", "adam"))
_EFFECTIVE_WITH = {
    "optimizer.beta1": _ADAM,
    "optimizer.beta2": _ADAM,
    "optimizer.epsilon": _ADAM,
    "optimizer.momentum": ("optimizer.name", ("sgd",)),
    "averaging.decay": ("averaging.kind", ("ema",)),
    "averaging.start": ("averaging.kind", ("swa",)),
    "decay_ratio": ("schedule", ("wsd",)),
}
"""Settings that count only beside some values of another one."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """The optimizer. `layer_decay` below 1 gives each layer this share of the rate of the one above it."""

    name: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        check_choice("training.optimizer.name", self.name, OPTIMIZERS)
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            check(0.0 <= value < 1.0, f"training.optimizer.{name}", "at least 0 and below 1", value)
        check(
            0.0 < self.epsilon <= 0.1,
            "training.optimizer.epsilon",
            "above 0 and at most 0.1",
            self.epsilon,
        )
        check(
            0.0 < self.layer_decay <= 1.0,
            "training.optimizer.layer_decay",
            "above 0 and at most 1 (1: off)",
            self.layer_decay,
        )


@dataclass(kw_only=True)
class BatchesConfig:
    """How rows become optimizer steps.

    One step takes `accumulate` micro-batches of `training.batch_size` rows; their gradients add up, each row or
    supervised token counting alike; a loss that compares rows compares those of one micro-batch. With
    `training.batch_size=auto`, a step has `effective_size` rows. `tokens` above 0 cuts micro-batches at about so many
    tokens instead of by rows. `padding_free` computes no padding where the model allows it.
    """

    accumulate: int = 1
    effective_size: int = 32
    tokens: int = 0
    padding_free: bool = True
    workers: int = 0

    def __post_init__(self) -> None:
        check(self.accumulate >= 1, "training.batches.accumulate", "at least 1", self.accumulate)
        check(
            self.effective_size >= 1,
            "training.batches.effective_size",
            "at least 1",
            self.effective_size,
        )
        check(self.tokens >= 0, "training.batches.tokens", "at least 0 (0: off)", self.tokens)
        check(self.workers >= 0, "training.batches.workers", "at least 0", self.workers)


@dataclass(kw_only=True)
class CheckpointsConfig:
    """A checkpoint every so many optimizer steps (0: with each validation only), from which a run can be resumed."""

    every_steps: int = 0

    def __post_init__(self) -> None:
        check(
            self.every_steps >= 0,
            "training.checkpoints.every_steps",
            "at least 0 (0: off)",
            self.every_steps,
        )


@dataclass(kw_only=True)
class AveragingConfig:
    """Averaged weights: `ema` (exponential, `decay` per step) or `swa` (equal, after the share `start`)."""

    kind: str = "none"
    decay: float = 0.999
    start: float = 0.75

    def __post_init__(self) -> None:
        check_choice("training.averaging.kind", self.kind, ("none", "ema", "swa"))
        check(0.0 < self.decay < 1.0, "training.averaging.decay", "above 0 and below 1", self.decay)
        check_share("training.averaging.start", self.start)


@dataclass(kw_only=True)
class MemoryConfig:
    """Time for memory: `gradient_checkpointing` computes activations twice; `compile`: torch.compile, slow to start."""

    gradient_checkpointing: bool = False
    compile: bool = False


@dataclass(kw_only=True)
class GuardsConfig:
    """What keeps a training from being lost.

    A loss or gradient that isn't finite brings back the last good state with `rate_factor` of the learning rate; where
    only some rows have no finite loss, their step is left out instead. That may happen `max_rewinds` times. `preflight`
    checks model, rows and machine in seconds before the training.
    """

    max_rewinds: int = 3
    rate_factor: float = 0.5
    preflight: bool = True

    def __post_init__(self) -> None:
        check(
            self.max_rewinds >= 0,
            "training.guards.max_rewinds",
            "at least 0 (0: stop at once)",
            self.max_rewinds,
        )
        check(
            0.0 < self.rate_factor <= 1.0,
            "training.guards.rate_factor",
            "above 0 and at most 1",
            self.rate_factor,
        )


@dataclass(kw_only=True)
class TrainingConfig:
    """Hyper-parameters of one training; the first nine are the specification's `training_config`.

    `batch_size` and `learning_rate` may be `auto`: found by a short search before the training. `warmup_ratio` above 0
    is the warm-up as a share of all steps and takes the place of `warmup_steps`; `decay_ratio` is the share of the
    steps in which `schedule=wsd` (warm-up, stable, decay) decays.
    """

    batch_size: int | str = 32
    learning_rate: int | float | str = 2e-5
    num_epochs: int = 3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    use_mixed_precision: bool = True
    max_grad_norm: float = 1.0
    early_stopping_patience: int = 3
    logging_steps: int = 10
    schedule: str = "linear"
    warmup_ratio: float = 0.0
    decay_ratio: float = 0.2
    precision: str = AUTO
    max_steps: int = -1
    validations_per_epoch: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batches: BatchesConfig = field(default_factory=BatchesConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)

    def __post_init__(self) -> None:
        if self.batch_size != AUTO:
            whole = isinstance(self.batch_size, int) and not isinstance(self.batch_size, bool)
            check(
                whole and int(self.batch_size) >= 1,
                "training.batch_size",
                "auto or at least 1",
                self.batch_size,
            )
        for name in ("num_epochs", "logging_steps", "validations_per_epoch"):
            check(getattr(self, name) >= 1, f"training.{name}", "at least 1", getattr(self, name))
        for name in ("warmup_steps", "early_stopping_patience"):
            check(getattr(self, name) >= 0, f"training.{name}", "at least 0", getattr(self, name))
        if self.learning_rate != AUTO:
            rate = self.learning_rate
            check(
                not isinstance(rate, str | bool) and math.isfinite(rate) and 0.0 < rate <= 1.0,
                "training.learning_rate",
                "auto, or above 0 and at most 1",
                rate,
            )
        check(
            0.0 <= self.weight_decay <= 1.0,
            "training.weight_decay",
            "between 0 and 1",
            self.weight_decay,
        )
        check(
            self.max_grad_norm >= 0.0,
            "training.max_grad_norm",
            "at least 0 (0: off)",
            self.max_grad_norm,
        )
        check_choice("training.schedule", self.schedule, SCHEDULES)
        check_choice("training.precision", self.precision, PRECISIONS)
        check_share("training.warmup_ratio", self.warmup_ratio)
        check_share("training.decay_ratio", self.decay_ratio)
        check(
            self.warmup_ratio + self.decay_ratio <= 1.0 or self.schedule != "wsd",
            "training.warmup_ratio",
            f"at most 1 - decay_ratio={self.decay_ratio} for schedule=wsd",
            self.warmup_ratio,
        )
        check(
            self.max_steps == -1 or self.max_steps >= 1,
            "training.max_steps",
            "-1 (off) or at least 1",
            self.max_steps,
        )

    def without_effect(self) -> list[str]:
        """Return a sentence about each setting that was changed and does nothing beside the others."""
        usual, found = TrainingConfig(), []
        for name, (other, values) in _EFFECTIVE_WITH.items():
            value, beside = attrgetter(name)(self), attrgetter(other)(self)
            if beside not in values and value != attrgetter(name)(usual):
                needed = " or ".join(values)
                found.append(
                    f"training.{name}={value} has no effect with training.{other}={beside}, only with {needed}."
                )
        return found

    @property
    def rows_per_batch(self) -> int:
        """Rows of one micro-batch; raises `ConfigError` while it is still `auto`."""
        if isinstance(self.batch_size, str):
            raise ConfigError(
                "training.batch_size must be a number here, got 'auto'. It is found before the training."
            )
        return self.batch_size

    @property
    def peak_rate(self) -> float:
        """The learning rate as a number; raises `ConfigError` while it is still `auto`."""
        if isinstance(self.learning_rate, str):
            raise ConfigError(
                "training.learning_rate must be a number here, got 'auto'. It is found before training."
            )
        return self.learning_rate


@dataclass(kw_only=True)
class CrossValidationConfig:
    """How many folds are trained (0: off), and how long each: `budget` is the share of a full training's steps."""

    n_splits: int = 5
    budget: float = 0.2

    def __post_init__(self) -> None:
        check(
            self.n_splits == 0 or self.n_splits >= 2,
            "cross_validation.n_splits",
            "0 (off) or at least 2",
            self.n_splits,
        )
        check(
            0.0 < self.budget <= 1.0,
            "cross_validation.budget",
            "above 0 and at most 1",
            self.budget,
        )

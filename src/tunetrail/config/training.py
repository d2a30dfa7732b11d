"""Settings of a training: batches, optimizer, learning rate, checkpoints and guards."""

from dataclasses import dataclass, field
from operator import attrgetter

from tunetrail.config.checks import (
    ABOVE_ZERO_TO_ONE,
    SHARE,
    ZERO_TO_BELOW_ONE,
    Rule,
    at_least,
    check,
    check_settings,
    one_of,
    setting,
)
from tunetrail.errors import ConfigError

AUTO = "auto"
OPTIMIZERS = ("adamw", "adam", "adafactor", "sgd")
SCHEDULES = ("linear", "cosine", "constant", "inverse_sqrt", "wsd")
PRECISIONS = (AUTO, "32-true", "16-mixed", "bf16-mixed", "bf16-true")

BASE = "base"
"""What the base model is called where a version could stand: as a start, as what a candidate is
compared with, and in comparisons."""
START = one_of("root", BASE)
"""The rule for `start_from`: a training starts from the root version or from the base model."""

# A setting without effect is no error: a sweep over optimizers may set the constants of them all.
_ADAM = ("optimizer.name", ("adamw", "adam"))
# Settings that only have an effect with some values of another setting, by key.
_EFFECTIVE_WITH = {
    "optimizer.beta1": _ADAM,
    "optimizer.beta2": _ADAM,
    "optimizer.epsilon": _ADAM,
    "optimizer.momentum": ("optimizer.name", ("sgd",)),
    "averaging.decay": ("averaging.kind", ("ema",)),
    "averaging.start": ("averaging.kind", ("swa",)),
    "decay_ratio": ("schedule", ("wsd",)),
}
# Learning rates by optimizer above which a fine-tuning rather destroys the weights.
_HIGHEST_USUAL_RATES = {"adamw": 0.01, "adam": 0.01, "adafactor": 0.1, "sgd": 0.5}


def _is_auto_or_count(value: object) -> bool:
    # True is an int to Python, and would be a batch of one row.
    if isinstance(value, int) and not isinstance(value, bool):
        return value >= 1
    return value == AUTO


AUTO_OR_COUNT = Rule("auto or at least 1", _is_auto_or_count)
"""The rule of a number of rows or devices that may be left to tunetrail."""


def _is_monitor(value: object) -> bool:
    return value == AUTO or (isinstance(value, str) and value.startswith("val/"))


def _is_learning_rate(value: object) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # The upper bound catches a lost minus sign: 1e5 for 1e-5.
        return 0.0 < value <= 1.0
    return value == AUTO


@dataclass(kw_only=True)
class OptimizerConfig:
    """Which optimizer takes the steps, and its constants."""

    name: str = setting("adamw", one_of(*OPTIMIZERS))
    """`adamw` (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101), `adam`,
    `adafactor` (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235; least memory, and
    a learning rate relative to the size of the weights) or `sgd`."""

    # The constants are the defaults of Kingma and Ba 2015, https://arxiv.org/abs/1412.6980.
    beta1: float = setting(0.9, ZERO_TO_BELOW_ONE)
    """Decay of Adam's average of the gradients, per step."""

    beta2: float = setting(0.999, ZERO_TO_BELOW_ONE)
    """Decay of Adam's average of the squared gradients, per step."""

    epsilon: float = setting(
        1e-8, Rule("above 0 and at most 0.1", lambda value: 0.0 < value <= 0.1)
    )
    """Constant that Adam adds to the denominator, so that tiny gradients don't blow up a
    step."""

    momentum: float = setting(0.9, ZERO_TO_BELOW_ONE)
    """Momentum of `sgd`; 0 is none."""

    layer_decay: float = setting(
        1.0, Rule("above 0 and at most 1 (1: off)", lambda value: 0.0 < value <= 1.0)
    )
    """Learning rate of each layer as a share of the rate of the layer above it (ELECTRA,
    Clark et al. 2020, https://arxiv.org/abs/2003.10555); 1 gives all layers the same
    rate."""

    def __post_init__(self) -> None:
        check_settings("training.optimizer", self)


@dataclass(kw_only=True)
class BatchesConfig:
    """How rows become batches, and batches optimizer steps."""

    accumulate: int = setting(1, at_least(1))
    """Batches whose gradients add up to one optimizer step; each row or supervised token
    counts the same, whichever batch it is in. A loss that compares rows only compares the
    rows of a batch."""

    effective_size: int = setting(32, at_least(1))
    """Rows per optimizer step, over all devices, with `training.batch_size=auto`; without
    effect otherwise."""

    tokens: int = setting(0, at_least(0, " (0: off)"))
    """Approximate tokens per batch, which then takes the place of `training.batch_size`; 0
    cuts batches by rows."""

    padding_free: bool = True
    """Lay the tokens of a batch end to end instead of padding texts to the same length. A
    model that does not support it is padded, and the log says so."""

    workers: int = setting(0, at_least(0))
    """Processes that prepare batches while the model computes; 0 prepares them in the
    training's process."""

    def __post_init__(self) -> None:
        check_settings("training.batches", self)


@dataclass(kw_only=True)
class CheckpointsConfig:
    """When the checkpoint is written from which a run can be resumed."""

    every_steps: int = setting(0, at_least(0, " (0: off)"))
    """Optimizer steps between checkpoints, in addition to one after each validation; 0
    writes those only."""

    every_minutes: float = setting(10.0, at_least(0, " (0: off)"))
    """Minutes after which a checkpoint is written after the next step: what a crash or a
    power cut can cost at most."""

    def __post_init__(self) -> None:
        check_settings("training.checkpoints", self)


@dataclass(kw_only=True)
class AveragingConfig:
    """Whether the trained model is an average of the weights of many steps."""

    kind: str = setting("none", one_of("none", "ema", "swa"))
    """`none` keeps the weights of the best validation; `ema` validates and keeps their
    exponential moving average; `swa` the equal average of the last steps (Izmailov et al.
    2018, https://arxiv.org/abs/1803.05407)."""

    # At 1, the average would stay at the weights that it started from.
    decay: float = setting(0.999, Rule("above 0 and below 1", lambda value: 0.0 < value < 1.0))
    """Share of the old average that `ema` keeps in each step; less in the first steps, so
    that the average isn't dominated by the untrained weights."""

    start: float = setting(0.75, SHARE)
    """Share of all steps after which `swa` begins to average."""

    def __post_init__(self) -> None:
        check_settings("training.averaging", self)


@dataclass(kw_only=True)
class MemoryConfig:
    """What trades time for memory, or start-up time for speed."""

    gradient_checkpointing: bool = False
    """Compute activations a second time in the backward pass instead of keeping them: less
    memory, more time (Chen et al. 2016, https://arxiv.org/abs/1604.06174)."""

    compile: bool = False
    """Compile the model with torch.compile. It takes minutes at the start and needs a C++
    compiler on a CPU; a fine-tuning rarely earns that back."""


@dataclass(kw_only=True)
class GuardsConfig:
    """What keeps a training from being lost."""

    max_rewinds: int = setting(3, at_least(0, " (0: stop at once)"))
    """How many times the training may recover from a loss or gradient that isn't finite, by
    leaving out the rows at fault or by going back to the last good checkpoint; 0 stops at the
    first."""

    rate_factor: float = setting(0.5, ABOVE_ZERO_TO_ONE)
    """Factor of all later learning rates with each return to a checkpoint; 1 leaves them as
    they are."""

    preflight: bool = True
    """Check model, rows, settings and machine for some seconds before the first step, and
    stop if nothing could be learned. The report is the artifact `preflight.txt` of the
    run."""

    def __post_init__(self) -> None:
        check_settings("training.guards", self)


@dataclass(kw_only=True)
class TrainingConfig:
    """The hyperparameters of a training, first those that `training_config` may set."""

    # The keys of `training_config`, in its order.

    batch_size: int | str = setting(32, AUTO_OR_COUNT)
    """Rows per batch (the field's micro-batch, if `batches.accumulate` adds up several), or
    `auto`: the smallest size that is as fast as the fastest on this machine, found by a
    short search before the training, with as many batches per step as
    `batches.effective_size` asks for."""

    learning_rate: int | float | str = setting(
        2e-5, Rule("auto, or above 0 and at most 1", _is_learning_rate)
    )
    """Peak of the learning-rate schedule, or `auto`: found by a range test before the
    training (Smith 2015, https://arxiv.org/abs/1506.01186). The default of `llm` suits
    low-rank adapters; use 2e-5 with `llm.adapter.kind=none`."""

    num_epochs: int = setting(3, at_least(1))
    """Passes over the train rows, unless `max_steps` or early stopping ends the training
    before."""

    warmup_steps: int = setting(100, at_least(0))
    """Optimizer steps in which the learning rate rises linearly from 0 to its peak. In a
    training shorter than twice as many steps, a tenth of its steps is taken instead."""

    weight_decay: float = setting(0.01, SHARE)
    """Decay of the weight matrices; biases and norms never decay."""

    use_mixed_precision: bool = True
    """Let `precision=auto` compute in bfloat16 or float16 if the GPU is fast at it; false
    is float32 always."""

    # Infinity is allowed, too: it clips nothing.
    max_grad_norm: float = setting(1.0, Rule("at least 0 (0: off)", lambda value: value >= 0.0))
    """Norm to which the gradient of a step is clipped; 0 turns clipping off."""

    early_stopping_patience: int = setting(3, at_least(0))
    """Validations in a row without a better value of `monitor` after which the training stops;
    0 never stops early. Only a training with more than this and one further validation can stop:
    see `validations_per_epoch`."""

    logging_steps: int = setting(0, at_least(0, " (0: automatic)"))
    """Optimizer steps between two points of the training curves; 0 means 10, or fewer in a short
    training, whose curves then have about 20 points."""

    # All other keys.

    schedule: str = setting("linear", one_of(*SCHEDULES))
    """Course of the learning rate after the warm-up: `linear` or `cosine` to 0, `constant`,
    `inverse_sqrt` (proportional to 1 / sqrt(step)), or `wsd`, constant until the decay of
    the last steps (Hägele et al. 2024, https://arxiv.org/abs/2405.18392)."""

    warmup_ratio: float = setting(0.0, SHARE)
    """Warm-up as a share of all steps, which then takes the place of `warmup_steps`; 0 is
    off."""

    decay_ratio: float = setting(0.2, SHARE)
    """Share of the steps in which `schedule=wsd` decays, the last ones."""

    precision: str = setting(AUTO, one_of(*PRECISIONS))
    """Number format of the training, in Lightning's words. `auto` is bfloat16 on a GPU that
    has it, float16 on another GPU, and float32 on a CPU (see `use_mixed_precision`)."""

    # -1 is off, as for Lightning's Trainer.
    max_steps: int = setting(
        -1, Rule("-1 (off) or at least 1", lambda steps: steps == -1 or steps >= 1)
    )
    """Optimizer steps after which the training ends, which then takes the place of
    `num_epochs`; -1 is off."""

    validations_per_epoch: int = setting(2, at_least(1))
    """Validations per epoch, each followed by a checkpoint; the last step of the training is
    validated as well."""

    monitor: str = setting(AUTO, Rule("auto, or val/ and the name of a metric", _is_monitor))
    """Metric of the validation rows that chooses the weights and stops the training early. `auto`
    is the metric by which models are compared (`gate.metric`, or by shape `val/ndcg_at_10`,
    `val/spearman`, `val/bits_per_byte`, `val/preference_accuracy`), or `val/loss` if the validation
    rows are too few for it; `val/loss` can be asked for as well."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and its constants."""

    batches: BatchesConfig = field(default_factory=BatchesConfig)
    """From rows to batches and optimizer steps."""

    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    """Checkpoints from which a run can be resumed."""

    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    """Averaging of the weights over many steps."""

    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """Trade-offs of time and memory."""

    guards: GuardsConfig = field(default_factory=GuardsConfig)
    """Protection against lost trainings."""

    def __post_init__(self) -> None:
        check_settings("training", self)

        # With wsd, the last steps decay: the warm-up has to be over by then.
        fits = self.warmup_ratio + self.decay_ratio <= 1.0 or self.schedule != "wsd"
        rule = f"at most 1 - decay_ratio={self.decay_ratio} for schedule=wsd"
        check(fits, "training.warmup_ratio", rule, self.warmup_ratio)

    def without_effect(self) -> list[str]:
        """Return a sentence about each changed setting that has no effect with the others."""
        defaults = TrainingConfig()
        sentences = []
        for key, (other_key, effective_values) in _EFFECTIVE_WITH.items():
            value, other_value = attrgetter(key)(self), attrgetter(other_key)(self)
            # Nobody has asked for a default, so that it needs no explanation.
            is_changed = value != attrgetter(key)(defaults)
            if is_changed and other_value not in effective_values:
                allowed = " or ".join(effective_values)
                sentences.append(
                    f"training.{key}={value} has no effect with "
                    f"training.{other_key}={other_value}, only with {allowed}."
                )
        return sentences

    def doubtful(self) -> list[str]:
        """Return a sentence about each setting that is allowed, and most likely a mistake."""
        highest, optimizer = _HIGHEST_USUAL_RATES[self.optimizer.name], self.optimizer.name
        if isinstance(self.learning_rate, str) or self.learning_rate <= highest:
            return []
        return [
            f"training.learning_rate={self.learning_rate} is far above what {optimizer} fine-tunes "
            f"with (at most {highest}), and likely to destroy what the model has learnt."
        ]

    @property
    def rows_per_batch(self) -> int:
        """Rows of one batch; raises `ConfigError` while `batch_size` is still `auto`."""
        if isinstance(self.batch_size, str):
            raise ConfigError(
                "training.batch_size must be a number here, got 'auto'. "
                "It is found before the training."
            )
        return self.batch_size

    @property
    def peak_rate(self) -> float:
        """Peak of the learning rate; raises `ConfigError` while it is still `auto`."""
        if isinstance(self.learning_rate, str):
            raise ConfigError(
                "training.learning_rate must be a number here, got 'auto'. "
                "It is found before the training."
            )
        return self.learning_rate

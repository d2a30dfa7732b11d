"""Lightning's callbacks that a configuration names, next to the training's own."""

import logging
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from tunetrail import extensions
from tunetrail.config import AUTO, TrainingConfig
from tunetrail.config.checks import at_least, one_of
from tunetrail.errors import ConfigError
from tunetrail.learning.named_classes.allowed_classes import AllowedClass, AllowList, Named
from tunetrail.learning.training.callbacks import MetricsSink

logger = logging.getLogger(__name__)

PREFERENCE_ACCURACY = "val/preference_accuracy"
# What modules log, and what stopping can therefore depend on.
_METRICS = ("val/loss", PREFERENCE_ACCURACY, "train/loss", "train/gradient_norm")

# What stays out: classes that take functions, and classes that change weights, batches, the
# optimizer or checkpoints, of which exact resume and the recovery need to know.
CALLBACKS = AllowList(
    section="trainer.callbacks",
    base=Callback,
    module="callbacks",
    classes={
        "DeviceStatsMonitor": AllowedClass(arguments={"cpu_stats": None}),
        "EarlyStopping": AllowedClass(
            arguments={
                "monitor": one_of(*_METRICS),
                "mode": one_of("min", "max"),
                "min_delta": at_least(0),
                "patience": at_least(1),
                "stopping_threshold": None,
                "divergence_threshold": None,
                "check_finite": None,
            },
            # After each validation, so that the decision is part of its checkpoint.
            fixed={"check_on_train_epoch_end": False},
        ),
        "LearningRateMonitor": AllowedClass(
            arguments=dict.fromkeys(("logging_interval", "log_momentum", "log_weight_decay"))
        ),
        "RichModelSummary": AllowedClass(arguments={"max_depth": at_least(-1)}),
        "Timer": AllowedClass(arguments={"duration": None, "interval": one_of("step", "epoch")}),
    },
    instead={
        "BatchSizeFinder": "training.batch_size=auto",
        "EMAWeightAveraging": "training.averaging.kind=ema",
        "GradientAccumulationScheduler": "training.batches.accumulate",
        "LearningRateFinder": "training.learning_rate=auto",
        "ModelCheckpoint": "training.checkpoints",
        "ModelSummary": "RichModelSummary",
        "OnExceptionCheckpoint": "training.checkpoints",
        "StochasticWeightAveraging": "training.averaging.kind=swa",
        # It fails on a rank without a row, and waits for the GPU after each micro-batch.
        "ThroughputMonitor": "train/tokens_per_second and train/mfu, which every training reports,",
        "WeightAveraging": "training.averaging.kind",
    },
    point=extensions.CALLBACKS,
)


def is_built_in_callback(name: str) -> bool:
    """Tell whether a callback is one of Lightning's own that are allowed, or an option of conf/."""
    return CALLBACKS.is_built_in(name)


def build_callbacks(named: Named) -> dict[str, Callback]:
    """Return the callbacks of the section `trainer.callbacks`, by name.

    Raises:
        ConfigError: A class isn't allowed or doesn't accept its arguments, or two callbacks would
            share their state in a checkpoint.
    """
    callbacks: dict[str, Callback] = {}
    names_by_state: dict[str, str] = {}
    for name, values in named.items():
        callback: Callback = CALLBACKS.build(name, values)
        first_name = names_by_state.setdefault(callback.state_key, name)
        if first_name != name:
            raise ConfigError(
                f"trainer.callbacks.{name} must differ from trainer.callbacks.{first_name}, got "
                f"{type(callback).__name__} twice. Remove one of them."
            )
        callbacks[name] = callback
    return callbacks


def check_early_stopping(
    callbacks: Mapping[str, Callback], training: TrainingConfig, section: str, objective: str | None
) -> None:
    """Check that each early stopping has a metric to watch that isn't watched already.

    Args:
        callbacks: The named callbacks.
        training: Hyperparameters of a family.
        section: The family's section of the settings, for messages.
        objective: The objective that the settings choose for the family.

    Raises:
        ConfigError: One watches a metric that isn't logged, or that is watched already.
    """
    patience, watched = training.early_stopping_patience, training.monitor
    if watched == AUTO and objective == "preference":
        watched = PREFERENCE_ACCURACY
    for name, callback in callbacks.items():
        if not isinstance(callback, EarlyStopping):
            continue
        key = f"trainer.callbacks.{name}.monitor"

        if callback.monitor == watched and patience:
            raise ConfigError(
                f"{key} must be a metric other than {watched}, which {section}.training."
                f"early_stopping_patience={patience} watches, got {callback.monitor!r}. "
                "Add callbacks=no_early_stopping to replace the built-in early stopping."
            )
        if callback.monitor == PREFERENCE_ACCURACY and objective != "preference":
            raise ConfigError(
                f"{key} must be a metric that {section} logs, got {callback.monitor!r}. "
                "Only llm.objective=preference has this one."
            )


class CallbackMetrics(Logger):
    """Passes the metrics that named callbacks log on to the training's sink.

    Lightning hands a logger the metrics of the module as well. They are left out here, as
    `MetricsReporter` reports them, averaged over the steps between two reports.

    Args:
        sink: Receives the metrics.
    """

    def __init__(self, sink: MetricsSink) -> None:
        super().__init__()
        self.sink = sink

    @property
    def name(self) -> str:
        """Return no name: there are no files."""
        return ""

    @property
    def version(self) -> str:
        """Return no version."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass on the metrics that the reporter doesn't report."""
        of_callbacks = {}
        for name, value in metrics.items():
            # Lightning adds the epoch to what the module logs.
            if name not in (*_METRICS, "epoch") and not name.startswith("val/"):
                of_callbacks[name] = float(value)
        if of_callbacks:
            self.sink(of_callbacks, step or 0)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run has logged its configuration."""


class StopAfterStep(Callback):
    """Lets a training that a named callback wants to end finish its optimizer step first.

    Lightning would stop after any micro-batch, and validate weights that lack the rest of their
    step. With several ranks all of them stop after the same step, whichever one asks. Has to come
    directly after the named callbacks.
    """

    def __init__(self) -> None:
        self._is_asked = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Withdraw the request to stop until the step ends."""
        self._is_asked = self._is_asked or trainer.should_stop
        trainer.should_stop = False
        if not batch.ends_window:
            return

        self._is_asked = trainer.strategy.reduce_boolean_decision(self._is_asked, all=False)
        if self._is_asked:
            trainer.should_stop = True
            logger.info("training ends after step %d: a callback asks for it", trainer.global_step)

"""Run clock: says how long a whole run still takes, from the steps that it has taken so far.

It measures nothing of its own: the work of all stages is counted in steps of the training, and the
reports of real steps tell what a step takes.
"""

import datetime
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.reporting.readable import duration

logger = logging.getLogger(__name__)

CROSS_VALIDATION, TRAINING, EVALUATION = "cross-validation", "training", "evaluation"
"""The stages whose work is counted."""

# An epoch has a smaller batch, which may come first.
_FEWEST_STEPS = 3


@dataclass(kw_only=True)
class RunClock:
    """Follows a run through its stages, with the steps that it has taken.

    Attributes:
        name: The model type, for the log.
        stages: Of each stage that is to come, how many steps it takes as long as; without any, the
            clock says nothing.
        now: Returns the time in seconds.
    """

    name: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    now: Callable[[], float] = time.monotonic
    _done: dict[str, float] = field(default_factory=dict, init=False)
    _seconds: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)
    _has_said: bool = field(default=False, init=False)
    _has_finished: bool = field(default=False, init=False)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of the run; None before enough steps have been timed."""
        if self._steps < (1 if self._has_finished else _FEWEST_STEPS):
            return None
        step_seconds = self._seconds / self._steps
        return step_seconds * sum(map(self._steps_left, self.stages))

    def in_words(self) -> str:
        """Return how long the run still takes, such as `12 min`; empty if that isn't known yet."""
        seconds = self.seconds_left
        return duration(seconds) if seconds else ""

    def following(self, sink: MetricsSink, stage: str) -> MetricsSink:
        """Return a sink that also tells the clock of the steps of one training.

        Args:
            sink: Receives the metrics afterwards.
            stage: The stage that the training belongs to, as others before it may.
        """
        steps_before = self._done.get(stage, 0.0)
        previous: tuple[float, int] | None = None

        def report(metrics: Mapping[str, float], step: int) -> None:
            nonlocal previous
            if "train/loss" in metrics:
                moment = self.now()
                # The first report of a training includes the loading of its model.
                if previous is not None and step > previous[1]:
                    self._seconds += moment - previous[0]
                    self._steps += step - previous[1]
                previous = (moment, step)
                self._done[stage] = steps_before + step
                self._say_once()
            sink(metrics, step)

        return report

    def finish(self, stage: str) -> None:
        """Take a stage as done, and log how long the others take."""
        self._done[stage] = self.stages.get(stage, 0.0)
        self._has_finished = True
        seconds = self.seconds_left
        if seconds:
            logger.info("%s: %s done, %s", self.name, stage, _until(seconds))

    def _steps_left(self, stage: str) -> float:
        return max(self.stages[stage] - self._done.get(stage, 0.0), 0.0)

    def _say_once(self) -> None:
        """Log the estimate as soon as steps have been timed."""
        seconds = self.seconds_left
        if not seconds or self._has_said:
            return
        self._has_said = True
        step_seconds = self._seconds / self._steps
        stages = [
            f"{stage} {duration(step_seconds * steps)}"
            for stage, steps in self.stages.items()
            if steps
        ]
        logger.info("%s: %s (%s)", self.name, _until(seconds), ", ".join(stages))


def _until(seconds: float) -> str:
    end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    return f"about {duration(seconds)} left, until {end:%H:%M}"

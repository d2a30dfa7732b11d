"""Timed training: what the moments of a short training's reports say of its steps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(kw_only=True)
class StepClock:
    """Receives the metrics of a training, and keeps when they came.

    Attributes:
        begun: When the training was called, in seconds.
        reports: Of each report of steps, the moment, the tokens read so far, and the share of
            padding since the report before.
        validated: When the metrics of a validation came; None before that.
    """

    begun: float = field(default_factory=time.perf_counter)
    reports: list[tuple[float, float, float]] = field(default_factory=list)
    validated: float | None = None

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics."""
        now = time.perf_counter()
        if "train/tokens" in metrics:
            tokens, padding = metrics["train/tokens"], metrics["train/padding_share"]
            self.reports.append((now, tokens, padding))
        if any(name.startswith("val/") for name in metrics):
            self.validated = now

    @property
    def token_seconds(self) -> float:
        """Seconds of a token that the model reads, in the fastest step after the first.

        Each step of a training is a little faster than the one before, until the memory and the
        products of its sizes are there.
        """
        reports = self.reports
        if len(reports) == 1:
            reports = [(self.begun, 0.0, 0.0), *reports]
        return min(
            (end - begin) / max(tokens - tokens_before, 1.0)
            for (begin, tokens_before, _), (end, tokens, _) in pairwise(reports)
        )

    @property
    def load_seconds(self) -> float:
        """Seconds before the first step."""
        first, tokens, _ = self.reports[0]
        return max(first - self.begun - tokens * self.token_seconds, 0.0)

    @property
    def padding_share(self) -> float:
        """Share of padding in the computed tokens of all steps."""
        computed = real = before = 0.0
        for _, tokens, padding in self.reports:
            computed += (tokens - before) / (1.0 - padding)
            real += tokens - before
            before = tokens
        return 1.0 - real / computed if computed else 0.0


@dataclass(frozen=True, kw_only=True)
class TimedTraining:
    """A training of a few steps that has ended.

    Attributes:
        clock: When its metrics came.
        ended: When it had ended, in seconds.
        counted_tokens: Tokens of its rows, as the preparation counts them.
        validated_tokens: Tokens of all rows of its validation, ranked rows included.
        checkpoint_bytes: Size of its largest checkpoint.
    """

    clock: StepClock
    ended: float
    counted_tokens: int
    validated_tokens: int
    checkpoint_bytes: int

    @property
    def read_tokens(self) -> float:
        """Tokens that the model has read for each counted one."""
        return self.clock.reports[-1][1] / max(self.counted_tokens, 1)

    @property
    def train_seconds(self) -> float:
        """Seconds of a counted token in a training step."""
        return self.clock.token_seconds * self.read_tokens

    @property
    def validation_seconds(self) -> float:
        """Seconds of a counted token in a validation."""
        return (self._validated - self.clock.reports[-1][0]) / max(self.validated_tokens, 1)

    @property
    def checkpoint_seconds(self) -> float:
        """Seconds after the validation: the checkpoints are written, and the best is read."""
        return self.ended - self._validated

    @property
    def _validated(self) -> float:
        validated = self.clock.validated
        return self.clock.reports[-1][0] if validated is None else validated

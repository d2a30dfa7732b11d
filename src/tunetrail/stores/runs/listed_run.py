"""ListedRun: a training or a sweep in MLflow as plain values, whatever has read it."""

import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunetrail.plain_values import plain_moment
from tunetrail.reporting.readable import shown_moment
from tunetrail.stores.tracking.run_tags import TEST_ROWS_TAG

# A sweep's sentence on its best job is no decision of the gate.
_DECISION = re.compile(r"tunetrail\.(?P<family>(?!sweep\.)[^.]+)\.decision")


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A training or a sweep.

    Attributes:
        run_id: The id in MLflow.
        name: The name in MLflow.
        started: When it started, in UTC.
        seconds: How long it took; None while it runs.
        state: `running`, or how it ended.
        parent_run_id: The sweep that it is a job of; None if it isn't.
        experiment_id: The experiment in MLflow.
        artifact_uri: Where its artifacts are.
        params: Its parameters.
        metrics: The last value of each metric that has one.
        tags: Its tags, without MLflow's own.
    """

    run_id: str
    name: str
    started: datetime.datetime
    seconds: float | None
    state: str
    parent_run_id: str | None
    experiment_id: str
    artifact_uri: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def decision(self) -> str:
        """What the gate decided, by family if there are several; empty before."""
        matches = {_DECISION.fullmatch(name): value for name, value in self.tags.items()}
        decisions = {match["family"]: value for match, value in matches.items() if match}
        if len(decisions) == 1:
            return "".join(decisions.values())
        return ", ".join(f"{family} {decision}" for family, decision in decisions.items())

    @property
    def test_rows(self) -> str:
        """Digest of what it was scored on, one for each of several families; empty before."""
        digests = []
        for name, value in self.tags.items():
            if name == TEST_ROWS_TAG or name.startswith(f"{TEST_ROWS_TAG}."):
                digests.append(value)
        return ", ".join(digests)

    @property
    def values(self) -> dict[str, str | float]:
        """All that a run can be filtered and sorted by: its own facts, settings and metrics."""
        own: dict[str, str | float | None] = {
            "id": self.run_id,
            "name": self.name,
            "started": shown_moment(self.started, seconds=True),
            "seconds": self.seconds,
            "state": self.state,
            "session": self.tags.get("tunetrail.session_id"),
            "model_type": self.tags.get("tunetrail.model_type"),
            "decision": self.decision,
            "reason": self.tags.get("tunetrail.reason"),
            "test_rows": self.test_rows,
            "sweep": self.parent_run_id,
        }

        known = {name: value for name, value in own.items() if value not in (None, "")}
        return {**self.params, **self.metrics, **known}

    def _is_finite(self, metric: str) -> bool:
        return math.isfinite(self.metrics[metric])

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain values, without metrics that aren't finite."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "started": plain_moment(self.started),
            "seconds": self.seconds,
            "state": self.state,
            "decision": self.decision or None,
            "sweep": self.parent_run_id,
            "params": dict(self.params),
            "metrics": {name: self.metrics[name] for name in filter(self._is_finite, self.metrics)},
            "tags": dict(self.tags),
        }

"""What a run kept of one family, so that it can be repeated and compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tunetrail.config import BASE
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.row_digests import ROW_DIGESTS, RowDigests
from tunetrail.pipeline.stages.earlier_sessions import BENCHMARK_ROWS
from tunetrail.scratch import scratch_folder
from tunetrail.stores.tracking.tracker import TrackedRun

TRAINING, _COMPARISON = "training", "comparison"


@dataclass(frozen=True, kw_only=True)
class RecordedFamily:
    """What a run kept of one family.

    Attributes:
        family: The family.
        run: Its run in MLflow.
    """

    family: ModelFamily
    run: TrackedRun

    @cached_property
    def artifacts(self) -> set[str]:
        """The results of its steps and the files of its rows."""
        return {*self.run.artifacts("steps"), *self.run.artifacts("data")}

    def step(self, name: str) -> dict[str, Any]:
        """Return the result of a step; empty if there is none."""
        file = f"steps/{name}.json"
        return self.run.read_dict(file) if file in self.artifacts else {}

    @cached_property
    def training(self) -> dict[str, Any]:
        """The result of its training; empty if that has not ended."""
        return self.step(TRAINING)

    @cached_property
    def comparison(self) -> dict[str, Any]:
        """The result of its comparison with root; empty for a job of a sweep that did not win."""
        return self.step(_COMPARISON)

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to repeat."""
        return bool(self.training)

    @cached_property
    def data(self) -> Any:
        """Its parameters, metrics and datasets in MLflow."""
        return self.run.tracker.find_run(self.run.run_id)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last value of each metric."""
        metrics: Mapping[str, float] = self.data.data.metrics
        return metrics

    def sides(self) -> set[tuple[str, str, str]]:
        """Return session, purpose and digest of each of the row sets that it has logged."""
        inputs = self.data.inputs.dataset_inputs if self.data.inputs else []
        return {(item.dataset.name, item.tags[0].value, item.dataset.digest) for item in inputs}

    @cached_property
    def row_digests(self) -> RowDigests | None:
        """The digests of the rows that it was given; None if it kept none."""
        if ROW_DIGESTS not in self.artifacts:
            return None
        with scratch_folder() as folder:
            return RowDigests.read(self.run.download(ROW_DIGESTS, folder))

    @cached_property
    def benchmark_row_ids(self) -> Sequence[int]:
        """The rows of earlier sessions that it was scored on; empty if there were none."""
        folder = BENCHMARK_ROWS.partition("/")[0]
        if BENCHMARK_ROWS not in self.run.artifacts(folder):
            return ()
        row_ids: list[int] = self.run.read_dict(BENCHMARK_ROWS)["row_ids"]
        return row_ids

    def root_at_start(self) -> str | None:
        """Return the version that the training began with; None for the base model."""
        return _version(self.training["started_from"])

    def root_to_beat(self) -> str | None:
        """Return the version that it was compared with; None for the base model."""
        return _version(self.comparison.get("against", BASE))


def _version(uri: str) -> str | None:
    return None if uri == BASE else uri.rpartition("/")[2]

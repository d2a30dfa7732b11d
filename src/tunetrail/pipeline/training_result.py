"""TrainingResult: what a training came to, as the documented mapping and with typed attributes."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunetrail.evaluation.comparison import Comparison
from tunetrail.pipeline.result_table import COLUMNS, result_lines, result_rows
from tunetrail.reporting.plain_tables import html_table, plain_table


@dataclass(frozen=True, kw_only=True)
class FamilyResult:
    """What a training came to for one model type.

    Attributes:
        model_type: The model type: `embedding`, `llm`, or a family that a package has added.
        decision: What the gate decided: `promoted`, `refused`, or `waiting` for an approval.
        reason: Why, in words.
        name: Name of the registered model.
        version: The version that the candidate is registered as, such as `3`.
        is_root: Whether this version became root.
        comparison: How much better the candidate is than the version to beat, with an interval.
        run_id: The run in MLflow that trained it.
        report: Where the report of the training is, a path or an address; None without one.
        steps: The result of each step, JSON-serialisable.
    """

    model_type: str
    decision: str
    reason: str
    name: str
    version: str
    is_root: bool
    comparison: Comparison
    run_id: str
    report: str | None
    steps: Mapping[str, Mapping[str, Any]]


class TrainingResult(dict[str, Any]):
    """What a training came to.

    It is the documented mapping: `result["results"]["steps"]["comparison"]["embedding"]` holds what
    that step reported, `json.dumps` accepts the whole, and so does whatever takes a dict. The
    attributes give the same as typed values. `print(result)` shows a table, and so does Jupyter.

    Attributes:
        run_id: The training's run in MLflow; None if it isn't known.
        report: Where the training's report is, a path or an address; None without one.
        page: The address of the run in MLflow's pages; None if the store has none.
    """

    def __init__(
        self,
        results: Mapping[str, Any],
        *,
        run_id: str | None = None,
        report: str | None = None,
        page: str | None = None,
    ) -> None:
        super().__init__(results)
        self.run_id = run_id
        self.report = report
        self.page = page

    @property
    def session_id(self) -> str | list[str]:
        """The session that was learnt from, or several."""
        session_id: str | list[str] = self["session_id"]
        return session_id

    @property
    def model_type(self) -> str:
        """The model type that was asked for: a family, or `all`."""
        return str(self["model_type"])

    @property
    def steps(self) -> Mapping[str, Mapping[str, Any]]:
        """The results by step and model type, JSON-serialisable."""
        steps: Mapping[str, Mapping[str, Any]] = self["results"]["steps"]
        return steps

    @property
    def families(self) -> dict[str, FamilyResult]:
        """What came of each model type, by its name."""
        families = {}
        for model_type, deployment in self.steps["deployment"].items():
            of_type = {
                name: step[model_type] for name, step in self.steps.items() if model_type in step
            }

            families[model_type] = FamilyResult(
                model_type=model_type,
                decision=deployment["decision"],
                reason=deployment["reason"],
                name=deployment["name"],
                version=deployment["version"],
                is_root=deployment["promote"],
                comparison=Comparison.from_dict(of_type["comparison"]),
                run_id=deployment["mlflow_run_id"],
                report=self.report,
                steps=of_type,
            )
        return families

    def to_dict(self) -> dict[str, Any]:
        """Return the documented mapping as a dict of its own, which may be changed."""
        return copy.deepcopy(dict(self))

    def __repr__(self) -> str:
        return plain_table(COLUMNS, result_rows(self), self._lines())

    def _repr_html_(self) -> str:
        """Return the table for Jupyter."""
        return html_table(COLUMNS, result_rows(self), self._lines())

    def _lines(self) -> list[str]:
        return result_lines(self, self.report, self.page)

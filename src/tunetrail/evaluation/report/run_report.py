"""What a run kept of each model type, as its report shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tunetrail.config import BASE
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.cross_validation import CrossValidationResult
from tunetrail.evaluation.embedding_map import EmbeddingMap
from tunetrail.evaluation.example_rows import ExampleRows

STEPS = ("cleaning", "cross_validation", "training", "evaluation", "comparison", "deployment")
"""The steps of a run whose results the report shows."""


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What a run kept of one model type; older runs lack some of it.

    Attributes:
        model_type: `embedding` or `llm`.
        run_id: The MLflow run of the model type.
        steps: The results of the steps by name, at least `comparison`.
        rows: The scores of each held-out row.
        slices: Lines of `score_slices`, the surest loss first.
        examples: The rows that were fixed and broken, and the worst ones.
        answers: What both models of a language model wrote.
        tokens: The tokens that cost the models the most bits, in the rows with the highest loss.
        embedding_map: The test rows in two dimensions.
        missing: What the run didn't keep, in words.
    """

    model_type: str
    run_id: str
    steps: Mapping[str, Mapping[str, Any]]
    rows: ExampleRows | None = None
    slices: pd.DataFrame | None = None
    examples: Mapping[str, Any] | None = None
    answers: pd.DataFrame | None = None
    tokens: pd.DataFrame | None = None
    embedding_map: EmbeddingMap | None = None
    missing: Sequence[str] = ()

    @property
    def comparison(self) -> Comparison:
        """The candidate compared with the version to beat."""
        return Comparison.from_dict(self.steps["comparison"])

    @property
    def against(self) -> str:
        """The URI of the version to beat, or `base`."""
        return str(self.steps["comparison"].get("against", BASE))

    @property
    def cross_validation(self) -> CrossValidationResult | None:
        """The folds; None if cross-validation was off."""
        step = self.steps.get("cross_validation", {})
        return CrossValidationResult.from_dict(step) if "metric" in step else None

    @property
    def forgetting(self) -> dict[str, Comparison]:
        """The comparison on each session and on the general set, the worst change first.

        The sessions are the earlier ones, and the training's own if it has several.
        """
        step = self.steps["comparison"]
        changes = dict(step.get("earlier_sessions") or {})
        for name, change in (step.get("sessions") or {}).items():
            changes[f"{name} (trained on)"] = change
        for name, change in (step.get("general_set") or {}).items():
            changes[f"general set {name}"] = change
        compared = {name: Comparison.from_dict(change) for name, change in changes.items()}
        return dict(sorted(compared.items(), key=lambda pair: pair[1].improvement))


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A run as its report shows it.

    Attributes:
        name: The run's name.
        run_id: Its id in MLflow.
        started: When it started, as text.
        models: What it kept of each model type.
        tracking_option: The option by which commands find the store; empty for the default one.
    """

    name: str
    run_id: str
    started: str
    models: Sequence[ModelReport]
    tracking_option: str = ""

    @property
    def heading(self) -> str:
        """What was trained on which session: the name without the settings that it begins with."""
        return self.name.rpartition(": ")[2]

    @property
    def changed_settings(self) -> str:
        """The settings that the name begins with; empty if it has none."""
        return self.name.rpartition(": ")[0]

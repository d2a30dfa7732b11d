"""The model card of a run's candidate, from the results of its steps."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunetrail.data.rows import rows_digest
from tunetrail.deployment.gate import Decision
from tunetrail.deployment.model_card import ModelCard, licence_of
from tunetrail.evaluation.report.run_report import ModelReport
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.prepare import PreparedRows


def candidate_card(
    context: StageContext,
    prepared: PreparedRows,
    fitted: FittedModel,
    decision: Decision,
    decision_text: str,
) -> ModelCard:
    """Return the card of a candidate that was evaluated.

    Args:
        context: The run.
        prepared: The rows.
        fitted: The trained model.
        decision: The gate's.
        decision_text: The same in two sentences.
    """
    split = prepared.split
    # A family of another package may have a section of any class.
    config: Any = context.config
    sides = {"train": split.train, "validation": split.validation, "test": split.test}
    digests = {name: (len(side), rows_digest(side)) for name, side in sides.items()}

    version = fitted.started_from.rpartition("/")[2]
    has_root = fitted.started_from.startswith("models:/")
    ancestors = [version, *context.registry.ancestors(version)] if has_root else []
    return ModelCard(
        report=ModelReport(
            model_type=context.model_type,
            run_id=context.run.run_id,
            steps={**context.state.steps, "deployment": decision.to_dict()},
        ),
        decision=decision_text,
        base_model=context.base.canonical_name,
        licence=licence_of(Path(context.base.path)),
        session=context.name,
        sides=digests,
        started_from=fitted.started_from,
        ancestors=ancestors,
        max_length=config.max_length,
        configuration=asdict(config),
        warnings=split.warnings,
    )

"""Details of a training for the ledger, which answers for a version when its run is gone."""

from typing import Any

from tunetrail.data.rows import rows_digest
from tunetrail.pipeline.run_settings import plain_settings
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.prepare import PreparedRows

_CONNECTIONS = ("database", "tracking")


def training_details(
    context: StageContext, prepared: PreparedRows, fitted: FittedModel
) -> dict[str, Any]:
    """Return the configuration, the rows and the metrics of a training as plain values."""
    settings = plain_settings(context.settings, database="")
    split, steps = prepared.split, context.state.steps
    sides = {"train": prepared.train, "validation": split.validation, "test": split.test}
    rows: dict[str, Any] = {}
    for side, frame in sides.items():
        rows[side] = {"rows": len(frame), "digest": rows_digest(frame)}

    replayed = context.state.replayed
    if replayed is not None:
        rows["replay"] = dict(replayed)

    evaluation = steps["evaluation"]
    return {
        # Connections may hold a password, and nothing learnt depends on them.
        "configuration": {key: settings[key] for key in settings if key not in _CONNECTIONS},
        "data": {"name": context.name, **rows},
        "metrics": {
            "candidate": evaluation["candidate"]["metrics"],
            "reference": evaluation["reference"]["metrics"],
        },
        "started_from": fitted.started_from,
        "base_model": context.base.canonical_name,
        "tags": dict(context.tags),
    }

"""The pipeline: DataSciencePipeline, the stages of one model type in order.

All of it is imported on first use: preparing rows needs neither MLflow nor Lightning.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunetrail.pipeline.data_science_pipeline import DataSciencePipeline, open_tracker
    from tunetrail.pipeline.outcome import STAGES, STEPS, Outcome, OutcomeState, Pruned
    from tunetrail.pipeline.run_state import remove_leftovers

__all__ = [
    "STAGES",
    "STEPS",
    "DataSciencePipeline",
    "Outcome",
    "OutcomeState",
    "Pruned",
    "open_tracker",
    "remove_leftovers",
]

_HOMES = {
    "STAGES": "tunetrail.pipeline.outcome",
    "STEPS": "tunetrail.pipeline.outcome",
    "DataSciencePipeline": "tunetrail.pipeline.data_science_pipeline",
    "Outcome": "tunetrail.pipeline.outcome",
    "OutcomeState": "tunetrail.pipeline.outcome",
    "Pruned": "tunetrail.pipeline.outcome",
    "open_tracker": "tunetrail.pipeline.data_science_pipeline",
    "remove_leftovers": "tunetrail.pipeline.run_state",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

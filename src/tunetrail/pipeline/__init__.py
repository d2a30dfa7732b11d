"""The pipeline: DataSciencePipeline, the stages of one model type in order."""

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

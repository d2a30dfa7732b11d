"""The pipeline: DataSciencePipeline, the steps of one model type in order, and what they share."""

from tunetrail.pipeline.data_science_pipeline import DataSciencePipeline
from tunetrail.pipeline.work import STEPS, Outcome, remove_leftovers

__all__ = ["STEPS", "DataSciencePipeline", "Outcome", "remove_leftovers"]

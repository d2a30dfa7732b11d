"""Assumptions: what a plan takes for granted, and what it leaves out, a sentence each."""

from tunetrail.config import AUTO, Settings
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.ranks import rank_count


def assumptions(settings: Settings, family: ModelFamily) -> list[str]:
    """Return what the estimate takes for granted."""
    sentences = ["nothing ends the training early, and the machine is as busy as now"]

    ranks = rank_count(settings.trainer)
    if ranks > 1:
        sentences.append(
            f"all is timed on one device: the {ranks} devices of the training take less time"
        )
    if settings.augmentation.methods:
        sentences.append("augmentation adds as many rows as it may")
    if settings.feature_engineering.hard_negatives.enabled:
        sentences.append("mined negatives are as long as the positives")
    if settings.replay:
        sentences.append("replayed rows are as long as the session's own")
    if family.section(settings).training.batch_size == AUTO:
        sentences.append("the search for the batch size is over: its result is in the cache")
    if family.add_answers is not None and settings.evaluation.generation.rows:
        sentences.append("each written answer is as long as allowed")
    return sentences


def not_included(settings: Settings, family: ModelFamily) -> list[str]:
    """Return what a training with these settings takes in addition."""
    left_out = []
    if settings.augmentation.methods:
        left_out.append("the writing of the rows that augmentation adds")
    if family.further_shapes(settings):
        left_out.append(f"the rows of {family.name}.also_train")
    if rank_count(settings.trainer) > 1:
        left_out.append("the start of the devices' processes, and what they send one another")
    return left_out

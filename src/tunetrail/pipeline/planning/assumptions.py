"""Assumptions: what a plan takes for granted, and what it leaves out, a sentence each."""

from tunetrail.config import AUTO, Settings
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.planning.division import Division


def assumptions(settings: Settings, family: ModelFamily, division: Division) -> list[str]:
    """Return what the estimate takes for granted."""
    sentences = ["nothing ends the training early, and the machine is as busy as now"]

    if division.devices > 1:
        sentences.append(
            f"each of the {division.devices} devices is as fast as this one, on which its share of "
            "a batch was timed"
        )
    elif division.ranks > 1:
        sentences.append(
            f"the {division.ranks} processes of the training share the cores, and each takes at "
            "most the memory of a single one"
        )
    if settings.augmentation.methods:
        sentences.append("augmentation adds as many rows as it may")
    if settings.feature_engineering.hard_negatives.enabled:
        sentences.append("mined negatives are as long as the positives")
    if settings.replay:
        sentences.append("replayed rows are as long as the session's own")
    if family.section(settings).training.batch_size == AUTO:
        sentences.append("the search for the batch size is over: its result is in the cache")
    if settings.gate.fresh_process:
        sentences.append("the candidate passes the gate, so that a fresh process scores it")
    if family.add_answers is not None and settings.evaluation.generation.rows:
        sentences.append("each written answer is as long as allowed")
    return sentences


def not_included(settings: Settings, family: ModelFamily, division: Division) -> list[str]:
    """Return what a training with these settings takes in addition."""
    left_out = []
    if settings.augmentation.methods:
        left_out.append("the writing of the rows that augmentation adds")
    if family.further_shapes(settings):
        left_out.append(f"the rows of {family.name}.also_train")
    if division.ranks > 1:
        left_out.append("what the processes send one another")
    return left_out

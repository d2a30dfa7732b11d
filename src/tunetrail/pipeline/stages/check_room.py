"""Check room: says before anything is trained if the test rows can't show an improvement."""

import logging

from tunetrail.data.rows import records_of
from tunetrail.errors import TrainingError
from tunetrail.evaluation.room import lack_of_room
from tunetrail.evaluation.significance import bonferroni_confidence
from tunetrail.pipeline.stage_context import ReferenceScores, StageContext
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.pipeline.version_to_beat import version_to_beat

logger = logging.getLogger(__name__)


def check_room(context: StageContext, prepared: PreparedRows) -> None:
    """Score the version to beat on the test rows, and warn if it leaves too little to improve.

    The scores are kept for the evaluation, so that the check costs nothing. It is left out for
    models that generate text: their primary metric mostly has no best value, and what they are
    scored on depends on both models.
    """
    family, settings = context.family, context.settings
    if family.encode is None or family.scorable is not None or "training" in context.state.steps:
        return

    to_beat = version_to_beat(context)
    # Freed with the end of this function, or before the first training if it is the base model.
    model = context.base_model() if to_beat is None else context.registry.load(to_beat)
    split = prepared.split
    corpus = context.corpus_rows(split.train, split.validation)
    learner = context.learner(prepared.shape)
    test = records_of(split.test)
    try:
        scores = family.gate_scores(settings, learner, model, test, records_of(corpus))
    except TrainingError as error:
        # Weights that aren't finite: the training says so with better advice.
        logger.warning("%s: the version to beat can't be scored: %s", context.model_type, error)
        return
    context.reference_scores = ReferenceScores(version=to_beat, scores=scores)

    look = 1.0 + context.history.count_looks(prepared.test_sketch)
    confidence = bonferroni_confidence(settings.evaluation.confidence, look)
    reason = lack_of_room(scores, confidence)
    if reason is not None:
        name = "the base model" if to_beat is None else to_beat.uri
        more_documents = "" if scores.documents is None else ", or raise evaluation.corpus_size"
        logger.warning(
            "%s: %s %s. No training can be found better on these rows; add rows that it gets "
            "wrong%s.",
            context.model_type,
            name,
            reason,
            more_documents,
        )

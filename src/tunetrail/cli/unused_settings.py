"""Warn of overrides that do nothing, or something else than they seem to."""

import logging
from collections.abc import Sequence

from tunetrail.cli.conf_groups import shadowed_experiments
from tunetrail.config import MODEL_SECTIONS, TrainRequest

_log = logging.getLogger(__name__)
# Augmentation methods for which one model helps to train the other one.
_WRITERS = {"generated_query", "paraphrase"}


def warn_of_unused(request: TrainRequest, overrides: Sequence[str]) -> None:
    """Log a warning for each override that has no effect with the model type of the request.

    Also for each experiment of the current folder that has the name of one of tunetrail's own.
    """
    for override in unused_overrides(request, overrides):
        _log.warning(
            "%s has no effect with model_type=%s, which doesn't train that model",
            override,
            request.model_type,
        )
    for file in shadowed_experiments(overrides):
        _log.warning("%s is used instead of tunetrail's own experiment of that name", file)


def unused_overrides(request: TrainRequest, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that only concern a model that the request doesn't train."""
    is_single = request.model_type in MODEL_SECTIONS
    if not is_single or _WRITERS & set(request.augmentation.methods):
        return []
    others = [section for section in MODEL_SECTIONS if section != request.model_type]
    return [
        override
        for override in overrides
        if override.lstrip("+~").partition("=")[0].partition(".")[0] in others
    ]

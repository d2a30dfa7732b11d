"""Kept speeds: what was timed for one plan serves the plans of the next hour."""

import logging
from dataclasses import replace

from tunetrail.data.flow.preparation import result_cache
from tunetrail.learning.automatic.cached_result import CachedResult
from tunetrail.pipeline.planning.calibration import Calibration
from tunetrail.pipeline.planning.estimate import Speeds
from tunetrail.reporting.readable import duration

logger = logging.getLogger(__name__)

# Later, other processes may use the machine more or less than before.
_VALID_SECONDS = 3600.0


def speeds_of(calibration: Calibration) -> Speeds:
    """Return what a calibration measures, or what it has measured within the last hour.

    Whoever plans tries several numbers of epochs, folds or learning rates, on which no speed
    depends. Without a cache, each plan measures.

    Raises:
        UserError: As `Calibration.measure` does.
    """
    cache, name = result_cache(calibration.settings.preparation), calibration.family.name
    kept = CachedResult(cache, "speeds of a training", calibration.conditions())
    with kept.computing():
        speeds = kept.read(Speeds.from_dict, within_seconds=_VALID_SECONDS)
        age = kept.age_seconds
        if speeds is not None and age is not None:
            logger.info("%s: steps that were timed %s ago", name, duration(age))
            return replace(speeds, age_seconds=age)

        logger.info("%s: a few timed steps", name)
        speeds = calibration.measure()
        kept.write(speeds.to_dict())
    return speeds

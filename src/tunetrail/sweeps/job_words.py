"""Words for the jobs of a sweep: what was swept, the objective's value and how long it took."""

import re
from collections import Counter

from tunetrail.evaluation.metrics import is_metric, metric_named
from tunetrail.reporting.readable import duration, shown_interval
from tunetrail.sweeps.sweep_job import SweepJob

_LONG_NUMBER = re.compile(r"-?\d*\.?\d{5,}(e-?\d+)?")
_LARGEST_SCORE = 10.0


def objective_label(name: str) -> str:
    """Return an objective as people call it: a metric by its label."""
    return metric_named(name).label if is_metric(name) else name


def shown_overrides(job: SweepJob) -> list[str]:
    """Return what was swept, as short as it stays clear.

    Keys lose the sections before their last name unless two would be equal, and numbers all but
    four digits.
    """
    pairs = [override.lstrip("+").partition("=") for override in job.overrides]
    names = Counter(key.rpartition(".")[2] for key, _, _ in pairs)

    shown = []
    for key, sign, value in pairs:
        name = key.rpartition(".")[2]
        is_long_number = _LONG_NUMBER.fullmatch(value) is not None
        short_value = f"{float(value):.4g}" if is_long_number else value
        shown.append(f"{name if names[name] == 1 else key}{sign}{short_value}")
    return shown


def shown_value(value: float) -> str:
    """Return an objective's value: a score with four decimals, a cost with one."""
    return f"{value:.4f}" if abs(value) < _LARGEST_SCORE else f"{value:.1f}"


def value_in_words(job: SweepJob) -> str:
    """Return the objectives' values of a finished job, with the interval; `-` for others."""
    if job.values is None:
        return "-"
    words = ", ".join(map(shown_value, job.values))
    if job.interval is not None:
        words += f" ({shown_interval(*job.interval, '.4f')})"
    return words


def duration_in_words(seconds: float | None) -> str:
    """Return a duration such as `12 min`; `-` if it is unknown."""
    return "-" if seconds is None else duration(seconds)

"""The page of a sweep: one HTML file that needs no network."""

from collections.abc import Mapping
from pathlib import Path

from tunetrail.reporting.html import PageTemplate, captioned
from tunetrail.sweeps.job_words import duration_in_words, shown_overrides, shown_value
from tunetrail.sweeps.summary import SweepSummary

_CAPTIONS = {
    "objective": "Objective of each finished job with its 95 % interval, best first",
    "importance": "Importance: share of the objective's variance that each key explains (fANOVA)",
    "parallel": "Parallel coordinates: a line is a job, blue the better half, thick the best one",
    "front": "Objectives of the jobs; the line joins the jobs that no other job beats in both",
}
_TEMPLATE = PageTemplate(
    Path(__file__).with_name("sweep.html"),
    {"value": shown_value, "duration": duration_in_words, "overrides": shown_overrides},
)


def sweep_page(summary: SweepSummary, pictures: Mapping[str, bytes]) -> str:
    """Return a sweep as the text of one HTML file; overrides and reasons in it are escaped.

    Args:
        summary: The sweep.
        pictures: What `sweep_pictures` returns of it.
    """
    return _TEMPLATE.render(summary=summary, pictures=captioned(pictures, _CAPTIONS))

"""The page of a sweep: one HTML file that needs no network."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunetrail.reporting.html import load_template, picture_address
from tunetrail.sweeps.job_words import duration_in_words, shown_overrides, shown_value
from tunetrail.sweeps.summary import SweepSummary

if TYPE_CHECKING:
    from jinja2 import Template

_CAPTIONS = {
    "objective": "Objective of each finished job with its 95 % interval, best first",
    "importance": "Importance: share of the objective's variance that each key explains (fANOVA)",
    "parallel": "Parallel coordinates: a line is a job, blue the better half, thick the best one",
    "front": "Objectives of the jobs; the line joins those of which no other is better in both",
}


def sweep_page(summary: SweepSummary, pictures: Mapping[str, bytes]) -> str:
    """Return a sweep as the text of one HTML file; overrides and reasons in it are escaped.

    Args:
        summary: The sweep.
        pictures: What `sweep_pictures` returns of it.
    """
    shown = [(_CAPTIONS[name], picture_address(picture)) for name, picture in pictures.items()]
    return _template().render(summary=summary, pictures=shown)


@cache
def _template() -> "Template":
    filters: dict[str, Any] = {
        "value": shown_value,
        "duration": duration_in_words,
        "overrides": shown_overrides,
    }
    return load_template(Path(__file__).with_name("sweep.html"), filters)

"""The trainings and sweeps of an experiment as a DataFrame."""

import datetime
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tunetrail.stores.runs.listed_run import ListedRun

_FACTS = (
    *("run_id", "name", "started", "seconds", "state", "session", "model_type"),
    *("decision", "reason", "test_rows", "sweep"),
)


def runs_frame(runs: Sequence[ListedRun]) -> pd.DataFrame:
    """Return a row for each run: its facts, then all metrics, then all settings.

    A cell is empty if a run lacks the metric or setting. A fact hides a setting of the same name.
    `started` is in UTC. A setting whose values are numbers in all runs has numbers in its column.
    """
    rows = []
    for run in runs:
        facts: dict[str, Any] = {name: run.values.get(name) for name in _FACTS}
        facts |= {"run_id": run.run_id, "started": _moment(run.started)}
        rows.append({**run.params, **run.metrics, **facts})

    metrics = sorted(set().union(*(run.metrics for run in runs)) - set(_FACTS))
    params = sorted(set().union(*(run.params for run in runs)) - {*_FACTS, *metrics})
    frame = pd.DataFrame(rows, columns=[*_FACTS, *metrics, *params])
    for name in params:
        frame[name] = _as_numbers(frame[name])
    return frame


def _moment(moment: datetime.datetime) -> pd.Timestamp:
    return pd.Timestamp(moment).tz_convert("UTC")


def _as_numbers(column: pd.Series) -> pd.Series:
    """Return a column of texts as numbers, or as it is if one of them is none."""
    try:
        return pd.to_numeric(column)
    except ValueError:
        return column

"""The trainings and sweeps of an experiment as a list: read from MLflow, filtered and sorted."""

import datetime
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.config import sessions_of_name
from tunetrail.errors import UserError, did_you_mean
from tunetrail.stores.runs.listed_run import ListedRun
from tunetrail.stores.tracking.run_tags import SWEEP_TAG, TRAINING_RUN_TAG
from tunetrail.stores.tracking.tracker import (
    BATCH,
    Tracker,
    existing_store,
    shown_uri,
    tracking_errors,
)

_CONDITION = re.compile(r"\s*(?P<key>.+?)\s*(?P<sign>!=|>=|<=|=|>|<)\s*(?P<value>.*?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": eq,
    "!=": ne,
    ">": gt,
    ">=": ge,
    "<": lt,
    "<=": le,
}
_SHOWN_KEYS = 4
# The name of the experiment that MLflow makes in each new store.
_DEFAULT_EXPERIMENT = "Default"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A comparison that a listed run has to fulfil.

    Attributes:
        key: The name of a fact, a setting or a metric, as `find_key` returns it.
        sign: The comparison's sign.
        value: What it is compared with.
    """

    key: str
    sign: str
    value: str

    def holds(self, run: ListedRun) -> bool:
        """Tell whether a run fulfils the condition; one without the key never does."""
        value = run.values.get(self.key)
        if value is None:
            return False
        # A training of several sessions is one of each.
        if self.key == "session" and self.sign in ("=", "!="):
            names = {str(value), *sessions_of_name(str(value))}
            return (self.value in names) == (self.sign == "=")
        pair = _as_numbers(value, self.value) or (str(value), self.value)
        return _COMPARE[self.sign](*pair)


def existing_experiment(tracking_uri: str, name: str) -> Tracker:
    """Return the store with an experiment that exists; raises `UserError` if it doesn't."""
    tracker = existing_store(tracking_uri)
    with tracking_errors(tracker.config.uri):
        names = [experiment.name for experiment in tracker.client.search_experiments()]
    if name in names:
        return Tracker(replace(tracker.config, experiment=name))

    # MLflow makes one in each new store.
    others = [other for other in names if other != _DEFAULT_EXPERIMENT]
    if not others:
        raise UserError(
            f"--experiment must be one of the store {shown_uri(tracking_uri)}, got {name!r}: "
            "nothing was trained with this store yet. Train first, or name another one with --uri."
        )
    raise UserError(
        f"--experiment must be one of {', '.join(others)}, got {name!r}."
        f"{did_you_mean(name, others)}"
    )


def read_runs(tracker: Tracker) -> list[ListedRun]:
    """Return the trainings and sweeps of the store's experiment, newest first."""
    runs = []
    with tracking_errors(tracker.config.uri):
        for run in _pages(tracker):
            tags = run.data.tags
            # Folds, and model types of a training of several, are below the runs that are listed.
            if TRAINING_RUN_TAG in tags or SWEEP_TAG in tags:
                runs.append(listed_run(run))
    return runs


def _pages(tracker: Tracker) -> Iterator[Run]:
    token = None
    while True:
        page = tracker.client.search_runs(
            [tracker.experiment_id],
            order_by=["attributes.start_time DESC"],
            max_results=BATCH,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def listed_run(run: Run) -> ListedRun:
    """Return a run of MLflow as plain values."""
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    started, ended = run.info.start_time, run.info.end_time

    return ListedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        started=datetime.datetime.fromtimestamp(started / 1000, datetime.UTC),
        seconds=(ended - started) / 1000 if ended else None,
        state=tags.get("tunetrail.state", run.info.status.lower()),
        parent_run_id=run.data.tags.get(MLFLOW_PARENT_RUN_ID),
        experiment_id=run.info.experiment_id,
        artifact_uri=run.info.artifact_uri,
        params=run.data.params,
        # NaN is a metric that was announced only.
        metrics={name: value for name, value in run.data.metrics.items() if not math.isnan(value)},
        tags=tags,
    )


def parse_conditions(texts: Iterable[str], runs: Sequence[ListedRun]) -> list[Condition]:
    """Return conditions such as `learning_rate<=3e-5` or `state=failed`.

    Args:
        texts: As the user typed them.
        runs: The runs, which tell what keys there are.

    Raises:
        UserError: A text is no condition, a key is unknown or ambiguous, or texts are ordered.
    """
    conditions = []
    for text in texts:
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise UserError(
                f"--where must be KEY=VALUE, or with one of {', '.join(_COMPARE)}, got {text!r}. "
                "Write, for example, --where 'embedding/after>0.8'."
            )

        key, sign, value = find_key("--where", match["key"], runs), match["sign"], match["value"]
        is_order = sign not in ("=", "!=")
        # Moments are the only texts that have an order.
        if is_order and key != "started" and _as_numbers(value, 0.0) is None:
            raise UserError(
                f"--where must have a number after {sign}, got {text!r}. Use = or != for text."
            )

        conditions.append(Condition(key=key, sign=sign, value=value))
    return conditions


def find_key(option: str, key: str, runs: Sequence[ListedRun]) -> str:
    """Return the whole name of a fact, a setting or a metric that a user named.

    The end of a name is enough if no other name ends in this way.

    Args:
        option: The option of the command, for the message.
        key: As the user typed it.
        runs: The runs, which tell what keys there are.

    Raises:
        UserError: No run has such a key, or several names end in this way.
    """
    names = sorted(set().union(*(run.values for run in runs)))
    # Nothing is listed anyway.
    if key in names or not runs:
        return key

    ends = [re.split(r"[./]", name)[-1] for name in names]
    matching = [name for name in names if name.endswith((f".{key}", f"/{key}"))]
    if len(matching) == 1:
        return matching[0]
    if matching:
        shown = ", ".join(matching[:_SHOWN_KEYS]) + (", ..." * (len(matching) > _SHOWN_KEYS))
        raise UserError(
            f"{option} must name one fact, setting or metric, got {key!r}, which may be {shown}. "
            "Name one of them."
        )

    raise UserError(
        f"{option} must name a fact, setting or metric of the listed runs, got {key!r}."
        f"{did_you_mean(key, [*names, *ends])} `tunetrail runs --json` shows all of them."
    )


def sort_runs(runs: Sequence[ListedRun], key: str, *, descending: bool) -> list[ListedRun]:
    """Return the runs by a key, numbers in their order; runs without it come last."""
    with_key = [run for run in runs if key in run.values]
    without_key = [run for run in runs if key not in run.values]

    def rank(run: ListedRun) -> tuple[bool, float, str]:
        value = run.values[key]
        pair = _as_numbers(value, 0.0)
        return (False, pair[0], "") if pair else (True, 0.0, str(value))

    return [*sorted(with_key, key=rank, reverse=descending), *without_key]


def select_runs(
    runs: Sequence[ListedRun],
    *,
    where: Iterable[str] = (),
    sort: str | None = None,
    descending: bool = False,
) -> list[ListedRun]:
    """Return the runs that fulfil all conditions, in the order of a key.

    Args:
        runs: The runs, newest first.
        where: Conditions such as `learning_rate<=3e-5` or `state=failed`.
        sort: A fact, a setting or a metric, or the end of its name; None for the newest first.
        descending: The largest first.

    Raises:
        UserError: A condition can't be read, or no run has such a key.
    """
    selected = list(runs)
    for condition in parse_conditions(where, runs):
        selected = list(filter(condition.holds, selected))
    if sort is None:
        return selected
    return sort_runs(selected, find_key("--sort", sort, runs), descending=descending)


def _as_numbers(*values: str | float) -> tuple[float, ...] | None:
    """Return the values as numbers; None if one of them is none."""
    try:
        return tuple(map(float, values))
    except ValueError:
        return None

"""The trainings and sweeps of an experiment as a list: read from MLflow, filtered and sorted."""

import datetime
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.config import sessions_of_name
from tunetrail.errors import UserError, did_you_mean
from tunetrail.stores.resumable_runs import TRAINING_RUN_TAG
from tunetrail.stores.tracking import BATCH, Tracker, existing_store, tracking_errors

SWEEP_TAG = "tunetrail.sweep"
TEST_ROWS_TAG = "tunetrail.test_rows"
"""The tag with the digest of the rows that a run's scores were measured on."""

# A sweep's sentence on its best job is no decision of the gate.
_DECISION = re.compile(r"tunetrail\.(?P<family>(?!sweep\.)[^.]+)\.decision")
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


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A training or a sweep.

    Attributes:
        run_id: The id in MLflow.
        name: The name in MLflow.
        started: When it started, in UTC.
        seconds: How long it took; None while it runs.
        state: `running`, or how it ended.
        parent_run_id: The sweep that it is a job of; None if it isn't.
        params: Its parameters.
        metrics: The last value of each metric.
        tags: Its tags.
    """

    run_id: str
    name: str
    started: datetime.datetime
    seconds: float | None
    state: str
    parent_run_id: str | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def decision(self) -> str:
        """What the gate decided, by family if there are several; empty before."""
        matches = {_DECISION.fullmatch(name): value for name, value in self.tags.items()}
        decisions = {match["family"]: value for match, value in matches.items() if match}
        if len(decisions) == 1:
            return "".join(decisions.values())
        return ", ".join(f"{family} {decision}" for family, decision in decisions.items())

    @property
    def test_rows(self) -> str:
        """Digest of what it was scored on, one for each of several families; empty before."""
        digests = []
        for name, value in self.tags.items():
            if name == TEST_ROWS_TAG or name.startswith(f"{TEST_ROWS_TAG}."):
                digests.append(value)
        return ", ".join(digests)

    @property
    def values(self) -> dict[str, str | float]:
        """All that a run can be filtered and sorted by: its own facts, settings and metrics."""
        own: dict[str, str | float | None] = {
            "id": self.run_id,
            "name": self.name,
            "started": f"{self.started:%Y-%m-%d %H:%M:%S}",
            "seconds": self.seconds,
            "state": self.state,
            "session": self.tags.get("tunetrail.session_id"),
            "model_type": self.tags.get("tunetrail.model_type"),
            "decision": self.decision,
            "reason": self.tags.get("tunetrail.reason"),
            "test_rows": self.test_rows,
            "sweep": self.parent_run_id,
        }

        known = {name: value for name, value in own.items() if value not in (None, "")}
        return {**self.params, **self.metrics, **known}

    def _is_finite(self, metric: str) -> bool:
        return math.isfinite(self.metrics[metric])

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain values, without metrics that aren't finite."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "state": self.state,
            "decision": self.decision or None,
            "sweep": self.parent_run_id,
            "params": dict(self.params),
            "metrics": {name: self.metrics[name] for name in filter(self._is_finite, self.metrics)},
            "tags": dict(self.tags),
        }


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
    if name not in names:
        raise UserError(
            f"--experiment must be one of {', '.join(names)}, got {name!r}."
            f"{did_you_mean(name, names)}"
        )
    return Tracker(replace(tracker.config, experiment=name))


def read_runs(tracker: Tracker) -> list[ListedRun]:
    """Return the trainings and sweeps of the store's experiment, newest first."""
    runs = []
    with tracking_errors(tracker.config.uri):
        for run in _pages(tracker):
            tags = run.data.tags
            # Folds, and model types of a training of several, are below the runs that are listed.
            if TRAINING_RUN_TAG in tags or SWEEP_TAG in tags:
                runs.append(_listed(run))
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


def _listed(run: Run) -> ListedRun:
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    started, ended = run.info.start_time, run.info.end_time
    return ListedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        started=datetime.datetime.fromtimestamp(started / 1000, datetime.UTC),
        seconds=(ended - started) / 1000 if ended else None,
        state=tags.get("tunetrail.state", run.info.status.lower()),
        parent_run_id=run.data.tags.get(MLFLOW_PARENT_RUN_ID),
        params=run.data.params,
        metrics=run.data.metrics,
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
                f"--where must compare with a number by {sign}, got {text!r}. Use = or != for text."
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
    conditions = parse_conditions(where, runs)
    selected = [run for run in runs if all(condition.holds(run) for condition in conditions)]
    if sort is None:
        return selected
    return sort_runs(selected, find_key("--sort", sort, runs), descending=descending)


def _as_numbers(*values: str | float) -> tuple[float, ...] | None:
    """Return the values as numbers; None if one of them is none."""
    try:
        return tuple(map(float, values))
    except ValueError:
        return None

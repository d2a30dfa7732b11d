"""Metrics on their way to MLflow: collected, written by a thread, and kept on disk until they are.

A training never waits for MLflow and never fails because of it. Each report is first appended to a
file, the spool, and then sent by a thread in batches. So nothing is lost if the process is killed,
and nothing has to be flushed at a checkpoint. What a dead process left in its spool is delivered by
the next process that opens the store, or by `tunetrail sync`.

No point is stored twice, although some are sent twice: MLflow's primary key of a metric is its run,
name, step, value and time, and the time is that of the report.

MLflow's own asynchronous logging (`mlflow.config.enable_async_logging`) isn't used: its queue lives
in memory, several threads send its batches in any order, and a batch that fails is dropped.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from tunetrail.errors import TrackingError
from tunetrail.stores.spools import (
    MOST_PER_BATCH,
    SUFFIX,
    Report,
    Spool,
    batches_of,
    deliver_left_spools,
    whole_reports,
)
from tunetrail.stores.tracking.mlflow_answers import says_absent
from tunetrail.stores.tracking.tracking_errors import shown_uri, tracking_errors
from tunetrail.stores.tracking.tracking_store import check_answers

_SECONDS_BETWEEN_BATCHES = 2.0
_SECONDS_BETWEEN_ATTEMPTS = 5.0
# After that long without metrics the thread ends; the next report starts another one.
_IDLE_SECONDS = 60.0
_log = logging.getLogger(__name__)


class MetricSender:
    """Sends reports to MLflow, in their order and without the points that a run has already.

    Args:
        client: The client of the store.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._logged: dict[tuple[str, str], dict[int, float]] = {}

    def send(self, reports: Iterable[Report]) -> None:
        """Send reports of one run.

        Raises:
            MlflowException: MLflow refuses them, or can't be reached.
        """
        metrics, run_id = [], ""
        for report in reports:
            run_id = report.run_id
            for name, value, milliseconds, step in report.metrics:
                # Only for a resumed run: the history costs a request per metric.
                if not (report.resumed and self._is_logged(run_id, name, step, value)):
                    metrics.append(Metric(name, value, milliseconds, step))

        for start in range(0, len(metrics), MOST_PER_BATCH):
            batch = metrics[start : start + MOST_PER_BATCH]
            # Not by `log_batch`'s own thread: the caller has to know whether it was stored.
            self._client.log_batch(run_id, metrics=batch, synchronous=True)

    def _is_logged(self, run_id: str, name: str, step: int, value: float) -> bool:
        """Tell whether the run had logged this value of a step when it was reopened."""
        # Read once per metric: the process logs each step only once itself.
        key = (run_id, name)
        if key not in self._logged:
            history = self._client.get_metric_history(run_id, name)
            self._logged[key] = {point.step: point.value for point in history}
        return self._logged[key].get(step) == value


class MetricWriter:
    """Writes the metrics of a process to MLflow, by a thread that starts with the first of them.

    Args:
        sender: Sends to the store.
        uri: The URI of the store.
        folder: Folder of the spool.
    """

    def __init__(self, sender: MetricSender, uri: str, folder: Path) -> None:
        self._uri = uri
        self._sender = sender
        self._spool = Spool(folder)
        self._reports: deque[Report] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_hurried = False
        self._is_away = False
        self._refused_runs: set[str] = set()

    def write(self, report: Report) -> None:
        """Take a report; it is on disk when this returns, and in MLflow some seconds later."""
        with self._changed:
            # In this order: a signal between the two must not leave it on disk only, where it is
            # removed with the reports that were delivered.
            self._reports.append(report)
            self._spool.append(report)
            if self._thread is None:
                # A daemon: a server that hangs must not keep the process alive.
                self._thread = threading.Thread(
                    target=self._work, name="tunetrail-metrics", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Return whether all reports were delivered, after waiting for that."""
        with self._changed:
            if not self._reports:
                return True
            self._is_hurried = True
            self._changed.notify_all()
            is_done = self._changed.wait_for(lambda: not self._reports, seconds)
            self._is_hurried = False
        return is_done

    def report_undelivered(self) -> None:
        """Say where reports are that MLflow doesn't have yet."""
        if self._reports and self._spool.path is not None:
            _log.warning(
                "the metrics of %d reports are kept in %s: `tunetrail sync` delivers them when "
                "MLflow answers again",
                len(self._reports),
                self._spool.path,
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._reports, _IDLE_SECONDS):
                    self._thread = None
                    return
                pause = _SECONDS_BETWEEN_ATTEMPTS if self._is_away else _SECONDS_BETWEEN_BATCHES
                self._changed.wait_for(self._is_urgent, pause)
                reports = list(self._reports)
            self._deliver(reports)
            if self._is_away:
                # Also if somebody waits for the server: not a thousand times per second.
                time.sleep(0.2)

    def _is_urgent(self) -> bool:
        is_full = len(self._reports) >= MOST_PER_BATCH and not self._is_away
        return self._is_hurried or is_full

    def _deliver(self, reports: Sequence[Report]) -> None:
        for batch in batches_of(reports):
            if batch[0].run_id not in self._refused_runs and not self._try_to_send(batch):
                return
            with self._changed:
                for _ in batch:
                    self._reports.popleft()
                if not self._reports:
                    # What was refused stays: `tunetrail sync` says why.
                    if not self._refused_runs:
                        self._spool.remove()
                    self._changed.notify_all()

    def _try_to_send(self, batch: Sequence[Report]) -> bool:
        """Send reports of one run; return whether nothing is left to do with them."""
        try:
            with tracking_errors(self._uri):
                check_answers(self._uri)
                self._sender.send(batch)
        # Any error: it would end this thread, and nothing would be written any more.
        except Exception as error:
            if _is_refused(error):
                self._refused_runs.add(batch[0].run_id)
                _log.warning("metrics stay in %s: %s", self._spool.path, error)
                return True
            if not self._is_away:
                self._is_away = True
                where = self._spool.path or "memory"
                _log.warning("metrics are kept in %s until MLflow answers: %s", where, error)
            return False

        if self._is_away:
            self._is_away = False
            _log.warning("MLflow answers again: the metrics are being delivered")
        return True


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What became of a spool.

    Attributes:
        path: The file, which is gone if everything in it was delivered.
        points: Number of values that were delivered.
        problem: Why something of it wasn't; None if everything was.
        is_running: Whether its process goes on, which delivers it itself.
    """

    path: Path
    points: int = 0
    problem: str | None = None
    is_running: bool = False


def deliver_spools(client: MlflowClient, uri: str, folder: Path) -> list[Delivery]:
    """Deliver what processes that have ended left in a folder of spools, in its order.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    deliveries: list[Delivery] = []
    sender = MetricSender(client)

    def deliver(path: Path) -> bool:
        delivery = _deliver_spool(sender, uri, path)
        deliveries.append(delivery)
        return delivery.problem is None

    in_use = deliver_left_spools(folder, SUFFIX, deliver)
    deliveries += [Delivery(path=path, is_running=True) for path in in_use]
    return sorted(deliveries, key=lambda delivery: delivery.path)


def deliver_leftovers(client: MlflowClient, uri: str, folder: Path) -> None:
    """Deliver what dead processes left, and say so; a failure stops nothing."""
    try:
        deliveries = deliver_spools(client, uri, folder)
    except (TrackingError, OSError) as error:
        _log.warning("metrics of earlier runs stay in %s: %s", folder, error)
        return
    points = sum(delivery.points for delivery in deliveries)
    if points:
        _log.info("delivered %d metric values of earlier runs to %s", points, shown_uri(uri))


def _deliver_spool(sender: MetricSender, uri: str, path: Path) -> Delivery:
    points, problems = 0, []
    with path.open(encoding="utf-8") as lines:
        for batch in batches_of(whole_reports(lines)):
            try:
                with tracking_errors(uri):
                    sender.send(batch)
            except TrackingError as error:
                if not _is_refused(error):
                    raise
                problems.append(str(error))
            else:
                points += sum(len(report.metrics) for report in batch)
    return Delivery(path=path, points=points, problem=problems[0] if problems else None)


def _is_refused(error: Exception) -> bool:
    """Tell whether waiting changes nothing: the run was deleted, for example."""
    return says_absent(error.__cause__)

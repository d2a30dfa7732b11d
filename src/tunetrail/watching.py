"""`Watch`: trains whenever an application has logged enough, or has ended a session.

Each look asks the database which sessions have new samples since their last training, and trains
the first one that is due with the node and through the gate, as `tunetrail train` does. A training
that was stopped or killed together with its watch is resumed by the next watch.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunetrail.collecting import collect
from tunetrail.config import TrainRequest
from tunetrail.errors import TunetrailError, UserError, one_line
from tunetrail.hooks import telling_hook_meanwhile
from tunetrail.locks import LockError
from tunetrail.node import ModelTrainingNode, NodeConfig
from tunetrail.pipeline.families import ALL_FAMILIES, requested_families
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.stores.database.log_spool import deliver_left_entries, spool_folder
from tunetrail.stores.database.manager import DatabaseManager, RunState
from tunetrail.stores.database.watched_sessions import LastRun

STARTED_BY = "tunetrail watch"
"""What the training runs of a watch are started by; the reason follows."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Due:
    """A training that is to begin.

    Attributes:
        session_id: The session.
        family: The name of the model type.
        reason: Why it is due.
        run_id: The interrupted run that is resumed; None for a new one.
    """

    session_id: str
    family: str
    reason: str
    run_id: str | None = None


class Watch:
    """Watches the sessions of a database, and trains one model at a time.

    Args:
        request: What is trained and how, and what is waited for; its session is ignored.
        database: The database.
        session_ids: The sessions; None for all, also those that come.
        on_results: Receives the node and the results of each training.
    """

    def __init__(
        self,
        request: TrainRequest,
        database: DatabaseManager,
        session_ids: Sequence[str] | None,
        on_results: Callable[[ModelTrainingNode, Mapping[str, Any]], None],
    ) -> None:
        self._request = request
        self._database = database
        self._session_ids = session_ids
        self._on_results = on_results
        self._families = requested_families(request.model_type)
        self._spool = spool_folder(request.database.url)
        # Without a run in the database that says so, they would be tried at each look.
        self._refused: set[Due] = set()
        self._idle_position: Any = None

    def run(self) -> None:
        """Look and train until a signal comes, or with `watch.once` until nothing is due.

        Raises:
            UserError: Another watch of the database is running.
            DatabaseError: The database can't be read at the first look.
        """
        config = self._request.watch
        with self._only_watch(), telling_hook_meanwhile(self._database):
            due = self.next_due()
            logger.info("%s", self._in_words())
            try:
                while due is not None or not config.once:
                    if due is None:
                        time.sleep(config.interval_seconds)
                    else:
                        self._train(due)
                    due = self._try_to_look()
            except SystemExit:
                logger.info("stopped; the next `tunetrail watch` goes on from here")
                raise

    @contextlib.contextmanager
    def _only_watch(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._database.lock("watch", "the watch", most_seconds=0.0))
            except LockError as error:
                raise UserError(
                    f"tunetrail watch must be the only one of its database, got another one for "
                    f"{self._database.shown_url}. Stop the other one first. ({error})"
                ) from error
            yield

    def _in_words(self) -> str:
        config = self._request.watch
        names = "all sessions" if self._session_ids is None else ", ".join(self._session_ids)
        at_the_end = ", or when a session ends" if config.on_end else ""
        return (
            f"watching {names} of {self._database.shown_url}: a training begins at "
            f"{config.min_rows} new samples{at_the_end}; Ctrl-C stops"
        )

    def _try_to_look(self) -> Due | None:
        try:
            return self.next_due()
        # A server may be away for a while: the next look comes.
        except TunetrailError as error:
            logger.warning("%s", error)
            return None

    def next_due(self) -> Due | None:
        """Return the training that is to begin now; None if there is none."""
        # For an application that died and doesn't start again.
        with contextlib.suppress(OSError):
            deliver_left_entries(self._database, self._spool)
        for run in self._database.mark_interrupted_runs():
            logger.warning(
                "the training run %s was left by a process that died; it is marked as interrupted",
                run.run_id,
            )

        position = self._database.watched_sessions.position()
        if position == self._idle_position or self._is_busy():
            return None
        for due in self._due_trainings():
            if due not in self._refused:
                return due
        self._idle_position = self._database.watched_sessions.position()
        return None

    def _is_busy(self) -> bool:
        """Tell whether somebody trains on this machine with this database."""
        return any(run.process.is_here for run in self._database.unfinished_training_runs())

    def _due_trainings(self) -> Iterator[Due]:
        """Yield what is due, the oldest session first."""
        known = self._database.watched_sessions.session_ids()
        last_runs = self._database.watched_sessions.last_runs()
        uncollected = self._database.application_log.count_uncollected()
        for session_id in known:
            if self._session_ids is not None and session_id not in self._session_ids:
                continue
            for family in self._families:
                runs = [last_runs.get((session_id, name)) for name in (family.name, ALL_FAMILIES)]
                last = max(filter(None, runs), key=lambda run: run.created_at, default=None)
                due = self._due(session_id, family, last, uncollected)
                if due is not None:
                    yield due

    def _due(
        self,
        session_id: str,
        family: ModelFamily,
        last: LastRun | None,
        uncollected: dict[str, int],
    ) -> Due | None:
        """Return the training of a family on a session that is due.

        Args:
            session_id: The session.
            family: The family.
            last: The last training of it; None if there was none.
            uncollected: The number of log entries that no samples were made from, by session; a
                session that is collected here is removed.
        """
        config, database = self._request.watch, self._database
        since = None if last is None else last.created_at
        named = {"session_id": session_id, "family": family.name}
        if last is not None and last.state == RunState.INTERRUPTED and _is_ours(last):
            resumed = Due(**named, reason=f"{last.run_id} was interrupted", run_id=last.run_id)
            # Without its files, it begins again.
            return replace(resumed, run_id=None) if resumed in self._refused else resumed

        ended_at = database.application_log.ended_at(session_id) if config.on_end else None
        has_ended = ended_at is not None and (since is None or ended_at > since)
        count = database.watched_sessions.count_new_samples(session_id, family.kind, since)
        if session_id in uncollected and (
            has_ended or count + uncollected[session_id] >= config.min_rows
        ):
            collect(database, session_id)
            del uncollected[session_id]
            count = database.watched_sessions.count_new_samples(session_id, family.kind, since)

        if count >= config.min_rows:
            return Due(**named, reason=f"{count} new samples")
        return Due(**named, reason="the session has ended") if has_ended and count else None

    def _train(self, due: Due) -> None:
        """Train what is due; a failure is logged, and the watch goes on."""
        begins = "resumes" if due.run_id else "begins"
        logger.info("a training of %s on %s %s: %s", due.family, due.session_id, begins, due.reason)
        request = replace(self._request, session_id=due.session_id, model_type=due.family)
        started_by = f"{STARTED_BY}: {due.reason}"
        node = ModelTrainingNode(
            NodeConfig(settings=request), self._database, started_by=started_by
        )

        try:
            if due.run_id is None:
                asked = {"session_id": due.session_id, "model_type": due.family}
                results: Mapping[str, Any] = node.execute(asked)
            else:
                results = node.resume(due.run_id)
        # Any error: the training on the next samples may succeed.
        except Exception as error:
            said = str(error) if isinstance(error, TunetrailError) else one_line(error)
            logger.error("the training of %s on %s failed: %s", due.family, due.session_id, said)
            logger.debug("where it failed", exc_info=True)
            self._refused.add(due)
            return

        self._on_results(node, results)


def _is_ours(run: LastRun) -> bool:
    return run.started_by is not None and run.started_by.startswith(STARTED_BY)

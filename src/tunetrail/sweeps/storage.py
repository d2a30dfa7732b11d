"""Optuna's storage in tunetrail's database: the journal of one study, replayed by each process."""

from collections.abc import Iterable
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from tunetrail.stores.database.manager import DatabaseManager


class StudyJournal(BaseJournalBackend):
    """The journal of one study, which processes of several machines append to and read at once.

    Args:
        manager: The database.
        study: The name of the study.
    """

    def __init__(self, manager: DatabaseManager, study: str) -> None:
        self._manager = manager
        self._study = study

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries to the end."""
        self._manager.study_logs.append(self._study, logs)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the entries from a number on, counted from 0."""
        return self._manager.study_logs.read(self._study, log_number_from)


def study_storage(manager: DatabaseManager, study: str) -> JournalStorage:
    """Return Optuna's storage of one study, which is the only one in it."""
    return JournalStorage(StudyJournal(manager, study))

import multiprocessing
from collections import Counter

import pytest
from sqlalchemy import select

from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.database.tables import StudyLogRow
from tunetrail.sweeps.storage import StudyJournal

PROCESSES, ENTRIES = 8, 40


def test_entries_come_back_in_their_order_and_from_a_number_on(manager: DatabaseManager) -> None:
    journal = StudyJournal(manager, "s")
    entries = [{"op_code": number, "text": "ü\u2028"} for number in range(5)]

    journal.append_logs(entries[:2])
    journal.append_logs(entries[2:])

    assert list(journal.read_logs(0)) == entries
    assert list(journal.read_logs(3)) == entries[3:] and not list(journal.read_logs(5))


def test_studies_do_not_see_one_another(manager: DatabaseManager) -> None:
    StudyJournal(manager, "a").append_logs([{"op_code": 1}])
    assert not list(StudyJournal(manager, "b").read_logs(0))


def test_reading_makes_no_database(tmp_path: pytest.TempPathFactory) -> None:
    manager = DatabaseManager(f"sqlite:///{tmp_path}/none.db")
    assert not list(StudyJournal(manager, "s").read_logs(0)) and manager.is_missing()


def append_and_read(url: str, process: int) -> None:
    """Append entries, each after a reading that must have all entries read before."""
    with DatabaseManager(url) as manager:
        journal = StudyJournal(manager, "s")
        seen: list[object] = []
        for number in range(ENTRIES):
            journal.append_logs([{"process": process, "number": number}])
            seen += journal.read_logs(len(seen))
            assert seen == list(journal.read_logs(0))[: len(seen)]


@pytest.mark.processes
def test_processes_append_and_read_at_once_without_gap_or_loss(
    url: str, manager: DatabaseManager
) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=append_and_read, args=(url, number)) for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * PROCESSES
    with manager._database.reading() as connection:
        numbers = list(connection.scalars(select(StudyLogRow.number).order_by(StudyLogRow.number)))
    assert numbers == list(range(PROCESSES * ENTRIES))
    entries = Counter((entry["process"], entry["number"]) for entry in manager.study_logs.read("s"))
    assert len(entries) == PROCESSES * ENTRIES

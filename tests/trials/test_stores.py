"""The database under stress: concurrent writers, killed ones, other users, and the wrong folder."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from tests.commands import CallMain
from tests.postgres import empty_postgres, needs_postgres

from tunetrail.samples import SampleKind
from tunetrail.stores.database.benchmark import BenchmarkRecord
from tunetrail.stores.database.connection import DatabaseConnection, make_engine, parse_url
from tunetrail.stores.database.ingestion import CHUNK_SIZE
from tunetrail.stores.database.manager import DatabaseManager

PAIRS = [
    {"anchor": f"question {position}", "positive": f"answer {position}"} for position in range(2000)
]


@pytest.fixture
def postgres() -> str:
    """Return the URL of an empty PostgreSQL database."""
    return empty_postgres()


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Let new files be readable by all users, as most systems do."""
    previous = os.umask(0o022)
    yield
    os.umask(previous)


def at_once(tasks: list[Callable[[], object]]) -> list[object]:
    """Run tasks in threads that start at the same moment, and return their results."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> object:
        barrier.wait(timeout=60)
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


@needs_postgres
@pytest.mark.processes
@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_concurrent_ingests_of_equal_rows_all_succeed(postgres: str, order: str) -> None:
    shuffled = random.Random(0).sample(PAIRS, len(PAIRS))
    second = PAIRS[::-1] if order == "reversed" else shuffled

    for chunk_size in (100, CHUNK_SIZE):

        def ingest(rows: list[dict[str, str]], size: int = chunk_size) -> int:
            with DatabaseManager(postgres) as manager:
                return manager.ingest(f"s{size}", rows, SampleKind.EMBEDDING, chunk_size=size).added

        tasks = [lambda rows=rows: ingest(rows) for rows in (PAIRS, second) * 4]  # type: ignore[misc]
        assert sum(map(int, at_once(tasks))) == len(PAIRS)  # type: ignore[call-overload]


@needs_postgres
def test_rows_of_a_file_keep_their_order(postgres: str) -> None:
    with DatabaseManager(postgres) as manager:
        manager.ingest("s1", PAIRS, SampleKind.EMBEDDING)
        (chunk,) = manager.read_samples("s1", SampleKind.EMBEDDING, chunk_size=len(PAIRS))
    assert [dict(stored.sample.content) for stored in chunk] == PAIRS


@needs_postgres
@pytest.mark.processes
def test_concurrent_extensions_of_a_benchmark_all_succeed(postgres: str) -> None:
    records = [
        BenchmarkRecord(
            session_id="s1",
            row_id=position,
            shape="pair",
            cluster=str(position),
            digest=f"{position:064x}",
            record={"anchor": f"question {position}"},
        )
        for position in range(3000)
    ]

    def extend(rows: list[BenchmarkRecord]) -> None:
        with DatabaseManager(postgres) as manager:
            manager.extend_benchmark("model", rows, limit=1000)

    at_once([lambda rows=rows: extend(rows) for rows in (records, records[::-1]) * 3])  # type: ignore[misc]
    with DatabaseManager(postgres) as manager:
        assert len(manager.read_benchmark("model", "pair")) == 1000


@needs_postgres
@pytest.mark.processes
def test_deadlock_with_another_program_is_tried_again(
    postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = DatabaseConnection(postgres)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE locks (name TEXT PRIMARY KEY)"))

    insert = "INSERT INTO locks VALUES (:name) ON CONFLICT DO NOTHING"
    first_is_held, attempts = threading.Event(), []

    def insert_in_order(connection: Connection) -> str:
        attempts.append(1)
        connection.execute(text(insert), {"name": "a"})
        first_is_held.set()
        time.sleep(0.3)
        # The other program holds it, and waits for `a`.
        connection.execute(text(insert), {"name": "b"})
        return "done"

    def insert_in_reverse() -> None:
        with make_engine(parse_url(postgres)).begin() as connection:
            # Of two that wait for each other, the server ends the one that looks first.
            connection.execute(text("SET LOCAL deadlock_timeout = '60s'"))
            connection.execute(text(insert), {"name": "b"})
            first_is_held.wait(timeout=60)
            connection.execute(text(insert), {"name": "a"})

    with ThreadPoolExecutor(1) as pool:
        reverse = pool.submit(insert_in_reverse)
        time.sleep(0.2)
        with database.connection() as connection:
            assert database.write(connection, insert_in_order) == "done"
        reverse.result(timeout=60)

    assert len(attempts) == 2
    assert "the database ended attempt 1 to write: deadlock detected" in caplog.text


@pytest.mark.processes
def test_killed_ingest_leaves_whole_chunks_and_is_completed_by_a_second(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tunetrail.db"
    code = (
        "import sys\n"
        "from tunetrail.samples import SampleKind\n"
        "from tunetrail.stores.database.manager import DatabaseManager\n"
        "rows = ({'anchor': f'q {n}', 'positive': f'a {n}'} for n in range(10**9))\n"
        "DatabaseManager(sys.argv[1]).ingest('s1', rows, SampleKind.EMBEDDING, chunk_size=500,\n"
        "    on_progress=lambda count: print(count, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)

    with DatabaseManager(url) as manager:
        stored = manager.session_summary("s1").samples["embedding"]
        assert stored >= 2500 and stored % 500 == 0

        rows = [{"anchor": f"q {n}", "positive": f"a {n}"} for n in range(stored + 700)]
        report = manager.ingest("s1", rows, SampleKind.EMBEDDING)
    assert (report.already_present, report.added) == (stored, 700)


@pytest.mark.parametrize("length", [10, 300_000])
def test_long_rows_make_short_transactions(tmp_path: Path, length: int) -> None:
    rows = ({"text": f"{position} " + "x" * length} for position in range(120))
    counts: list[int] = []
    with DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db") as manager:
        manager.ingest("s1", rows, SampleKind.EMBEDDING, on_progress=counts.append)
    # 16 million characters hold 53 rows of 300,000; the row that passes the bound ends the chunk.
    assert counts == ([120] if length == 10 else [54, 108, 120])


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("usual_umask")
def test_new_database_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "tunetrail.db"
    with DatabaseManager(f"sqlite:///{file}") as manager:
        modes = {}

        def look(_count: int) -> None:
            modes.update({path.name: mode_of(path) for path in tmp_path.glob("tunetrail.db*")})

        manager.ingest("s1", PAIRS, SampleKind.EMBEDDING, chunk_size=100, on_progress=look)

    modes.pop("tunetrail.db.lock")
    assert set(modes) == {"tunetrail.db", "tunetrail.db-wal", "tunetrail.db-shm"}
    assert set(modes.values()) == {0o600}


@pytest.mark.usefixtures("usual_umask")
def test_database_that_a_group_shares_stays_shared(tmp_path: Path) -> None:
    file = tmp_path / "tunetrail.db"
    file.touch()
    file.chmod(0o660)
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)

    with DatabaseManager(f"sqlite:///{file}") as manager:
        manager.ingest("s1", PAIRS[:10], SampleKind.EMBEDDING)
    assert mode_of(file) == 0o660


@pytest.mark.usefixtures("usual_umask")
def test_prepared_rows_are_readable_by_their_owner_only(call_main: CallMain) -> None:
    rows = Path("rows.jsonl")
    rows.write_text("\n".join(map(json.dumps, PAIRS[:60])) + "\n")
    shared = Path("shared")
    shared.mkdir(mode=0o755)
    assert call_main("ingest", "rows.jsonl", "--session", "s1", "--kind", "embedding").out

    call_main("prepare", "session_id=s1", "output_dir=new")
    call_main("prepare", "session_id=s1", f"output_dir={shared}")

    assert mode_of(Path("new")) == 0o700 and mode_of(shared) == 0o755
    for folder in (Path("new"), shared):
        paths = list(folder.rglob("*"))
        assert any(path.suffix == ".parquet" for path in paths)
        readable = [path for path in paths if path.is_file() and mode_of(path) & 0o077]
        assert readable == []


@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        (("sessions",), 0, "no sessions yet"),
        (("prepare", "session_id=s1"), 2, "session_id must name a session of the database"),
        (("train", "session_id=s1"), 2, "session_id must name a session of the database"),
    ],
)
def test_reading_in_the_wrong_folder_names_the_database_and_makes_no_file(
    call_main: CallMain, workplace: Path, command: tuple[str, ...], code: int, output: str
) -> None:
    files = set(workplace.rglob("*.db*"))
    result = call_main(*command)
    assert result.exit_code == code
    assert output in result.out + result.err
    assert f"sqlite:///{workplace}/tunetrail.db" in result.out + result.err
    assert set(workplace.rglob("*.db*")) == files


@pytest.mark.parametrize(
    "command",
    [
        ("report", "0f8fad5bd9cb469fa16570867728950e"),
        ("compare", "a", "b"),
        ("resume", "0f8fad5bd9cb469fa16570867728950e"),
    ],
)
def test_reading_runs_in_the_wrong_folder_makes_no_file(
    call_main: CallMain, workplace: Path, command: tuple[str, ...]
) -> None:
    for file in workplace.glob("*.db*"):
        file.unlink()
    result = call_main(*command)
    assert result.exit_code == 2
    assert "there is no such file" in result.err
    assert list(workplace.rglob("*.db*")) == []


def test_missing_database_reads_like_an_empty_one(tmp_path: Path) -> None:
    with DatabaseManager(f"sqlite:///{tmp_path}/folder/tunetrail.db") as manager:
        assert manager.is_missing()
        assert manager.sessions() == manager.promotions() == manager.training_runs() == []
        assert manager.read_benchmark("model", "pair") == []
        assert manager.mark_interrupted_runs() == []
        assert list(tmp_path.iterdir()) == []

        manager.ingest("s1", PAIRS[:3], SampleKind.EMBEDDING)
        assert not manager.is_missing()
        assert manager.session_summary("s1").samples["embedding"] == 3

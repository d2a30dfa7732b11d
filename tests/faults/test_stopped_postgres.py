"""PostgreSQL that is stopped, and started again, in the middle of a command."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.faults.conftest import Overrides
from tests.faults.processes import Command
from tests.flow.conftest import rows_of

from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PROGRAMS, reason="PostgreSQL is not installed"),
]


class Cluster:
    """A PostgreSQL server of the test's own, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._data = folder, folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = int(listening.getsockname()[1])
        # The server refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else getpass.getuser()
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        self._call("initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "-N")

    def url(self, name: str) -> str:
        """Make an empty database, and return its URL."""
        self._call("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name)
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = str(self.folder / "log")
        self._call("pg_ctl", "-D", str(self._data), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        """Stop the server as a crash does."""
        self._call("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")

    def _call(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(PROGRAMS[-1] / program), *arguments]
        if os.geteuid() == 0:
            command = [
                "setpriv",
                f"--reuid={self._user}",
                "--regid=postgres",
                "--clear-groups",
                *command,
            ]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=120)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a running server."""
    # pytest refuses its own folder as soon as another user, such as the server's, may enter it.
    with tempfile.TemporaryDirectory(prefix="tunetrail-postgres-") as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        yield cluster
        cluster.stop()


def wait_for_text(command: Command, text: str) -> None:
    """Wait until a command has printed a text."""
    while text not in command.printed():
        assert command.is_running, command.printed()
        time.sleep(0.05)


@pytest.fixture
def stores(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """Return the overrides that name the stores: two databases with a session, and no root."""
    name = f"t{abs(hash(request.node.name))}"
    database, tracking = cluster.url(f"{name}_rows"), cluster.url(f"{name}_runs")
    with DatabaseManager(database) as manager:
        manager.ingest("s1", rows_of("pair"), SampleKind.EMBEDDING)
    artifacts = f"tracking.artifacts={tmp_path}/mlartifacts"
    return [f"database.url={database}", f"tracking.uri={tracking}", artifacts]


@pytest.mark.parametrize("said", ["training from", "evaluation", "deployment"])
def test_a_training_whose_database_crashes_is_resumed(
    cluster: Cluster, stores: list[str], tmp_path: Path, overrides: Overrides, said: str
) -> None:
    arguments = ["train", *overrides(*stores, "tracking.patience_seconds=5")]
    training = Command(folder=tmp_path, arguments=arguments)
    training.start()
    wait_for_text(training, said)

    cluster.stop()
    ended = training.wait()
    cluster.start()

    assert ended.exit_code in (0, 1), ended.printed
    assert "Traceback" not in ended.printed
    url = stores[0].partition("=")[2]
    with DatabaseManager(url) as manager:
        (run,) = manager.training_runs()
        if ended.exit_code:
            assert re.match("error: (?!unexpected)", ended.last_line)
            resumed = Command(folder=tmp_path, arguments=["resume", run.run_id, *stores]).run()
            assert resumed.exit_code == 0, resumed.printed
        (run,) = manager.training_runs()
        decisions = [(line.version, line.decision) for line in manager.promotions("embedding")]
    assert run.state == "succeeded" and decisions == [("1", "promoted")]
    assert (tmp_path / "models/embedding/root").readlink().name == "1"


def test_a_training_outlives_a_short_restart(
    cluster: Cluster, stores: list[str], tmp_path: Path, overrides: Overrides
) -> None:
    training = Command(folder=tmp_path, arguments=["train", *overrides(*stores)])
    training.start()
    wait_for_text(training, "training from")

    cluster.stop()
    cluster.start()

    ended = training.wait()
    assert ended.exit_code == 0, ended.printed


def test_an_ingest_whose_database_crashes_is_completed_by_a_second(
    cluster: Cluster, stores: list[str], tmp_path: Path
) -> None:
    rows = [f'{{"anchor": "question {n}", "positive": "answer {n}"}}\n' for n in range(60_000)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    url = stores[0].partition("=")[2]
    arguments = ["ingest", "rows.jsonl", "--session", "s2", "--kind", "embedding"]
    ingest = Command(folder=tmp_path, arguments=[*arguments, "--database", url])
    ingest.start()
    with DatabaseManager(url) as manager:
        while not manager.has_session("s2"):
            assert ingest.is_running, ingest.printed()
            time.sleep(0.02)

    cluster.stop()
    ended = ingest.wait()
    cluster.start()
    again = Command(folder=tmp_path, arguments=[*arguments, "--database", url]).run()

    assert ended.exit_code == 1 and ended.last_line.startswith("error: "), ended.printed
    assert re.match("error: (?!unexpected)", ended.last_line)
    assert again.exit_code == 0, again.printed
    with DatabaseManager(url) as manager:
        assert manager.session_summary("s2").samples["embedding"] == len(rows)

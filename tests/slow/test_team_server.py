"""A team's server as compose.yaml and docs/team.md start it, without the containers.

Each service's image, command, environment and files are taken from compose.yaml, and `.env` from the
page. Only what a container would give is replaced: its host's name, its folders and its port.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from tests.flow.conftest import rows_of
from tests.tracking import client_of

ROOT = Path(__file__).parents[2]
POSTGRES_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
MEMBER = ("ada", "a-password-of-a-member")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not POSTGRES_PROGRAMS, reason="PostgreSQL's programs aren't installed"),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """Return a text of compose.yaml with `${NAME:?}` and `${NAME:-default}` replaced."""

    def value_of(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        assert name in values or default is not None, f"{name} must be in .env"
        return values.get(name) or str(default)

    return re.sub(r"\$\{(?P<name>\w+):(?:\?|-(?P<default>[^}]*))\}", value_of, text)


@dataclass
class Team:
    """compose.yaml with the page's `.env`, in a folder of its own.

    Attributes:
        folder: Where compose.yaml and its files are.
        services: The services, with the values of `.env`.
        environment: The values of `.env`.
        postgres_port: The port of PostgreSQL on this machine.
        port: The port of the server on this machine.
    """

    folder: Path
    services: Mapping[str, Any]
    environment: Mapping[str, str]
    postgres_port: int
    port: int

    @property
    def address(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def administrator(self) -> tuple[str, str]:
        settings = (self.folder / "compose/basic_auth.ini").read_text()
        values = dict(re.findall(r"^(\w+) = (.+)$", settings, flags=re.MULTILINE))
        return values["admin_username"], values["admin_password"]

    def on_this_machine(self, text: str) -> str:
        """Return a text in which the containers' names are places on this machine."""
        text = text.replace("@postgres/", f"@127.0.0.1:{self.postgres_port}/")
        text = text.replace("0.0.0.0 --port 5000", f"127.0.0.1 --port {self.port}")
        for service in self.services.values():
            for volume in service.get("volumes", ()):
                source, target, *_ = volume.split(":")
                # A named volume is a folder of Docker's.
                place = self.folder / (source if source.startswith(".") else f"volume-{source}")
                text = re.sub(rf"(?<=[ =]){re.escape(target)}\b", str(place), text)
        return text


@pytest.fixture
def team() -> Iterator[Team]:
    """The files as the page makes them; the folder is readable for PostgreSQL's user."""
    folder = Path(tempfile.mkdtemp(prefix="team-"))
    folder.chmod(0o755)
    shutil.copy(ROOT / "compose.yaml", folder)
    shutil.copytree(ROOT / "compose", folder / "compose")
    page = (ROOT / "docs/team.md").read_text()
    start = re.search(r"## Start the server.*?```shell\n(.*?)```", page, flags=re.DOTALL)
    assert start is not None and start[1].endswith("docker compose up -d\n")
    making_files = start[1].removesuffix("docker compose up -d\n")
    subprocess.run(["sh", "-ec", making_files], cwd=folder, check=True)

    port, postgres_port = free_port(), free_port()
    written = (folder / ".env").read_text().replace("mlflow.example.org", "localhost")
    values = dict(line.split("=", 1) for line in written.replace(":5000", f":{port}").split())
    composed = interpolated((folder / "compose.yaml").read_text(), values)
    services = yaml.safe_load(composed)["services"]
    yield Team(folder, services, values, postgres_port, port)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(team: Team) -> Iterator[None]:
    """The service `postgres`: its image's programs, its password, its file of databases."""
    service, programs = team.services["postgres"], POSTGRES_PROGRAMS[-1].parent
    assert service["image"] == f"postgres:{programs.parent.name}"
    password = service["environment"]["POSTGRES_PASSWORD"]
    (team.folder / "password").write_text(password)
    data = team.folder / "data"
    data.mkdir()
    # PostgreSQL refuses to run as root, as in its image.
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(data, user)

    def call(program: str, *arguments: str) -> None:
        environment = {**os.environ, "PGPASSWORD": password}
        subprocess.run(
            [programs / program, *arguments],
            cwd="/",
            env=environment,
            user=user,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    # What the image does with a new volume: a cluster, then the files of that folder.
    rules = ["--auth=scram-sha-256", f"--pwfile={team.folder}/password", "--no-sync"]
    call("initdb", "-D", str(data), "-U", "postgres", *rules)
    options = f"-p {team.postgres_port} -k {data} -c listen_addresses=127.0.0.1"
    call("pg_ctl", "-D", str(data), "-l", f"{data}/log", "-o", options, "-w", "start")
    here = ["-h", "127.0.0.1", "-p", str(team.postgres_port)]
    try:
        for volume in service["volumes"]:
            source, target, *_ = volume.split(":")
            if target.startswith("/docker-entrypoint-initdb.d/"):
                call("psql", *here, "-U", "postgres", "-f", str(team.folder / source))
        _, program, *arguments = service["healthcheck"]["test"]
        call(program, *here, *arguments)
        yield
    finally:
        call("pg_ctl", "-D", str(data), "-m", "immediate", "stop")


@pytest.fixture
def server(team: Team, postgres: None) -> Iterator[Team]:
    """The service `mlflow`: its command, the installation included, in a new environment."""
    service = team.services["mlflow"]
    version = service["image"].removeprefix("python:").removesuffix("-slim")
    assert version == f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([sys.executable, "-m", "venv", team.folder / "python"], check=True)
    settings = team.folder / "compose/basic_auth.ini"
    settings.write_text(team.on_this_machine(settings.read_text()))

    command = [team.on_this_machine(word) for word in service["command"]]
    environment = {
        name: team.on_this_machine(f"={value}").removeprefix("=")
        for name, value in service["environment"].items()
    }
    path = f"{team.folder}/python/bin:/usr/bin:/bin"
    log = team.folder / "server.log"
    with log.open("wb") as printed:
        process = subprocess.Popen(
            command,
            cwd=team.folder,
            env={"PATH": path, "HOME": os.environ["HOME"], **environment},
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
    try:
        wait_until_healthy(team.address, process, log)
        yield team
    finally:
        # Its workers are in its group.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def wait_until_healthy(
    address: str, process: "subprocess.Popen[bytes]", log: Path, seconds: float = 900
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{address}/health", timeout=10).ok:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_a_member_trains_on_the_server_that_the_page_starts(
    server: Team, workplace: Path, tiny_embedding_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = f"{server.address}/api/2.0/mlflow/experiments/search"
    question = {"max_results": 1}
    assert requests.post(searched, json=question, timeout=60).status_code == 401
    elsewhere = {"Host": "elsewhere.example.org"}
    assert requests.post(searched, json=question, headers=elsewhere, timeout=60).status_code == 403
    username, password = MEMBER
    added = requests.post(
        f"{server.address}/api/2.0/mlflow/users/create",
        json={"username": username, "password": password},
        auth=server.administrator,
        timeout=60,
    )
    assert added.ok, added.text

    # As the page says, on the machine of a member.
    database = f"postgres:{server.environment['POSTGRES_PASSWORD']}@127.0.0.1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", username)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    monkeypatch.setenv(
        "TUNETRAIL_DATABASE_URL",
        f"postgresql+psycopg://{database}:{server.postgres_port}/tunetrail",
    )
    rows = "".join(f"{json.dumps(row)}\n" for row in rows_of("pair"))
    (workplace / "samples.jsonl").write_text(rows)
    run("ingest", "samples.jsonl", "--session", "s1", "--kind", "embedding")
    settings = [f"embedding.model={tiny_embedding_model}", "embedding.training.max_steps=2"]
    settings += ["embedding.training.warmup_steps=0", "cross_validation=off"]
    settings += ["evaluation.bootstrap_samples=100", "gate.minimum_test_clusters=1"]
    settings += ["gate=point", "gate.minimum_improvement=-10"]
    stores = ["tracking=server", "database=postgres"]
    trained = run("train", "session_id=s1", "model_type=embedding", *stores, *settings)
    listed = run("runs", "--uri", server.address)

    assert "promoted" in trained and f"{server.address}/#/experiments/" in trained
    assert "promoted" in listed
    client = client_of(server.address)
    version = client.get_model_version_by_alias("embedding", "root")
    # The server has written the model: the member's machine knows no folder of artifacts.
    assert version.source.startswith(("models:/", "mlflow-artifacts:/"))
    assert [*(server.folder / "volume-artifacts").rglob("model.safetensors")]
    assert not (workplace / "mlartifacts").exists() and not (workplace / "tunetrail.db").exists()
    assert password not in trained and server.environment["POSTGRES_PASSWORD"] not in trained


def run(*arguments: str) -> str:
    """Run a command of tunetrail, and return all that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tunetrail", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout

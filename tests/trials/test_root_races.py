"""Root under many processes: killed at random moments, and moved by eight at once."""

import multiprocessing
import multiprocessing.util
import os
import random
import re
import signal
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.postgres import EVERY_DATABASE, empty_database
from tests.roots import Workplace, assert_linear

from tunetrail.config import TrackingConfig
from tunetrail.deployment.doctor import Doctor, repair_all
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.deployment.root_decisions import promote, roll_back
from tunetrail.deployment.root_moves import RootMoves
from tunetrail.errors import UserError
from tunetrail.stores.database.ledger import MOVES
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.runs.mlflow_survey import MlflowSurvey
from tunetrail.stores.tracking.tracker import Tracker

pytestmark = pytest.mark.processes

VERSIONS = ("1", "2", "3")
TEMPORARY = re.compile(r"/tunetrail-\S+ was left by a dead process")
# The modules are imported once: a process is then ready in a fraction of a second.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.trials.test_root_races"])


def open_moves(uri: str, database: str, models: str) -> RootMoves:
    """Open the stores in this process."""
    alias = RootAlias(tracker=Tracker(TrackingConfig(uri=uri)), name="embedding")
    return RootMoves(alias=alias, model_dir=Path(models), database=DatabaseManager(database))


def move_for_ever(uri: str, database: str, models: str, seed: int, begun: str) -> None:
    """Move root to random versions until the process is killed; write a byte before each move."""
    # Its leftovers are found next to the test's stores, and no other process's are.
    tempfile.tempdir = str(Path(begun).parent / "tmp")
    drawn, moves = random.Random(seed), open_moves(uri, database, models)
    with open(begun, "ab", buffering=0) as file:
        while True:
            file.write(b".")
            move_once(moves, drawn)


def move_often(uri: str, database: str, models: str, seed: int, times: int) -> None:
    """Move root to random versions, and leave 100 and the number of moves as the exit code."""
    drawn, moves = random.Random(seed), open_moves(uri, database, models)
    raise SystemExit(100 + sum(move_once(moves, drawn) for _ in range(times)))


def move_once(moves: RootMoves, drawn: random.Random) -> bool:
    """Promote or roll back to a random version; return False if it was root already."""
    version = drawn.choice(VERSIONS)
    try:
        if drawn.random() < 0.5:
            promote(moves, version, "drawn", force=True)
        else:
            roll_back(moves, version, "drawn")
    except UserError as error:
        # Another process was quicker, and nothing was changed.
        assert "it is root already" in str(error)
        return False
    return True


def kill_at_random(place: Workplace, seeds: range, patched: pytest.MonkeyPatch) -> None:
    """Kill a process that moves root, and let the next command find what it left; once a seed."""
    drawn, begun = random.Random(seeds.start), place.folder / "begun"
    temporary = place.folder / "tmp"
    temporary.mkdir()
    # First, or the fork server's socket would have a path there, longer than a socket's may be.
    multiprocessing.util.get_temp_dir()
    patched.setattr(tempfile, "tempdir", str(temporary))
    for version in VERSIONS:
        place.train(int(version))
    doctor = Doctor(
        database=place.database,
        store=MlflowSurvey(place.registry.tracker),
        model_dir=place.models,
        output_dir=place.folder / "training_output",
    )

    durations: list[float] = []
    for seed in seeds:
        begun.write_bytes(b"")
        words = (place.uri, place.database_url, str(place.models), seed, str(begun))
        process = FORKS.Process(target=move_for_ever, args=words)
        process.start()
        wait_for_size(begun, 1)
        started = time.monotonic()
        wait_for_size(begun, 2)
        durations.append(time.monotonic() - started)
        # A random point of a move, however slow the machine is.
        time.sleep(drawn.uniform(0.0, 1.5 * statistics.median(durations)))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()

        # A command comes by, or the doctor. Copies in the system's temporary folder are swept by
        # the next training, or by the doctor.
        if seed % 2:
            place.moves.settle()
            place.check()
            leftovers = [finding.text for finding in doctor.findings()]
            assert all(TEMPORARY.search(text) for text in leftovers), leftovers
        repair_all(doctor.findings())
        assert doctor.findings() == []
        place.check()
        decisions = Counter(line.decision for line in place.database.promotions())
        print(f"kill {seed}: {dict(decisions)}", flush=True)


def wait_for_size(file: Path, size: int) -> None:
    while file.stat().st_size < size:
        time.sleep(0.005)


# Each kill takes a process with MLflow, and on a busy machine a dozen take minutes.
@pytest.mark.timeout(1200)
def test_a_dozen_kills_leave_nothing_half_done(
    workplace: Path, tiny_embedding_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Workplace(folder=workplace, base=tiny_embedding_model)
    kill_at_random(place, range(12), monkeypatch)


# In parts, so that one that fails is repeated in minutes.
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(0, 200, 40))
def test_two_hundred_kills_leave_nothing_half_done(
    workplace: Path, tiny_embedding_model: str, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    place = Workplace(folder=workplace, base=tiny_embedding_model)
    kill_at_random(place, range(first, first + 40), monkeypatch)
    decisions = Counter(line.decision for line in place.database.promotions())
    # Otherwise, no kill would have met a move.
    assert decisions["abandoned"] > 0


@pytest.fixture(params=EVERY_DATABASE)
def database_url(request: pytest.FixtureRequest, workplace: Path) -> str:
    """Return the URL of an empty database."""
    return empty_database(request.param, workplace)


@pytest.mark.timeout(1200)
def test_eight_processes_at_once_have_one_linear_history(
    workplace: Path, tiny_embedding_model: str, database_url: str
) -> None:
    place = Workplace(folder=workplace, base=tiny_embedding_model, database_url=database_url)
    for version in VERSIONS:
        place.train(int(version))

    processes = [
        FORKS.Process(target=move_often, args=(place.uri, database_url, str(place.models), seed, 5))
        for seed in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    # An error would leave 1 as the exit code.
    codes = [process.exitcode or 0 for process in processes]
    assert all(100 <= code <= 105 for code in codes), codes
    moves = sum(codes) - 100 * len(codes)
    lines = place.database.promotions("embedding")[len(VERSIONS) :]
    assert len(lines) == moves > 8 and all(line.decision in MOVES for line in lines)
    assert_linear(place.database.promotions("embedding"))
    place.check()

"""Small sessions: the seconds of `tunetrail prepare` with every check on, and of its first sign of life.

The command runs as a user's does: a fresh process, MiniLM's vectors, and a session before to measure drift from. The
target is for a session of which nothing is cached, after the session before was prepared in its time. The other two states
are a cache that is empty, so that the vectors of the session before are computed as well, and one that has everything. The
rows are made, or drawn from a file without those of the session before.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.corpus import phrase
from bench.results import Figure, Options, Result
from tunetrail.data.formats import read_rows
from tunetrail.errors import SampleError
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

_MOST_SECONDS = {200: 10.0, 3_000: 20.0}
"""By the rows of a session."""
_MOST_SECONDS_OF_SILENCE = 2.0
_BEFORE, _NOW = "before", "now"
_COMMAND = ("-m", "tunetrail", "prepare", "model_type=embedding")
_SETTINGS = ("embedding=minilm", "output_dir=look", "preparation.cache_dir=cache")
_QUESTION_WORDS, _ANSWER_WORDS = (5, 14), (10, 25)


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """One run of the command.

    Attributes:
        seconds: Until it ended.
        silence: Until its first line.
        core_seconds: Of all cores: what counts on a busy machine.
    """

    seconds: float
    silence: float
    core_seconds: float


def run(options: Options) -> list[Result]:
    """Prepare sessions of 200 and of 3,000 rows, or of as many as `options` says."""
    sizes = [options.rows] if options.rows else list(_MOST_SECONDS)
    return [_measured(size, options.rounds or 3, options.data) for size in sizes]


def _measured(rows: int, rounds: int, data: Path | None) -> Result:
    new_session, empty_cache, warm = [], [], []
    for round_number in range(rounds):
        rng = random.Random(round_number)
        two_sessions = _pairs(2 * rows, rng) if data is None else _rows_of(data, 2 * rows, rng)
        with _workplace(two_sessions) as folder:
            empty_cache.append(_timed(folder, _NOW))
            warm.append(_timed(folder, _NOW))
        with _workplace(two_sessions) as folder:
            _timed(folder, _BEFORE)
            new_session.append(_timed(folder, _NOW))

    figures = [
        *_figures("nothing of this session cached", new_session, _MOST_SECONDS.get(rows)),
        *_figures("empty cache", empty_cache),
        *_figures("all cached", warm),
    ]
    what = "pairs" if data is None else f"rows of {data.name}"
    return Result(name=f"prepare, {rows:,} {what} with every check", figures=figures)


@contextmanager
def _workplace(two_sessions: list[Any]) -> Iterator[Path]:
    """Yield a new folder with a database of the two sessions."""
    with tempfile.TemporaryDirectory(prefix="bench-small-") as folder:
        _ingest(Path(folder), two_sessions)
        yield Path(folder)


def _figures(name: str, runs: list[_Timed], most: float | None = None) -> Iterator[Figure]:
    seconds = [run.seconds for run in runs]
    yield Figure(name=f"time, {name}", unit="s", values=seconds, at_most=most)
    core_seconds = [run.core_seconds for run in runs]
    yield Figure(name=f"time of all cores, {name}", unit="s", values=core_seconds)
    silence = [run.silence for run in runs]
    yield Figure(
        name=f"first line, {name}", unit="s", values=silence, at_most=_MOST_SECONDS_OF_SILENCE
    )


def _pairs(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Return made pairs, about 40 tokens each."""
    return [
        {
            "anchor": " ".join(phrase(rng.randint(*_QUESTION_WORDS), rng)),
            "positive": " ".join(phrase(rng.randint(*_ANSWER_WORDS), rng)),
        }
        for _ in range(count)
    ]


def _rows_of(file: Path, count: int, rng: random.Random) -> list[Any]:
    """Return rows of a file, drawn at random.

    Raises:
        SampleError: There are fewer.
    """
    rows = list(read_rows(file))
    if len(rows) < count:
        raise SampleError(
            f"{file} must have at least {count:,} rows, half of them for the session before, got "
            f"{len(rows):,} (ROWS={count // 2}). Take fewer rows, or a larger file."
        )
    return rng.sample(rows, count)


def _ingest(folder: Path, two_sessions: list[Any]) -> None:
    """Ingest the first half of some rows into the session before, and the second into this one."""
    middle = len(two_sessions) // 2
    sessions = {_BEFORE: two_sessions[:middle], _NOW: two_sessions[middle:]}
    with DatabaseManager(f"sqlite:///{folder}/tunetrail.db") as manager:
        for session_id, rows in sessions.items():
            manager.ingest(session_id, rows, SampleKind.EMBEDDING)


def _timed(folder: Path, session_id: str) -> _Timed:
    """Prepare a session as a user does, and return how long it took."""
    command = [sys.executable, *_COMMAND, f"session_id={session_id}", *_SETTINGS]
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        silence = time.perf_counter() - began
        output = first + process.stdout.read()
        used = psutil.Process(process.pid).cpu_times()
        process.wait()

    seconds = time.perf_counter() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return _Timed(seconds=seconds, silence=silence, core_seconds=used.user + used.system)

"""Ingestion: rows of JSONL that are read, checked and stored per second. Trains nothing."""

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.results import Figure, Options, Result
from tunetrail.data.conventions.reading import RowReader
from tunetrail.data.formats import read_rows
from tunetrail.samples import SampleKind
from tunetrail.stores.database.connection import make_engine, parse_url
from tunetrail.stores.database.ingestion import parsed_rows
from tunetrail.stores.database.manager import DatabaseManager

_ROWS = 200_000
_LEAST_ROWS_PER_SECOND = 40_000.0
_ROUNDS = 3
_POSTGRES = os.environ.get("TUNETRAIL_TEST_POSTGRES", "")
"""A database whose tables may be dropped; without it, only SQLite is measured."""


def run(options: Options) -> list[Result]:
    """Ingest short pairs, long pairs and chats into new databases."""
    rows, rounds = options.rows or _ROWS, options.rounds or _ROUNDS
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
        results = []
        for name, make_row in _ROW_MAKERS.items():
            file = Path(folder) / "rows.jsonl"
            with file.open("w", encoding="utf-8") as stream:
                rng = random.Random(0)
                stream.writelines(json.dumps(make_row(n, rng)) + "\n" for n in range(rows))
            kind = SampleKind.LLM if name == "chats" else SampleKind.EMBEDDING
            figures = list(_figures(file, kind, rows, rounds))
            results.append(Result(name=f"ingest, {rows:,} {name}", figures=figures))
        return results


def _short_pair(position: int, rng: random.Random) -> dict[str, Any]:
    return {"anchor": f"question {position}", "positive": f"answer {position}"}


def _long_pair(position: int, rng: random.Random) -> dict[str, Any]:
    return {
        "anchor": _words(12, rng),
        "positive": f"{_words(40, rng)} {position}",
        "group": f"group {position // 5}",
        "timestamp": f"2026-01-{1 + position % 28:02d}T12:00:00+00:00",
        "product": f"product {position % 50}",
    }


def _chat(position: int, rng: random.Random) -> dict[str, Any]:
    user = {"role": "user", "content": _words(12, rng)}
    return {"messages": [user, {"role": "assistant", "content": f"{_words(40, rng)} {position}"}]}


def _words(count: int, rng: random.Random) -> str:
    return " ".join(f"w{rng.randrange(3000)}" for _ in range(count))


_ROW_MAKERS: dict[str, Callable[[int, random.Random], dict[str, Any]]] = {
    "short pairs": _short_pair,
    "long pairs": _long_pair,
    "chats": _chat,
}


def _figures(file: Path, kind: SampleKind, rows: int, rounds: int) -> Iterator[Figure]:
    def speed(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return rows / (time.perf_counter() - start)

    # Each includes the one before, which tells where the time goes.
    read = [speed(lambda: _use_up(read_rows(file))) for _ in range(rounds)]
    yield Figure(name="read", unit="rows/s", values=read)

    def check() -> None:
        _use_up(parsed_rows(read_rows(file), RowReader(kind), file.name))

    checked = [speed(check) for _ in range(rounds)]
    yield Figure(name="read and checked", unit="rows/s", values=checked)

    sqlite = [speed(lambda: _store_in_sqlite(file, kind)) for _ in range(rounds)]
    yield Figure(
        name="stored in SQLite", unit="rows/s", values=sqlite, at_least=_LEAST_ROWS_PER_SECOND
    )
    if _POSTGRES:
        stored = []
        for _ in range(rounds):
            _empty_postgres()
            stored.append(speed(lambda: _store(_POSTGRES, file, kind)))
        yield Figure(name="stored in PostgreSQL", unit="rows/s", values=stored)


def _store_in_sqlite(file: Path, kind: SampleKind) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        _store(f"sqlite:///{folder}/tunetrail.db", file, kind)


def _store(url: str, file: Path, kind: SampleKind) -> None:
    with DatabaseManager(url) as manager:
        manager.ingest("s1", read_rows(file), kind, source=file.name)


def _empty_postgres() -> None:
    with make_engine(parse_url(_POSTGRES)).begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def _use_up(values: Iterator[object]) -> None:
    for _ in values:
        pass

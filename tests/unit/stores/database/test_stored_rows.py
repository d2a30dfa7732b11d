"""What a mixed session's rows become in the database stays as it was, digit for digit."""

import csv
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunetrail.data.formats import read_rows
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

_DIGEST = "db7a657ef7be8f9bf4b7cc8fcbc55a2f8678f64f440f51804bb2318558b12270"
"""SHA-256 of the values as commit 58346a2 stored them."""
CHAT = [{"role": "user", "content": "Où ?"}, {"role": "assistant", "content": 'He said "no"\n'}]
EMBEDDING_ROWS: list[dict[str, Any]] = [
    {"anchor": "a plain question", "positive": "a plain answer"},
    {"positive": "columns in another order", "anchor": "Straße, 日本, \u2028 and \x7f"},
    {"anchor": "q", "positive": "p", "negative": "n", "group": 7, "timestamp": 1700000000},
    {"anchor": "q", "positive": "p", "product": "lamp", "page": {"number": 3}, "empty": None},
    {"anchor": "q", "positive": "p", "product": "lamp", "page": {"number": 3}, "empty": None},
    {"sentence1": "one", "sentence2": "two", "score": "0.5", "weight": 2},
    {"text": "a text", "label": 3, "timestamp": "2026-01-02T03:04:05+02:00"},
    {"text": "a vector", "embedding": [1, 2.5, -3]},
    {"text": "only a text", "score": float("nan")},
    {"anchor": 5, "positive": "not a text"},
    {"anchor": "half a character: \ud800", "positive": "p"},
    {"anchor": "q", "positive": "p", "group": "no\0"},
    {"anchor": "q", "positive": "p", "groups": "misspelt"},
    {"query": "MS MARCO's form", "positive": "p", "negative": "n"},
    {"nothing": "known"},
    {"anchor": None, "positive": "p"},
]
LANGUAGE_MODEL_ROWS: list[dict[str, Any]] = [
    {"messages": CHAT},
    {"messages": [{"role": "system", "content": "s"}, *CHAT], "group": "g", "product": "lamp"},
    {"messages": [CHAT[0], {**CHAT[1], "weight": 0}, CHAT[0], CHAT[1]]},
    {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"messages": CHAT[:1]},
    {"messages": "no list"},
    {"output": "o", "input": "i"},
    {"instruction": "translate", "input": "yes", "output": "oui"},
    {"prompt": "p", "chosen": "c", "rejected": "r"},
    {"prompt": "p", "chosen": CHAT, "rejected": [CHAT[0], {**CHAT[1], "content": "worse"}]},
    {"text": "continued", "weight": 0.5},
    {"question": "q", "answer": "a", "timestamp": "yesterday"},
]


def write(rows: list[dict[str, Any]], path: Path) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"broken": \n[1]\n')
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8", errors="replace") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    else:
        texts = [row for row in rows if all(type(value) is str for value in row.values())]
        table = pa.Table.from_pylist([row for row in texts if "ud800" not in str(row)])
        pq.write_table(table, path)


def content_of(database: Path) -> list[tuple[Any, ...]]:
    """Return every value of every sample and rejected row except the moment of its ingest."""
    with sqlite3.connect(database) as connection:
        samples = connection.execute(
            "SELECT id, session_id, kind, shape, content, group_name, timestamp, weight, metadata,"
            " digest, occurrence, logged FROM samples ORDER BY id"
        ).fetchall()
        rejected = connection.execute(
            "SELECT id, session_id, kind, source, row_number, reason, row, digest, occurrence"
            " FROM rejected_samples ORDER BY id"
        ).fetchall()
    connection.close()
    return [*samples, *rejected]


@pytest.mark.parametrize("chunk_size", [20_000, 3])
def test_rows_of_all_formats_are_stored_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_size: int
) -> None:
    # Names of files are stored with rejected rows.
    monkeypatch.chdir(tmp_path)
    rows_of_kind = {"embedding": EMBEDDING_ROWS, "llm": LANGUAGE_MODEL_ROWS}

    with DatabaseManager("sqlite:///stored.db") as database:
        for kind, rows in rows_of_kind.items():
            for suffix in (".jsonl", ".json", ".csv", ".parquet"):
                file = Path(f"{kind}{suffix}")
                write(rows, file)
                database.ingest(
                    f"{kind}{suffix}",
                    read_rows(file),
                    SampleKind(kind),
                    source=str(file),
                    chunk_size=chunk_size,
                )

    stored = content_of(tmp_path / "stored.db")
    digest = hashlib.sha256(json.dumps(stored).encode()).hexdigest()
    assert (len(stored), digest) == (99, _DIGEST)


def test_digest_of_a_row_is_that_of_its_kind_content_and_group(tmp_path: Path) -> None:
    path = tmp_path / "stored.db"
    with DatabaseManager(f"sqlite:///{path}") as database:
        database.ingest("s1", EMBEDDING_ROWS, SampleKind.EMBEDDING)
        database.ingest("s2", LANGUAGE_MODEL_ROWS, SampleKind.LLM)

    with sqlite3.connect(path) as connection:
        samples = connection.execute(
            "SELECT kind, content, group_name, digest FROM samples"
        ).fetchall()
    connection.close()
    assert len(samples) >= 15
    for kind, content, group, digest in samples:
        text = json.dumps([kind, json.loads(content), group], sort_keys=True)
        assert digest == hashlib.sha256(text.encode()).hexdigest()
        assert content == json.dumps(json.loads(content))

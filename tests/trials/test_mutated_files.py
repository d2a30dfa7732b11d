"""Damaged files: they never crash or hang an ingest, or store a row that wasn't in the file."""

import csv
import gzip
import io
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from tunetrail.data.conventions.reading import RowReader
from tunetrail.data.formats import read_rows
from tunetrail.errors import SampleError
from tunetrail.samples import Sample, SampleKind
from tunetrail.stores.database.ingestion import parsed_rows

_ROWS = 25
_SECONDS = 20
"""Bound of one case; most take milliseconds."""
_PART = 500
_DEEP = 50_000
_WORDS = ("apple", "river", "Straße", "naïve", "日本", "it's", "a, b", "say", "1;2", "C:")


@dataclass(frozen=True)
class Case:
    """A damaged file, and what may be stored of it.

    Attributes:
        name: What was done to which format.
        suffix: The suffix of the file.
        content: Its bytes.
        text: What it holds, decompressed; rows other than the true ones have to be found in it.
        rows: The true rows.
        untouched: Rows that the damage doesn't reach, if all of them have to be stored.
        spoilt: Rows that must not be stored.
    """

    name: str
    suffix: str
    content: bytes
    text: bytes
    rows: list[dict[str, str]]
    untouched: list[dict[str, str]]
    spoilt: list[dict[str, str]]


def true_rows(rng: random.Random) -> list[dict[str, str]]:
    """Return rows whose texts name their row, so that mixed rows are recognised."""
    rows = []
    for position in range(_ROWS):
        words = rng.choices(_WORDS, k=6)
        rows.append(
            {
                "anchor": f"#q{position}# {' '.join(words[:3])}",
                "positive": f"#a{position}# {' '.join(words[3:])} end{position}",
            }
        )
    return rows


def written(rows: list[dict[str, str]], suffix: str) -> bytes:
    """Return the file of some rows."""
    columns = list(rows[0])
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if suffix == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    if suffix in (".csv", ".tsv"):
        text = io.StringIO()
        delimiter = "\t" if suffix == ".tsv" else ","
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        writer.writerows([columns, *(list(row.values()) for row in rows)])
        return text.getvalue().encode()

    target = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    if suffix == ".parquet":
        pq.write_table(table, target, compression="none", use_dictionary=False)
    else:
        feather.write_feather(table, target, compression="uncompressed")
    return target.getvalue()


def flip_bytes(content: bytes, rng: random.Random) -> tuple[bytes, int, int]:
    """Change one byte; return the bytes, and from where to where they differ."""
    position = rng.randrange(len(content))
    changed = content[position] ^ (1 << rng.randrange(8))
    return content[:position] + bytes([changed]) + content[position + 1 :], position, position + 1


def truncate(content: bytes, rng: random.Random) -> tuple[bytes, int, int]:
    """Cut the end off."""
    position = rng.randrange(1, len(content))
    return content[:position], position, len(content)


def delete_bytes(content: bytes, rng: random.Random) -> tuple[bytes, int, int]:
    """Leave a piece out."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randrange(1, 200))
    return content[:start] + content[end:], start, end


def insert_bytes(content: bytes, rng: random.Random) -> tuple[bytes, int, int]:
    """Insert bytes of another encoding, or characters with a meaning of their own."""
    position = rng.randrange(len(content))
    pieces = (
        "é".encode("latin-1"),
        "naïve 日本".encode("utf-16"),
        b"\x00",
        b'"',
        b"\n",
        b"\r",
        b'\\"',
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\\ud800",
        b"NaN",
    )
    return content[:position] + rng.choice(pieces) + content[position:], position, position


def repeat_bytes(content: bytes, rng: random.Random) -> tuple[bytes, int, int]:
    """Write a piece twice."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randrange(1, 200))
    return content[:end] + content[start:end] + content[end:], start, end


def nest_deeply(content: bytes, rng: random.Random) -> tuple[bytes, int, int]:
    """Insert brackets that aren't closed, or that are."""
    position = rng.randrange(len(content))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    piece = opening * _DEEP + rng.choice((b"", b"1" + closing * _DEEP))
    return content[:position] + piece + content[position:], position, position


_DAMAGES: tuple[Callable[[bytes, random.Random], tuple[bytes, int, int]], ...] = (
    flip_bytes,
    flip_bytes,
    flip_bytes,
    truncate,
    delete_bytes,
    insert_bytes,
    insert_bytes,
    repeat_bytes,
    nest_deeply,
)
_TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


def compress_with_zstandard(content: bytes) -> bytes:
    """Return a Zstandard file, without a checksum as Arrow writes it."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


_COMPRESSION: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": compress_with_zstandard,
}


def make_case(seed: int) -> Case:
    """Return the damaged file of a seed; equal seeds give equal files."""
    rng = random.Random(seed)
    rows = true_rows(rng)
    suffix = rng.choice((*_TEXT_SUFFIXES, *_TEXT_SUFFIXES, ".parquet", ".arrow"))
    content = written(rows, suffix)
    is_text = suffix in _TEXT_SUFFIXES
    if suffix in (".jsonl", ".json") and rng.random() < 0.1:
        return _case_of_a_repeated_key(rows, suffix, content, rng)

    damage = rng.choice(_DAMAGES)
    packing = rng.choice(("", "", *_COMPRESSION)) if is_text else ""
    if packing and rng.random() < 0.5:
        # Without a checksum, nobody can tell a changed byte from the byte that was written.
        damage = truncate if packing == ".zst" else damage
        packed, _, _ = damage(_COMPRESSION[packing](content), rng)
        name = f"{damage.__name__} of {suffix}{packing}"
        # Checksums find the damage, unless it doesn't concern the content.
        return Case(name, suffix + packing, packed, content, rows, [], [])

    text, start, end = damage(content, rng)
    untouched = _untouched(rows, content, start, end) if suffix == ".jsonl" else []
    packed = _COMPRESSION[packing](text) if packing else text
    name = f"{damage.__name__} in {suffix}{packing}"
    return Case(name, suffix + packing, packed, text, rows, untouched, [])


def _case_of_a_repeated_key(
    rows: list[dict[str, str]], suffix: str, content: bytes, rng: random.Random
) -> Case:
    spoilt = rng.choice(rows)
    key = rng.choice(list(spoilt))
    pair = f'"{key}": {json.dumps(spoilt[key], ensure_ascii=False)}'
    text = content.decode().replace(pair, f'{pair}, "{key}": "another"').encode()
    untouched = [row for row in rows if row is not spoilt]
    another = spoilt | {key: "another"}
    name = f"repeated key in {suffix}"
    return Case(name, suffix, text, text, rows, untouched, [spoilt, another])


def _untouched(
    rows: list[dict[str, str]], content: bytes, start: int, end: int
) -> list[dict[str, str]]:
    """Return the rows whose lines, with the line breaks around them, the damage doesn't reach."""
    untouched, position = [], 0
    for row, line in zip(rows, content.splitlines(keepends=True), strict=True):
        if position + len(line) < start or position > end:
            untouched.append(row)
        position += len(line)
    return untouched


@contextmanager
def bounded_time() -> Iterator[None]:
    """Raise `TimeoutError` in work that takes too long."""

    def stop(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"a file of {_ROWS} rows took more than {_SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def stored_rows(path: Path) -> tuple[list[dict[str, object]], str]:
    """Return what an ingest of a file stores, and why it ended early, or an empty string."""
    stored = []
    try:
        reader = RowReader(SampleKind.EMBEDDING)
        for item in parsed_rows(read_rows(path), reader, path.name):
            # Rejected rows are stored as text, which has to be readable as well.
            item.digest.encode()
            if isinstance(item, Sample):
                stored.append(dict(item.content))
    except SampleError as error:
        assert "\n" not in str(error), error
        return stored, str(error)
    return stored, ""


def is_in_one_record(row: dict[str, object], case: Case) -> bool:
    """Tell whether the texts of a row stand in the file, with no whole true row between them."""
    raw = case.text.decode("utf-8", "replace").replace("\\/", "/")
    # An empty text is everywhere, for example at the end of a file that was cut.
    first, *later = (_places(str(value), raw) for value in row.values() if value != "")
    # The columns of these formats lie apart.
    if case.suffix in (".parquet", ".arrow"):
        return bool(first) and all(later)

    for start, end in first:
        for places in later:
            end = next((stop for begin, stop in places if begin >= end), -1)
            if end == -1:
                break
        segment = raw[start:end] if end != -1 else ""
        whole = sum(true["anchor"] in segment and true["positive"] in segment for true in case.rows)
        if segment and whole <= 1:
            return True
    return False


def _places(value: str, raw: str) -> list[tuple[int, int]]:
    """Return from where to where a text stands in a file, in any spelling of the formats."""
    quoted = json.dumps(value, ensure_ascii=False)[1:-1]
    places = []
    for spelling in {value, value.replace('"', '""'), quoted} - {""}:
        places.extend(match.span() for match in re.finditer(re.escape(spelling), raw))
    return sorted(places)


def faults_of(case: Case, folder: Path) -> list[str]:
    """Return what is wrong with the ingest of a damaged file."""
    path = folder / f"rows{case.suffix}"
    path.write_bytes(case.content)
    try:
        with bounded_time():
            stored, ending = stored_rows(path)
    except Exception as error:  # Any other error than SampleError would be a crash.
        return [f"{case.name}: {type(error).__name__}: {error}"]

    faults = []
    for row in stored:
        if row in case.spoilt or (row not in case.rows and not is_in_one_record(row, case)):
            faults.append(f"{case.name}: stored {row}")
    if not ending:
        missing = [row for row in case.untouched if row not in stored]
        faults.extend(f"{case.name}: lost {row}" for row in missing)
    return faults


def faults_of_seeds(seeds: range, folder: Path) -> list[str]:
    """Return the faults of many damaged files, with the seed of each."""
    faults = []
    for seed in seeds:
        faults.extend(f"seed {seed}, {fault}" for fault in faults_of(make_case(seed), folder))
    return faults


def test_oracle_knows_a_row_that_was_not_in_the_file() -> None:
    rows = true_rows(random.Random(0))
    text = written(rows, ".jsonl")
    case = Case("", ".jsonl", text, text, rows, [], [])
    assert is_in_one_record(dict(rows[3]), case)
    assert not is_in_one_record({**rows[3], "positive": rows[5]["positive"]}, case)
    assert not is_in_one_record({**rows[3], "positive": "never written"}, case)


def test_undamaged_files_give_the_true_rows(tmp_path: Path) -> None:
    rows = true_rows(random.Random(0))
    for suffix in (*_TEXT_SUFFIXES, ".parquet", ".arrow"):
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(written(rows, suffix))
        assert stored_rows(path) == (rows, "")


@pytest.mark.parametrize(
    "seeds",
    [range(40), pytest.param(range(40, 400), marks=pytest.mark.processes)],
    ids=["some", "many"],
)
def test_damaged_files_are_read_without_a_crash_or_an_invented_row(
    seeds: range, tmp_path: Path
) -> None:
    assert faults_of_seeds(seeds, tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("start", range(0, 10_000, _PART))
def test_ten_thousand_damaged_files_in_parts(start: int, tmp_path: Path) -> None:
    # A crash of a C library ends the process of the part, not the test.
    command = [sys.executable, __file__, str(start), str(_PART), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout == ""


if __name__ == "__main__":
    first, count, scratch = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    own_folder = scratch / str(first)
    own_folder.mkdir()
    for line in faults_of_seeds(range(first, first + count), own_folder):
        print(line)

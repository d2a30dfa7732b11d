"""Preparation: seconds, memory and account of a session's rows from raw to files, what of the planted copies is found,
and the speed of scrubbing. Trains nothing.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.copies import FoundCopies, judged_copies
from bench.corpus import made_rows
from bench.memory import SampledRun, run_sampled
from bench.results import Figure, Options, Result
from tunetrail.config import PreparationConfig, PrivacyConfig, Settings
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.formats import read_rows
from tunetrail.data.privacy import Scrubber
from tunetrail.data.row_files import frames_of_file
from tunetrail.data.rows import rows_frame
from tunetrail.errors import SampleError
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model
from tunetrail.pipeline.families import EMBEDDING
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.preparing import build_preparation
from tunetrail.samples import BrokenRow, Sample, SampleKind, parse_sample

_ROWS = 1_000_000
_ROWS_WITH_COUNTER = 100_000
_MOST_SECONDS, _MOST_BYTES = 150.0, 3.0 * 2**30
_SEED = 42
_NO_PROSE = ("row_id", "shape", "group", "timestamp", "planted", "kind")
_FIRST_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
_FILE_ROWS = 10_000
_SCRUBBED_ROWS = 20_000
_SCRUB_ROUNDS = 5
_MB = 1e6
_GIB = 2**30
_TRUTH = pa.schema(
    [
        ("row_id", pa.int64()),
        ("shape", pa.string()),
        ("text", pa.string()),
        ("timestamp", pa.string()),
        ("planted", pa.string()),
        ("source", pa.int64()),
        ("similarity", pa.float64()),
        ("kind", pa.string()),
    ]
)


def run(options: Options) -> list[Result]:
    """Measure the flow, once more with a token counter for comparison, and the scrubber."""
    with tempfile.TemporaryDirectory(prefix="bench-prepare-") as folder:
        source = Path(folder) / "rows.parquet"
        count = (
            _write_made(source, options.rows or _ROWS)
            if options.data is None
            else _write_read(source, options)
        )
        flow = _flow(source, options, count)
        few = min(count, _ROWS_WITH_COUNTER)
        counted = Path(folder) / "counted.parquet"
        _write_head(source, counted, few)
        with_counter = _measured(counted, "minilm")
        name = "prepare" if options.data is None else f"prepare of {options.data.name}"
        return [
            Result(name=f"{name}, {count:,} rows", figures=flow.figures, details=flow.details),
            Result(
                name=f"{name} with token counts, {few:,} rows",
                figures=[
                    Figure(name="time", unit="s", values=[with_counter.seconds]),
                    Figure(name="speed", unit="rows/s", values=[few / with_counter.seconds]),
                ],
            ),
            _scrubbing(source, name),
        ]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One preparation: when it began, when its chunks were done, when it ended; what was seen of it, its account."""

    began: float
    chunks_done: float
    ended: float
    watched: SampledRun
    summary: dict[str, Any]
    copies: FoundCopies | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def peak(self, kind: str, *, of_chunks: bool | None = None) -> int:
        return max(
            (
                getattr(each, kind)
                for each in self.watched.samples
                if of_chunks is None or (each.moment <= self.chunks_done) == of_chunks
            ),
            default=0,
        )


def _flow(source: Path, options: Options, count: int) -> Result:
    rounds = [_measured(source, None) for _ in range(options.rounds or 1)]
    full = count >= _ROWS and options.data is None

    def values(*names: str) -> Iterator[tuple[str, list[float]]]:
        for name in names:
            yield name, [each.peak(name) / _GIB for each in rounds]

    figures = [
        Figure(
            name="time",
            unit="s",
            values=[each.seconds for each in rounds],
            at_most=_MOST_SECONDS if full else None,
        ),
        Figure(name="speed", unit="rows/s", values=[count / each.seconds for each in rounds]),
        Figure(
            name="time of all cores",
            unit="s",
            values=[each.watched.core_seconds for each in rounds],
        ),
        Figure(
            name="time in chunks",
            unit="s",
            values=[each.chunks_done - each.began for each in rounds],
        ),
        Figure(
            name="time in session",
            unit="s",
            values=[each.ended - each.chunks_done for each in rounds],
        ),
        *(
            Figure(
                name=f"peak memory, {name}",
                unit="GiB",
                values=found,
                at_most=_MOST_BYTES / _GIB if name == "resident" else None,
            )
            for name, found in values("resident", "unique", "anonymous")
        ),
        *(
            Figure(
                name=f"peak memory, {kind}, {'chunks' if of_chunks else 'session'}",
                unit="GiB",
                values=[each.peak(kind, of_chunks=of_chunks) / _GIB for each in rounds],
            )
            for of_chunks in (True, False)
            for kind in ("resident", "anonymous")
        ),
    ]
    copies = rounds[-1].copies
    if copies is not None:
        figures += [
            Figure(name="near-duplicate recall", unit="", values=[copies.recall], at_least=0.95),
            Figure(
                name="near-duplicate precision", unit="", values=[copies.precision], at_least=0.99
            ),
        ]
    summary = rounds[-1].summary
    details = {
        "account": summary["account"],
        "placeholders": summary["placeholders"],
        "split": summary["split"]["rows"],
        "copies": None if copies is None else copies.to_dict(),
    }
    return Result(name="", figures=figures, details=details)


def _measured(source: Path, counter: str | None) -> _Measured:
    """Prepare the rows of a file in a process of its own."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        command = [
            sys.executable,
            "-m",
            "bench.prepare",
            str(source),
            folder,
            *([counter] if counter else []),
        ]
        watched = run_sampled(command, Path(__file__).parents[1])
        moments = json.loads((Path(folder) / "moments.json").read_text())
        planted = "planted" in pq.read_schema(source).names
        return _Measured(
            **moments,
            watched=watched,
            summary=json.loads((Path(folder) / "summary.json").read_text()),
            copies=judged_copies(source, Path(folder)) if planted else None,
        )


def _prepare(source: Path, folder: Path, model: str | None) -> None:
    """What the measured process does."""
    settings = replace(Settings(), preparation=PreparationConfig(cache_gigabytes=0.0))
    path = None if model is None else resolve_model(model, EMBEDDING_MODELS).path
    models = ModelLoader(settings=settings)
    preparation = build_preparation(EMBEDDING, settings, path, models)
    preparation = replace(preparation, encoder=None)
    unknown = {"planted", "source", "similarity", "kind"}
    frames = (
        frame.drop(columns=[*unknown & {*frame.columns}])
        for frame in frames_of_file(source, _FILE_ROWS)
    )
    moments = {"began": time.monotonic()}
    in_chunks = Preparation._prepare_chunks

    def noted(*arguments: Any) -> Any:
        chunks = in_chunks(*arguments)
        moments["chunks_done"] = time.monotonic()
        return chunks

    Preparation._prepare_chunks = noted  # what is measured lies on both sides of its end
    session = preparation.run(frames, folder)
    moments["ended"] = time.monotonic()
    (folder / "moments.json").write_text(json.dumps(moments))
    if session.stopped is not None:
        print(f"stopped: {session.stopped}", file=sys.stderr)


def _scrubbing(source: Path, name: str) -> Result:
    texts: list[str] = []
    for frame in frames_of_file(source, _FILE_ROWS):
        columns = [
            column
            for column in frame.columns
            if column not in ("row_id", "shape", "timestamp", "planted", "kind")
        ]
        texts += [value for column in columns for value in frame[column] if isinstance(value, str)]
        if len(texts) >= _SCRUBBED_ROWS:
            break
    scrubber, size = Scrubber(PrivacyConfig()), sum(len(text.encode()) for text in texts)
    speeds, found = [], Counter[str]()
    for _ in range(_SCRUB_ROUNDS):
        began, found = time.process_time(), Counter()
        for text in texts:
            found.update(scrubber.scrub(text)[1])
        speeds.append(size / _MB / (time.process_time() - began))
    figures = [Figure(name="speed of one core", unit="MB/s", values=speeds, at_least=20.0)]
    return Result(
        name=f"{name}, scrubbing",
        figures=figures,
        details={"megabytes": size / _MB, "found": dict(found)},
    )


def _write_made(path: Path, count: int) -> int:
    with pq.ParquetWriter(path, _TRUTH, compression="lz4") as writer:
        lines: list[dict[str, Any]] = []
        for row in made_rows(count, _SEED):
            moment = _FIRST_MOMENT + timedelta(seconds=row.row_id)
            lines.append({**asdict(row), "shape": "text", "timestamp": moment.isoformat()})
            if len(lines) == _FILE_ROWS or row.row_id == count:
                writer.write_table(pa.Table.from_pylist(lines, schema=_TRUTH))
                lines = []
    return count


def _write_read(path: Path, options: Options) -> int:
    """Write the samples of the file that was given, at most `rows` of them."""
    assert options.data is not None
    writer: pq.ParquetWriter | None = None
    samples: list[tuple[int, Sample]] = []
    number = 0

    def write() -> None:
        nonlocal writer
        table = pa.Table.from_pandas(rows_frame(samples), preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="lz4")
        writer.write_table(table.cast(writer.schema))
        samples.clear()

    for row in read_rows(options.data):
        sample = None if isinstance(row, BrokenRow) else _sample(row)
        if sample is not None and number < (options.rows or sys.maxsize):
            number += 1
            samples.append((number, sample))
            if len(samples) == _FILE_ROWS:
                write()
    if samples:
        write()
    if writer is None:
        raise SampleError(
            f"{options.data} must hold embedding samples, got none. Choose another file."
        )
    writer.close()
    return number


def _sample(row: Any) -> Sample | None:
    try:
        return parse_sample(row, SampleKind.EMBEDDING)
    except SampleError:
        return None


def _write_head(source: Path, path: Path, count: int) -> None:
    left = count
    with (
        pq.ParquetFile(source, pre_buffer=False) as file,
        pq.ParquetWriter(path, file.schema_arrow, compression="lz4") as writer,
    ):
        for batch in file.iter_batches(_FILE_ROWS):
            writer.write_batch(batch.slice(0, left))
            left -= min(left, len(batch))
            if left == 0:
                return


if __name__ == "__main__":
    _prepare(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)

"""Preparation: a session's rows, chunk by chunk, through validation, cleaning and split, into files. Trains nothing.

What a chunk needs only itself for is done in `chunk_steps`, possibly in other processes and at most once; then the
chunks come together in `session_stage`: judgements over the session, duplicates, sides, and the account of every row.
"""

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tunetrail.cache import ResultCache
from tunetrail.config import PreparationConfig, SplitConfig
from tunetrail.data.checks.judged_rows import Judge
from tunetrail.data.flow.chunk_steps import ChunkSteps, PreparedChunk
from tunetrail.data.flow.chunks import write_chunks
from tunetrail.data.flow.engines import Job, run_jobs
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.flow.session_stage import SessionStage
from tunetrail.errors import ConfigError, SampleError
from tunetrail.paths import cache_dir


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Everything that preparation needs but the rows.

    Attributes:
        steps: What is done to each chunk.
        split: How sides are assigned.
        config: Chunks, processes and cache.
        judge: The model's vectors and the previous session, for the checks that need them.
        seed: Decides where chance does.
    """

    steps: ChunkSteps
    split: SplitConfig
    config: PreparationConfig
    judge: Judge
    seed: int

    def run(self, frames: Iterable[pd.DataFrame], folder: Path) -> PreparedSession:
        """Prepare all rows and write them, and everything about them, into `folder`.

        Args:
            frames: Frames of rows with ascending ids; read once, a few chunks ahead of the work.
            folder: Made if it isn't there; what it holds of an earlier preparation is replaced.

        Returns:
            The prepared session; its `stopped` says why its rows can't be trained on, if so.

        Raises:
            SampleError: There are no rows, an embedding session mixes shapes, or an llm session mixes preferences with
                others.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.steps.cleaning.length != "keep" and self.steps.counter is None:
            raise ConfigError(
                f"cleaning.length must be keep where the model isn't found, got {self.steps.cleaning.length!r}. "
                "Name a model whose tokenizer counts."
            )
        kept = result_cache(self.config)
        if kept is not None:
            kept.open()
        with (
            contextlib.ExitStack() as stack,
            tempfile.TemporaryDirectory(dir=folder, prefix=".scratch-") as scratch,
        ):
            if kept is not None:
                stack.callback(kept.prune)
            cache = kept or ResultCache(folder=Path(scratch) / "results", gigabytes=0.0)
            chunks = self._chunks(frames, cache, Path(scratch))
            stage = SessionStage(
                chunks=chunks,
                steps=self.steps,
                split=self.split,
                judge=self.judge,
                cache=cache,
                seed=self.seed,
            )
            return stage.run(folder, Path(scratch))

    def _chunks(
        self, frames: Iterable[pd.DataFrame], cache: ResultCache, scratch: Path
    ) -> list[PreparedChunk]:
        raw = scratch / "raw"
        raw.mkdir()
        identity = self.steps.identity

        def jobs() -> Iterator[Job]:
            for chunk in write_chunks(frames, self.config.chunk_rows, raw):
                place = cache.place(identity, chunk.digest)
                if place.is_dir() and not PreparedChunk(folder=place).is_whole:
                    shutil.rmtree(place)
                yield Job(raw=chunk.path, folder=place)

        chunks = [
            PreparedChunk(folder=job.folder)
            for job in run_jobs(self.steps.run, jobs(), self.config)
        ]
        _check_rows(chunks, str(self.steps.kind))
        return chunks


def result_cache(config: PreparationConfig) -> ResultCache | None:
    """Return the configured cache, None where nothing is to be kept."""
    if config.cache_gigabytes == 0.0:
        return None
    folder = Path(config.cache_dir) if config.cache_dir else cache_dir()
    return ResultCache(folder=folder / "results", gigabytes=config.cache_gigabytes)


def _check_rows(chunks: list[PreparedChunk], kind: str) -> None:
    if not chunks:
        raise SampleError(
            f"rows must hold at least one {kind} sample, got 0. Log samples to the session or choose another."
        )
    shapes: Counter[str] = sum((Counter(chunk.counts["shapes"]) for chunk in chunks), Counter())
    listed = ", ".join(f"{name} ({count})" for name, count in shapes.most_common())
    if kind == "embedding" and len(shapes) > 1:
        raise SampleError(
            f"embedding samples must all have one shape, got {listed}. "
            f"Choose one, for example embedding.shape={shapes.most_common(1)[0][0]}."
        )
    if "preference" in shapes and len(shapes) > 1:
        raise SampleError(
            f"llm samples must all be preferences or none, got {listed}. "
            "Choose llm.objective=preference or llm.objective=supervised."
        )

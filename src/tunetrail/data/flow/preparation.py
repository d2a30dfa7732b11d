"""Preparation: a session's rows go chunk by chunk through validation, cleaning and the split.

What a chunk needs only itself for is done in `chunk_steps`, possibly in other processes, and never
twice. Then the chunks come together in `session_stage`.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.cache import ResultCache
from tunetrail.config import PreparationConfig, SplitConfig
from tunetrail.data.checks.row_vectors import TextEncoder
from tunetrail.data.flow.cached_session import CachedSession
from tunetrail.data.flow.chunk_steps import ChunkCounts, ChunkSteps, PreparedChunk
from tunetrail.data.flow.chunks import write_chunks
from tunetrail.data.flow.executors import ChunkTask, run_tasks
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.flow.session_stage import SessionStage
from tunetrail.data.twins.duplicates import FrameRows, SketchedRows, sketch_book
from tunetrail.data.twins.near_pairs import Mask
from tunetrail.errors import ConfigError, SampleError
from tunetrail.paths import cache_dir, made_folder, private_folder
from tunetrail.samples import shape_named
from tunetrail.scratch import scratch_folder, sweep


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Everything that preparation needs except the rows.

    Attributes:
        steps: What is done to each chunk.
        split: How sides are assigned.
        config: Chunks, processes and cache.
        encoder: Makes vectors of texts; None turns off the checks that need them.
        reference: Rows of the previous session, to measure drift from; None if there is none.
        seed: For every random choice.
        objective_setting: The setting that chooses the rows to train on, for the error message.
    """

    steps: ChunkSteps
    split: SplitConfig
    config: PreparationConfig
    encoder: TextEncoder | None = None
    reference: pd.DataFrame | None = None
    seed: int
    objective_setting: str = "objective"

    def run(self, frames: Iterable[pd.DataFrame], folder: Path) -> PreparedSession:
        """Prepare all rows and write them, and everything about them, into `folder`.

        Args:
            frames: Frames of rows with ascending ids; read once, a few chunks ahead of the work.
            folder: Made if it doesn't exist; the files of an earlier preparation are replaced.

        Returns:
            The prepared session; its `stopped` says why its rows can't be trained on, if so.

        Raises:
            ConfigError: Rows are to be shortened, and no tokenizer can count their tokens.
            SampleError: There are no rows, or rows that can't be trained on together.
        """
        if self.steps.cleaning.length != "keep" and self.steps.counter is None:
            raise ConfigError(
                "cleaning.length must be keep if the model isn't found, "
                f"got {self.steps.cleaning.length!r}. Name a model that can be loaded."
            )

        with self._scratch(folder) as (scratch, cache):
            chunks = self._prepare_chunks(frames, cache, scratch)
            _check_objectives(chunks, str(self.steps.kind), self.objective_setting)
            stage = SessionStage(
                chunks=chunks,
                steps=self.steps,
                split=self.split,
                encoder=self.encoder,
                reference=self.reference,
                cache=cache,
                seed=self.seed,
            )
            # The cache of this preparation alone would only take room.
            if result_cache(self.config) is None:
                return stage.run(folder, scratch)
            return _run_once(stage, cache, folder, scratch)

    def have_twins(
        self,
        rows: pd.DataFrame,
        sessions: Iterable[Iterable[pd.DataFrame]],
        row_ids: npt.NDArray[np.int64],
        folder: Path,
    ) -> Mask:
        """Tell which prepared rows have a twin among rows of other sessions.

        Those are checked and cleaned as in a preparation, since only clean texts can be compared;
        of a session that was prepared before, the results are in the cache.

        Args:
            rows: Prepared rows.
            sessions: The frames of each session, as for `run`: a chunk of only some rows of a
                session isn't in the cache.
            row_ids: The rows of the sessions that count; the others are ignored.
            folder: Where temporary files may lie.

        Returns:
            A mask of `rows`, [rows].
        """
        with self._scratch(folder) as (scratch, cache):
            blocks: list[SketchedRows] = []
            for start in range(0, len(rows), self.config.chunk_rows):
                blocks.append(FrameRows(rows.iloc[start : start + self.config.chunk_rows]))
            for position, frames in enumerate(sessions):
                session_scratch = made_folder(scratch / f"session-{position}")
                blocks += self._prepare_chunks(frames, cache, session_scratch)

            sketches = sketch_book(scratch / "sketches", blocks)
            counts = np.isin(sketches.row_ids, row_ids)
            counts[: len(rows)] = True
            clusters = sketches.clusters(self.split.near_duplicate_similarity, counts)

        own_clusters, other_clusters = clusters[: len(rows)], clusters[len(rows) :]
        # Rows that don't count have the cluster -1, which no row of `rows` has.
        return np.isin(own_clusters, other_clusters)

    @contextlib.contextmanager
    def _scratch(self, folder: Path) -> Iterator[tuple[Path, ResultCache]]:
        """Yield a folder for temporary files, and the cache of the chunks' results."""
        private_folder(folder)
        with contextlib.ExitStack() as stack:
            # A process that was killed has left the files of its rows here.
            sweep(folder)
            # Next to the result, so that files can be moved instead of copied.
            scratch = stack.enter_context(scratch_folder(".scratch-", folder))
            cache = result_cache(self.config)
            if cache is not None and cache.open():
                stack.callback(cache.prune)
            else:
                # Chunks need a place all the same; this one is gone with the scratch folder.
                cache = ResultCache(folder=scratch / "results", gigabytes=0.0)
            yield scratch, cache

    def _prepare_chunks(
        self, frames: Iterable[pd.DataFrame], cache: ResultCache, scratch: Path
    ) -> list[PreparedChunk]:
        """Return all chunks after their steps; those in the cache are taken from there."""
        raw = scratch / "raw"
        raw.mkdir()
        identity = self.steps.identity

        # A generator: locally, only a few chunks of raw rows lie on the disk at a time.
        def tasks() -> Iterator[ChunkTask]:
            for chunk in write_chunks(frames, self.config.chunk_rows, raw):
                result = cache.place(identity, chunk.digest)
                # A broken result is prepared again.
                if result.is_dir() and not PreparedChunk(folder=result).is_whole:
                    shutil.rmtree(result)
                yield ChunkTask(raw=chunk.path, folder=result)

        # One lock for all chunks: whoever waits takes no core from the process that prepares them.
        with cache.computing("the prepared rows", "chunks", identity):
            done = list(run_tasks(self.steps.run, tasks(), self.config))
        return [PreparedChunk(folder=task.folder) for task in done]


def _run_once(
    stage: SessionStage, cache: ResultCache, folder: Path, scratch: Path
) -> PreparedSession:
    """Return the result of a stage in `folder`: copied from the cache, or made and kept there."""
    identity = ("session", stage.identity)
    cached = CachedSession(place=cache.place(*identity))
    session = cached.copy_to(folder)
    if session is not None:
        return session

    with cache.computing("the checks and the split of the rows", *identity):
        # Another process may have made it while this one waited.
        session = cached.copy_to(folder)
        if session is None:
            session = stage.run(folder, scratch)
            # On a full disk, the next run has to make it again.
            with contextlib.suppress(OSError):
                cached.keep(session)
    return session


def result_cache(config: PreparationConfig) -> ResultCache | None:
    """Return the configured cache, or None if results aren't kept."""
    if config.cache_gigabytes == 0.0:
        return None
    folder = Path(config.cache_dir) if config.cache_dir else cache_dir()
    return ResultCache(folder=folder / "results", gigabytes=config.cache_gigabytes)


def _check_objectives(chunks: Sequence[PreparedChunk], kind: str, setting: str) -> None:
    """Raise `SampleError` unless there are rows, and they all have one objective."""
    if not chunks:
        raise SampleError(
            f"rows must hold at least one {kind} sample, got 0. "
            "Log samples to the session or choose another."
        )

    shapes = ChunkCounts.total(chunks).shapes.most_common()
    objectives = list(dict.fromkeys(shape_named(name).objective for name, _ in shapes))
    if len(objectives) > 1:
        listed = ", ".join(f"{name} ({count})" for name, count in shapes)
        raise SampleError(
            f"{kind} samples must all have one {setting.rpartition('.')[2]}, got {listed}. "
            f"Choose one, for example {setting}={objectives[0]}."
        )

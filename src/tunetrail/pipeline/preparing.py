"""Where a model's tokenizer and vectors meet the preparation of its rows, and what a run keeps of it."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.config import Settings
from tunetrail.data.checks.judged_rows import Judge
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.flow.prepared import CHANGES, FLAGS, REPORT, SET_ASIDE, SUMMARY, PreparedSession
from tunetrail.data.lengths import TokenCounter
from tunetrail.data.report.pictures import figures
from tunetrail.data.report.report_data import ReportData
from tunetrail.data.report.session_report import report_section, write_report
from tunetrail.data.rows import rows_of_shapes
from tunetrail.errors import SampleError
from tunetrail.learning.judging import judging_identity, judging_vectors
from tunetrail.learning.tokens.token_counts import EmbeddingTokenCounter, LanguageModelTokenCounter
from tunetrail.pipeline.session_rows import chosen_shapes
from tunetrail.pipeline.work import log_step
from tunetrail.samples import SampleKind
from tunetrail.stores.tracking import TrackedRun

logger = logging.getLogger(__name__)


def build_preparation(
    model_type: str, settings: Settings, path: str | None, reference: pd.DataFrame | None = None
) -> Preparation:
    """Return the preparation of a model type's rows.

    Args:
        model_type: `embedding` or `llm`.
        settings: All that can be set.
        path: The base model's folder; without it, the checks that need a model are left out.
        reference: Rows of the previous session, None where there is none.
    """
    return Preparation(
        steps=ChunkSteps(
            kind=SampleKind(model_type),
            validation=settings.validation,
            cleaning=settings.cleaning,
            counter=None if path is None else token_counter(model_type, settings, path),
        ),
        split=settings.split,
        config=settings.preparation,
        judge=Judge(
            vectors=None if path is None else judging_vectors(model_type, settings, path),
            identity="" if path is None else judging_identity(model_type, settings, path),
            reference=reference,
        ),
        seed=settings.seed,
    )


def token_counter(model_type: str, settings: Settings, path: str) -> TokenCounter:
    """Return what counts tokens as the model of the folder `path` does."""
    if model_type == "llm":
        return LanguageModelTokenCounter(path=path, max_length=settings.llm.max_length)
    config = settings.embedding
    return EmbeddingTokenCounter(
        path=path,
        max_length=config.max_length,
        query_prompt=config.query_prompt,
        document_prompt=config.document_prompt,
    )


def prepare_rows(
    model_type: str,
    settings: Settings,
    preparation: Preparation,
    rows: pd.DataFrame | Iterable[pd.DataFrame],
    folder: Path,
) -> PreparedSession:
    """Prepare the rows that the settings choose into `folder`.

    Raises:
        SampleError: There are none, or they have several shapes and none is chosen.
    """
    chosen = _Chosen(rows, model_type, settings)
    try:
        session = preparation.run(chosen.frames(), folder)
    except SampleError:
        chosen.check()
        raise
    chosen.say_what_was_left_out()
    for warning in warnings_of(session):
        logger.warning("%s: %s", model_type, warning)
    return session


def keep_preparation(
    run: TrackedRun, session: PreparedSession, model_type: str, name: str, max_length: int
) -> dict[str, dict[str, Any]]:
    """Write to a run what became of its rows, report and rows set aside included, and return the steps' results.

    Raises:
        SampleError: The rows can't be trained on; everything is written all the same.
    """
    steps = {"validation": session.validation_dict(), "cleaning": session.cleaning_dict()}
    for step, result in steps.items():
        log_step(run, step, result, {"rows": result["rows_out"], "set_aside": result["set_aside"]})
    keep_report(run, session, model_type, name, max_length)
    if session.stopped is not None:
        raise SampleError(session.stopped)
    return steps


def keep_report(
    run: TrackedRun,
    session: PreparedSession,
    model_type: str,
    name: str,
    max_length: int,
    folder: str = "data",
) -> None:
    """Write the report of prepared rows, its pictures and the rows set aside to a folder of a run's artifacts."""
    section = report_section(session, model_type, max_length)
    write_report(ReportData(title=name, sections=(section,)), session.folder / REPORT)
    for file in (REPORT, SUMMARY, SET_ASIDE, CHANGES, FLAGS):
        run.log_artifact(session.folder / file, folder)
    for picture, figure in figures(section).items():
        run.log_figure(figure, f"{folder}/{picture}.png")


def warnings_of(session: PreparedSession) -> list[str]:
    """Return what a person should know of a prepared session, a sentence each."""
    found = [
        f"{each.check}: {each.message}" for each in session.findings if each.severity == "warning"
    ]
    return [*found, *session.warnings]


class _Chosen:
    """The rows of the chosen shapes out of all that come, and which shapes came."""

    def __init__(
        self, rows: pd.DataFrame | Iterable[pd.DataFrame], model_type: str, settings: Settings
    ) -> None:
        self._rows = [rows] if isinstance(rows, pd.DataFrame) else rows
        self._model_type = model_type
        self._settings = settings
        self._shapes = chosen_shapes(model_type, settings)
        self._seen: Counter[str] = Counter()
        self._found = False

    def frames(self) -> Iterator[pd.DataFrame]:
        for frame in self._rows:
            if not self._shapes:
                yield frame
                continue
            self._seen.update(str(shape) for shape in frame["shape"])
            chosen = rows_of_shapes(frame, self._shapes)
            self._found = self._found or len(chosen) > 0
            yield chosen

    def say_what_was_left_out(self) -> None:
        used = (
            *self._shapes,
            *(
                self._settings.embedding.also_train.losses
                if self._model_type == "embedding"
                else ()
            ),
        )
        others = {shape: count for shape, count in self._seen.items() if shape not in used}
        if others:
            listed = ", ".join(f"{count} of {shape}" for shape, count in others.items())
            wanted = ", ".join(self._shapes)
            logger.warning(
                "%s: rows of other shapes than %s are not prepared: %s",
                self._model_type,
                wanted,
                listed,
            )

    def check(self) -> None:
        if not self._shapes or self._found:
            return
        present = ", ".join(sorted(self._seen)) or "none"
        if self._model_type == "llm":
            objective = self._settings.llm.objective
            raise SampleError(
                f"llm.objective must fit the session's samples ({present}), got {objective!r}."
            )
        shape = self._settings.embedding.shape
        raise SampleError(
            f"embedding.shape must be a shape of the session's samples ({present}), got {shape!r}."
        )

"""Preparing: a family's tokenizer and vectors prepare its rows."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import Settings
from tunetrail.data.checks.row_vectors import TextEncoder
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.flow.united_sessions import unite_sessions
from tunetrail.data.rows import rows_of_shapes
from tunetrail.errors import SampleError
from tunetrail.imports import importing
from tunetrail.learning.row_vectors import vectors_identity
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.session_rows import SessionRows
from tunetrail.samples import shape_named

logger = logging.getLogger(__name__)

# Folder below that of a preparation, in which each of several sessions is prepared.
_SESSIONS = "sessions"


def build_preparation(
    family: ModelFamily,
    settings: Settings,
    path: str | None,
    models: ModelLoader,
    reference: pd.DataFrame | None = None,
) -> Preparation:
    """Return the preparation of a family's rows.

    Args:
        family: The family that will learn from the rows.
        settings: All that can be set.
        path: The base model's folder; without it, the checks that need a model are left out.
        models: Loads the base model.
        reference: Rows of the previous session, None if there are none.
    """
    # Lengths in tokens, outliers and mislabelled rows are as the model sees them, so they are only
    # checked if it is there.
    counter = None if path is None else family.token_counter(settings, path)
    steps = ChunkSteps(
        kind=family.kind,
        validation=settings.validation,
        cleaning=settings.cleaning,
        counter=counter,
    )

    encoder = None
    if path is not None and counter is not None:
        encoder = _text_encoder(family, settings, path, models, counter.identity)

    return Preparation(
        steps=steps,
        split=settings.split,
        config=settings.preparation,
        encoder=encoder,
        reference=reference,
        seed=settings.seed,
        objective_setting=family.objective_setting,
    )


def _text_encoder(
    family: ModelFamily, settings: Settings, path: str, models: ModelLoader, reading: str
) -> TextEncoder:
    """Return what makes the vectors by which rows are checked.

    Args:
        family: As for `build_preparation`, and so on.
        settings: All that can be set.
        path: The base model's folder.
        models: Loads the base model.
        reading: Identity of the token counter.
    """
    quick_reader: Any = family.row_reader(settings, path) if family.row_reader else None

    @cache
    def loaded_quickly() -> tuple[Any, Any]:
        return quick_reader, quick_reader.load(path)

    # A model is loaded when the first vectors are needed: with every row cached, that is never.
    def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        # The first call imports what loads the model, and the library of its architecture.
        with importing():
            if quick_reader is not None:
                reader, model = loaded_quickly()
            else:
                reader, model = family.reading(settings), models.load(family, path)
        return family.row_vectors(reader, model, texts)

    # The cache looks vectors up by it: vectors of another model or precision must not be taken.
    identity = vectors_identity(path, reading)
    if quick_reader is not None:
        identity += quick_reader.identity
    return TextEncoder(encode=vectors, identity=identity)


def prepare_rows(
    family: ModelFamily,
    settings: Settings,
    preparation: Preparation,
    rows: pd.DataFrame | Iterable[pd.DataFrame],
    folder: Path,
) -> PreparedSession:
    """Prepare the rows that the settings choose into `folder`.

    Raises:
        SampleError: There are none, or they have several shapes and none is chosen.
    """
    chosen_rows = _ChosenRows(rows, family, settings)
    try:
        session = preparation.run(chosen_rows.frames(), folder)
    except SampleError:
        # "No rows" is true, but if a setting left all of them out, it is the setting that helps.
        chosen_rows.check_any()
        raise

    chosen_rows.warn_of_unused_shapes()
    for warning in warnings_of(session):
        logger.warning("%s: %s", family.name, warning)
    return session


def prepare_sessions(
    family: ModelFamily,
    settings: Settings,
    path: str | None,
    models: ModelLoader,
    sessions: Mapping[str, SessionRows],
    folder: Path,
) -> PreparedSession:
    """Prepare the rows of one session or several into `folder`.

    Several sessions are prepared one by one, so that each row has the side that it has in a
    training of its session alone; then they are united.

    Args:
        family: As for `build_preparation`, and so on.
        settings: All that can be set.
        path: The base model's folder.
        models: Loads the base model.
        sessions: The rows by session.
        folder: Where everything is written.

    Raises:
        SampleError: A session has no rows, or several shapes of which none is chosen.
    """
    prepared = {}
    for session_id, session in sessions.items():
        own_folder = folder / _SESSIONS / session_id if len(sessions) > 1 else folder
        preparation = build_preparation(family, settings, path, models, session.reference)
        prepared[session_id] = prepare_rows(family, settings, preparation, session.rows, own_folder)
    if len(sessions) == 1:
        return next(iter(prepared.values()))

    united = unite_sessions(prepared, folder, settings.split, settings.cleaning)
    # The sessions' own warnings were logged when each of them was prepared.
    own_warnings = {warning for session in prepared.values() for warning in session.warnings}
    for warning in united.warnings:
        if warning not in own_warnings:
            logger.warning("%s: %s", family.name, warning)
    shutil.rmtree(folder / _SESSIONS)
    return united


def warnings_of(session: PreparedSession) -> list[str]:
    """Return what a person should know of a prepared session, a sentence each."""
    warnings = [finding for finding in session.findings if finding.severity == "warning"]
    sentences = [f"{finding.check}: {finding.message}" for finding in warnings]
    return [*sentences, *session.warnings]


class _ChosenRows:
    """The rows of the chosen shapes, and a count of the shapes that came.

    Frames come one at a time, so what the settings left out is known only at the end.
    """

    def __init__(
        self, rows: pd.DataFrame | Iterable[pd.DataFrame], family: ModelFamily, settings: Settings
    ) -> None:
        self._rows = [rows] if isinstance(rows, pd.DataFrame) else rows
        self._family = family
        self._shapes = family.chosen_shapes(settings)
        # Used as well: `AdditionalShapes` prepares the rows of further shapes by themselves.
        self._used_shapes = {*self._shapes, *family.further_shapes(settings)}
        self._seen: Counter[str] = Counter()

    def frames(self) -> Iterator[pd.DataFrame]:
        """Yield every frame, without the rows of shapes that aren't chosen."""
        for frame in self._rows:
            if self._shapes:
                self._seen.update(map(str, frame["shape"]))
                frame = rows_of_shapes(frame, self._shapes)
            yield frame

    def warn_of_unused_shapes(self) -> None:
        """Log a warning if rows of further shapes came that nothing is learnt from."""
        unused = self._seen.keys() - self._used_shapes
        if unused:
            logger.warning(
                "%s: rows whose shape isn't %s are left out: %s",
                self._family.name,
                " or ".join(self._shapes),
                ", ".join(
                    f"{self._seen[shape]} {shape}" for shape in self._seen if shape in unused
                ),
            )

    def check_any(self) -> None:
        """Raise `SampleError` if shapes are chosen and no row has one of them."""
        if not self._shapes or not self._seen.keys().isdisjoint(self._shapes):
            return
        present = ", ".join(sorted(self._seen)) or "none"
        raise SampleError(
            f"{self._family.objective_setting} must fit the session's samples ({present}), "
            f"got {shape_named(self._shapes[0]).objective!r}."
        )

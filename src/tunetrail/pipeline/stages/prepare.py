"""Prepare: from a session's rows to the sides of the split and the rows to learn from."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import pandas as pd

from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.rows import (
    records_of,
    rows_digest,
    rows_of_sessions,
    stacked_rows,
    texts_of_rows,
)
from tunetrail.data.splits import Split
from tunetrail.evaluation.looks import rows_sketch
from tunetrail.paths import private_file
from tunetrail.pipeline.additional_shapes import AdditionalShapes
from tunetrail.pipeline.kept_preparation import keep_preparation
from tunetrail.pipeline.preparing import prepare_sessions
from tunetrail.pipeline.replay import Replay, earlier_sessions
from tunetrail.pipeline.row_digests import ROW_DIGESTS, RowDigester
from tunetrail.pipeline.run_state import ADDITIONAL, AUGMENTED, PREPARED, REPLAYED, TRAIN
from tunetrail.pipeline.session_rows import SessionRows
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.train_rows import TrainRowBuilder
from tunetrail.pipeline.version_to_beat import version_to_beat

logger = logging.getLogger(__name__)

# Folder of the run in which earlier sessions are prepared.
_REPLAYED_SESSIONS = "replayed"


@dataclass(frozen=True, kw_only=True)
class PreparedRows:
    """What a run trains and scores on.

    Attributes:
        split: The sides of the validated and cleaned rows.
        augmented: The train side with the rows that were added.
        train: The same with mined negatives and features: the rows to learn from.
        additional: Rows of additional shapes to learn from as well; None if there are none.
        replayed: Rows of earlier sessions among the rows to learn from; None if there are none.
        left_out: Number of test rows that are left out because root has learnt from their twins.
    """

    split: Split
    augmented: pd.DataFrame
    train: pd.DataFrame
    additional: pd.DataFrame | None
    replayed: pd.DataFrame | None = None
    left_out: int = 0

    @property
    def shape(self) -> str:
        """The shape of the rows that the model is judged by."""
        return str(self.split.train["shape"].iloc[0])

    @property
    def learnt(self) -> Sequence[pd.DataFrame]:
        """The samples that the training learns from, without what was made from them."""
        # A session of a weight below 1 has rows that aren't drawn.
        is_drawn = self.split.train["row_id"].isin(self.train["row_id"])
        frames = (self.split.train[is_drawn], self.additional, self.replayed)
        return [frame for frame in frames if frame is not None]

    @cached_property
    def test_sketch(self) -> Sequence[str]:
        """The sketch of the test side, by which the ledger recognises its rows."""
        return rows_sketch(texts_of_rows(self.split.test))


def prepare(
    context: StageContext,
    builder: TrainRowBuilder,
    sessions: Mapping[str, SessionRows],
) -> PreparedRows:
    """Validate, clean and split the rows; augment the train side, mine negatives, add features.

    Args:
        context: The run.
        builder: Makes the rows to learn from.
        sessions: The samples by session; not read by a resumed run whose rows are split.

    Raises:
        SampleError: The rows can't be trained on.
    """
    state = context.state
    if state.split is None:
        _split_rows(context, builder, sessions)

    split = state.read_split()
    additional = state.rows(ADDITIONAL) if state.additional_rows is not None else None
    replayed = state.rows(REPLAYED) if state.replayed is not None else None
    if "augmentation" not in state.steps:
        # Before models are loaded to write rows; a run that has augmented has passed this.
        _check_rows(context, split, (additional, replayed))
        _augment(context, builder, split.train, replayed)

    augmented = state.rows(AUGMENTED)
    if "feature_engineering" not in state.steps:
        _engineer_features(context, builder, augmented)

    return PreparedRows(
        split=split,
        augmented=augmented,
        train=state.rows(TRAIN),
        additional=additional,
        replayed=replayed,
    )


def _split_rows(
    context: StageContext, builder: TrainRowBuilder, sessions: Mapping[str, SessionRows]
) -> None:
    """Validate, clean and split the rows; write the splits to the run's folder."""
    family, settings, run, state = context.family, context.settings, context.run, context.state
    logger.info("%s: validation, cleaning and split", family.name)
    digester = RowDigester()
    shapes = AdditionalShapes(context=context)
    watched = {}
    for session_id, session_rows in sessions.items():
        # Wraps the streams: their rows are seen while the preparation below reads them.
        stream = digester.passing(session_rows.rows)
        if shapes.losses:
            stream = shapes.collect(session_id, stream)
        watched[session_id] = replace(session_rows, rows=stream)
    session = prepare_sessions(
        family, settings, context.base.path, context.models, watched, state.folder / PREPARED
    )

    _keep_digests(context, digester)
    if settings.replay and session.stopped is None:
        session = _with_replay(context, session)
    steps = keep_preparation(run, session, family.name, context.name, context.config.max_length)
    split = session.split()
    held_out = pd.concat([split.validation, split.test], ignore_index=True)
    for purpose, side in (
        ("training", split.train),
        ("validation", split.validation),
        ("test", split.test),
    ):
        for session_id, rows in rows_of_sessions(side, context.sessions).items():
            run.log_input(session_id, rows_digest(rows), purpose, len(rows))

    if shapes.losses:
        additional, state.additional_rows = shapes.prepare(held_out)
        run.log_dict(state.additional_rows, "steps/further_rows.json")
        for session_id, rows in rows_of_sessions(additional, context.sessions).items():
            if len(rows):
                run.log_input(session_id, rows_digest(rows), "training", len(rows))
        state.write_rows(builder.weigh(additional), ADDITIONAL)

    # One save at the end: a run killed before it prepares its rows again from the start.
    state.steps.update(steps)
    state.split = {"method": split.method, "warnings": list(split.warnings)}
    state.save()


def _keep_digests(context: StageContext, digester: RowDigester) -> None:
    """Write the digests of the rows that were given to the run, so that it can be repeated."""
    folder, name = ROW_DIGESTS.split("/")
    path = context.state.folder / name
    digester.result().write(path)
    context.run.log_artifact(path, folder)
    path.unlink()


def _with_replay(context: StageContext, session: PreparedSession) -> PreparedSession:
    """Draw rows of earlier sessions, and write them to the run's folder."""
    run, state, split = context.run, context.state, session.split()
    root, lineage = version_to_beat(context), context.history.lineage
    version = root.version if root else None
    sessions = earlier_sessions(context.settings, lineage, version, context.sessions)
    assert lineage is not None  # otherwise there are no earlier sessions
    replay = Replay(
        family=context.family,
        settings=context.settings,
        lineage=lineage,
        sessions=sessions,
        models=context.models,
        base=context.base.path,
    )
    held_out = pd.concat([split.validation, split.test], ignore_index=True)
    replayed = replay.draw(split.train, held_out, state.folder / _REPLAYED_SESSIONS)

    logger.info("%s: replay of %s", context.model_type, replayed.in_words)
    state.replayed = replayed.to_dict()
    run.log_dict(state.replayed, "steps/replay.json")
    run.log_metrics({"replay/rows": len(replayed.rows)})
    for session_id, rows in replayed.by_session.items():
        run.log_input(session_id, rows_digest(rows), "replay", len(rows))
    state.write_rows(replayed.rows, REPLAYED)
    return replace(session, replayed=replayed.counts)


def _check_rows(
    context: StageContext, split: Split, further: Iterable[pd.DataFrame | None]
) -> None:
    """Raise `ConfigError` or `SampleError` if model, settings and rows don't fit together."""
    sides = [split.train, *further, split.validation, split.test]
    records = [record for side in sides if side is not None for record in records_of(side)]
    learner = context.learner(str(split.train["shape"].iloc[0]))
    load = partial(context.models.load, context.family)
    learner.check(context.base.path, records, load)
    # Now rather than after the cross-validation.
    context.family.check_metrics(context.settings, split)


def _augment(
    context: StageContext,
    builder: TrainRowBuilder,
    train: pd.DataFrame,
    replayed: pd.DataFrame | None,
) -> None:
    """Augment the train split, and write it with all added rows to the run's folder."""
    result = builder.augment(train)
    if len(result.rejected):
        path = context.state.folder / "augmentation_rejected.parquet"
        result.rejected.to_parquet(private_file(path))
        # Now, as a run that fails later keeps only the files that resuming needs.
        context.run.log_artifact(path, "data")
    _warn(context, result.notes)

    # The rows are written before the step, by which a resumed run knows that they are there.
    rows = builder.weigh(result.rows)
    if replayed is not None:
        no_parents = pd.array([pd.NA] * len(replayed), dtype="Int64")
        rows = stacked_rows([rows, replayed.assign(parent_id=no_parents)])
    context.state.write_rows(rows, AUGMENTED)
    context.finish_step("augmentation", result.to_dict())


def _engineer_features(
    context: StageContext, builder: TrainRowBuilder, augmented: pd.DataFrame
) -> None:
    """Mine hard negatives, add the texts' statistics, and write the resulting train rows."""
    logger.info("%s: feature engineering", context.model_type)
    mined_rows, mined = builder.mine(augmented)
    features = builder.add_features(mined_rows)
    _warn(context, (*features.warnings, *(mined.warnings if mined else ())))

    context.state.write_rows(features.rows, TRAIN)
    step: dict[str, Any] = features.to_dict()
    step["hard_negatives"] = mined.to_dict() if mined else None
    context.finish_step("feature_engineering", step)


def _warn(context: StageContext, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        logger.warning("%s: %s", context.model_type, sentence)

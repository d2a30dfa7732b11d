"""Family planner: prepares a family's rows, times its model, and says what a training will take."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config import AUTO, Settings
from tunetrail.data.flow.preparation import result_cache
from tunetrail.data.rows import records_of, stacked_rows
from tunetrail.data.splits import Split
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.automatic.learning_rate_finder import STEPS as SEARCH_STEPS
from tunetrail.learning.devices import computing_device
from tunetrail.learning.learner import Learner
from tunetrail.learning.memory_meter import free_memory, held_memory
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.pipeline.corpus_file import corpus_documents
from tunetrail.pipeline.fold_costs import SCORING_COST
from tunetrail.pipeline.mining import wants_negatives
from tunetrail.pipeline.model_family import ModelFamily, Vectors
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.planning.assumptions import assumptions, not_included
from tunetrail.pipeline.planning.calibration import NOMINAL_RATE, Calibration, evenly_spaced
from tunetrail.pipeline.planning.division import Division, division_of
from tunetrail.pipeline.planning.estimate import (
    FixedSeconds,
    Speeds,
    cross_validation_note,
    disk_bytes,
    estimate_stages,
)
from tunetrail.pipeline.planning.further_test_rows import count_further_test_rows
from tunetrail.pipeline.planning.head import work_in_words
from tunetrail.pipeline.planning.kept_speeds import speeds_of
from tunetrail.pipeline.planning.places import find_places
from tunetrail.pipeline.planning.run_plan import FamilyPlan, MemoryEstimate
from tunetrail.pipeline.planning.workload import Workload, count_work
from tunetrail.pipeline.preparing import prepare_sessions
from tunetrail.pipeline.ranks import rank_count
from tunetrail.pipeline.session_rows import SessionRows
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.stores.database.manager import DatabaseManager

logger = logging.getLogger(__name__)

_WRITTEN_BY_MODELS = ("generated_query", "paraphrase")


@dataclass(kw_only=True)
class _TimedVectors:
    """A family's vectors of rows, and how long they took."""

    of_texts: Callable[[Any, Any, Sequence[str]], Vectors]
    seconds: float = field(default=0.0, init=False)

    def __call__(self, learner: Any, model: Any, texts: Sequence[str]) -> Vectors:
        began = time.perf_counter()
        vectors = self.of_texts(learner, model, texts)
        self.seconds += time.perf_counter() - began
        return vectors


@dataclass(frozen=True, kw_only=True)
class FamilyPlanner:
    """Plans the training of one family.

    Attributes:
        family: The family.
        settings: All that can be set.
        database: Knows root.
    """

    family: ModelFamily
    settings: Settings
    database: DatabaseManager

    def plan(
        self, sessions: Mapping[str, SessionRows], folder: Path, start_seconds: float
    ) -> FamilyPlan:
        """Return what a training on the sessions will take.

        Args:
            sessions: The samples by session.
            folder: An empty folder for the prepared rows.
            start_seconds: What it takes until a training has imported its libraries.

        Raises:
            UserError: The rows, the settings and the model don't fit together.
        """
        base = self.family.resolve_base(self.settings)
        models = ModelLoader(settings=self.settings)

        logger.info("%s: validation, cleaning and split", self.family.name)
        split, prepare_seconds = self._prepare(base, models, sessions, folder)
        fixed = FixedSeconds(start=start_seconds, prepare=prepare_seconds)
        if not self.settings.gate.fresh_process:
            fixed = replace(fixed, fresh_process=0.0)
        self._check_rows(split, base, models)
        # The timed steps load the model themselves, and their memory is measured.
        models.release()

        prepared = PreparedRows(
            split=split, augmented=split.train, train=self._learnt_rows(split), additional=None
        )
        values = self._auto_values(prepared, base)
        division = division_of(self.settings.trainer)
        work, speeds = self._measure(prepared, base, values, list(sessions), division)

        training = self.family.section(self.settings).training
        searched = SEARCH_STEPS if training.learning_rate == AUTO else 0
        # Each batch of the search goes through the model before all steps, and in its own step.
        search_steps = round(searched * (1.0 + SCORING_COST))
        stages = estimate_stages(work, speeds, fixed, search_steps=search_steps, division=division)
        note = cross_validation_note(stages)
        return FamilyPlan(
            model_type=self.family.name,
            base_model=base.canonical_name,
            batch_size=self._batch_size(values),
            work=work,
            speeds=speeds,
            stages=stages,
            memory=self._memory(speeds),
            disk=disk_bytes(speeds),
            places=find_places(self.settings, self.database, self.family),
            notes=[sentence for sentence in (work.fold_note, note) if sentence is not None],
            assumptions=assumptions(self.settings, self.family, division),
            not_included=not_included(self.settings, self.family, division),
        )

    def _prepare(
        self,
        base: ResolvedModel,
        models: ModelLoader,
        sessions: Mapping[str, SessionRows],
        folder: Path,
    ) -> tuple[Split, float]:
        """Prepare the rows, and return them with the seconds in which a training will do it."""
        row_vectors = _TimedVectors(of_texts=self.family.row_vectors)
        family = replace(self.family, row_vectors=row_vectors)

        began = time.perf_counter()
        session = prepare_sessions(family, self.settings, base.path, models, sessions, folder)
        session.check_usable()
        split = session.split()
        seconds = time.perf_counter() - began

        # The training takes them from the cache.
        if result_cache(self.settings.preparation) is not None:
            seconds -= row_vectors.seconds
        return split, seconds

    def _check_rows(self, split: Split, base: ResolvedModel, models: ModelLoader) -> None:
        """Raise the error that a training would raise before its first step."""
        sides = (split.train, split.validation, split.test)
        records = [record for side in sides for record in records_of(side)]
        learner = self._learner(str(split.train["shape"].iloc[0]))
        learner.check(base.path, records, partial(models.load, self.family))
        self.family.check_metrics(self.settings, split)

    def _learnt_rows(self, split: Split) -> pd.DataFrame:
        """Return as many rows as a training learns from, added ones and negatives included."""
        train, augmentation = split.train, self.settings.augmentation
        added = 0.0
        for method in augmentation.methods:
            texts = augmentation.generations_per_row if method in _WRITTEN_BY_MODELS else 1
            added += augmentation.share * texts
        added += self.settings.replay

        # Rows of the session stand for the rows to be added, which aren't made for a plan.
        rows = [train]
        while added > 0.0:
            rows.append(evenly_spaced(train, round(min(added, 1.0) * len(train))))
            added -= 1.0
        learnt = stacked_rows(rows) if len(rows) > 1 else train
        if self._are_negatives_mined(train):
            # Another row's answer stands for a mined one: about as long, and no model is asked.
            negatives = np.roll(learnt["positive"].to_numpy(), 1)
            learnt = learnt.assign(
                negative=learnt["negative"].where(learnt["negative"].notna(), negatives)
            )
        return learnt

    def _are_negatives_mined(self, train: pd.DataFrame) -> bool:
        config = self.settings.feature_engineering.hard_negatives
        return self.family.encode is not None and wants_negatives(train, config)

    def _auto_values(self, prepared: PreparedRows, base: ResolvedModel) -> AutoValues:
        """Return the batch size if it is `auto`; the training finds the same in the cache."""
        training = self.family.section(self.settings).training
        if training.batch_size != AUTO:
            return AutoValues()
        # The search for a rate takes longer, and nothing here depends on what it finds.
        training = replace(training, learning_rate=NOMINAL_RATE)
        records, ranks = records_of(prepared.train), rank_count(self.settings.trainer)
        return self._learner(prepared.shape).find_auto_values(base.path, records, training, ranks)

    def _measure(
        self,
        prepared: PreparedRows,
        base: ResolvedModel,
        values: AutoValues,
        session_ids: Sequence[str],
        division: Division,
    ) -> tuple[Workload, Speeds]:
        """Count what is computed, and time a little of it."""
        settings, split = self.settings, prepared.split
        training = values.applied_to(self.family.section(settings).training)

        documents = corpus_documents(settings.evaluation, settings.cleaning)
        corpus = self.family.corpus_rows(
            settings, split.train, split.validation, documents=documents
        )
        validation_corpus = self.family.validation_corpus(settings, split.train, split.validation)

        work = count_work(
            settings,
            training,
            prepared,
            corpus,
            validation_corpus,
            base_remembers=self.family.remembering is not None,
            mines=self._are_negatives_mined(split.train),
        )
        further_rows = count_further_test_rows(
            settings, self.database, self.family, session_ids, prepared.shape
        )
        work = work.with_further_test_rows(further_rows)

        # What is counted is known long before what is timed.
        logger.info("%s: %s", self.family.name, work_in_words(work))
        calibration = Calibration(
            family=self.family,
            settings=settings,
            path=base.path,
            prepared=prepared,
            corpus=corpus,
            validation_corpus=validation_corpus,
            auto_values=values,
            division=division,
        )
        return work, speeds_of(calibration)

    def _memory(self, speeds: Speeds) -> MemoryEstimate:
        device = computing_device(self.settings.trainer)
        return MemoryEstimate(
            device=device.type,
            peak_bytes=speeds.memory_bytes,
            available_bytes=free_memory(device) + held_memory(device),
        )

    def _batch_size(self, values: AutoValues) -> int:
        return values.applied_to(self.family.section(self.settings).training).rows_per_batch

    def _learner(self, shape: str) -> Learner:
        return self.family.learner(self.settings, shape, result_cache(self.settings.preparation))

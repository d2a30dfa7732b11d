"""What is made of rows before a model learns from them, the same for the train side and for every fold.

The models that this needs (to write, to translate, to compare) are loaded at first use and at most once.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import Settings
from tunetrail.data.augmentation.augmentation import AugmentationResult, AugmentationTools, augment
from tunetrail.data.feature_engineering.features import FeatureResult, engineer_features
from tunetrail.data.feature_engineering.hard_negatives import MiningResult
from tunetrail.data.rows import records_of
from tunetrail.deployment.registry import Registry
from tunetrail.learning.models.catalog import resolve_model
from tunetrail.learning.models.generation import TextWriter
from tunetrail.learning.models.translation import Translator, load_translation_model
from tunetrail.learning.tokens.prompts import QUERY
from tunetrail.learning.training.records import Refresh
from tunetrail.pipeline.families import EMBEDDING, LLM
from tunetrail.pipeline.further_rows import without_twins
from tunetrail.pipeline.mining import mine_negatives, remining, wants_negatives
from tunetrail.pipeline.resuming import AUGMENTED, TRAIN
from tunetrail.pipeline.work import Work
from tunetrail.stores.tracking import Tracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainRows:
    """Augments rows, mines their hard negatives and computes their features.

    Attributes:
        settings: All that can be set.
        work: The run's model type, learner and base model.
        tracker: Where the root of the language models is registered.
    """

    settings: Settings
    work: Work
    tracker: Tracker

    def engineered(self, train: pd.DataFrame) -> tuple[pd.DataFrame, Refresh | None]:
        """Return the rows of the train side to learn from, and how they follow the model, if they do.

        Both steps are kept with their rows, and not done again in a resumed run.
        """
        work, kept = self.work, self.work.kept
        augmented = (
            kept.rows(AUGMENTED)
            if "augmentation" in work.steps
            else self._augmented_and_kept(train)
        )
        rows = (
            kept.rows(TRAIN)
            if "feature_engineering" in work.steps
            else self._engineered_and_kept(augmented)
        )
        return rows, kept.refresh(self.refresh(augmented))

    def _augmented_and_kept(self, train: pd.DataFrame) -> pd.DataFrame:
        result = self.augmented(train)
        if len(result.rejected):
            path = self.work.folder / "augmentation_rejected.parquet"
            result.rejected.to_parquet(path)
            self.work.run.log_artifact(path, "data")
        self._warn(result.notes)
        self.work.kept.write_rows(result.rows, AUGMENTED)
        self.work.finish_step("augmentation", result.to_dict())
        return result.rows

    def _engineered_and_kept(self, augmented: pd.DataFrame) -> pd.DataFrame:
        logger.info("%s: feature engineering", self.work.model_type)
        rows, mined = self.mined(augmented)
        features = self.features(rows)
        self._warn((*features.warnings, *(mined.warnings if mined else ())))
        self.work.kept.write_rows(features.rows, TRAIN)
        self.work.finish_step(
            "feature_engineering",
            {**features.to_dict(), "hard_negatives": mined.to_dict() if mined else None},
        )
        return features.rows

    def _warn(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            logger.warning("%s: %s", self.work.model_type, sentence)

    def records(
        self, rows: pd.DataFrame, held_out: pd.DataFrame | None = None
    ) -> list[dict[str, Any]]:
        """Return rows, and those of further shapes behind them, as records; none of these is a twin of `held_out`."""
        further = self.work.kept.further()
        if further is None:
            return records_of(rows)
        if held_out is not None:
            further = without_twins(
                further, held_out, self.settings.split.near_duplicate_similarity
            )
        return [*records_of(rows), *records_of(further)]

    def augmented(self, rows: pd.DataFrame) -> AugmentationResult:
        """Add rows, as the settings say."""
        return augment(rows, self.settings.augmentation, self.settings.seed, self._tools)

    def mined(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, MiningResult | None]:
        """Return the rows with hard negatives by the base model, where these are asked for, and what the mining did."""
        config, learner = self.settings.feature_engineering.hard_negatives, self.work.learner
        vectors = self.work.family.encode
        if not wants_negatives(rows, config) or vectors is None:
            if config.enabled:
                logger.warning("%s: hard negatives are mined for pairs only", self.work.model_type)
            return rows, None
        model = learner.load(self.work.base.path)

        def encode(texts: Sequence[str], role: str = QUERY) -> npt.NDArray[np.float32]:
            return vectors(learner, model, texts, role=role)

        result = mine_negatives(rows, encode, config, self.settings.seed)
        return result.rows, result

    def refresh(self, rows: pd.DataFrame) -> Refresh | None:
        """Return how the training mines again between its epochs, from rows as they were before any was mined."""
        return remining(rows, self.settings.feature_engineering.hard_negatives, self.settings.seed)

    def features(self, rows: pd.DataFrame) -> FeatureResult:
        """Add the statistics of the rows; added rows are counted in tokens here, the others were when prepared."""
        counter = self.work.family.token_counter(self.settings, self.work.base.path)
        counts = np.array(rows["token_count"], dtype=np.int64)
        added = rows["parent_id"].notna().to_numpy(bool)
        counts[added] = counter.of_records(records_of(rows[added]))
        return engineer_features(
            rows, counts, counter.max_length, self.settings.feature_engineering
        )

    @cached_property
    def _tools(self) -> AugmentationTools:
        config = self.settings.augmentation
        writes = any(method in config.methods for method in ("generated_query", "paraphrase"))
        translates = "back_translation" in config.methods and bool(config.translation_models)

        def write(instruction: str, texts: Sequence[str], opening: str) -> list[str]:
            return self._writer.write(instruction, texts, opening)

        def translate(texts: Sequence[str]) -> list[str]:
            return self._translator.back_translated(texts)

        return AugmentationTools(
            write=write if writes else None,
            translate=translate if translates else None,
            vectors=self._vectors if writes else None,
        )

    @cached_property
    def _writer(self) -> TextWriter:
        config = self.settings.augmentation
        registry = Registry(self.tracker, LLM.name, LLM.flavor)
        root = registry.root() if config.generator == "root" else None
        if root is not None:
            logger.info("%s: %s writes rows", self.work.model_type, root.uri)
            model = registry.load(root)
        else:
            name = (
                self.settings.llm.model
                if config.generator in ("root", "base")
                else config.generator
            )
            logger.info("%s: %s writes rows", self.work.model_type, name)
            learner = LLM.learner(self.settings, "", None)
            model = learner.load(resolve_model(name, LLM.catalog).path)
        return TextWriter(
            model=model,
            seed=self.settings.seed,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
        )

    @cached_property
    def _translator(self) -> Translator:
        there, back = (
            load_translation_model(name) for name in self.settings.augmentation.translation_models
        )
        return Translator(there=there, back=back)

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        learner = EMBEDDING.learner(self.settings, "", None)
        model = learner.load(EMBEDDING.resolve_base(self.settings).path)
        return EMBEDDING.row_vectors(learner, model, texts)

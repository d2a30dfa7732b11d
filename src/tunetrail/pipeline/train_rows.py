"""The rows that a model learns from: a train side with augmented rows and mined negatives."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import HardNegativesConfig
from tunetrail.data.augmentation.augmentation import AugmentationResult, augment
from tunetrail.data.feature_engineering.features import FeatureResult, engineer_features
from tunetrail.data.feature_engineering.hard_negatives import MiningResult
from tunetrail.data.flow.preparation import result_cache
from tunetrail.data.rows import records_of, weighted_rows
from tunetrail.learning.row_vectors import vectors_identity
from tunetrail.learning.tokens.prompts import QUERY
from tunetrail.pipeline.augmentation_models import AugmentationModels
from tunetrail.pipeline.mining import mine_once, remining, wants_negatives
from tunetrail.pipeline.stage_context import StageContext

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainRowBuilder:
    """Augments and weighs rows, mines their hard negatives and computes their features.

    The models that this needs are loaded at first use and shared by the train side and all folds.

    Attributes:
        context: The run.
    """

    context: StageContext
    _models: AugmentationModels | None = field(default=None, init=False, repr=False)

    def augment(self, rows: pd.DataFrame) -> AugmentationResult:
        """Add rows, as the settings say."""
        settings = self.context.settings
        if self._models is None:
            self._models = AugmentationModels(
                settings=settings,
                tracker=self.context.registry.tracker,
                models=self.context.models,
            )
        return augment(rows, settings.augmentation, settings.seed, self._models.tools())

    def weigh(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return each row as often as `session_weights` says."""
        context, weights = self.context, self.context.settings.session_weights
        if not weights:
            return rows
        weight_of_session = dict(zip(context.sessions, weights, strict=True))
        return weighted_rows(rows, weight_of_session, context.settings.seed)

    def mine(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, MiningResult | None]:
        """Return the rows with hard negatives, if enabled, and the result of the mining."""
        vectors_of = self.context.family.encode
        if not wants_negatives(rows, self._config) or vectors_of is None:
            if self._config.enabled:
                # A setting without an effect would otherwise go unnoticed.
                logger.warning(
                    "%s: no hard negatives are mined, as the rows aren't pairs", self._model_type
                )
            return rows, None

        learner = self.context.learner("pair")

        # The model is loaded when it is called: with its negatives in the cache, that is never.
        def encode(texts: Sequence[str], role: str = QUERY) -> npt.NDArray[np.float32]:
            return vectors_of(learner, self.context.base_model(), texts, role=role)

        settings, path = self.context.settings, self.context.base.path
        counter = self.context.family.token_counter(settings, path)
        result = mine_once(
            rows,
            encode,
            self._config,
            settings.seed,
            cache=result_cache(settings.preparation),
            encoder_identity=vectors_identity(path, counter.identity),
        )
        return result.rows, result

    def are_mined_again(self, rows: pd.DataFrame) -> bool:
        """Tell whether a training on these rows mines its negatives again between its epochs."""
        return remining(rows, self._config, self.context.settings.seed) is not None

    def add_features(self, rows: pd.DataFrame) -> FeatureResult:
        """Add the statistics of the rows.

        Augmented rows are counted in tokens here; the others were when they were prepared.
        """
        settings = self.context.settings
        counter = self.context.family.token_counter(settings, self.context.base.path)
        token_counts = np.array(rows["token_count"], dtype=np.int64)
        is_added = rows["parent_id"].notna().to_numpy(bool)
        token_counts[is_added] = counter.of_records(records_of(rows[is_added]))
        return engineer_features(
            rows, token_counts, counter.max_length, settings.feature_engineering
        )

    def release_models(self) -> None:
        """Let go of all models: the training needs the memory."""
        self._models = None
        self.context.models.release()

    @property
    def _config(self) -> HardNegativesConfig:
        return self.context.settings.feature_engineering.hard_negatives

    @property
    def _model_type(self) -> str:
        return self.context.model_type

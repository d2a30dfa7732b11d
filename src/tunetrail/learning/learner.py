"""Learner: what the pipeline asks of a model type, and which class answers. Knows no metric, session or MLflow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tunetrail.cache import ResultCache
from tunetrail.config import Settings, TrainingConfig
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.fitting import FitResult
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.training.records import Record
from tunetrail.learning.training_plan import TrainingPlan


class Learner(Protocol):
    """What the pipeline asks of a model type."""

    def check(self, path: str, records: Sequence[Record]) -> None:
        """Raise where model, config and records don't fit together."""

    def load(self, path: str) -> Any:
        """Load a model folder."""

    def save(self, model: Any, folder: Path) -> None:
        """Write a model folder."""

    def train(
        self,
        path: str,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
        plan: TrainingPlan,
    ) -> tuple[Any, FitResult]:
        """Fine-tune the model of the folder `path`; return it with what the training did."""

    def find_auto_values(
        self, path: str, train: Sequence[Record], training: TrainingConfig
    ) -> AutoValues:
        """Find what is `auto` in a training of the model of the folder `path` on these records."""


def build_learner(
    model_type: str, settings: Settings, shape: str, cache: ResultCache | None = None
) -> EmbeddingLearner | LanguageModelLearner:
    """Return the learner of a model type for samples of that shape; tokens are kept in the cache, if any."""
    if model_type == "llm":
        return LanguageModelLearner(config=settings.llm, seed=settings.seed, cache=cache)
    return EmbeddingLearner(config=settings.embedding, shape=shape, seed=settings.seed, cache=cache)

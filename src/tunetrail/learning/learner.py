"""Learner: what the pipeline asks of the class that loads, trains and saves a family's models."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunetrail.config import TrainingConfig
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.training.records import Record
from tunetrail.learning.training_plan import TrainingPlan


class Learner(Protocol):
    """Loads, trains and saves the models of one family."""

    def check(self, path: str, records: Sequence[Record], load: Callable[[str], Any]) -> None:
        """Raise an error if the model, the settings and the records don't fit together.

        Args:
            path: The model's folder.
            records: What is to be learnt from and scored on.
            load: As the method `load`; the model that it returns is shared and must stay as it is.
        """

    def load(self, path: str) -> Any:
        """Load the model of a folder."""

    def save(self, model: Any, folder: Path) -> None:
        """Write a model to a folder."""

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
        self, path: str, train: Sequence[Record], training: TrainingConfig, ranks: int
    ) -> AutoValues:
        """Find what stands for `auto` in a training of the model of the folder on these records.

        The values are found on one device; all ranks of the training take them.
        """

"""The training of one run: what it begins with, what is found for it, and where it goes on after an interruption."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tunetrail.config import ModelSection
from tunetrail.data.rows import records_of
from tunetrail.deployment.registry import Registry
from tunetrail.evaluation.plots import learning_curve_figure, rate_figure
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.training.records import Record, Refresh
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline.resuming import START
from tunetrail.pipeline.work import Work

logger = logging.getLogger(__name__)

_BASE = "base"
_STARTED_FROM, _FOUND = "started_from", "found"
"""Facts that a resumed training follows from."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Trains the model of a run.

    Attributes:
        config: The section of the model type.
        work: The run.
        registry: Where the root that it may begin with is.
    """

    config: ModelSection
    work: Work
    registry: Registry

    def found(self, records: Sequence[Record]) -> AutoValues:
        """Return what stands for `auto` in the training's settings: found once for a run, however often resumed."""
        work = self.work
        kept = work.kept.facts.get(_FOUND)
        if kept is not None:
            return AutoValues.from_dict(kept)
        found = work.learner.find_auto_values(self._start()[1], records, self.config.training)
        found.report(work.run.log_metrics)
        if found.rate is not None:
            figure = rate_figure(found.rate.curve, found.rate.rate)
            work.run.log_figure(figure, "learning_rate_finder.png")
        work.kept.keep(facts={_FOUND: found.to_dict()})
        return found

    def run(
        self,
        records: Sequence[Record],
        validation: pd.DataFrame,
        refresh: Refresh | None,
        found: AutoValues,
    ) -> Any:
        """Return the trained model; a training that was interrupted goes on from its last checkpoint."""
        work, checkpoint = self.work, self.work.kept.checkpoint()
        start, path = self._start()
        logger.info("%s: training from %s on %d rows", work.model_type, start, len(records))
        if checkpoint is not None:
            logger.info("%s: the training goes on from %s", work.model_type, checkpoint)
        model, result = work.learner.train(
            path,
            records,
            records_of(validation),
            self.config.training,
            TrainingPlan(
                folder=work.folder,
                on_metrics=work.run.log_metrics,
                refresh=refresh,
                resume=checkpoint,
                auto_values=found,
            ),
        )
        if "training" in work.steps:  # it was at its end, and only the model wasn't kept
            return model
        if result.preflight is not None:
            work.run.log_text(str(result.preflight), "preflight.txt")
        work.run.log_figure(
            learning_curve_figure(result.history, f"{work.model_type}: learning curves"),
            "learning_curves.png",
        )
        work.finish_step(
            "training",
            {
                **result.to_dict(),
                "started_from": start,
                "base_model": work.base.canonical_name,
                "rows": len(records),
            },
            {"seconds": result.seconds, "steps": result.steps},
        )
        return model

    def _start(self) -> tuple[str, str]:
        """Return the name and the folder of the model that the training begins with; root's may move meanwhile."""
        work, folder = self.work, self.work.folder / START
        kept = work.kept.facts.get(_STARTED_FROM)
        if kept is not None:
            return kept, work.base.path if kept == _BASE else str(folder)
        root = self.registry.root()
        start = _BASE
        if (
            root is not None
            and self.config.start_from == "root"
            and root.base_model == work.base.canonical_name
        ):
            start = root.uri
            shutil.rmtree(folder, ignore_errors=True)  # cut off, if it is there
            work.learner.save(self.registry.load(root), folder)
        work.kept.keep(facts={_STARTED_FROM: start})
        return start, work.base.path if start == _BASE else str(folder)

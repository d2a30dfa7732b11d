"""DataSciencePipeline: the steps of one model type, from rows to a registered version. Knows nothing of sessions."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.config import Settings, check_identifier
from tunetrail.data.feature_engineering.features import FeatureResult
from tunetrail.data.flow.preparation import result_cache
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.rows import records_of, rows_digest, texts_of_rows
from tunetrail.data.splits import Split
from tunetrail.deployment.gate import decide
from tunetrail.deployment.promotion import Candidate, deploy
from tunetrail.deployment.registry import ModelVersion, Registry
from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.plots import comparison_figure, learning_curve_figure
from tunetrail.learning.embedding.refreshing import Refresh
from tunetrail.learning.learner import build_learner
from tunetrail.learning.models.catalog import ResolvedModel, resolve_model
from tunetrail.pipeline.folds import cross_validate_split
from tunetrail.pipeline.preparing import build_preparation, keep_preparation, prepare_rows
from tunetrail.pipeline.scoring import scorable_by_all, score
from tunetrail.pipeline.train_rows import TrainRows
from tunetrail.pipeline.work import Outcome, Work, working_folder
from tunetrail.stores.tracking import TrackedRun, Tracker

logger = logging.getLogger(__name__)

PROBES = 8
"""Test rows on which a registered version must give the trained model's outputs."""


class DataSciencePipeline:
    """Runs the steps for one model type, validation first and deployment last.

    Args:
        settings: All that can be set; defaults where None.
        pipeline_config: The specification's dict: `output_dir`, `n_splits`, `random_state`, `models_root_dir`.
        training_config: The specification's dict of hyper-parameters per model type.
        tracker: The MLflow store; opened from the settings where None.

    Raises:
        ConfigError: An unknown key or a value out of range.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        pipeline_config: Mapping[str, Any] | None = None,
        training_config: Mapping[str, Mapping[str, Any]] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.settings = (settings or Settings()).with_specification(pipeline_config, training_config)
        self._tracker = tracker

    @property
    def tracker(self) -> Tracker:
        """The MLflow store, opened at first use."""
        if self._tracker is None:
            self._tracker = Tracker(self.settings.tracking)
        return self._tracker

    def resolve(self, model_type: str) -> ResolvedModel:
        """Find the configured base model, so that a wrong name fails before any work is done."""
        return resolve_model(self.settings.of(model_type).model, model_type)

    def prepare(
        self,
        model_type: str,
        rows: pd.DataFrame | Iterable[pd.DataFrame],
        folder: Path,
        *,
        reference: pd.DataFrame | None = None,
        base: ResolvedModel | None = None,
    ) -> PreparedSession:
        """Validate, clean and split rows into files, and train nothing.

        Args:
            model_type: `embedding` or `llm`.
            rows: The samples, as `tunetrail.data.rows.rows_frame` makes them: one frame, or any number of them with
                ascending row ids, of which few are in memory at a time.
            folder: Where everything is written.
            reference: Rows of the previous session, to measure drift against.
            base: The model whose tokenizer and vectors are used; without it, the checks that need one are left out.

        Raises:
            SampleError: There are no rows, or they have several shapes and none is chosen.
        """
        preparation = build_preparation(model_type, self.settings, base.path if base else None, reference)
        return prepare_rows(model_type, self.settings, preparation, rows, folder)

    def run(
        self,
        model_type: str,
        rows: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        name: str = "rows",
        parent: TrackedRun | None = None,
        tags: Mapping[str, str] | None = None,
        reference: pd.DataFrame | None = None,
        on_decision: Callable[[Outcome], None] = lambda outcome: None,
    ) -> Outcome:
        """Run all steps for one model type.

        Args:
            model_type: `embedding` or `llm`.
            rows: The samples, as for `prepare`.
            name: What the rows are called in MLflow, for example the session's id.
            parent: The pipeline's run, above the run of this model type.
            tags: Further tags of the run and the registered version.
            reference: Rows of the previous session, to measure drift against.
            on_decision: Called once root has moved or has been refused, before the model directory follows.

        Returns:
            The outcome; its `to_dict()` has one entry per step.
        """
        check_identifier("name", name)
        base = self.resolve(model_type)
        run = self.tracker.start_run(
            model_type,
            parent_run_id=parent.run_id if parent else None,
            tags={"tunetrail.model_type": model_type, **(tags or {})},
        )
        folder = Path(self.settings.output_dir) / run.run_id
        with run.ending(), working_folder(folder):
            run.log_params({"base_model": base.canonical_name, "base_model_source": base.source})
            logger.info("%s: validation, cleaning and split", model_type)
            session = self.prepare(model_type, rows, folder / "prepared", reference=reference, base=base)
            steps = keep_preparation(run, session, model_type, name, self.settings.of(model_type).max_length)
            split = session.split()
            shape, cache = str(split.train["shape"].iloc[0]), result_cache(self.settings.preparation)
            learner = build_learner(model_type, self.settings, shape, cache)
            work = Work(model_type=model_type, run=run, folder=folder, learner=learner, base=base, steps=steps)
            outcome = self._run_steps(work, split, name, tags or {}, on_decision)
        return outcome

    def _run_steps(
        self,
        work: Work,
        split: Split,
        name: str,
        tags: Mapping[str, str],
        on_decision: Callable[[Outcome], None],
    ) -> Outcome:
        for context, side in (("training", split.train), ("validation", split.validation), ("test", split.test)):
            work.run.log_input(name, rows_digest(side), context, len(side))
        work.learner.check(
            work.base.path, [*records_of(split.train), *records_of(split.validation), *records_of(split.test)]
        )
        train_rows = TrainRows(settings=self.settings, work=work, tracker=self.tracker)
        features, refresh = self._engineer(work, train_rows, split)
        registry = Registry(self.tracker, work.model_type)
        root = registry.root()
        cross_validate_split(work, split, train_rows, self.settings)
        model = self._train(work, features, refresh, split, registry, root)
        comparison = self._evaluate(work, model, split, registry, root)
        return self._deploy(work, model, split, registry, root, comparison, tags, on_decision)

    def _engineer(self, work: Work, train_rows: TrainRows, split: Split) -> tuple[FeatureResult, Refresh | None]:
        """Return the rows to train on, augmented and with their features, and how they follow the model if they do."""
        augmented = train_rows.augmented(split.train)
        work.finish_step("augmentation", augmented.to_dict())
        if len(augmented.rejected):
            path = work.folder / "augmentation_rejected.parquet"
            augmented.rejected.to_parquet(path)
            work.run.log_artifact(path, "data")
        logger.info("%s: feature engineering", work.model_type)
        rows, mined = train_rows.mined(augmented.rows)
        features = train_rows.features(rows)
        work.finish_step(
            "feature_engineering", {**features.to_dict(), "hard_negatives": mined.to_dict() if mined else None}
        )
        for warning in (*augmented.notes, *features.warnings, *(mined.warnings if mined else ())):
            logger.warning("%s: %s", work.model_type, warning)
        return features, train_rows.refresh(augmented.rows)

    def _train(
        self,
        work: Work,
        features: FeatureResult,
        refresh: Refresh | None,
        split: Split,
        registry: Registry,
        root: ModelVersion | None,
    ) -> Any:
        start, path = "base", work.base.path
        if (
            root is not None
            and self.settings.of(work.model_type).start_from == "root"
            and root.base_model == work.base.canonical_name
        ):
            start, path = root.uri, str(work.folder / "start")
            work.learner.save(registry.load(root), Path(path))
        training = self.settings.of(work.model_type).training
        logger.info("%s: training from %s on %d rows", work.model_type, start, len(features.rows))
        model, result = work.learner.train(
            path,
            records_of(features.rows),
            records_of(split.validation),
            training,
            folder=work.folder,
            on_metrics=work.run.log_metrics,
            refresh=refresh,
        )
        work.run.log_figure(
            learning_curve_figure(result.history, f"{work.model_type}: learning curves"), "learning_curves.png"
        )
        work.finish_step(
            "training",
            {
                **result.to_dict(),
                "started_from": start,
                "base_model": work.base.canonical_name,
                "rows": len(features.rows),
            },
            {"seconds": result.seconds, "steps": result.steps},
        )
        return model

    def _evaluate(
        self, work: Work, model: Any, split: Split, registry: Registry, root: ModelVersion | None
    ) -> Comparison:
        """Score the candidate and root (the base model before there is a root) on the test rows, and compare them."""
        logger.info("%s: evaluation on %d test rows", work.model_type, len(split.test))
        reference = work.learner.load(work.base.path) if root is None else registry.load(root)
        test = scorable_by_all(work.learner, [model, reference], split.test)
        config = self.settings.evaluation
        after, before = (score(work.learner, each, test, config) for each in (model, reference))
        against = "base" if root is None else root.uri
        work.finish_step(
            "evaluation",
            {
                "split": split.to_dict(),
                "metric": after.metric,
                "candidate": after.to_dict(),
                "reference": before.to_dict(),
                "against": against,
            },
            after.metrics,
        )
        work.run.log_metrics({f"reference/{name}": value for name, value in before.metrics.items()})
        comparison = compare(
            before,
            after,
            bootstrap_samples=config.bootstrap_samples,
            confidence=config.confidence,
            seed=self.settings.seed,
        )
        bounds = {name: getattr(comparison, name) for name in ("after", "before", "improvement", "lower", "upper")}
        work.finish_step("comparison", {**comparison.to_dict(), "against": against}, bounds)
        work.run.log_figure(comparison_figure(comparison), "comparison.png")
        return comparison

    def _deploy(
        self,
        work: Work,
        model: Any,
        split: Split,
        registry: Registry,
        root: ModelVersion | None,
        comparison: Comparison,
        tags: Mapping[str, str],
        on_decision: Callable[[Outcome], None],
    ) -> Outcome:
        decision = decide(comparison, self.settings.gate)
        logger.info("%s: deployment, candidate %s (%s)", work.model_type, decision.word, decision.reason)
        candidate = Candidate(
            model=model,
            save=partial(work.learner.save, model),
            run=work.run,
            base_model=work.base.canonical_name,
            probes=[texts[0] for texts in texts_of_rows(split.test.head(PROBES))],
            tags={
                **tags,
                "tunetrail.started_from": str(work.steps["training"]["started_from"]),
                f"tunetrail.{comparison.metric}": f"{comparison.after:.6f}",
            },
        )

        def outcome(version: ModelVersion) -> Outcome:
            return Outcome(
                model_type=work.model_type,
                mlflow_run_id=work.run.run_id,
                steps=work.steps,
                comparison=comparison,
                decision=decision,
                version=version,
                previous=root,
            )

        model_dir = Path(self.settings.model_dir)
        version, exported = deploy(
            candidate, decision, registry, root, model_dir, lambda version: on_decision(outcome(version))
        )
        work.run.set_tags({"tunetrail.decision": decision.word, "tunetrail.version": version.version})
        work.finish_step(
            "deployment",
            {
                **decision.to_dict(),
                "name": version.name,
                "version": version.version,
                "uri": version.uri,
                "previous_root": root.version if root else None,
                "mlflow_run_id": work.run.run_id,
                "exported_to": str(exported) if exported else None,
            },
        )
        return outcome(version)

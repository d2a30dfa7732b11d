"""DataSciencePipeline: the steps of one model type, from rows to a registered version. Knows nothing of sessions."""

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.config import Settings, check_identifier
from tunetrail.data.flow.preparation import result_cache
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.rows import records_of, rows_digest, texts_of_rows
from tunetrail.data.splits import Split
from tunetrail.deployment.registry import ModelVersion, Registry
from tunetrail.errors import naming_section
from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.plots import comparison_figure
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.learning.training.out_of_memory import explaining_full_memory
from tunetrail.pipeline.deploying import Deployment, keep_reference, kept_comparison
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.folds import cross_validate_split
from tunetrail.pipeline.further_rows import FurtherRows
from tunetrail.pipeline.preparing import build_preparation, keep_preparation, prepare_rows
from tunetrail.pipeline.resuming import PREPARED, KeptRun
from tunetrail.pipeline.train_rows import TrainRows
from tunetrail.pipeline.training import Training
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
        self.settings = (settings or Settings()).with_specification(
            pipeline_config, training_config
        )
        self._tracker = tracker

    @property
    def tracker(self) -> Tracker:
        """The MLflow store, opened at first use."""
        if self._tracker is None:
            self._tracker = Tracker(self.settings.tracking)
        return self._tracker

    def resolve(self, model_type: str) -> ResolvedModel:
        """Find the configured base model, so that a wrong name fails before any work is done."""
        return family_named(model_type).resolve_base(self.settings)

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
        preparation = build_preparation(
            family_named(model_type), self.settings, base.path if base else None, reference
        )
        return prepare_rows(family_named(model_type), self.settings, preparation, rows, folder)

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
        resumed: TrackedRun | None = None,
    ) -> Outcome:
        """Run all steps for one model type.

        Args:
            model_type: `embedding` or `llm`.
            rows: The samples, as for `prepare`.
            name: What the rows are called in MLflow, for example the session's id.
            parent: The pipeline's run, above the run of this model type.
            tags: Further tags of the run and the registered version.
            reference: Rows of the previous session, to measure drift against.
            on_decision: Called once root has moved or has been refused, before the model directory follows; again where
                the run was interrupted right after that.
            resumed: A run of these settings that was interrupted or failed, to go on with: steps that it had finished
                are not done again, and the rows are those that it had prepared.

        Returns:
            The outcome; its `to_dict()` has one entry per step.

        Raises:
            UserError: What is kept of the resumed run is gone or broken.
        """
        check_identifier("name", name)
        family = family_named(model_type)
        base = self.resolve(model_type)
        if resumed is not None:
            kept = self.kept(resumed.run_id)
            resumed.reopen()
        run = resumed or self.tracker.start_run(
            model_type,
            parent_run_id=parent.run_id if parent else None,
            tags={"tunetrail.model_type": model_type, **(tags or {})},
        )
        folder = self._folder(run.run_id)
        full = explaining_full_memory("Take a smaller model, or make room.")
        with run.ending(), naming_section(model_type), full, working_folder(folder):
            if resumed is None:
                kept = KeptRun(folder=folder)
                kept.keep()
            if "base_model" not in kept.facts:
                run.log_params(
                    {"base_model": base.canonical_name, "base_model_source": base.source}
                )
                kept.keep(facts={"base_model": base.canonical_name})
            split = self._split(run, kept, model_type, rows, name, reference, base)
            shape, cache = (
                str(split.train["shape"].iloc[0]),
                result_cache(self.settings.preparation),
            )
            learner = family.learner(self.settings, shape, cache)
            work = Work(model_type=model_type, run=run, kept=kept, learner=learner, base=base)
            deployment = Deployment(
                registry=Registry(self.tracker, family.name, family.flavor),
                gate=self.settings.gate,
                model_dir=Path(self.settings.model_dir),
                tags=tags or {},
                on_decision=on_decision,
            )
            outcome = deployment.finished(work) or self._run_steps(work, split, deployment)
        shutil.rmtree(
            folder, ignore_errors=True
        )  # not before the run has ended: until then it may have to be resumed
        return outcome

    def kept(self, run_id: str) -> KeptRun:
        """Return what is kept of a run of a model type; raises `UserError` where it is gone or broken."""
        return KeptRun.open(self._folder(run_id))

    def _folder(self, run_id: str) -> Path:
        return Path(self.settings.output_dir) / check_identifier("run_id", run_id)

    def _split(
        self,
        run: TrackedRun,
        kept: KeptRun,
        model_type: str,
        rows: pd.DataFrame | Iterable[pd.DataFrame],
        name: str,
        reference: pd.DataFrame | None,
        base: ResolvedModel,
    ) -> Split:
        """Return the sides of the prepared rows."""
        if "cleaning" in kept.steps:
            return kept.split()
        logger.info("%s: validation, cleaning and split", model_type)
        further = FurtherRows(settings=self.settings, name=name)
        family = family_named(model_type)
        wants_further = bool(family.further_shapes(self.settings))
        rows = further.noting(rows) if wants_further else rows
        session = self.prepare(
            model_type, rows, kept.folder / PREPARED, reference=reference, base=base
        )
        steps = keep_preparation(
            run, session, model_type, name, family.section(self.settings).max_length
        )
        split = session.split()
        for context, side in (
            ("training", split.train),
            ("validation", split.validation),
            ("test", split.test),
        ):
            run.log_input(name, rows_digest(side), context, len(side))
        if wants_further:
            held_out = pd.concat([split.validation, split.test], ignore_index=True)
            learnt, account = further.prepared(run, kept.folder, base, held_out)
            run.log_dict(account, "steps/further_rows.json")
            run.log_input(name, rows_digest(learnt), "training", len(learnt))
            kept.keep_further(learnt, account)
        kept.keep(
            steps=steps, facts={"split": {"method": split.method, "warnings": list(split.warnings)}}
        )
        return split

    def _run_steps(self, work: Work, split: Split, deployment: Deployment) -> Outcome:
        train_rows = TrainRows(settings=self.settings, work=work, tracker=self.tracker)
        work.learner.check(
            work.base.path,
            [
                *train_rows.records(split.train),
                *records_of(split.validation),
                *records_of(split.test),
            ],
        )
        rows, refresh = train_rows.engineered(split.train)
        records = train_rows.records(rows)
        training = Training(
            config=work.family.section(self.settings), work=work, registry=deployment.registry
        )
        found = training.found(records)
        if "cross_validation" not in work.steps:
            for fold in self.tracker.children(work.run.run_id) if work.run.resumed else ():
                self.tracker.delete_run(
                    fold.info.run_id
                )  # of a cross-validation that was interrupted
            cross_validate_split(work, split, train_rows, self.settings, found)
        model = training.run(records, split.validation, refresh, found)
        reference = deployment.version_to_beat(work)
        comparison = kept_comparison(work, reference)
        if comparison is None:
            comparison = self._evaluate(work, model, split, deployment.registry, reference)
            keep_reference(work, reference)
        probes = [texts[0] for texts in texts_of_rows(split.test.head(PROBES))]
        return deployment.run(work, model, probes, reference, comparison)

    def _evaluate(
        self, work: Work, model: Any, split: Split, registry: Registry, root: ModelVersion | None
    ) -> Comparison:
        """Score the candidate and root (the base model before there is a root) on the test rows, and compare them."""
        logger.info("%s: evaluation on %d test rows", work.model_type, len(split.test))
        reference = work.learner.load(work.base.path) if root is None else registry.load(root)
        models = (model, reference)
        test = work.family.scorable_rows(self.settings, work.learner, models, split.test)
        records = records_of(test)
        config = self.settings.evaluation
        after, before = (work.family.score(work.learner, each, records, config) for each in models)
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
        bounds = {
            name: getattr(comparison, name)
            for name in ("after", "before", "improvement", "lower", "upper")
        }
        work.run.log_figure(comparison_figure(comparison), "comparison.png")
        work.finish_step("comparison", {**comparison.to_dict(), "against": against}, bounds)
        return comparison

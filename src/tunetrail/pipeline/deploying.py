"""From a comparison to a registered version, and the outcome; ends a deployment that was interrupted, too."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunetrail.config import GateConfig
from tunetrail.deployment.gate import Decision, decide
from tunetrail.deployment.promotion import Candidate, deploy
from tunetrail.deployment.registry import ModelVersion, Registry
from tunetrail.evaluation.comparison import Comparison
from tunetrail.pipeline.work import Outcome, Work

logger = logging.getLogger(__name__)

_ROOT = "root"
"""The fact that names the version that a candidate was compared with."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where a candidate goes.

    Attributes:
        registry: The versions of its model type.
        gate: Decides whether it becomes root.
        model_dir: Folder of the exported root models.
        tags: Further tags of its version.
        on_decision: Called once root has moved or has been refused, before the model directory follows; a second time
            where the run was interrupted right after that.
    """

    registry: Registry
    gate: GateConfig
    model_dir: Path
    tags: Mapping[str, str]
    on_decision: Callable[[Outcome], None]

    def version_to_beat(self, work: Work) -> ModelVersion | None:
        """Return the version that the candidate is compared with: root, or None before the first promotion.

        If an earlier attempt of this run had already moved root to its candidate, return the root before that.
        """
        root = self.registry.root()
        candidate = self.registry.version_of_run(work.run, work.base.canonical_name)

        root_is_our_candidate = (
            root is not None and candidate is not None and root.version == candidate.version
        )
        return _version_of(work.kept.facts.get(_ROOT)) if root_is_our_candidate else root

    def finished(self, work: Work) -> Outcome | None:
        """Return the outcome of a run whose deployment was finished before it was interrupted, else None."""
        step = work.steps.get("deployment")
        if step is None:
            return None
        version = ModelVersion(
            name=step["name"], version=step["version"], base_model=work.base.canonical_name
        )
        return _outcome(
            work,
            Comparison.from_dict(work.steps["comparison"]),
            Decision(promote=step["promote"], reason=step["reason"]),
            version,
            _version_of(work.kept.facts.get(_ROOT)),
        )

    def run(
        self,
        work: Work,
        model: Any,
        probes: list[str],
        reference: ModelVersion | None,
        comparison: Comparison,
    ) -> Outcome:
        """Register the trained model and, where the gate lets it, make it root."""
        decision = decide(comparison, self.gate)
        logger.info(
            "%s: deployment, candidate %s (%s)", work.model_type, decision.word, decision.reason
        )
        candidate = Candidate(
            model=model,
            save=partial(work.learner.save, model),
            run=work.run,
            base_model=work.base.canonical_name,
            probes=probes,
            tags={
                **self.tags,
                "tunetrail.started_from": str(work.steps["training"]["started_from"]),
                f"tunetrail.{comparison.metric}": f"{comparison.after:.6f}",
            },
        )

        def decided(version: ModelVersion) -> None:
            self.on_decision(_outcome(work, comparison, decision, version, reference))

        version, exported = deploy(
            candidate, decision, self.registry, reference, self.model_dir, decided
        )
        work.run.set_tags(
            {"tunetrail.decision": decision.word, "tunetrail.version": version.version}
        )
        work.finish_step(
            "deployment",
            {
                **decision.to_dict(),
                "name": version.name,
                "version": version.version,
                "uri": version.uri,
                "previous_root": reference.version if reference else None,
                "mlflow_run_id": work.run.run_id,
                "exported_to": str(exported) if exported else None,
            },
        )
        return _outcome(work, comparison, decision, version, reference)


def kept_comparison(work: Work, reference: ModelVersion | None) -> Comparison | None:
    """Return the comparison that was made before the run was interrupted, if it was made with the same reference."""
    if "comparison" not in work.steps or _version_of(work.kept.facts.get(_ROOT)) != reference:
        return None
    return Comparison.from_dict(work.steps["comparison"])


def keep_reference(work: Work, reference: ModelVersion | None) -> None:
    """Keep what the candidate was compared with, once it was: see `kept_comparison`."""
    work.kept.keep(facts={_ROOT: dataclasses.asdict(reference) if reference else None})


def _version_of(fact: Mapping[str, Any] | None) -> ModelVersion | None:
    return ModelVersion(**fact) if fact else None


def _outcome(
    work: Work,
    comparison: Comparison,
    decision: Decision,
    version: ModelVersion,
    reference: ModelVersion | None,
) -> Outcome:
    return Outcome(
        model_type=work.model_type,
        mlflow_run_id=work.run.run_id,
        steps=work.steps,
        comparison=comparison,
        decision=decision,
        version=version,
        previous=reference,
    )

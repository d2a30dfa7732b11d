"""From a comparison to a registered version, and the outcome; ends a deployment that was interrupted, too."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunetrail.config import GateConfig
from tunetrail.deployment.export import staged_root
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

    def reference(self, work: Work) -> ModelVersion | None:
        """Return the version that the candidate has to be better than: root, or None before there is one.

        Where root is this very candidate, since the run was interrupted behind the move, it is the one before it.
        """
        root, own = self.registry.root(), self._registered(work)
        if root is not None and own is not None and root.version == own.version:
            return _version_of(work.kept.facts.get(_ROOT))
        return root

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
            comparison_of(work.steps["comparison"]),
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

        registered = self._registered(work)
        if registered is None:
            version, exported = deploy(
                candidate, decision, self.registry, reference, self.model_dir, decided
            )
        else:
            version = registered
            exported = self._end(candidate, decision, reference, registered, decided)
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

    def _registered(self, work: Work) -> ModelVersion | None:
        """Return the version that the run had registered when it was interrupted."""
        if not work.run.resumed:
            return None
        version = self.registry.tracker.version_of_run(self.registry.name, work.run.run_id)
        base = work.base.canonical_name
        return (
            ModelVersion(name=self.registry.name, version=version, base_model=base)
            if version
            else None
        )

    def _end(
        self,
        candidate: Candidate,
        decision: Decision,
        reference: ModelVersion | None,
        version: ModelVersion,
        decided: Callable[[ModelVersion], None],
    ) -> Path | None:
        """Do what `deploy` does behind the registration, as far as it wasn't done."""
        facts = {"tunetrail.decision": decision.word, "tunetrail.reason": decision.reason}
        if not decision.promote:
            self.registry.tag(version, facts)
            decided(version)
            return None
        with contextlib.ExitStack() as stack:
            point_root = stack.enter_context(
                staged_root(self.model_dir, self.registry.name, candidate.save)
            )
            root = self.registry.root()
            if root is None or root.version != version.version:
                self.registry.move_root(
                    version, reference, {"tunetrail.run_id": candidate.run.run_id, **facts}
                )
            decided(version)
            return point_root(version.version)


def kept_comparison(work: Work, reference: ModelVersion | None) -> Comparison | None:
    """Return the comparison that was made before the run was interrupted, if it was made with the same reference."""
    if "comparison" not in work.steps or _version_of(work.kept.facts.get(_ROOT)) != reference:
        return None
    return comparison_of(work.steps["comparison"])


def keep_reference(work: Work, reference: ModelVersion | None) -> None:
    """Keep what the candidate was compared with, once it was: see `kept_comparison`."""
    work.kept.keep(facts={_ROOT: dataclasses.asdict(reference) if reference else None})


def comparison_of(step: Mapping[str, Any]) -> Comparison:
    """Return the comparison of a step's result."""
    names = {each.name for each in dataclasses.fields(Comparison)}
    values = {name: value for name, value in step.items() if name in names}
    unbounded = values["lower"] is None
    return Comparison(**values | ({"lower": -math.inf, "upper": math.inf} if unbounded else {}))


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

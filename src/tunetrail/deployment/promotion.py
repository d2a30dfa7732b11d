"""The deployment of a candidate: staged, registered, promoted or refused, recorded, exported.

Each step is done unless it is already done. A first run is the case in which nothing is done yet; a
run that was interrupted within its deployment takes the same steps and comes to the same end. What
can fail slowly (writing a model) comes before what everybody sees (the alias), so that a failure
leaves root as it was.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.deployment.export import staged_root
from tunetrail.deployment.gate import Decision
from tunetrail.deployment.registry import ModelVersion, Registry
from tunetrail.errors import DeploymentError
from tunetrail.reporting.readable import as_markdown
from tunetrail.stores.tracking import TrackedRun


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model and what its version is registered with.

    Attributes:
        model: The model, adapters merged.
        save: Writes it as a plain model folder.
        run: The run that trained it; a run registers one version at most.
        base_model: Canonical name of the model that the chain of trainings began with.
        probes: Texts on which the registered version must give the trained model's outputs.
        tags: Tags of the version.
        description: The decision in words, in Markdown.
    """

    model: Any
    save: Callable[[Path], None]
    run: TrackedRun
    base_model: str
    probes: Sequence[str]
    tags: Mapping[str, str]
    description: str = ""


def deploy(
    candidate: Candidate,
    decision: Decision,
    registry: Registry,
    version_to_beat: ModelVersion | None,
    model_dir: Path,
    on_decision: Callable[[ModelVersion], None],
) -> tuple[ModelVersion, Path | None]:
    """Register the candidate and, if the decision says so, make it root.

    Args:
        candidate: The trained model.
        decision: The gate's.
        registry: The registry of its model type.
        version_to_beat: The version that it was compared with; None before the first promotion.
        model_dir: Folder of the exported root models.
        on_decision: Called once root has moved or the candidate is refused, before the model
            directory follows; again if the deployment was interrupted after that.

    Returns:
        The version, and the path of the exported root if the candidate was promoted.

    Raises:
        DeploymentError: Something can't be written, the version differs from the model, or root
            moved in the meantime.
    """
    with contextlib.ExitStack() as stack:
        # Whether an interrupted export is whole is as expensive to tell as writing it again.
        point_root = None
        if decision.promote:
            staging = staged_root(model_dir, registry.name, candidate.save)
            point_root = stack.enter_context(staging)

        # A run that died after registering would otherwise leave the same model twice.
        version = registry.version_of_run(candidate.run, candidate.base_model)
        if version is None:
            version = registry.register(
                candidate.model,
                candidate.run,
                base_model=candidate.base_model,
                probes=candidate.probes,
                tags=candidate.tags,
                description=candidate.description,
            )

        _move_or_refuse(version, decision, registry, version_to_beat, candidate.run.run_id)
        # Recorded before the export: a resumed run can export again, but a root that moved
        # without a record could not be explained.
        on_decision(version)

        return version, point_root(version.version) if point_root else None


def _move_or_refuse(
    version: ModelVersion,
    decision: Decision,
    registry: Registry,
    version_to_beat: ModelVersion | None,
    run_id: str,
) -> None:
    """Tag the version with what was decided, and move root to it if it was promoted."""
    tags = {"tunetrail.decision": decision.word, "tunetrail.reason": decision.reason}
    if not decision.promote:
        registry.tag(version, tags)
        return

    try:
        registry.move_root(version, version_to_beat, {"tunetrail.run_id": run_id, **tags})
    except DeploymentError as error:
        # Somebody else's candidate became root first: the version stays, marked as refused.
        registry.tag(version, {"tunetrail.decision": "refused", "tunetrail.reason": str(error)})
        registry.describe(version, as_markdown(f"Refused: {error}"))
        raise

"""A candidate on its way: staged for export, registered, root moved where the gate lets it, exported, in that order.

What can fail slowly (writing a model) comes before what others see (the alias): a failure leaves root as it was.
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
from tunetrail.stores.tracking import TrackedRun


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model and what its version is registered with.

    Attributes:
        model: The model, adapters merged.
        save: Writes it as a plain model folder.
        run: The run that trained it.
        base_model: Canonical name of the model that the chain of trainings began with.
        probes: Texts on which the registered version must give the trained model's outputs.
        tags: Tags of the version.
    """

    model: Any
    save: Callable[[Path], None]
    run: TrackedRun
    base_model: str
    probes: Sequence[str]
    tags: Mapping[str, str]


def deploy(
    candidate: Candidate,
    decision: Decision,
    registry: Registry,
    root: ModelVersion | None,
    model_dir: Path,
    on_decision: Callable[[ModelVersion], None],
) -> tuple[ModelVersion, Path | None]:
    """Register the candidate and, where the decision says so, make it root.

    Args:
        candidate: The trained model.
        decision: The gate's.
        registry: The registry of its model type.
        root: The version that it was compared with; None before the first promotion.
        model_dir: Folder of the exported root models.
        on_decision: Called once root has moved or was refused, before the model directory follows.

    Returns:
        The version, and the path of the exported root where it was promoted.

    Raises:
        DeploymentError: Something can't be written, the version differs from the model, or root moved meanwhile.
    """
    with contextlib.ExitStack() as stack:
        point_root = (
            stack.enter_context(staged_root(model_dir, registry.name, candidate.save))
            if decision.promote
            else None
        )
        version = registry.register(
            candidate.model,
            candidate.run,
            base_model=candidate.base_model,
            probes=candidate.probes,
            tags=candidate.tags,
        )
        facts = {"tunetrail.decision": decision.word, "tunetrail.reason": decision.reason}
        if point_root is None:
            registry.tag(version, facts)
            on_decision(version)
            return version, None
        try:
            registry.move_root(version, root, {"tunetrail.run_id": candidate.run.run_id, **facts})
        except DeploymentError as error:
            registry.tag(version, {"tunetrail.decision": "refused", "tunetrail.reason": str(error)})
            raise
        on_decision(version)
        return version, point_root(version.version)

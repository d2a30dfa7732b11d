"""The deployment of a candidate: staged, registered, promoted or refused, recorded, exported.

Each step is done unless it is already done. A first run is the case in which nothing is done yet; a
run that was interrupted within its deployment takes the same steps and comes to the same end. What
can fail slowly (writing a model) comes before what everybody sees (the alias), so that a failure
leaves root as it was.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunetrail.deployment.export import staged_root
from tunetrail.deployment.gate import Decision
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.deployment.registry import Registry
from tunetrail.deployment.root_alias import RootMovedError
from tunetrail.deployment.root_moves import RootMoves, decision_tags
from tunetrail.reporting.readable import as_markdown
from tunetrail.stores.database.ledger import REFUSED
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord
from tunetrail.stores.tracking.tracker import TrackedRun


def no_objection(version: ModelVersion) -> None:
    """Let a version become root: nothing is checked of it."""


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
        objection: Returns why its registered version must not become root, None if it may; asked
            only of a candidate that the gate has let through.
    """

    model: Any
    save: Callable[[Path], None]
    run: TrackedRun
    base_model: str
    probes: Sequence[str]
    tags: Mapping[str, str]
    description: str = ""
    objection: Callable[[ModelVersion], str | None] = no_objection


@dataclass(frozen=True, kw_only=True)
class CandidateLedger:
    """Where the decision on a candidate is written down.

    Attributes:
        database: Holds the ledger.
        record_of: Returns the line for the version that the candidate is registered as, with the
            decision on it.
    """

    database: DatabaseManager
    record_of: Callable[[ModelVersion, Decision], PromotionRecord]


@dataclass(frozen=True, kw_only=True)
class DeployedCandidate:
    """What became of a candidate.

    Attributes:
        version: The version that it is registered as.
        decision: The gate's, or the refusal of the registered version.
        exported_to: The exported root if it was promoted; None otherwise.
    """

    version: ModelVersion
    decision: Decision
    exported_to: Path | None


def deploy(
    candidate: Candidate,
    decision: Decision,
    registry: Registry,
    version_to_beat: ModelVersion | None,
    model_dir: Path,
    on_decision: Callable[[ModelVersion, Decision], None],
    ledger: CandidateLedger | None = None,
) -> DeployedCandidate:
    """Register the candidate and, if the decision says so, make it root.

    Args:
        candidate: The trained model.
        decision: The gate's.
        registry: The registry of its model type.
        version_to_beat: The version that it was compared with; None before the first promotion.
        model_dir: Folder of the exported root models.
        on_decision: Called once root has moved or the candidate is refused, before the model
            directory follows; again if the deployment was interrupted after that.
        ledger: Where the decision is written down; None if there is no database.

    Raises:
        DeploymentError: Something can't be written, or the version differs from the model.
        RootMovedError: Root moved in the meantime; the version is marked as refused.
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
            version = registry.writer.write(
                candidate.model,
                candidate.run,
                base_model=candidate.base_model,
                probes=candidate.probes,
                tags=candidate.tags,
                description=candidate.description,
            )
        decision = _unless_refused(version, candidate, decision, registry)

        # The exported root follows under the same lock, or a slower process would turn it back.
        moves = None
        if ledger is not None:
            moves = RootMoves(alias=registry.alias, model_dir=model_dir, database=ledger.database)
            stack.enter_context(moves.locked())
        record = None if ledger is None else ledger.record_of(version, decision)
        _move_or_refuse(version, decision, registry, version_to_beat, candidate.run, moves, record)
        # Recorded before the export: a resumed run can export again, but a root that moved
        # without a record could not be explained.
        on_decision(version, decision)

        exported_to = None
        if point_root is not None and decision.promote:
            exported_to = point_root(version.version)
        return DeployedCandidate(version=version, decision=decision, exported_to=exported_to)


def _unless_refused(
    version: ModelVersion, candidate: Candidate, decision: Decision, registry: Registry
) -> Decision:
    """Return the gate's decision, or a refusal if something speaks against the registered version.

    An earlier attempt of the run that has moved root had asked this before.
    """
    has_passed = decision.promote or decision.waiting
    if not has_passed or registry.alias.version() == version.version:
        return decision
    objection = candidate.objection(version)
    return decision if objection is None else Decision(promote=False, reason=objection)


def _move_or_refuse(
    version: ModelVersion,
    decision: Decision,
    registry: Registry,
    version_to_beat: ModelVersion | None,
    run: TrackedRun,
    moves: RootMoves | None,
    record: PromotionRecord | None,
) -> None:
    """Tag the version with what was decided, move root to it if it was promoted, and record it."""
    tags = decision_tags(decision.word, decision.reason)
    if not decision.promote:
        registry.tag(version, tags)
        _record_once(moves, record)
        return

    def move_alias() -> None:
        registry.move_root(version, version_to_beat, {"tunetrail.run_id": run.run_id, **tags})

    try:
        if moves is None or record is None:
            move_alias()
        # An earlier attempt of the run may have come this far, and the lock has settled its line.
        elif registry.alias.version() != version.version:
            registry.alias.check(version_to_beat.version if version_to_beat else None)
            moves.move(record, move_alias)
    except RootMovedError as error:
        # Somebody else's candidate became root first: the version stays, marked as refused.
        registry.tag(version, decision_tags(REFUSED, str(error)))
        registry.describe(version, as_markdown(f"Refused: {error}"))
        if record is not None:
            _record_once(moves, replace(record, decision=REFUSED, reason=str(error)))
        raise


def _record_once(moves: RootMoves | None, record: PromotionRecord | None) -> None:
    """Append a decision that moves nothing, unless an earlier attempt of the run has done so."""
    if moves is None or record is None:
        return
    for line in moves.lines():
        # The same version may be refused again, against another root.
        is_the_same = (
            line.version == record.version
            and line.mlflow_run_id == record.mlflow_run_id
            and line.decision == record.decision
            and line.reason == record.reason
            and line.previous_version == record.previous_version
        )
        if is_the_same:
            return
    moves.database.record_promotion(record)

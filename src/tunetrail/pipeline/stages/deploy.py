"""Deploy: the candidate registered and, if the gate lets it through, made root and exported."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tunetrail.config import BASE
from tunetrail.data.rows import rows_digest, texts_of_rows
from tunetrail.deployment import promotion
from tunetrail.deployment.gate import Decision, decide
from tunetrail.deployment.model_card import CARD, ModelCard
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.deployment.promotion import Candidate, CandidateLedger
from tunetrail.deployment.root_moves import blocked_reason
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.decision_text import decision_text, evidence_in_words
from tunetrail.pipeline.card import candidate_card
from tunetrail.pipeline.fresh_process import objection_of_fresh_process
from tunetrail.pipeline.lineage import RowIds
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.earlier_sessions import keep_in_benchmark
from tunetrail.pipeline.stages.evaluate import Evaluation
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.leave_out import learnt_row_ids
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.pipeline.training_details import training_details
from tunetrail.reporting.readable import as_markdown
from tunetrail.stores.database.ledger import present_actor
from tunetrail.stores.database.manager import PromotionRecord
from tunetrail.stores.database.packed_row_ids import pack_row_ids

logger = logging.getLogger(__name__)

# Test rows on which a registered version must give the trained model's outputs.
_PROBES = 8


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What became of a candidate.

    Attributes:
        mlflow_run_id: The run that trained it.
        version: The version that it is registered as.
        decision: Whether it became root, and why.
        comparison: The evidence.
        previous_root: The version that it was compared with; None before the first promotion.
        test_rows: Sketch of the rows that decided.
        learnt_rows: Ids of the samples that the version has learnt from, its ancestors included.
    """

    mlflow_run_id: str
    version: ModelVersion
    decision: Decision
    comparison: Comparison
    previous_root: ModelVersion | None
    test_rows: Sequence[str]
    learnt_rows: RowIds


def deploy(
    context: StageContext,
    prepared: PreparedRows,
    fitted: FittedModel,
    evaluation: Evaluation,
    on_decision: Callable[[Deployment], None],
) -> Deployment:
    """Register the candidate and make it root if the gate promotes it, unless that is done.

    Args:
        context: The run.
        prepared: The rows; the first of the test side are the probes.
        fitted: The trained model.
        evaluation: What the gate decides by.
        on_decision: Called once root has moved or the candidate is refused, before the model
            directory follows; again if the run was interrupted right after that.
    """
    step = context.state.steps.get("deployment")
    if step is not None:
        decision, version = Decision.from_dict(step), _registered_version(context, step)
        return _deployment(context, version, decision, evaluation, prepared, fitted)

    # The registered version is read again: with the base model, three would be in memory.
    context.models.release()
    decision = _decide(context, evaluation)
    logger.info(
        "%s: deployment, candidate %s (%s)", context.model_type, decision.word, decision.reason
    )

    def card_of(decision: Decision) -> ModelCard:
        text = _in_words(evaluation, decision)
        return candidate_card(context, prepared, fitted, decision, text)

    def deployment_of(version: ModelVersion, decision: Decision) -> Deployment:
        return _deployment(context, version, decision, evaluation, prepared, fitted)

    def details_of(decision: Decision) -> dict[str, Any]:
        # With the card, a rollback writes the exported folder as it was.
        details = training_details(context, prepared, fitted)
        return {**details, "card": card_of(decision).to_readme()}

    deployed = promotion.deploy(
        _candidate(context, prepared, fitted, evaluation, card_of(decision)),
        decision,
        context.registry,
        evaluation.version_to_beat,
        Path(context.settings.model_dir),
        lambda version, decision: on_decision(deployment_of(version, decision)),
        _candidate_ledger(context, deployment_of, details_of),
    )
    version = deployed.version
    if deployed.decision != decision:
        decision = deployed.decision
        logger.warning("%s: candidate %s (%s)", context.model_type, decision.word, decision.reason)
        context.registry.describe(version, card_of(decision).to_description())

    tags = {"tunetrail.decision": decision.word, "tunetrail.version": version.version}
    context.run.set_tags(tags)
    paragraphs = [as_markdown(_in_words(evaluation, decision)), *_where_scored(context)]
    context.run.describe("\n\n".join(paragraphs))
    _log_scores(context, prepared, version)
    previous_root = evaluation.version_to_beat
    step = {
        **decision.to_dict(),
        "name": version.name,
        "version": version.version,
        "uri": version.uri,
        "digest": version.digest,
        "previous_root": previous_root.version if previous_root else None,
        "mlflow_run_id": context.run.run_id,
        "exported_to": str(deployed.exported_to) if deployed.exported_to else None,
    }
    # Only rows that have decided: a run that fails before may ask them for the first time again.
    keep_in_benchmark(context, prepared)
    # Once this is written, a resumed run does none of the above again.
    context.finish_step("deployment", step)
    return deployment_of(version, decision)


def _registered_version(context: StageContext, step: Mapping[str, Any]) -> ModelVersion:
    """Return the version that an interrupted run has registered already."""
    return ModelVersion(
        name=step["name"],
        version=step["version"],
        base_model=context.base.canonical_name,
        digest=step.get("digest"),  # steps of older runs have none
    )


def _decide(context: StageContext, evaluation: Evaluation) -> Decision:
    """Return what the gate says of the candidate, and of its version if it has one already."""
    decision = decide(
        evaluation.comparison,
        context.settings.gate,
        evaluation.earlier_sessions,
        evaluation.general_set,
        sessions=evaluation.sessions,
        losing_slices=evaluation.losing_slices,
        costs=evaluation.costs,
    )
    # The evidence reads differently if the candidate is the best of many.
    if context.selection is not None:
        decision = replace(decision, reason=f"{decision.reason}; {context.selection}")
    return _unless_blocked(context, decision)


def _unless_blocked(context: StageContext, decision: Decision) -> Decision:
    """Refuse a candidate whose version is forbidden, or was root and was rolled back."""
    version = context.registry.version_of_run(context.run, context.base.canonical_name)
    if context.history.ledger is None or version is None or not decision.promote:
        return decision
    lines = context.history.ledger.database.ledger_lines(version.name)
    reason = blocked_reason(lines, version.version)
    return decision if reason is None else Decision(promote=False, reason=reason)


def _candidate_ledger(
    context: StageContext,
    deployment_of: Callable[[ModelVersion, Decision], Deployment],
    details_of: Callable[[Decision], dict[str, Any]],
) -> CandidateLedger | None:
    """Return where the decision is written down, and the line for it."""
    ledger = context.history.ledger
    if ledger is None:
        return None

    def record_of(version: ModelVersion, decision: Decision) -> PromotionRecord:
        deployment = deployment_of(version, decision)
        comparison, previous_root = deployment.comparison, deployment.previous_root

        return PromotionRecord(
            model_name=version.name,
            version=version.version,
            previous_version=previous_root.version if previous_root else None,
            decision=deployment.decision.word,
            reason=deployment.decision.reason,
            metric=comparison.metric,
            before=comparison.before,
            after=comparison.after,
            improvement=comparison.improvement,
            lower=comparison.lower,
            upper=comparison.upper,
            run_id=ledger.run_id,
            mlflow_run_id=deployment.mlflow_run_id,
            session_id=ledger.session_ids[0],
            session_ids=list(ledger.session_ids) if len(ledger.session_ids) > 1 else None,
            test_rows=deployment.test_rows,
            learnt_rows=pack_row_ids(deployment.learnt_rows),
            digest=version.digest,
            actor=present_actor(),
            details=details_of(decision),
        )

    return CandidateLedger(database=ledger.database, record_of=record_of)


def _log_scores(context: StageContext, prepared: PreparedRows, version: ModelVersion) -> None:
    """Show the candidate's scores of the test rows with the registered model."""
    scores = context.state.steps["evaluation"]["candidate"]["metrics"]
    dataset = (context.name, rows_digest(prepared.split.test))
    known_scores = {f"test/{name}": value for name, value in scores.items() if value is not None}
    context.registry.log_scores(version, context.run, known_scores, dataset)


def _candidate(
    context: StageContext,
    prepared: PreparedRows,
    fitted: FittedModel,
    evaluation: Evaluation,
    card: ModelCard,
) -> Candidate:
    """Return the trained model with all that its version is registered with."""
    comparison = evaluation.comparison
    probes = [texts[0] for texts in texts_of_rows(prepared.split.test.head(_PROBES))]

    tags = {
        **context.tags,
        "tunetrail.started_from": fitted.started_from,
        f"tunetrail.{comparison.metric}": f"{comparison.after:.6f}",
        "tunetrail.scored": evidence_in_words(comparison),
    }
    return Candidate(
        model=fitted.model,
        save=partial(_export, fitted.folder, card.to_readme()),
        run=context.run,
        base_model=context.base.canonical_name,
        probes=probes,
        tags=tags,
        description=card.to_description(),
        objection=partial(objection_of_fresh_process, context, prepared, fitted),
    )


def _in_words(evaluation: Evaluation, decision: Decision) -> str:
    """Return the decision and its evidence in two sentences."""
    previous_root = evaluation.version_to_beat
    return decision_text(
        evaluation.comparison,
        against=previous_root.uri if previous_root else BASE,
        promoted=decision.promote,
        reason=decision.reason,
        waiting=decision.waiting,
    )


def _export(fitted_folder: Path, card: str, folder: Path) -> None:
    """Copy the trained model, and write its card into the copy."""
    shutil.copytree(fitted_folder, folder)
    (folder / CARD).write_text(card, encoding="utf-8")


def _where_scored(context: StageContext) -> list[str]:
    """Return the paragraph of a description that says which runs' scores can be compared."""
    digest = context.state.steps["comparison"].get("test_rows")
    # A comparison of an older version has no digest.
    if digest is None:
        return []
    return [
        f"Scored on the test rows `{digest}` of {as_markdown(context.name)}. Compare it with runs "
        "that have the same tag `tunetrail.test_rows`."
    ]


def _deployment(
    context: StageContext,
    version: ModelVersion,
    decision: Decision,
    evaluation: Evaluation,
    prepared: PreparedRows,
    fitted: FittedModel,
) -> Deployment:
    return Deployment(
        mlflow_run_id=context.run.run_id,
        version=version,
        decision=decision,
        comparison=evaluation.comparison,
        previous_root=evaluation.version_to_beat,
        test_rows=prepared.test_sketch,
        learnt_rows=learnt_row_ids(context, prepared, fitted.started_from),
    )

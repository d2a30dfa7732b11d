"""Decisions of people about root: rollback, promotion and prohibition, each with its reason."""

from collections.abc import Sequence
from dataclasses import replace

from tunetrail.config import BASE
from tunetrail.deployment.root_moves import RootMoves, blocked_reason, decision_tags
from tunetrail.errors import UserError
from tunetrail.stores.database.ledger import (
    DECISION,
    FORBIDDEN,
    FORCED,
    MOVES,
    PROMOTED,
    ROLLED_BACK,
    WAITING,
    forbidden_line,
    present_actor,
    root_line,
    version_in_words,
)
from tunetrail.stores.database.manager import PromotionRecord


def roll_back(moves: RootMoves, version: str | None, reason: str) -> PromotionRecord:
    """Move root back to an earlier version, and let the exported folder follow.

    Args:
        moves: Root of the model.
        version: The version; `base` for no root at all, None for the root before the present one.
        reason: Why, for the ledger.

    Returns:
        The line of the ledger.

    Raises:
        UserError: There is no such version, it is root, or it is forbidden.
        DeploymentError: Its files are gone, or others than those that were registered.
    """
    with moves.locked(may_be_gone=True):
        name, target = moves.name, version or moves.previous()
        if target is None:
            raise UserError(
                f"{name} must have an earlier root to roll back to, got none. Name a version, or "
                f"`{BASE}` to begin again without a root."
            )
        root, known = moves.alias.version(), root_line(moves.lines())
        # `base` stands for no root at all; the ledger may know a root that was deleted in MLflow.
        wanted = None if target == BASE else target
        if root == wanted and wanted == (None if known is None else known.version):
            raise UserError(
                f"version must differ from root, got {target!r}: it is root already. Nothing was "
                "changed."
            )
        if target != BASE:
            _check_eligible(moves, target)

        record = PromotionRecord(
            model_name=name,
            version=target,
            previous_version=None if known is None else known.version,
            decision=ROLLED_BACK,
            reason=reason,
            actor=present_actor(),
        )
        _move(moves, record)
        # Root's pages say why it isn't root any more, if its version is still there.
        if root is not None:
            moves.alias.tag(root, {"tunetrail.rolled_back": reason})
        return record


def promote(moves: RootMoves, version: str, reason: str, *, force: bool = False) -> PromotionRecord:
    """Make a version root that the gate has let through, and let the exported folder follow.

    Args:
        moves: Root of the model.
        version: The version.
        reason: Why, for the ledger.
        force: Promote it whatever the gate has said; the ledger says that it was forced.

    Returns:
        The line of the ledger.

    Raises:
        UserError: There is no such version, it is root or forbidden, or the gate has refused it.
        DeploymentError: Its files are gone, or others than those that were registered.
    """
    with moves.locked():
        lines, root = moves.lines(), moves.alias.version()
        if root == version:
            raise UserError(
                f"version must differ from root, got '{moves.name}/{version}': it is root already. "
                "Nothing was changed."
            )
        _check_eligible(moves, version)
        decided = _gate_line(lines, version)
        objection = _objection(lines, decided, version, root)
        if objection is not None and not force:
            raise UserError(
                f"version must be waiting for an approval, got '{moves.name}/{version}': "
                f"{objection}. --force promotes it all the same, and the ledger says so."
            )

        record = PromotionRecord(
            model_name=moves.name, version=version, decision=PROMOTED, reason=reason
        )
        # The new line repeats the gate's figures: the evidence by which root became root.
        if decided is not None:
            record = replace(decided, reason=f"{reason} (the gate: {decided.reason})")
        record = replace(
            record,
            decision=PROMOTED if objection is None else FORCED,
            previous_version=root,
            move_id=None,
            actor=present_actor(),
        )
        _move(moves, record)
        moves.alias.tag(version, decision_tags(record.decision, record.reason))
        return record


def forbid(moves: RootMoves, version: str, reason: str) -> PromotionRecord:
    """Write down that a version must never be root again.

    Args:
        moves: Root of the model.
        version: The version.
        reason: Why, for the ledger.

    Returns:
        The line of the ledger.

    Raises:
        UserError: There is no such version, it is root, or it is forbidden already.
    """
    with moves.locked(may_be_gone=True):
        if moves.alias.version() == version:
            raise UserError(
                f"version must not be root, got '{moves.name}/{version}'. First leave it: "
                f"`tunetrail root rollback {moves.name} --reason TEXT`."
            )

        _check_eligible(moves, version)
        record = PromotionRecord(
            model_name=moves.name,
            version=version,
            decision=FORBIDDEN,
            reason=reason,
            actor=present_actor(),
        )

        moves.database.record_promotion(record)
        moves.alias.tag(version, {"tunetrail.forbidden": reason})
        return record


def _move(moves: RootMoves, record: PromotionRecord) -> None:
    """Move alias, ledger and exported folder."""
    if record.version == BASE:
        moves.move(record, moves.alias.remove)
        moves.export(None)
        return
    # Before anything moves: nobody could load such a root.
    moves.check_files(record.version)
    moves.move(record, lambda: moves.alias.move(record.version))
    moves.export(record.version)


def _check_eligible(moves: RootMoves, version: str) -> None:
    """Raise `UserError` if a version isn't in MLflow, or is forbidden."""
    if moves.alias.find(version) is None:
        raise UserError(
            f"version must be in MLflow, got '{moves.name}/{version}', which isn't there: it was "
            f"deleted or never made. `tunetrail root log {moves.name}` lists the versions."
        )
    forbidden = forbidden_line(moves.lines(), version)
    if forbidden is not None:
        raise UserError(
            f"version must not be forbidden, got '{moves.name}/{version}': {forbidden.reason}. "
            "Choose another version."
        )


def _gate_line(lines: Sequence[PromotionRecord], version: str) -> PromotionRecord | None:
    """Return the gate's last decision on a version; None if it never decided."""
    for line in reversed(lines):
        # Moves by hand have no metric, and a forced one repeats an older line's.
        is_measured = line.metric is not None and line.event == DECISION
        if is_measured and line.version == version and line.decision != FORCED:
            return line
    return None


def _objection(
    lines: Sequence[PromotionRecord],
    decided: PromotionRecord | None,
    version: str,
    root: str | None,
) -> str | None:
    """Return why a version can't be promoted without force; None if it waits for an approval."""
    if decided is None:
        return "the gate has never decided on it"
    if decided.decision in MOVES:
        return "it was root before, and `tunetrail root rollback` goes back to it"
    if decided.decision != WAITING:
        return f"it was {decided.decision}: {decided.reason}"
    if decided.previous_version != root:
        return (
            f"it was compared with {version_in_words(decided.previous_version)}, and root is "
            f"{version_in_words(root)} now"
        )
    return blocked_reason(lines, version)

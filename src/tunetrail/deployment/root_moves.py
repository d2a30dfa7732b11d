"""The moves of root: the ledger, MLflow's alias and the exported folder, whoever dies in between.

Under the lock of all processes, a move writes its intent to the ledger, moves the alias, writes the
decision to the ledger, and lets the exported folder follow. A process that dies leaves a beginning
of this order. Whoever takes the lock next tells from the alias whether the move has happened, and
finishes it or takes it back before anything else.
"""

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunetrail.config import BASE
from tunetrail.deployment.deletion import remove_version
from tunetrail.deployment.export import check_model_dir, restore_root
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.errors import DeploymentError, UserError
from tunetrail.scratch import sweep
from tunetrail.stores.database.ledger import (
    ABANDONED,
    DELETED,
    INTENT,
    MOVED,
    MOVES,
    PROMOTIONS,
    ROLLED_BACK,
    forbidden_line,
    open_intents,
    root_line,
    version_in_words,
)
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord

_CARD = "README.md"
logger = logging.getLogger(__name__)


class RootGoneError(UserError):
    """The ledger knows a root that MLflow doesn't have any more."""


@dataclass(frozen=True, kw_only=True)
class RootMoves:
    """Moves root of one model, and follows the moves of others.

    Attributes:
        alias: The alias in MLflow.
        model_dir: Folder of the exported root models.
        database: Holds the ledger.
    """

    alias: RootAlias
    model_dir: Path
    database: DatabaseManager

    @property
    def name(self) -> str:
        """The name of the registered model."""
        return self.alias.name

    def lines(self) -> list[PromotionRecord]:
        """Return the ledger of the model, intents included, oldest line first."""
        return self.database.ledger_lines(self.name)

    def settle(self) -> None:
        """Finish what dead processes began, and follow an alias that was moved in MLflow.

        Raises:
            RootGoneError: Root's version or its alias was deleted.
        """
        with self.locked():
            self.follow()

    @contextlib.contextmanager
    def locked(self, *, may_be_gone: bool = False) -> Iterator[None]:
        """Hold the lock of all processes; ledger and alias agree when the block begins.

        Args:
            may_be_gone: Go on if the ledger's root isn't in MLflow any more, to name another one.

        Raises:
            RootGoneError: Root's version or its alias was deleted.
            LockError: Another process held the lock for too long.
        """
        with self.database.root_lock(self.name):
            for intent in open_intents(self.lines()):
                self._close(intent)
            self._follow_alias(may_be_gone=may_be_gone)
            yield

    def _close(self, intent: PromotionRecord) -> None:
        """Finish the move of a dead process if the alias has moved, or else take it back.

        A deletion is finished always, as its files may be gone already.
        """
        if intent.decision == DELETED:
            self._finish_deletion(intent)
            return
        target = None if intent.version == BASE else intent.version
        root = self.alias.version()

        if root == target:
            self.database.decide_intent(intent, intent.decision, intent.reason)
            outcome = "is finished"
        else:
            reason = (
                "the process that was to move root died before it; root stays "
                f"{version_in_words(root)}. Planned: {intent.decision}, {intent.reason}"
            )
            self.database.decide_intent(intent, ABANDONED, reason)
            # Only a candidate's tags say what was planned for it.
            if target is not None and intent.decision in PROMOTIONS and self.alias.find(target):
                self.alias.tag(target, decision_tags(ABANDONED, reason))
            outcome = "is taken back"

        logger.warning(
            "root of %s: a process died while it moved root from %s to %s; the move %s",
            self.name,
            version_in_words(intent.previous_version),
            version_in_words(target),
            outcome,
        )

    def _finish_deletion(self, intent: PromotionRecord) -> None:
        """Remove what a dead process has left of a version that it deleted."""
        decision, reason = DELETED, intent.reason
        if self.alias.version() == intent.version:
            decision = ABANDONED
            reason = f"it became root by hand while it was deleted. Planned: {intent.reason}"
        else:
            version = self.alias.find(intent.version)
            if version is not None:
                remove_version(self.alias.tracker, version, intent.reason)

        self.database.decide_intent(intent, decision, reason)
        logger.warning(
            "%s/%s: a process died while it deleted the version; now it is %s (%s)",
            self.name,
            intent.version,
            decision,
            reason,
        )

    def _follow_alias(self, *, may_be_gone: bool) -> None:
        """Write down a move of the alias that the ledger doesn't know."""
        line = root_line(self.lines())
        known = None if line is None else line.version
        root = self.alias.version()
        if root == known:
            return
        if root is None:
            if not may_be_gone:
                raise RootGoneError(self._gone(known))
            return

        reason = "the alias was moved in MLflow, not by tunetrail"
        moved = PromotionRecord(
            model_name=self.name,
            version=root,
            previous_version=known,
            decision=MOVED,
            reason=reason,
        )
        self.database.record_promotion(moved)
        logger.warning(
            "root of %s is %s, and the ledger knew %s: %s; written to the ledger",
            self.name,
            version_in_words(root),
            version_in_words(known),
            reason,
        )
        forbidden = forbidden_line(self.lines(), root)
        if forbidden is not None:
            logger.warning(
                "root of %s is forbidden (%s): `tunetrail root rollback %s --reason TEXT`",
                self.name,
                forbidden.reason,
                self.name,
            )

    def _gone(self, known: str | None) -> str:
        """Return what is said if MLflow has lost the version or the alias that the ledger knows."""
        rollback = f"tunetrail root rollback {self.name}"
        again = f"`{rollback} {BASE} --reason TEXT` begins again without a root"
        if known is not None and self.alias.find(known) is not None:
            lost, way_out = "has no alias", f"`{rollback} {known} --reason TEXT` sets the alias"
        else:
            lost = "doesn't have that version (deleted, or another tracking.uri)"
            earlier = previous_root(self.lines(), self._is_possible)
            way_out = f"`{rollback} {earlier or 'VERSION'} --reason TEXT` names another version"
        return (
            f"root of {self.name} must be {version_in_words(known)}, as the ledger says, got an "
            f"MLflow store that {lost}. {way_out}; {again}."
        )

    def _is_possible(self, version: str) -> bool:
        """Tell whether a version can become root by a rollback."""
        is_forbidden = forbidden_line(self.lines(), version) is not None
        return not is_forbidden and self.alias.find(version) is not None

    def previous(self) -> str | None:
        """Return the version that a rollback goes back to; None if there is none."""
        return previous_root(self.lines(), self._is_possible)

    def move(self, record: PromotionRecord, move_alias: Callable[[], None]) -> None:
        """Move root within `locked`: the intent, the alias, the decision.

        Args:
            record: The line of the ledger, with a decision that moves root.
            move_alias: Moves the alias, and reads it back.
        """
        assert record.decision in MOVES
        # Random: neither a version nor a run tells two moves apart.
        record = replace(record, move_id=uuid.uuid4().hex)
        self.database.record_promotion(replace(record, event=INTENT))
        move_alias()
        self.database.record_promotion(record)

    def check_files(self, version: str) -> None:
        """Raise `DeploymentError` if a version's files aren't those that were registered."""
        digest = _digest_in([line for line in self.lines() if line.version == version])
        # Versions from before digests were kept have none.
        if digest is not None:
            self.alias.check_files(version, digest)

    def follow(self) -> None:
        """Let the exported folder follow root, and remove what dead processes left in it.

        Nothing is exported to a model directory that has never had a model of this name.
        """
        folder = self.model_dir / self.name
        if not folder.is_dir():
            return
        for leftover in sweep(folder / "versions"):
            logger.warning("removed %s, which a dead process left", leftover)
        line = root_line(self.lines())
        try:
            if self.export(None if line is None else line.version):
                logger.warning("%s: the exported root follows", folder / "root")
        # Root itself is fine, and whoever reads the folder finds the model before.
        except DeploymentError as error:
            logger.warning("%s doesn't follow root: %s", folder / "root", error)

    def export(self, version: str | None) -> bool:
        """Let the exported root be a version's model; return False if it was that already."""
        check_model_dir(self.model_dir, [self.name])
        lines = [line for line in self.lines() if line.version == version]
        digest = _digest_in(lines)
        cards = [line.details.get("card") for line in lines if line.details]
        card = cards[-1] if cards else None

        def save(folder: Path) -> None:
            self.alias.write_model(version or "", folder, digest)
            # MLflow's flavors have no place for a page of ours, so the ledger keeps it.
            if card is not None:
                (folder / _CARD).write_text(card, encoding="utf-8")

        return restore_root(self.model_dir, self.name, version, save)


def _digest_in(lines: Sequence[PromotionRecord]) -> str | None:
    """Return the digest of a version's files that the newest of its lines knows."""
    return next((line.digest for line in reversed(lines) if line.digest), None)


def decision_tags(decision: str, reason: str) -> dict[str, str]:
    """Return the tags by which MLflow's pages show a decision on a version."""
    return {"tunetrail.decision": decision, "tunetrail.reason": reason}


def previous_root(
    lines: Sequence[PromotionRecord], is_possible: Callable[[str], bool]
) -> str | None:
    """Return the version that was root before the present one and can be root again.

    Like undo, a second rollback goes further back: the way leads from each version to the one
    that it replaced when it became root, not counting rollbacks.

    Args:
        lines: The ledger of one model, oldest first.
        is_possible: Tells whether a version can become root.
    """
    replaced: dict[str, str | None] = {}
    for line in lines:
        if line.event != INTENT and line.decision in MOVES and line.decision != ROLLED_BACK:
            replaced[line.version] = line.previous_version

    present = root_line(lines)
    version = None if present is None else replaced.get(present.version)
    passed: set[str] = set()
    # A version that became root twice would lead round in a circle.
    while version is not None and version not in passed:
        if is_possible(version):
            return version
        passed.add(version)
        version = replaced.get(version)
    return None


def blocked_reason(lines: Sequence[PromotionRecord], version: str) -> str | None:
    """Return why a version mustn't become root by the gate; None if nothing speaks against it.

    A forbidden version is never root again. A version that somebody rolled back returns only if
    somebody promotes it: a run that is resumed late must not undo that decision.
    """
    forbidden = forbidden_line(lines, version)
    if forbidden is not None:
        return f"{forbidden.model_name}/{version} is forbidden: {forbidden.reason}"

    rolled_back = None
    for line in lines:
        if line.event == INTENT or line.decision not in MOVES:
            continue
        if line.decision == ROLLED_BACK and line.previous_version == version:
            rolled_back = line
        elif line.version == version:
            rolled_back = None
    if rolled_back is None:
        return None
    return (
        f"{rolled_back.model_name}/{version} was rolled back: {rolled_back.reason}. "
        f"`tunetrail root promote {rolled_back.model_name}/{version} --force --reason TEXT` "
        "overrules that"
    )

"""The history of root, read from the ledger alone: no model is loaded and MLflow isn't asked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunetrail.config import BASE
from tunetrail.errors import UserError, did_you_mean
from tunetrail.stores.database.ledger import DECISION, forbidden_line, root_line
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord

_VERSION = re.compile(r"(?:models:/)?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)/(?P<version>[1-9][0-9]*)")
_FORMS = "a version such as embedding/3 or models:/embedding/3"


@dataclass(frozen=True, kw_only=True)
class VersionName:
    """The name of a version, as a user types it.

    Attributes:
        model_name: The registered model.
        version: The number of the version.
    """

    model_name: str
    version: str

    def __str__(self) -> str:
        """Return `embedding/3`."""
        return f"{self.model_name}/{self.version}"


def parse_version(text: str) -> VersionName:
    """Return the version that `embedding/3` or `models:/embedding/3` names.

    Raises:
        UserError: The text is of no such form.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise UserError(
            f"version must be {_FORMS}, got {text!r}. `tunetrail root log FAMILY` lists them."
        )
    return VersionName(model_name=match["name"], version=match["version"])


def parse_target(text: str, model_name: str) -> str:
    """Return the number of the version that a rollback names, or `base`.

    Args:
        text: `3`, `embedding/3`, `models:/embedding/3` or `base`.
        model_name: The model that is rolled back.

    Raises:
        UserError: The text is of no such form, or names a version of another model.
    """
    if text == BASE:
        return BASE
    name = parse_version(f"{model_name}/{text}" if text.isdecimal() else text)
    if name.model_name != model_name:
        raise UserError(
            f"version must be one of {model_name}, got {text!r}. Name one that "
            f"`tunetrail root log {model_name}` lists."
        )
    return name.version


class RootHistory:
    """The ledger's decisions by model.

    Args:
        database: Holds the ledger.
    """

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database
        self._lines: dict[str, list[PromotionRecord]] = {}
        for line in database.ledger_lines():
            self._lines.setdefault(line.model_name, []).append(line)

    @property
    def names(self) -> list[str]:
        """The registered models that the ledger knows, in alphabetical order."""
        return sorted(self._lines)

    def lines(self, model_name: str) -> list[PromotionRecord]:
        """Return all lines of a model, oldest first.

        Raises:
            UserError: The ledger knows no such model.
        """
        if model_name not in self._lines:
            known = ", ".join(self.names) or "nothing yet"
            raise UserError(
                f"family must be a registered model of {self._database.shown_url}, got "
                f"{model_name!r}.{did_you_mean(model_name, self.names)} The ledger knows {known}."
            )
        return self._lines[model_name]

    def decisions(self, model_name: str) -> list[PromotionRecord]:
        """Return the decisions on a model, newest first."""
        return [line for line in reversed(self.lines(model_name)) if line.event == DECISION]

    def roots(self) -> list[tuple[str, PromotionRecord | None]]:
        """Return each model with the line that made its root root; None if it has no root."""
        return [(name, root_line(self._lines[name])) for name in self.names]

    def of_version(self, name: VersionName) -> list[PromotionRecord]:
        """Return the decisions on one version, newest first.

        Raises:
            UserError: The ledger has none.
        """
        decisions = self.decisions(name.model_name)
        lines = [line for line in decisions if line.version == name.version]
        if not lines:
            raise UserError(
                f"version must be in the ledger, got {str(name)!r}. "
                f"`tunetrail root log {name.model_name}` lists the versions."
            )
        return lines

    def show(self, name: VersionName) -> dict[str, Any]:
        """Return all that the ledger knows of a version, as plain values."""
        lines = self.of_version(name)
        root = root_line(self.lines(name.model_name))
        forbidden = forbidden_line(self.lines(name.model_name), name.version)
        return {
            "version": str(name),
            "is_root": root is not None and root.version == name.version,
            "forbidden": None if forbidden is None else forbidden.reason,
            "evidence": evidence_of(lines),
            "details": _details_of(lines),
            "decisions": [line.to_dict() for line in lines],
        }

    def compare(self, first: VersionName, second: VersionName) -> dict[str, Any]:
        """Return what differs between two versions of one model: sections of (first, second).

        Raises:
            UserError: They are versions of two models, or the ledger lacks one.
        """
        if first.model_name != second.model_name:
            raise UserError(
                f"versions must be of one family, got {first} and {second}. Name two of "
                f"{first.model_name}."
            )

        shown = [self.show(first), self.show(second)]
        details = [version["details"] or {} for version in shown]

        sections: dict[str, Any] = {"versions": [str(first), str(second)]}
        for section in ("configuration", "data", "metrics"):
            sections[section] = _differences(*(part.get(section, {}) for part in details))
        sections["evidence"] = _differences(*(version["evidence"] for version in shown))

        # Versions from before the ledger kept details would otherwise look the same.
        sections["without_details"] = [
            version["version"] for version in shown if not version["details"]
        ]
        return sections


def evidence_of(lines: Sequence[PromotionRecord]) -> dict[str, Any]:
    """Return the measurement by which a version was decided, as plain values; empty if none.

    Args:
        lines: The decisions on the version, newest first.
    """
    for line in lines:
        if line.metric is not None:
            return {
                "metric": line.metric,
                "before": line.before,
                "after": line.after,
                "improvement": line.improvement,
                "lower": line.lower,
                "upper": line.upper,
                "compared_with": line.previous_version or BASE,
                "session_id": line.session_id,
                "mlflow_run_id": line.mlflow_run_id,
            }
    return {}


def _details_of(lines: Sequence[PromotionRecord]) -> dict[str, Any] | None:
    """Return the details of the training, from the newest line that has them."""
    return next((line.details for line in lines if line.details), None)


def _differences(first: Any, second: Any, prefix: str = "") -> dict[str, list[Any]]:
    """Return the values that differ, by dotted key, as [first, second]."""
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return {} if first == second else {prefix.rstrip("."): [first, second]}
    changes: dict[str, list[Any]] = {}
    # In the order of the first, then what only the second has.
    for key in dict.fromkeys([*first, *second]):
        changes |= _differences(first.get(key), second.get(key), f"{prefix}{key}.")
    return changes

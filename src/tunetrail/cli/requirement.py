"""Requirement: `--require promoted` makes a refused model an exit code, for CI."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunetrail.cli.output import take_value

NOT_PROMOTED = 3
"""The exit code of a training that came to an end without the promotion that was required."""
HELP = [
    "  --require promoted",
    "              end with exit code 3 if a model isn't promoted",
]
_OPTION, _PROMOTED = "--require", "promoted"


@dataclass(kw_only=True)
class Requirement:
    """What a training has to come to, and what didn't.

    Attributes:
        promoted: Whether every model has to become root.
        unmet: What came of the models that didn't, in words.
    """

    promoted: bool = False
    unmet: list[str] = field(default_factory=list)

    @classmethod
    def taken_from(cls, words: Sequence[str]) -> tuple["Requirement", list[str]]:
        """Return the requirement that the words of a command name, and the other words."""
        value, remaining = take_value(_OPTION, [_PROMOTED], words)
        return cls(promoted=value == _PROMOTED), remaining

    @property
    def words(self) -> list[str]:
        """The words that name it."""
        return [_OPTION, _PROMOTED] if self.promoted else []

    def check(self, results: Mapping[str, Any] | None) -> None:
        """Note which models of a training, or of a sweep's winner, weren't promoted."""
        if not self.promoted:
            return
        if results is None:
            self.unmet.append("no model was evaluated")
            return
        for model_type, deployment in results["results"]["steps"]["deployment"].items():
            if not deployment["promote"]:
                self.unmet.append(f"{model_type} is {deployment['decision']}")

    def exit_code(self) -> int:
        """Return the exit code, after saying on stderr what wasn't met."""
        if not self.unmet:
            return 0
        print(f"not promoted, as --require asks: {', '.join(self.unmet)}", file=sys.stderr)
        return NOT_PROMOTED

"""The scrubber: finds personal data and secrets of every kind, settles where findings overlap, puts placeholders.

Knows the order of the kinds, not how any of them is recognised.
"""

import re
from collections.abc import Callable

from tunetrail.config import PrivacyConfig
from tunetrail.data.privacy.accounts import find_cards, find_ibans
from tunetrail.data.privacy.contacts import find_emails, find_ipv4_addresses, find_ipv6_addresses
from tunetrail.data.privacy.credentials import find_secrets
from tunetrail.data.privacy.national_ids import find_lettered_ids, find_national_ids
from tunetrail.data.privacy.spans import Span
from tunetrail.data.privacy.telephones import find_phones

_Finder = Callable[[str], list[Span]]
# Start, rank, end with a minus, and kind: sorted so, the earlier, then the higher, then the longer one comes first.
_Finding = tuple[int, int, int, str]

# What rules out most texts, cheaply: seven characters of a number, gaps and capitals included, and seven digits with no
# more than three other characters between any two.
_NUMBER = re.compile(r"[0-9][0-9A-Z .()/\u00a0\u202f\u2010-\u2013-]{6}")
_DIGITS = re.compile(r"[0-9](?:[^0-9\n]{0,3}[0-9]){6}")

# Where two findings overlap, the kind named first stays: what has check digits before what has only a form.
_FINDERS: tuple[tuple[str, _Finder, re.Pattern[str] | None], ...] = (
    ("secret", find_secrets, None),
    ("email", find_emails, None),
    ("iban", find_ibans, _DIGITS),
    ("card", find_cards, _DIGITS),
    ("ip_address", find_ipv4_addresses, _NUMBER),
    ("ip_address", find_ipv6_addresses, None),
    ("national_id", find_national_ids, _DIGITS),
    ("national_id", find_lettered_ids, _NUMBER),
    ("phone", find_phones, _DIGITS),
)
_FEWEST_PASSES = 8
_CHARACTERS_OF_ALL_PASSES = 1_000_000


class Scrubber:
    """Replaces personal data and secrets by `[EMAIL]`, `[PHONE]`, `[CARD]` and so on; picklable and cheap to build."""

    def __init__(self, config: PrivacyConfig) -> None:
        self._wanted = frozenset(
            name for name, _, _ in _FINDERS if config.enabled and getattr(config, name)
        )

    def scrub(self, text: str) -> tuple[str, dict[str, int]]:
        """Return the text with placeholders, and how many of each were put, as in `{"EMAIL": 2}`.

        Scrubbing once more changes nothing, but for made-up texts of hundreds of numbers without anything between them.
        A kind that is turned off still keeps its findings from the others: a card never becomes a telephone number.
        """
        counts: dict[str, int] = {}
        if not self._wanted:
            return text, counts
        # A placeholder is a new edge beside which the next pass may see a number that was part of a row before.
        # Made-up rows can go on so for ever; the longer the text, the sooner it has to end.
        for _ in range(max(_FEWEST_PASSES, _CHARACTERS_OF_ALL_PASSES // (len(text) + 1))):
            findings = [
                finding for finding in _settled(self._findings(text)) if finding[3] in self._wanted
            ]
            if not findings:
                break
            text = _replaced(text, findings, counts)
        return text, counts

    def mask(self, text: str) -> str:
        """Return the text with placeholders, for those who don't count them."""
        return self.scrub(text)[0]

    @staticmethod
    def _findings(text: str) -> list[_Finding]:
        has_number = _NUMBER.search(text) is not None
        present = {
            None: True,
            _NUMBER: has_number,
            _DIGITS: has_number and _DIGITS.search(text) is not None,
        }
        findings: list[_Finding] = []
        for rank, (name, find, gate) in enumerate(_FINDERS):
            if present[gate]:
                findings.extend((start, rank, -end, name) for start, end in find(text))
        return findings


def _settled(findings: list[_Finding]) -> list[_Finding]:
    """Return findings that don't overlap, left to right: of two the higher kind stays, then the earlier and longer."""
    settled: list[_Finding] = []
    for finding in sorted(findings):
        if not settled or finding[0] >= -settled[-1][2]:
            settled.append(finding)
        elif finding[1] < settled[-1][1]:
            settled[-1] = finding
    return settled


def _replaced(text: str, findings: list[_Finding], counts: dict[str, int]) -> str:
    pieces: list[str] = []
    reached = 0
    for start, _, negative_end, name in findings:
        placeholder = name.upper()
        counts[placeholder] = counts.get(placeholder, 0) + 1
        pieces += (text[reached:start], f"[{placeholder}]")
        reached = -negative_end
    return "".join((*pieces, text[reached:]))

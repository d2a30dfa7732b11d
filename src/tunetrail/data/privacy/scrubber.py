"""Scrub texts: replace personal data and secrets of every kind with placeholders.

This module knows the order of the kinds and settles overlaps; the finders know how each kind is
recognised.
"""

import copy
import re
from collections.abc import Callable
from string import digits
from typing import NamedTuple

from tunetrail.config import PrivacyConfig
from tunetrail.data.privacy.accounts import find_cards, find_ibans
from tunetrail.data.privacy.contacts import find_emails, find_ipv4_addresses, find_ipv6_addresses
from tunetrail.data.privacy.credentials import find_secrets
from tunetrail.data.privacy.national_ids import find_lettered_ids, find_national_ids
from tunetrail.data.privacy.spans import WORD, Span, fold_text
from tunetrail.data.privacy.telephones import find_phones

_Finder = Callable[[str], list[Span]]


class _Finding(NamedTuple):
    start: int
    end: int
    rank: int
    kind: str


# Cheap checks that rule out most texts: seven characters of a number, including gaps and capitals;
# and seven digits with at most three other characters between any two.
_NUMBER = re.compile(r"[0-9][0-9A-Z .()/\u00a0\u202f\u2010-\u2013-]{6}")
_DIGITS = re.compile(r"[0-9](?:[^0-9\n]{0,3}[0-9]){6}")

# The rank of the kinds: if two findings overlap, the kind named first stays. Kinds with check
# digits or a distinctive form come before kinds that any row of digits could be.
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
# Shorter secrets and plain words occur by chance where nobody means them.
_FEWEST_CHARACTERS_OF_SECRET = 6
_FEWEST_PASSES = 8
_CHARACTERS_OF_ALL_PASSES = 1_000_000


class Scrubber:
    """Replaces personal data and secrets with `[EMAIL]`, `[PHONE]`, `[CARD]` and so on.

    Scrubbers are picklable and cheap to build.
    """

    def __init__(self, config: PrivacyConfig) -> None:
        kinds = {kind for kind, _, _ in _FINDERS} if config.enabled else set()
        self._enabled_kinds = {kind for kind in kinds if getattr(config, kind)}
        self._remembers = False
        self.told_secrets: set[str] = set()

    def of_row(self) -> "Scrubber":
        """Return a scrubber for the texts of one row, which remembers the secrets that they tell.

        A secret that it has found is replaced in later texts as well, wherever it occurs; so texts
        that came earlier have to be scrubbed again.
        """
        scrubber = copy.copy(self)
        scrubber._remembers = True
        scrubber.told_secrets = set()
        return scrubber

    def scrub(self, text: str) -> tuple[str, dict[str, int]]:
        """Return the text with placeholders, and the count of each, as in `{"EMAIL": 2}`.

        Scrubbing the result again changes nothing, except for made-up texts of hundreds of numbers
        without anything between them. A kind that is turned off still keeps its findings from the
        other kinds: a card never becomes a telephone number.
        """
        counts: dict[str, int] = {}
        if not self._enabled_kinds:
            return text, counts

        # A placeholder is a new edge: next to it, a later pass may see a number that was part of a
        # longer row before. Made-up rows can go on like this for ever, so the number of passes is
        # bounded, the more tightly the longer the text.
        passes = max(_FEWEST_PASSES, _CHARACTERS_OF_ALL_PASSES // (len(text) + 1))
        secrets = self.told_secrets if self._remembers else set()
        for _ in range(passes):
            spans = _find_all(text)
            if secrets:
                spans += _find_secrets_again(text, secrets)
            settled = _settle_overlaps(spans)
            findings = [finding for finding in settled if finding.kind in self._enabled_kinds]
            if not findings:
                break
            secrets.update(_distinct_secrets(text, findings))
            text = _replace_findings(text, findings, counts)
        return text, counts

    def mask(self, text: str) -> str:
        """Return the text with placeholders, without their counts."""
        return self.scrub(text)[0]


def _find_all(text: str) -> list[_Finding]:
    """Return the findings of all kinds, which may overlap."""
    text = fold_text(text)
    # Looking for each of ten characters is several times faster than a search with a pattern.
    has_digit = any(map(text.__contains__, digits))
    has_number = has_digit and _NUMBER.search(text) is not None
    has_digits = has_number and _DIGITS.search(text) is not None
    is_present = {None: True, _NUMBER: has_number, _DIGITS: has_digits}

    findings: list[_Finding] = []
    for rank, (kind, find, required_pattern) in enumerate(_FINDERS):
        if is_present[required_pattern]:
            findings.extend(_Finding(start, end, rank, kind) for start, end in find(text))
    return findings


def _distinct_secrets(text: str, findings: list[_Finding]) -> list[str]:
    """Return the secrets among the findings that are unlike any word or number."""
    secrets = []
    for finding in findings:
        secret = text[finding.start : finding.end] if finding.kind == "secret" else ""
        is_word = secret.isalpha() or secret.isdigit()
        if len(secret) >= _FEWEST_CHARACTERS_OF_SECRET and not is_word:
            secrets.append(secret)
    return secrets


def _find_secrets_again(text: str, secrets: set[str]) -> list[_Finding]:
    """Return the places of secrets that were told before, here or in another text of the row."""
    findings = []
    for secret in secrets:
        if secret in text:
            pattern = re.compile(rf"(?<![{WORD}]){re.escape(secret)}(?![{WORD}])")
            findings += [_Finding(*match.span(), 0, "secret") for match in pattern.finditer(text)]
    return findings


def _settle_overlaps(findings: list[_Finding]) -> list[_Finding]:
    """Return findings that don't overlap, from left to right.

    If two overlap, the one whose kind is named first stays, then the earlier, then the longer one.
    """
    settled: list[_Finding] = []
    by_priority = sorted(findings, key=lambda span: (span.start, span.rank, -span.end))
    for finding in by_priority:
        if not settled or finding.start >= settled[-1].end:
            settled.append(finding)
        elif finding.rank < settled[-1].rank:
            settled[-1] = finding
    return settled


def _replace_findings(text: str, findings: list[_Finding], counts: dict[str, int]) -> str:
    """Return the text with a placeholder for each finding, and add the placeholders to `counts`."""
    pieces: list[str] = []
    end_of_last = 0
    for finding in findings:
        placeholder = finding.kind.upper()
        counts[placeholder] = counts.get(placeholder, 0) + 1
        pieces += (text[end_of_last : finding.start], f"[{placeholder}]")
        end_of_last = finding.end
    return "".join((*pieces, text[end_of_last:]))

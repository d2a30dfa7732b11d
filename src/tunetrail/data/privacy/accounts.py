"""Payment cards and IBANs in a text, each proved by its check digits. Knows nothing of other personal data."""

import re

from tunetrail.data.privacy.checksums import IBAN_LENGTHS, card_holds, iban_holds
from tunetrail.data.privacy.spans import BLANK, Span, leads_to

# Look-aheads, so that a number that fails its check doesn't hide one that begins inside it.
_CARD = re.compile(
    rf"""[1-6] (?<![\w.].) (?<![0-9]-.) (?=
        (?P<plain> [0-9]{{12,18}} (?!\w) )
      | (?P<grouped> [0-9]{{3}} (?P<gap>{BLANK}|-)
            (?: [0-9]{{4}} (?P=gap) [0-9]{{4}} (?P=gap) [0-9]{{1,4}} (?P<rest> (?P=gap) [0-9]{{1,3}} (?!\w) )?
              | [0-9]{{6}} (?P=gap) [0-9]{{4,5}} ) (?!\w) )
    )""",
    re.VERBOSE,
)
_IBAN_HEAD = re.compile(r"[A-Za-z](?<![^\W_].)[A-Za-z][0-9]{2}")
_IBAN = re.compile(
    rf"[A-Z]{{2}}[0-9]{{2}}(?:(?:{BLANK}|-)?[A-Z0-9]){{11,29}}|[a-z]{{2}}[0-9]{{2}}[a-z0-9]{{11,29}}"
)
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]+")
_IBAN_SO_FAR = re.compile(r"(?<![^\W_])[A-Z]{2}[0-9]{2}(?:[ -][A-Z0-9]{4}){0,5}[ -]$")


def find_cards(text: str) -> list[Span]:
    """Return the payment cards: 13 to 19 digits, together or in the groups that are embossed on cards."""
    spans: list[Span] = []
    reached = 0
    for match in _CARD.finditer(text):
        start = match.start()
        if start < reached or _is_in_an_iban(text, match):
            continue
        for end in _possible_ends(match):
            if card_holds(_NOT_ALPHANUMERIC.sub("", text[start:end])):
                spans.append((start, end))
                reached = end
                break
    return spans


def _possible_ends(match: re.Match[str]) -> list[int]:
    """Return where the card may end, longest first: three digits after the fourth group may be its security code."""
    if match["plain"]:
        return [match.end("plain")]
    rest = match["rest"] or ""
    return (
        [match.end("grouped"), match.end("grouped") - len(rest)] if rest else [match.end("grouped")]
    )


def _is_in_an_iban(text: str, match: re.Match[str]) -> bool:
    """Whether the groups go on from what begins as an IBAN does, if one with a slip in it."""
    start = match.start()
    return match["grouped"] is not None and leads_to(text, start, _IBAN_SO_FAR)


def find_ibans(text: str) -> list[Span]:
    """Return the IBANs: in capitals with or without gaps, or in small letters without."""
    spans: list[Span] = []
    reached = 0
    for head in _IBAN_HEAD.finditer(text):
        start = head.start()
        length = IBAN_LENGTHS.get(head[0][:2].upper(), 0)
        match = _IBAN.match(text, start) if length and start >= reached else None
        if match is None:
            continue
        found = match[0]
        end = start + _characters_until(found, length)
        is_whole = end > start and not (
            text[end : end + 1].isalnum() and text[end : end + 1].isascii()
        )
        if is_whole and iban_holds(_NOT_ALPHANUMERIC.sub("", text[start:end]).upper()):
            spans.append((start, end))
            reached = end
    return spans


def _characters_until(found: str, length: int) -> int:
    """Return how many characters of `found` hold `length` letters and digits; 0 if it has fewer."""
    for position, character in enumerate(found):
        length -= character.isalnum()
        if length == 0:
            return position + 1
    return 0

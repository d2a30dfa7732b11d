"""Find payment cards and IBANs in a text, each confirmed by its check digits."""

import functools
import re

from stdnum import iban, luhn, numdb

from tunetrail.data.privacy.spans import BLANK, LATIN, WORD, Span, leads_to, stands_near

# Each issuer's prefixes (single ones or ranges), and the lengths of its numbers.
_ISSUERS = (
    ("Visa", "4", (13, 16, 19)),
    ("Mastercard", "51-55 2221-2720", (16,)),
    ("American Express", "34 37", (15,)),
    ("Discover", "6011 644-659 622126-622925", range(16, 20)),
    ("Diners Club", "300-305 309 36 38 39", range(14, 20)),
    ("JCB", "3528-3589", range(16, 20)),
    ("JCB, older numbers", "1800 2131", (15,)),
    ("UnionPay", "62", range(16, 20)),
    ("Mir", "2200-2204", range(16, 20)),
    ("Maestro", "56-58 5018 5020 5038 6304 6390 6759 6761-6763", range(12, 20)),
)

# A card's groups are 4-4-4-4 (up to 19 digits) or 4-6-4 and 4-6-5, with the same gap between them.
# Everything after the first digit is a look-ahead, so that a number that fails its check doesn't
# hide one that begins inside it.
_CARD = re.compile(
    rf"""[1-6] (?<![{WORD}.].) (?<![0-9]-.) (?=
        (?P<plain> [0-9]{{11,18}} (?![{WORD}]|[.][0-9]|-[0-9]) )
      | (?P<grouped> [0-9]{{3}} (?P<gap>{BLANK}|-)
            (?: [0-9]{{4}} (?P=gap) [0-9]{{4}} (?P=gap) [0-9]{{1,4}}
                (?P<last_group> (?P=gap) [0-9]{{1,3}} (?![{WORD}]) )?
              | [0-9]{{6}} (?P=gap) [0-9]{{4,5}} ) (?![{WORD}]) )
    )""",
    re.VERBOSE,
)

_CARD_NAME = re.compile(
    r"""(?i)(?<![a-z])(?:(?:credit|debit|bank)?\s?cards?|cc|visa|master\s?card|maestro|amex|pan
      |(?:kredit|bank|ec-?)?karten?(?:nummer)?|carte|carta|cart[ãa]o|tarjeta|kaart(?:nummer)?|kort
      |kart[aąeęuy]\w?|kredi\s?kart\w*|th[ẻẽ])(?![a-z]) | card_?(?:no|num|number) | cardno
      | карт[аыуеой] | 卡 | カード | 카드 | بطاقة | כרטיס | कार्ड | บัตร | κάρτα""",
    re.VERBOSE,
)
# What a number is that isn't a card's, although one in ten passes the check of cards.
_IDENTIFIER = re.compile(
    r"(?i)(?:(?<![a-z])|_)(?:[a-z]*(?:id|hash)|u?uid|blk|block|trace|span|offset|bytes|size|seq|inode|"
    r"isbn|ean|gtin|upc|imei|serial|tracking|build|timestamp|time|ts|ns|nonce|seed|sum|total)"
    r"[\"']?[ :=#_\"'-]{0,3}$"
)
_CALCULATED_BEFORE = re.compile(r"(?:[0-9)\]]\s*[-+*/\u00d7\u00f7^%<>=]+|\w\s*(?:[*^]|==|<|>))\s*$")
_CALCULATED_AFTER = re.compile(r"\s*[-+*/\u00d7\u00f7^%<>=]+\s*[(]?[0-9]")
_LONGEST_OPERATION = 12

# The head alone is searched first: two letters and two digits are rare, the whole form is slow.
_IBAN_HEAD = re.compile(rf"[A-Za-z](?<![{LATIN}0-9].)[A-Za-z][0-9]{{2}}")
_IBAN = re.compile(
    rf"[A-Z]{{2}}[0-9]{{2}}(?:(?:{BLANK}|-)?[A-Z0-9]){{11,29}}"
    r"|[a-z]{2}[0-9]{2}[a-z0-9]{11,29}"
)
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]+")
_IBAN_SO_FAR = re.compile(r"(?<![^\W_])[A-Z]{2}[0-9]{2}(?:[ -][A-Z0-9]{4}){0,5}[ -]$")


def find_cards(text: str) -> list[Span]:
    """Return the payment cards: 12 to 19 digits, together or grouped as they are on cards."""
    spans: list[Span] = []
    end_of_last = 0
    for match in _CARD.finditer(text):
        start = match.start()
        if start < end_of_last or _continues_iban(text, match):
            continue

        for end in _possible_ends(match):
            digits = _NOT_ALPHANUMERIC.sub("", text[start:end])
            if _is_card(digits) and not _is_another_number(text, (start, end), digits):
                spans.append((start, end))
                end_of_last = end
                break
    return spans


def _is_another_number(text: str, span: Span, digits: str) -> bool:
    """Tell whether digits that pass the check of cards are part of a sum or an id.

    A word for a card near them decides against it.
    """
    start, end = span
    before = text[start - 1 : start]
    is_plain = end - start == len(digits)
    # Short numbers pass by chance too often; a sign makes a negative number or a part of an id.
    is_doubtful = len(digits) == 12 or (is_plain and before in ("-", "\u2212"))
    if not is_doubtful:
        is_doubtful = (
            leads_to(text, start, _CALCULATED_BEFORE, reach=_LONGEST_OPERATION)
            or (is_plain and _CALCULATED_AFTER.match(text, end) is not None)
            or leads_to(text, start, _IDENTIFIER)
        )
    return is_doubtful and not stands_near(text, span, _CARD_NAME)


def _continues_iban(text: str, match: re.Match[str]) -> bool:
    """Tell whether the groups belong to what begins as an IBAN, even one with a typing error."""
    return match["grouped"] is not None and leads_to(text, match.start(), _IBAN_SO_FAR)


def _possible_ends(match: re.Match[str]) -> list[int]:
    """Return where the card may end, longest first.

    Three digits after the fourth group are either the card's last group or its security code.
    """
    if match["plain"]:
        return [match.end("plain")]
    end = match.end("grouped")
    return [end, match.start("last_group")] if match["last_group"] else [end]


def _is_card(digits: str) -> bool:
    """Tell whether a number has an issuer's prefix, that issuer's length and its Luhn digit."""
    return any(
        first <= digits[: len(first)] <= last for first, last in _prefixes_of_length(len(digits))
    ) and luhn.is_valid(digits)


@functools.cache
def _prefixes_of_length(length: int) -> list[tuple[str, str]]:
    """Return the first and the last prefix of each range of card numbers of this length."""
    prefixes = []
    for _, ranges, lengths in _ISSUERS:
        for prefix_range in ranges.split() if length in lengths else ():
            first, _, last = prefix_range.partition("-")
            prefixes.append((first, last or first))
    return prefixes


def find_ibans(text: str) -> list[Span]:
    """Return the IBANs: in capitals with or without gaps, or in small letters without."""
    spans: list[Span] = []
    end_of_last = 0
    for head in _IBAN_HEAD.finditer(text):
        start = head.start()
        length = _iban_length(head[0][:2].upper())
        match = _IBAN.match(text, start) if length and start >= end_of_last else None
        if match is None:
            continue

        end = start + _characters_until(match[0], length)
        next_character = text[end : end + 1]
        is_whole = end > start and not (next_character.isalnum() and next_character.isascii())
        if is_whole and _is_iban(_NOT_ALPHANUMERIC.sub("", text[start:end])):
            spans.append((start, end))
            end_of_last = end
    return spans


@functools.cache
def _iban_length(country: str) -> int:
    """Return the length of a country's IBANs by SWIFT's registry (ISO 13616), 0 if it has none."""
    # The registry describes what follows the check digits, as in "4!a6!n8!n" for Great Britain.
    structure = numdb.get("iban").info(country)[0][1].get("bban", "")
    lengths = list(map(int, re.findall("[0-9]+", structure)))
    return 4 + sum(lengths) if lengths else 0


def _characters_until(text: str, length: int) -> int:
    """Return how many characters of `text` hold `length` letters and digits; 0 if it has fewer."""
    for position, character in enumerate(text):
        length -= character.isalnum()
        if length == 0:
            return position + 1
    return 0


def _is_iban(number: str) -> bool:
    """Tell whether a number has its country's IBAN form and leaves 1 modulo 97 (ISO 7064)."""
    # Without the checks of single countries' account numbers: an IBAN of a closed or a made-up
    # account is still one that somebody wrote down as theirs.
    return iban.is_valid(number, check_country=False)

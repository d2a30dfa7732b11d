"""Telephone numbers in a text. Knows the ways in which several countries write them, and no other personal data.

No number has a check digit, so each form is accepted only as far as it can't be taken for a date, a version or a table.
"""

import re

from tunetrail.data.privacy.spans import BLANK, NUMBER_ENDS, Span, leads_to

_GAP = rf"(?:\.|{BLANK}?[-\u2010\u2011\u2013/(]{BLANK}?|\){BLANK}?[-/(]?|{BLANK})"
_EXTENSION = rf"(?:{BLANK}?(?:x|ext\.?){BLANK}?[0-9]{{1,5}})?"
# All below begin with a set of characters, which is searched much faster, and look behind from its end.
_EDGE = r"(?<![\w$€£#].)(?<![0-9][-.:/].)"

_INTERNATIONAL = re.compile(
    rf"""(?P<prefix> [+0] (?<![\w+.)\]].) (?<![0-9][-:/].) (?: (?<=\+) | (?<![0-9]{BLANK}.)(?<=0)0{BLANK}? ) )
    \(? (?P<number> [1-9][0-9]*+ (?:{_GAP}[0-9]++){{0,7}} ) (?!\w)""",
    re.VERBOSE,
)
# The examples that people make up, such as 555-123-4567, break the rules of the North American plan.
_CLOSING = rf"[0-9]{{2}}\){BLANK}?[0-9]{{3}}[-.\u2011]"
_OPEN = r"[0-9]{2}(?:-[0-9]{3}-|\.[0-9]{3}\.|\u2011[0-9]{3}\u2011)"
_AMERICAN = re.compile(
    rf"""[1-9(] {_EDGE} (?<![+/-].)
    (?: (?<=\()[1-9]{_CLOSING} | (?<=1)(?:[-.]|{BLANK})(?:\([1-9]{_CLOSING}|[1-9]{_OPEN}) | (?<=[1-9]){_OPEN} )
    [0-9]{{4}} {_EXTENSION} {NUMBER_ENDS}""",
    re.VERBOSE,
)
# 0170/1234567, 030 12345678, (020) 7946 0958, 03-1234-5678, 06 12 34 56 78
_TRUNK = re.compile(
    rf"""[0(] {_EDGE} (?<![+/-].) (?<![0-9]{BLANK}.)
    (?: (?<=\()0[1-9][0-9]{{1,4}}\){BLANK}? | (?<=0)[1-9][0-9]{{0,4}}(?:{BLANK}?[/-]{BLANK}?|{BLANK}|\.) )
    [0-9]{{2,8}} (?: (?:{BLANK}|[-.])[0-9]{{2,6}} ){{0,4}}
    {NUMBER_ENDS} (?!{BLANK}[0-9])""",
    re.VERBOSE,
)
_ANY = re.compile(
    rf"[0-9(]{_EDGE}(?:(?<=[0-9])|(?=[0-9]{{1,5}}\)))(?:{_GAP}?[0-9]){{6,14}}{_EXTENSION}{NUMBER_ENDS}"
)
_EQUALS = re.compile(r"\w = $")
_CALLED_BY_NAME = re.compile(
    r"(?i)(?:\b(?:(?:tele|mobile ?|cell ?)?phone|tel|mobile|mob|cell|fax|whats ?app|hotline|telefon(?:nummer|o|e)?|"
    r"handy(?:nummer)?|mobil(?:nummer|e)?|rufnummer|t[ée]l[ée]phone|portable|m[óo]vil|celular|telefoon)\b"
    r"(?:[ _-]?(?:numbers?|no|nr|nummer)\b)?[\"'.]{0,2}(?: (?:is|at|on|ist|est|es))?[ :=#\"'(\u00a0]{0,4}|"
    r"\b(?:call|dial|ring|text|sms)(?: (?:me|us|him|her|them))?(?: (?:at|on))? )$"
)


def find_phones(text: str) -> list[Span]:
    """Return the telephone numbers: international, American, with a leading 0, or called so by the words in front."""
    spans = [match.span() for match in _AMERICAN.finditer(text)]
    if "+" in text or "00" in text:
        spans.extend(
            span
            for match in _INTERNATIONAL.finditer(text)
            if (span := _international(text, match)) is not None
        )
    spans.extend(match.span() for match in _TRUNK.finditer(text) if _is_national(match[0]))
    spans.extend(
        match.span()
        for match in _ANY.finditer(text)
        if leads_to(text, match.start(), _CALLED_BY_NAME)
    )
    return spans


def _international(text: str, match: re.Match[str]) -> Span | None:
    """Return the number without groups that can't belong to it, if it has the 8 to 15 digits of E.164."""
    number = match["number"]
    groups = list(re.finditer("[0-9]+", number))
    digits, kept = "", 0
    for group in groups:
        if len(digits) + len(group[0]) > (11 if number[0] == "1" else 15):
            break
        digits += group[0]
        kept += 1
    is_decimal = len(groups) == 2 and "." in number
    if not kept or is_decimal:
        return None
    end = match.start("number") + groups[kept - 1].end()
    if match["prefix"].startswith("0"):
        # 0040 4142 4344 is rather a dump of bytes; 00 before a 1 is not how anyone calls America.
        groups_of_four = (
            kept > 2
            and all(len(group[0]) == 4 for group in groups[1:kept])
            and len(groups[0][0]) == 2
        )
        is_number = (
            len(digits) >= (11 if kept == 1 else 9) and digits[0] != "1" and not groups_of_four
        )
    elif digits[0] == "1":
        is_number = re.fullmatch("1[2-9][0-9]{9}", digits) is not None
    else:
        # In code, `a = +4294967296` is a signed integer.
        is_number = len(digits) >= 8 and (
            kept > 1 or (len(digits) >= 10 and not leads_to(text, match.start(), _EQUALS))
        )
    return (match.start(), end) if is_number else None


def _is_national(found: str) -> bool:
    groups = re.findall("[0-9]+", found)
    lengths = [len(group) for group in groups]
    total = sum(lengths)
    if lengths == [2, 2, 2, 2, 2]:
        return len({gap for gap in re.findall("[^0-9]+", found)}) == 1
    is_zip_code = lengths == [5, 4] and "-" in found
    if "." in found or is_zip_code or not 9 <= total <= 12:
        return False
    if lengths[0] == 2:
        return lengths[1:] in ([4, 4], [3, 4], [8], [7])
    return total >= 10 or (len(groups) == 2 and lengths[1] >= 3)

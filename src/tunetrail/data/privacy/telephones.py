"""Find telephone numbers in a text, in the forms in which people of several countries write them.

No number has a check digit, so a form is accepted only as far as it can't be taken for a date, a
version or a table.
"""

import re

from tunetrail.data.privacy.spans import BLANK, NUMBER_ENDS, WORD, Span, leads_to

# Between groups: a dot, a hyphen or slash with blanks around it, a bracket, or a blank.
_GAP = rf"(?:\.|{BLANK}?[-\u2010\u2011\u2013/(]{BLANK}?|\){BLANK}?[-/(]?|{BLANK})"
_EXTENSION = rf"(?:,?{BLANK}?(?:x|ext(?:\.|ension)?|доб\.?){BLANK}?[0-9]{{1,6}})?"
# All patterns begin with a set of characters, which is searched much faster; the lookbehinds follow
# that character. A number doesn't continue a word, an amount of money or a date.
_EDGE = rf"(?<![{WORD}$€£#].)(?<![0-9][-.:/].)"

# + or 00, the country's code and up to seven more groups: +49 (0) 170 1234567, 0044 20 7946 0958
_INTERNATIONAL = re.compile(
    rf"""(?P<prefix> [+0] (?<![{WORD}+.)\]].) (?<![0-9][-:/].)
        (?: (?<=\+) | (?<![0-9]{BLANK}.)(?<=0)0{BLANK}? ) )
    \(? (?P<number> [1-9][0-9]*+ (?:{_GAP}[0-9]++){{0,7}} )
    (?P<extension>{_EXTENSION}) (?![{WORD}])""",
    re.VERBOSE,
)
# (415) 555-2671, 1-415-555-2671, 415.555.2671. The numbering plan's rules aren't checked: examples
# that people make up, such as 555-123-4567, break them.
_CLOSING = rf"[0-9]{{2}}\){BLANK}?[0-9]{{3}}[-.\u2011]"
_OPEN = r"[0-9]{2}(?:-[0-9]{3}-|\.[0-9]{3}\.|\u2011[0-9]{3}\u2011)"
_AMERICAN = re.compile(
    rf"""[1-9(] {_EDGE} (?<![+/-].)
    (?: (?<=\()[1-9]{_CLOSING}
      | (?<=1)(?:[-.]|{BLANK})(?:\([1-9]{_CLOSING}|[1-9]{_OPEN})
      | (?<=[1-9]){_OPEN} )
    [0-9]{{4}} {_EXTENSION} {NUMBER_ENDS}""",
    re.VERBOSE,
)
# Forms of single countries: (11) 97113-8192 and 11 97113-8192 in Brazil, 138-1234-5678 in China.
_NATIONAL = re.compile(
    rf"""[1-9(] {_EDGE} (?<![+/-].)
    (?: (?<=\()[1-9][0-9]\){BLANK}?9?[0-9]{{4}}-[0-9]{{4}}
      | (?<=[1-9])[0-9]{BLANK}9[0-9]{{4}}-[0-9]{{4}}
      | (?<=1)[3-9][0-9]-[0-9]{{4}}-[0-9]{{4}} )
    {NUMBER_ENDS}""",
    re.VERBOSE,
)
_LAST_FOUR = re.compile("-[0-9]{4}(?![0-9])")
# A leading 0: 0170/1234567, 030 12345678, (020) 7946 0958, 03-1234-5678, 06 12 34 56 78
_TRUNK = re.compile(
    rf"""[0(] {_EDGE} (?<![+/-].) (?<![0-9]{BLANK}.)
    (?: (?<=\()0[1-9][0-9]{{1,4}}\){BLANK}?
      | (?<=0)[1-9][0-9]{{0,4}}(?:{BLANK}?[/-]{BLANK}?|{BLANK}|\.) )
    [0-9]{{2,8}} (?: (?:{BLANK}|[-.])[0-9]{{2,6}} ){{0,4}}
    {_EXTENSION} {NUMBER_ENDS} (?!{BLANK}[0-9])""",
    re.VERBOSE,
)
# Any 7 to 15 digits, for which the words before them must say that they are a telephone number.
_ANY = re.compile(
    rf"[0-9(]{_EDGE}(?:(?<=[0-9])|(?=[0-9]{{1,5}}\)))(?:{_GAP}?[0-9]){{6,14}}"
    rf"{_EXTENSION}{NUMBER_ENDS}"
)
_EQUALS = re.compile(r"\w = $")
_CALLED_BY_NAME = re.compile(
    r"(?i)(?:\b(?:(?:tele|mobile ?|cell ?)?phone|tel|mobile|mob|cell|fax|whats ?app|hotline|"
    r"telefon(?:nummer|o|e)?|handy(?:nummer)?|mobil(?:nummer|e)?|rufnummer|t[ée]l[ée]phone|portable|"
    r"m[óo]vil|celular|telefoon)\b(?:[ _-]?(?:numbers?|no|nr|nummer)\b)?[\"'.]{0,2}"
    r"(?: (?:is|at|on|ist|est|es))?[ :=#\"'(\u00a0]{0,4}|"
    r"(?<!next )(?<!last )(?<!the )(?<!system )(?<!function )"
    r"\b(?:call|dial|ring|text|sms)(?: (?:me|us|him|her|them))?(?: (?:at|on))? |"
    r"\b(?:lig(?:a|ue|ar)|llam(?:a|e|ar)|appel(?:er|ez|le)|chiam(?:a|are)|ruf|bel|zadzwoń)"
    r"(?: [a-zé]{1,6}){0,2} |"
    r"(?:тел(?:\.|ефона?)?|звоните|позвоните|моб(?:\.|ильный)?|هاتف|جوال|טלפון|נייד|फ़ोन|फोन|मोबाइल|"
    r"τηλ(?:\.|έφωνο)?|κινητό|โทร(?:ศัพท์)?|điện thoại|telefonu?m?|puhelin|(?:número|numero)(?: de)? "
    r"(?:teléfono|telefone|celular)|"
    r"电话|電話|手机|手機|携帯|致电|拨打|撥打|联系|微信|热线|传真|ファックス|전화|휴대폰|핸드폰|연락처)"
    r"(?:号码|號碼|番号|号|번호)?[:=#\"'( \u00a0是为為はは는은이가]{0,4})$"
)
# A day: 2023-10-05, 5.10.2023. Telephone numbers have other groups.
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}([-./ ])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12][0-9]|3[01])(?![0-9])"
    r"|(?:0?[1-9]|[12][0-9]|3[01])([-./])(?:0?[1-9]|[12][0-9]|3[01])\2(?:19|20)[0-9]{2}(?![0-9])"
)


def find_phones(text: str) -> list[Span]:
    """Return the telephone numbers: international, American, with a leading 0, or named as such."""
    spans = [match.span() for match in _AMERICAN.finditer(text)]
    # The hyphen and its four digits are searched faster than the whole.
    if "-" in text and _LAST_FOUR.search(text):
        spans += [match.span() for match in _NATIONAL.finditer(text)]

    if "+" in text or "00" in text:
        for match in _INTERNATIONAL.finditer(text):
            span = _international_number(text, match)
            if span is not None:
                spans.append(span)

    for match in _TRUNK.finditer(text):
        if _is_national(match[0]):
            spans.append(match.span())

    for match in _ANY.finditer(text):
        if not _DATE.match(match[0]) and leads_to(text, match.start(), _CALLED_BY_NAME):
            spans.append(match.span())
    return spans


def _international_number(text: str, match: re.Match[str]) -> Span | None:
    """Return the number without the groups that can't belong to it, if it can be one by E.164."""
    digits = ""
    groups: list[str] = []
    end = match.start("number")
    most_digits = 11 if match["number"][0] == "1" else 15
    all_groups = list(re.finditer("[0-9]+", match["number"]))
    for group in all_groups:
        if len(digits) + len(group[0]) > most_digits:
            break
        digits += group[0]
        groups.append(group[0])
        end = match.start("number") + group.end()

    # The extension belongs to the number if all groups before it do.
    if groups and len(groups) == len(all_groups):
        end = match.end("extension")
    is_decimal = len(all_groups) == 2 and "." in match["number"]
    if not groups or is_decimal:
        return None

    if match["prefix"].startswith("0"):
        is_number = _follows_00(digits, groups)
    elif digits[0] == "1":
        is_number = re.fullmatch("1[2-9][0-9]{9}", digits) is not None
    else:
        # In code, `a = +4294967296` is a signed integer.
        is_integer = len(groups) == 1 and (
            len(digits) < 10 or leads_to(text, match.start(), _EQUALS)
        )
        is_number = len(digits) >= 8 and not is_integer
    return (match.start(), end) if is_number else None


def _follows_00(digits: str, groups: list[str]) -> bool:
    """Tell whether the groups after 00 are a number; America is 001 only with its own groups."""
    # 0040 4142 4344 is more likely a dump of bytes.
    lengths = list(map(len, groups))
    if lengths == [1, 3, 3, 4]:
        return digits[0] == "1"
    is_byte_dump = len(lengths) > 2 and lengths[0] == 2 and set(lengths[1:]) == {4}
    least_digits = 11 if len(groups) == 1 else 9
    return len(digits) >= least_digits and digits[0] != "1" and not is_byte_dump


def _is_national(written: str) -> bool:
    """Tell whether digits after a leading 0 are a telephone number, not a date or zip code."""
    written = re.split("[^-0-9 .()/\u00a0\u202f]", written)[0].rstrip(" ,")
    lengths = list(map(len, re.findall("[0-9]+", written)))
    total = sum(lengths)

    # France writes five pairs, with the same separator between all of them.
    if lengths == [2, 2, 2, 2, 2]:
        return len(set(re.findall("[^0-9]+", written))) == 1

    is_zip_code = lengths == [5, 4] and "-" in written
    if "." in written or is_zip_code or not 9 <= total <= 12:
        return False
    if lengths[0] == 2:
        return lengths[1:] in ([4, 4], [3, 4], [8], [7])
    return total >= 10 or (len(lengths) == 2 and lengths[1] >= 3)

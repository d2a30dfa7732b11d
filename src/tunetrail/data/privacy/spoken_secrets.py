"""Find passwords and keys that a sentence tells, in the languages of the language check.

"My password is Tr0ub4dor&3, use it." has no form that a program could rely on: a name of the
secret, a link such as a colon or "is", and a word that no language has.
"""

# ruff: noqa: RUF001 -- names and signs of many languages
import re
from collections.abc import Callable
from string import digits

from tunetrail.data.privacy.spans import LATIN, Span

# By the beginning that each name is looked for with: searching for 40 words is cheap, and only
# where one of them stands is the text matched with a pattern. Inflections follow the beginnings.
_PASSWORDS = {
    "pass": r"pass(?:w(?:or[dt]|d)\w{0,3}|phrases?|codes?|ord\w{0,2})?",
    "pw": "pwd?",
    "kennwort": "kennwort",
    "zugangscode": "zugangscode",
    "mot de passe": "mot de passe",
    "mdp": "mdp",
    "contrase": "contrase[ñn]a",
    "clave": "clave",
    "senha": "senha",
    "palavra-passe": "palavra-passe",
    "parol": r"parol[aăe](?: d['’]ordine| chiave)?\w{0,3}",
    "wachtwoord": "wachtwoord",
    "lösenord": r"lösenord\w{0,2}",
    "adgangskode": r"adgangskode\w{0,2}",
    "kodeord": r"kodeord\w{0,2}",
    "salasana": r"salasana\w{0,4}",
    "hasł": r"hasł\w{1,3}",
    "heslo": "heslo",
    "jelsz": r"jelsz\w{1,4}",
    "lozinka": "lozinka",
    "şifre": r"şifre\w{0,5}",
    "κωδικ": r"κωδικ\w{2}(?: πρόσβασης)?",
    "парол": r"парол\w{1,3}",
    "كلمة": "كلمة (?:المرور|السر)",
    "رمز عبور": "رمز عبور",
    "گذرواژه": "گذرواژه",
    "סיסמ": "סיסמ[הא]",
    "पासवर्ड": "पासवर्ड",
    "পাসওয়ার্ড": "পাসওয়ার্ড",
    "รหัสผ่าน": "รหัสผ่าน",
    "mật khẩu": "mật khẩu",
    "sandi": "sandi",
    "密码": "密码",
    "密碼": "密碼",
    "口令": "口令",
    "パスワード": "パスワード",
    "暗証番号": "暗証番号",
    "비밀번호": "비밀번호",
    "패스워드": "패스워드",
    "암호": "암호",
}
_KEYS = {
    "api": "api[ _-]?keys?",
    "access": "access[ _-]?(?:keys?|tokens?)",
    "private": "private[ _-]?keys?",
    "licen": "licen[cs]e[ _-]?keys?",
    "token": "tokens?",
    "secret": "secrets?(?:[ _-]?keys?)?",
}
# Words between the name and the link, as in "the password for the wifi is".
_WORDS_BETWEEN = r"(?P<between>(?:[ \u00a0]\(?[^\W\d_][\w'’-]{0,20}\)?){0,5}?)"
_LINK = (
    r"(?P<link>[ \u00a0]{0,3}(?:[:=]|->|→)[ \u00a0]{0,3}"
    r"|[ \u00a0](?:is|was|are|to|ist|lautet|war|est|sera|es|será|é|è|era|är|er|on|jest|je|bude|"
    r"este|van|adalah|là|είναι|это|هي|هو|است|है|হল|คือ)(?:[ \u00a0]now|[ \u00a0]still)?:?[ \u00a0]"
    r"|[ \u00a0]?(?:[はは是为為]|設為|设为|는|은|가|이|คือ)[ :\u00a0]{0,3}"
    r"|[ \u00a0]?(?:[-–—][ \u00a0])?)"
)
_VALUE = (
    r"""(?P<opening>["'`“”„«‘「『(*]{0,3})"""
    rf"(?P<value>(?=[^\s0-9]{{0,63}}[0-9])[!-+\--:=?-_a-~{LATIN}]{{4,64}})"
)
_NOT_OF_A_VALUE = re.compile(r"[\"'`<>{}\[\]|\\]")
_UNITS = re.compile(
    r"[0-9]+(?:-[0-9]+)?-?(?:characters?|chars?|bits?|bytes?|digits?|letters?|days?|x|st|nd|rd|th|"
    r"min|h|s|ms|k|m|mb|zeichen|caract\w+)?"
)
# SHA-256, base64-encoded, 2FA, RFC2617, utf8, field2, hyphenated words, a date.
_TERM = re.compile(
    r"(?i)[a-z]+[ ._-]?[0-9]{0,3}|[a-z]{2,5}-?[0-9]+(?:-[a-z]+)?|[a-z]+[0-9]*(?:[-/][a-z]+)+"
    r"|[0-9]+-[a-z]+|[0-9]fa|[0-9]{1,4}([-/.])[0-9]{1,2}\1[0-9]{1,4}"
)
_REFERENCE = re.compile(
    r"[A-Za-z_$][\w$]*(?:(?:\?\.|::|->|/)[A-Za-z_$][\w$]*)+|[A-Z0-9]+(?:_[A-Z0-9]+)+|\w+[(=].*"
    r"|[$%/~.@#\\].*|.*(?:://|\*\*|\.\.\.).*|[^@]+@[^@]+\.[a-zA-Z]{2,}|.*\\u[0-9a-f]{4}.*"
)
# "password length is 1024", "the password must be changed to": the secret itself isn't told.
_ABOUT = re.compile(
    r"(?i)\b(?:name|id|type|count|url|file|path|length|size|limit|field|label|regex|pattern|policy|"
    r"expir\w*|hash\w*|algorithm|version|manager|error|must|should|may|can|not|if|when|has|have|"
    r"contain\w*|needs?|least|rule|reset|encrypt\w*)\b"
)
_DIGIT = re.compile("[0-9]")
_SIGN = re.compile("[!@#$%^&*+=?~](?=.)")
_MIXED = re.compile(f"[{LATIN}][^{LATIN}\\s]+[{LATIN}]|[0-9][{LATIN}]")
_CODE_VALUE = re.compile(r"[A-Za-z_]\w*[0-9]?")


def _patterns(names: dict[str, str]) -> dict[str, re.Pattern[str]]:
    patterns = {}
    for beginning, name in names.items():
        edge = rf"(?<![{LATIN}])" if beginning[0].isascii() else ""
        whole = edge + rf"(?P<name>{name})" + _WORDS_BETWEEN + _LINK + _VALUE
        patterns[beginning] = re.compile(whole, re.IGNORECASE)
    return patterns


_PASSWORD_PATTERNS = _patterns(_PASSWORDS)
_KEY_PATTERNS = _patterns(_KEYS)
_BEGINNINGS = (*_PASSWORDS, *_KEYS)
# The most characters from the start of a name to the first digit of its secret: 30 of the name,
# 120 of the words between, 25 of the link, 66 before the digit.
_LONGEST_REACH = 256
_ASCII_BEGINNINGS = tuple(filter(str.isascii, _BEGINNINGS))


def find_spoken_secrets(text: str, is_random: Callable[[str], bool]) -> list[Span]:
    """Return the passwords and keys that sentences of a text tell.

    Args:
        text: The folded text.
        is_random: Whether a value looks machine-generated; a key must.
    """
    # A secret has a digit, so its name stands before the last and not far before the first one.
    digits_present = list(filter(text.__contains__, digits))
    if not digits_present:
        return []
    start = max(0, min(map(text.find, digits_present)) - _LONGEST_REACH)
    end = max(map(text.rfind, digits_present))

    # The one letter whose small form is two characters; spans must stay spans.
    lowered = text[start:end].replace("\u0130", "I").lower()
    spans = []
    beginnings = _ASCII_BEGINNINGS if lowered.isascii() else _BEGINNINGS
    for beginning in filter(lowered.__contains__, beginnings):
        position = lowered.find(beginning)
        while position >= 0:
            span = _secret_after(text, start + position, beginning, is_random)
            if span is not None:
                spans.append(span)
            position = lowered.find(beginning, position + 1)
    return spans


def _secret_after(
    text: str, position: int, beginning: str, is_random: Callable[[str], bool]
) -> Span | None:
    """Return the secret that the name at a position is followed by, or None."""
    is_key = beginning in _KEYS
    pattern = _KEY_PATTERNS[beginning] if is_key else _PASSWORD_PATTERNS[beginning]
    match = pattern.match(text, position)
    if match is None or _tells_about(match):
        return None

    value = _trimmed(match["value"])
    if is_key:
        # With a sign, it is an assignment, which has a pattern of its own.
        is_told = match["link"].strip() not in ("", "=", ":")
        is_secret = is_told and is_random(value) and not _REFERENCE.fullmatch(value)
    else:
        is_secret = _is_password(value, match, text)
    start = match.start("value")
    return (start, start + len(value)) if is_secret else None


def _trimmed(value: str) -> str:
    """Return the value without the punctuation and the brackets of its sentence."""
    ending = _NOT_OF_A_VALUE.search(value)
    value = value[: ending.start()] if ending else value
    value = value.rstrip(".:?*-/")
    return value.rstrip(").:") if "(" not in value else value


def _tells_about(match: re.Match[str]) -> bool:
    return bool(match["between"]) and _ABOUT.search(match["between"]) is not None


def _is_password(value: str, match: re.Match[str], text: str) -> bool:
    """Tell whether a word after the name of a password is one; bare words need more to show it."""
    if len(value) < 4 or not _DIGIT.search(value):
        return False
    if _REFERENCE.fullmatch(value):
        return False

    link = match["link"].strip()
    if value.isdigit():
        # Only at the end of a clause: "is 1024 bits" goes on.
        after = text[match.start("value") + len(value) :][:2]
        ends = not after or not after.lstrip(" ")[:1].isalnum()
        return bool(link) and link not in ("=", ":") and ends
    if _UNITS.fullmatch(value) or _TERM.fullmatch(value):
        # A quoted word after a clear link is meant literally.
        return bool(link) and link not in ("=", ":") and bool(match["opening"])

    if link == "=" or (link == ":" and match["name"].isascii()):
        # In code, a name follows: only what no name can be is a password there.
        return _SIGN.search(value) is not None or not _CODE_VALUE.fullmatch(value)
    if not link:
        # "pass 2a" and "pw 3x4" are something else.
        is_direct = not match["between"] and match["name"].lower() not in ("pass", "pw")
        return is_direct and bool(_SIGN.search(value) or _MIXED.search(value))
    return True

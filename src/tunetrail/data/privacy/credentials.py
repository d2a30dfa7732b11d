"""Find secrets in a text: keys of known vendors, private keys, tokens, and passwords.

Passwords are assigned in code, or told in a sentence (see `spoken_secrets`). What only stands for a
secret (a variable, a call, a template, a mask) is none.
"""

import base64
import binascii
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable

from tunetrail.data.privacy.spans import Span
from tunetrail.data.privacy.spoken_secrets import find_spoken_secrets

# Cheap checks that rule out vendors' keys in most texts: each key has such a run, and begins with
# one of these.
_LONG_RUN = re.compile(r"[A-Z0-9_-][A-Za-z0-9_+/=-]{15}")
_VENDOR_BEGINNINGS = (  # noqa: SIM905 -- a list would take a line for each beginning
    "AKIA ASIA AIza eyJ ghp_ gho_ ghs_ ghu_ ghr_ github_pat_ glpat- xox xapp- sk- k_live_ k_test_ "
    "whsec_ hf_ pypi- npm_ SG. GOCSPX- dop_v1_ shpat_"
).split()
# In this order: AWS, Google, JSON web tokens, GitHub, GitLab, Slack, Stripe, Hugging Face, PyPI,
# npm, SendGrid, Google OAuth, DigitalOcean, Shopify. `sk-` is used by several vendors, and by
# other identifiers: such a key must look random as well.
_VENDOR_KEY = re.compile(
    r"""(?<![A-Za-z0-9_])(?:
        A[KS]IA[A-Z0-9]{16}
      | AIza[\w-]{35}
      | eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{4,}+\.[A-Za-z0-9_-]{8,}+
      | gh[pousr]_[A-Za-z0-9]{36,251}
      | github_pat_[A-Za-z0-9_]{22,244}
      | glpat-[A-Za-z0-9_-]{20,64}
      | xox[abeoprs]-[A-Za-z0-9-]{10,250}
      | xapp-[0-9]-[A-Za-z0-9-]{20,250}
      | [sr]k_(?:live|test)_[A-Za-z0-9]{16,250}
      | whsec_[A-Za-z0-9+/=]{24,100}
      | hf_[A-Za-z0-9]{30,50}
      | pypi-[A-Za-z0-9_-]{50,1000}
      | npm_[A-Za-z0-9]{36}
      | SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}
      | GOCSPX-[A-Za-z0-9_-]{28}
      | dop_v1_[a-f0-9]{64}
      | shpat_[a-fA-F0-9]{32}
      | (?P<shaped> sk-[A-Za-z0-9_-]{20,250} )
    )(?![A-Za-z0-9_])""",
    re.VERBOSE | re.ASCII,
)

# The body may hold single dashes; the block may be cut off before its end.
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?P<body>(?:[^-]|-(?!----))*+)(?P<end>-----END [A-Z0-9 ]{0,40}-----)?"
)
_ENCODED_LINES = re.compile(
    r"[A-Za-z0-9+/]{24,}+={0,2}(?:(?:\s|\\[nr])*+[A-Za-z0-9+/]{24,}+={0,2})*+"
)

# HTTP's authorization headers, and the password of a URL: https://user:password@host
_BEARER = re.compile(r"\b[Bb](?:earer|EARER)[ \t]{1,4}(?P<value>[A-Za-z0-9._~+/-]{16,4096}+=*)")
_BASIC = re.compile(r"\b[Bb]asic[ \t]{1,4}(?P<value>[A-Za-z0-9+/]{8,1024}+={0,2})")
_URL_PASSWORD = re.compile(
    r"""://[^\s/:@?\#"'`<>()]{0,64}:(?P<value>[^\s/"'`<>(),]{1,256})@(?=[\w\[])"""
)

# Parts of the names below, as a cheap check before the assignment's pattern.
_NAMES_OF_SECRETS = ("passw", "pwd", "secret", "token", "passp", "passc", "credential")
_KINDS_OF_KEYS = ("api", "access", "private")
# A name with a suffix (TOKEN_2, secretKeyProd), a sign, and a literal, quoted or bare.
_ASSIGNMENT = re.compile(
    r"""(?ix)
    (?P<name> (?P<password> pass(?:word|wd|phrase|code)|pwd )
      | secret[ _-]?(?:access[ _-]?)?key | secret | token
      | api[ _-]?key | access[ _-]?key | private[ _-]?key | credential )
    (?P<suffix> s? (?: [_-][\w-]{0,30}+ | [0-9]{1,2} | (?-i:[A-Z])\w{0,30}+ )? )
    (?: ["'`]\]? )? [ \t]{0,8}+ (?P<sign> =>|:=|=(?!=)|:(?!:) ) [ \t]{0,8}+
    (?: (?P<prefix> [rbfu]{0,2}) (?P<quote> ["'`]) (?P<quoted> [^"'`\r\n]{4,512}+ ) (?P=quote)
      | (?P<bare> [A-Za-z0-9!@\#^*_+=./~%?$:-]{6,512}+ ) )"""
)
# password_file, token_type, secret_name: a property of a secret is not the secret.
_ABOUT_A_SECRET = re.compile(
    r"(?i)(?:name|id|ids|type|count|ur[li]|file|path|dir|length|len|size|limit|field|label|regex|"
    r"pattern|policy|expir\w*|expires?(?:_?(?:in|at))?|ttl|endpoint|hint|prefix|arn|env|var|format|"
    r"list|class|input|prompt|hash|algorithm|version|manager|provider|store|error|message|text|title|help|description)$"
)
# Templates, placeholders, URLs, paths, masks and rows of one character.
_NO_LITERAL = re.compile(
    r"[{}<>]|%[(sdr]|\$[({]|\[[A-Z_]+\]|://|^[/~.$%@-]|\.\.\.|\*\*|xxx|XXX|^(.)\1*$"
)
# Documentation writes my-secret-token or YOUR_API_KEY_HERE.
_WORDS_FOR_A_SECRET = re.compile(
    r"(?:my|your|the|new|old|user|some|enter|insert|current|confirm|repeat|invalid|wrong|test|db|"
    r"admin|root|no|a|an|pass(?:word|wd|phrase|code)?s?|pwd|secrets?|tokens?|api|access|private|auth|"
    r"keys?|credentials?|here|goes|string|str|none|null|nil|true|false|required|optional|hidden|"
    r"masked|redacted|text|field|input|value|default|example){1,6}"
)
_TYPE_OR_CODEC = re.compile(
    r"(?i)(?:u?int|float|complex|utf|sha|md|base|latin|iso|ascii|str|bytes?|arg|param|var)[_-]?\d+"
)
# settings.WEB_API_KEY, self->token, config?.apiKey!, and constants such as WEB_API_KEY_V2_LIVE.
_REFERENCE = re.compile(
    r"[A-Za-z_$][\w$]*(?:(?:\?\.|!?\.|::|->)[A-Za-z_$][\w$]*)+!?"
    r"|[A-Z]{2,}[0-9]{0,2}(?:_(?:[A-Z]{1,}[0-9]{0,2}|[0-9]{1,2}))+"
)
_WORD_AND_NUMBER = re.compile(r"[A-Za-z]++(?:[ ._-][A-Za-z]++)*+[ ._-]?[0-9]{0,3}")
_AWS_SECRET = re.compile(r"(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9/+]{40}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def find_secrets(text: str) -> list[Span]:
    """Return the secrets; in an assignment, a header or a URL only the secret value."""
    spans: list[Span] = []
    if _LONG_RUN.search(text) and any(map(text.__contains__, _VENDOR_BEGINNINGS)):
        for match in _VENDOR_KEY.finditer(text):
            if match["shaped"] is None or _is_random(match[0]):
                spans.append(match.span())

    if "PRIVATE KEY" in text:
        spans.extend(_find_private_keys(text))

    if "earer" in text or "EARER" in text:
        spans.extend(_find_values(text, _BEARER, _is_random))
    if "asic " in text:
        spans.extend(_find_values(text, _BASIC, _is_basic))
    if "://" in text and "@" in text:
        spans.extend(_find_values(text, _URL_PASSWORD, _is_literal))

    if ("=" in text or ":" in text) and _names_a_secret(text.lower()):
        for match in _ASSIGNMENT.finditer(text):
            span = _assigned_secret(text, match)
            if span is not None:
                spans.append(span)
    return spans + find_spoken_secrets(text, _is_random)


def _find_values(
    text: str, pattern: re.Pattern[str], is_secret: Callable[[str], bool]
) -> list[Span]:
    return [match.span("value") for match in pattern.finditer(text) if is_secret(match["value"])]


def _is_literal(value: str) -> bool:
    return _NO_LITERAL.search(value) is None


def _names_a_secret(lowered: str) -> bool:
    names_key = "key" in lowered and any(map(lowered.__contains__, _KINDS_OF_KEYS))
    return names_key or any(map(lowered.__contains__, _NAMES_OF_SECRETS))


def _find_private_keys(text: str) -> list[Span]:
    """Return the private keys: whole blocks, and blocks cut off after some lines."""
    spans: list[Span] = []
    for match in _PRIVATE_KEY.finditer(text):
        # Without encoded lines, the heading is only mentioned.
        lines = _ENCODED_LINES.search(text, *match.span("body"))
        if lines is not None:
            spans.append((match.start(), match.end() if match["end"] else lines.end()))
    return spans


def _is_basic(value: str) -> bool:
    """Tell whether a value is `user:password` in base64, as in HTTP basic authentication."""
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return ":" in decoded and decoded.isprintable()


def _assigned_secret(text: str, match: re.Match[str]) -> Span | None:
    """Return the span of an assignment's value if it is a literal secret."""
    if match["suffix"] and _ABOUT_A_SECRET.search(match["suffix"]):
        return None

    if match["quote"]:
        value, start = match["quoted"], match.start("quoted")
        is_formatted = "f" in match["prefix"].lower() and "{" in value
    else:
        # A bare value ends before the punctuation of its sentence; before a bracket it is a call.
        value, start = match["bare"].rstrip(".:?") or match["bare"], match.start("bare")
        next_character = text[match.end() : match.end() + 1]
        is_formatted = next_character in ("(", "[", "{") and value[-1].isalnum()

    # The secret keys of AWS may hold a slash at the beginning, as paths do.
    is_literal = _is_literal(value) or _AWS_SECRET.fullmatch(value)
    if is_formatted or _DATE.match(value) or not is_literal:
        return None
    is_secret = _is_password(value, match) if match["password"] else _is_random(value)
    return (start, start + len(value)) if is_secret else None


def _is_password(value: str, match: re.Match[str]) -> bool:
    """Tell whether a value assigned to a password is one: people choose words, code names."""
    is_phrase = "phrase" in match["password"].lower()
    if any(map(str.isspace, value)) and not is_phrase:
        return False

    letters_only = re.sub("[^a-z]", "", value.lower())
    if _WORDS_FOR_A_SECRET.fullmatch(letters_only) and not re.search("[0-9]", value):
        return False
    if _REFERENCE.fullmatch(value) or _TYPE_OR_CODEC.fullmatch(value):
        return False
    if match["quote"]:
        return True

    digits, letters = sum(map(str.isdigit, value)), sum(map(str.isalpha, value))
    if not value.isidentifier():
        return digits > 0 and letters > 0

    # In `password = line2` the value is a variable's name; in `password=hunter2` and
    # `password: hunter2` it is literal.
    has_spaced_equals = match["sign"] != ":" and match.end("sign") < match.start("bare")
    least_digits = 2 if has_spaced_equals else 1
    repeats_name = match["password"].lower()[:4] in value.lower()
    return letters > 0 and digits >= least_digits and not repeats_name


def _is_random(value: str) -> bool:
    """Tell whether a value looks machine-generated: digits and letters, or both cases, mixed."""
    if _REFERENCE.fullmatch(value):
        return False
    if _AWS_SECRET.fullmatch(value) or _is_mixed_case(value):
        return True
    if len(value) < 8 or _WORD_AND_NUMBER.fullmatch(value):
        return False

    # A value of n characters has at most log2(n) bits per character.
    least_entropy = min(3.0, 0.8 * math.log2(len(value)))
    digits, letters = sum(map(str.isdigit, value)), sum(map(str.isalpha, value))
    return digits >= 2 and letters >= 2 and _entropy(value) >= least_entropy


def _is_mixed_case(value: str) -> bool:
    """Tell whether the case of 20 letters or more changes at random.

    Words in camel case have few capitals in a row.
    """
    is_upper = list(map(str.isupper, value))
    pairs = Counter(itertools.pairwise(is_upper))
    capitals = sum(is_upper) / len(value)
    return (
        len(value) >= 20
        and 0.25 <= capitals <= 0.75
        and min(pairs[True, True], pairs[False, True]) >= 3
        and _entropy(value) >= 3.5
    )


def _entropy(value: str) -> float:
    """Return Shannon's entropy of the characters, in bits per character."""
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares)

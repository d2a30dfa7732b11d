"""Personal data and secrets drawn at random, each valid, and things that only look like them.

Check digits are computed here, apart from the package's own code. Import it as
`tests.corpora.personal_data`.
"""

import ipaddress
import random
import string

from tests.corpora.drawing import Draw, cut, drawn, filled, one_of, some
from tests.corpora.national_numbers import NATIONAL_IDS
from tests.corpora.secret_keys import NO_SECRETS, SECRETS

KINDS = ("email", "phone", "card", "iban", "ip_address", "national_id", "secret")
"""The kinds, named as the switches of `PrivacyConfig` are; their placeholders are the same in capitals."""


def instances(kind: str, count: int, seed: int) -> list[str]:
    """Return `count` texts that hold one valid instance of a kind each, with the words around it that it needs."""
    return drawn(_INSTANCES[kind], count, f"{kind} {seed}")


def near_misses(kind: str, count: int, seed: int) -> list[str]:
    """Return `count` texts that look like a kind and hold nothing personal of any kind."""
    return drawn(_NEAR_MISSES[kind], count, f"no {kind} {seed}")


_PEOPLE = (
    "anna",
    "li.wei",
    "o_brien",
    "jürgen.müller",
    "дмитрий",
    "maría-josé",
    "x",
    "sales",
    "First.Last",
    "bob99",
)
_HOSTS = (
    "example.com",
    "mail.example.co.uk",
    "uni-köln.de",
    "xn--bcher-kva.example",
    "dev.internal-tools.io",
)


def _email(rng: random.Random) -> str:
    tag = rng.choice(("", "", "+news", "+a.b", str(rng.randrange(100))))
    address = f"{rng.choice(_PEOPLE)}{tag}@{rng.choice(_HOSTS)}"
    return rng.choice(("{}", "<{}>", "mailto:{}", '"{}"', "({})", "{},")).format(address)


_NATIONAL_PHONES = (
    *("(&&0) &2#-####", "&&0-&2#-####", "&&0.&2#.####", "1-&&0-&2#-####", "(&&0)&2#-#### ext. 12"),
    *("020 7### ####", "07### ######", "0161 4## ####", "(01632) 96####", "0800 ### ####"),
    *(
        "0170/#######",
        "030/########",
        "0171 #######",
        "089-#######",
        "(040) #######",
        "0151 ## ## ## ##",
    ),
    *(
        "06 ## ## ## ##",
        "01.##.##.##.##",
        "07-##-##-##-##",
        "04## ### ###",
        "079 ### ## ##",
        "06-########",
    ),
    *(
        "03-3###-####",
        "090-####-####",
        "Tel.: &########",
        "phone number: &02&######",
        "call me at &&0 &2# ####",
    ),
)
_INTERNATIONAL_PHONES = (
    *("+1 (&&0) &2#-####", "+1-&&0-&2#-####", "+1&&0&2#####", "+1 &&0 &2# ####"),
    *("+44 20 7### ####", "+44 7### ######", "+447#########", "+44 (0)20 7### ####"),
    *(
        "+49 170 #######",
        "+49 (0)30 ########",
        "+4917########",
        "0049 170 #######",
        "+49-89-#######",
        "0043 1 #######",
    ),
    *(
        "+33 6 ## ## ## ##",
        "+34 6## ## ## ##",
        "+39 3## #######",
        "+91 9#### #####",
        "+81 90-####-####",
    ),
    *(
        "+55 11 9####-####",
        "+61 4## ### ###",
        "+31 6 ########",
        "+41 79 ### ## ##",
        "+48 5## ### ###",
        "+86 138 #### ####",
    ),
)


def _with_luhn(digits: str) -> str:
    """Return digits with their Luhn digit: the one that makes the sum of the doubled places a multiple of ten."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return digits + str(-total % 10)


_ISSUERS = (
    ("4", 16),
    ("51", 16),
    ("2300", 16),
    ("34", 15),
    ("37", 15),
    ("6011", 16),
    ("36", 14),
    ("3530", 16),
)


def _card(rng: random.Random, *, valid: bool = True) -> str:
    prefix, length = rng.choice(
        (*_ISSUERS, ("4", 16), ("55", 16), ("4", 13), ("4", 19), ("6212", 18), ("6761", 16))
    )
    # The first sixteen of nineteen wrong digits may be right ones.
    length = length if valid else min(length, 16)
    digits = _with_luhn(prefix + some(rng, string.digits, length - 1 - len(prefix)))
    if not valid:
        digits = digits[:-1] + str((int(digits[-1]) + rng.randint(1, 9)) % 10)
    cuts = {14: (4, 10), 15: (4, 10), 13: (4, 8, 12), 16: (4, 8, 12), 19: (4, 8, 12, 16)}.get(
        length
    )
    gap = rng.choice(("", " ", "-")) if cuts else ""
    return gap.join(cut(digits, *(cuts or ())))


_IBAN_FORMS = {
    **{
        "DE": "#" * 18,
        "GB": "^^^^" + "#" * 14,
        "FR": "#" * 10 + "^" + "#" * 12,
        "NL": "^^^^" + "#" * 10,
    },
    **{
        "ES": "#" * 20,
        "IT": "^" + "#" * 22,
        "CH": "#" * 17,
        "AT": "#" * 16,
        "BE": "#" * 12,
        "PL": "#" * 24,
    },
    **{
        "NO": "#" * 11,
        "SE": "#" * 20,
        "MT": "^^^^" + "#" * 5 + "0" * 3 + "#" * 15,
        "SA": "#" * 20,
        "BR": "#" * 23 + "P1",
    },
}


def _iban(rng: random.Random, *, valid: bool = True) -> str:
    country = rng.choice(list(_IBAN_FORMS))
    body = filled(rng, _IBAN_FORMS[country])
    remainder = 0
    for character in f"{body}{country}00":
        value = int(character, 36)
        remainder = (remainder * (100 if value > 9 else 10) + value) % 97
    check = 98 - remainder
    if not valid:
        check = (check - 2 + rng.randint(1, 90)) % 97 + 2
    iban = f"{country}{check:02}{body}"
    if rng.random() < 0.5:
        return " ".join(iban[start : start + 4] for start in range(0, len(iban), 4))
    return rng.choice((iban, iban, iban.lower())) if valid else iban


def _ipv4(rng: random.Random) -> str:
    first = rng.choice([number for number in range(20, 224) if number != 127])
    return ".".join(map(str, (first, *(rng.randrange(256) for _ in range(3)))))


def _ipv6(rng: random.Random) -> str:
    beginning = rng.choice((0x2001_0DB8, 0x2A00_1450, 0x2606_4700, 0xFE80_0000, 0xFD12_3456))
    address = ipaddress.IPv6Address(beginning << 96 | rng.getrandbits(rng.choice((64, 32, 16))) | 1)
    return rng.choice(
        (address.compressed, address.exploded, address.compressed.upper(), f"[{address}]:443")
    )


_INSTANCES: dict[str, tuple[Draw, ...]] = {
    "email": (_email,),
    "phone": (one_of(*_NATIONAL_PHONES), one_of(*_INTERNATIONAL_PHONES)),
    "card": (_card,),
    "iban": (_iban,),
    "ip_address": (_ipv4, _ipv6),
    "national_id": NATIONAL_IDS,
    "secret": SECRETS,
}
_NUMBERS = (
    one_of(
        "20##-0&-1# 1#:4#:3#",
        "20##-0&-1#T1#:4#:3#.######Z",
        "1#.0&.20##",
        "0&/1#/20##",
        "1#:4#:3#.###",
        "20##-20&#",
    ),
    one_of(
        "version &.#.1#",
        "v1.#.##rc1",
        "1.#.#.#.#",
        "#.##########",
        "-1.#######e-1#",
        "$1,###,###.##",
        "€ 1 ### ###,##",
    ),
    one_of(
        "ISBN 978-3-16-14####-#",
        "ISBN 978316148####",
        "0-306-4061#-#",
        "&#######",
        "1#####",
        "0x~~~~~~~~",
        "1_000_0##",
    ),
    one_of(
        "~~~~~~~~-~~~~-4~~~-a~~~-~~~~~~~~~~~~",
        "~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
        "lines ###-###",
        "#### x #### px",
    ),
    one_of(
        "range(1000000, &00000000)",
        "x = [###, ###, ###, ###]",
        "id=1##########",
        "170######## s",
        "0o755 0644 1000 1000",
    ),
)
_NEAR_MISSES: dict[str, tuple[Draw, ...]] = {
    "email": (
        one_of(
            "user@",
            "@property",
            "@app.route",
            "a @ b.c",
            "x@y",
            "C = A@B",
            "w@x.T",
            "y = w@x.reshape(2)",
            "foo@localhost",
        ),
        one_of(
            "image@2x.png",
            "lodash@4.17.##",
            "react@18.2.0-beta.next",
            "git@github.com:org/repo.git",
            "getty@tty1.service",
        ),
        one_of(
            "user at example dot com",
            "@@ -1,# +1,# @@",
            "@someone on the net",
            "mail bob@",
            "a@@b.com",
            "@scope/pkg.js",
        ),
    ),
    "phone": _NUMBERS,
    "card": (
        lambda rng: _card(rng, valid=False),
        one_of("1### #### #### ####", "9###############", "0.4###############"),
    ),
    "iban": (
        lambda rng: _iban(rng, valid=False),
        one_of("XX## #### #### ####", "AB12 CDEF GHIJ KLMN", "DE## #### ####"),
    ),
    "ip_address": (
        one_of(
            "1.2.#",
            "1.2.3.4.#",
            "version 4.##.1.0",
            "256.3##.1.2",
            "127.0.0.1",
            "0.0.0.0",  # noqa: S104
            "255.255.255.0",
            "Section 8.2.4.4#",
        ),
        one_of(
            "::",
            "::1",
            "std::vector",
            "a::b",
            "x[1::2]",
            "0&:1#:4#",
            "00:1a:2b:3c:4d:5#",
            "pkg-1.2.3.#.tar.gz",
            "pip==1.2.3.#",
        ),
        one_of(
            "2#:3#",
            "::-1",
            "Usage::",
            "face::bead",
            "1.0.0.# of the library",
            "12:34:56:78",
            "ff02::1",
            "v1.22.33.44",
        ),
    ),
    "national_id": (
        one_of(
            "000-1#-####",
            "666-1#-####",
            "9##-4#-####",
            "###-00-####",
            "the number 1########",
            "part 12#-45-678",
        ),
        one_of(
            "BG 12 34 56 A",
            "QQ123456C",
            "12345678A",
            "X1234567A",
            "111.444.777-36",
            "ABCDEF85T10A562#",
            "2### 2### #",
        ),
        one_of(
            "3456 7890 1234",
            "2017 2018 2019",
            "1 234 567 890",
            "order 12345678901",
            "86 095 742 718",
            "44051401358",
        ),
    ),
    "secret": NO_SECRETS,
}

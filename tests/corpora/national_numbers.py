"""National ids of ten countries, drawn at random with check digits computed here, apart from the package's own code."""

import random
import string

from tests.corpora.drawing import Draw, cut, some


def _weighted(digits: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def ssn(rng: random.Random) -> str:
    """Return a US social security number."""
    area = rng.choice([number for number in range(1, 900) if number != 666])
    group, serial = rng.randint(1, 99), rng.randint(1, 9999)
    return rng.choice(
        (
            f"{area:03}-{group:02}-{serial:04}",
            f"SSN {area:03}{group:02}{serial:04}",
            f"SSN: {area:03} {group:02} {serial:04}",
        )
    )


def nino(rng: random.Random) -> str:
    """Return a British national insurance number."""
    letters = "ABCEHJLMPRSWXY"
    prefix = f"{rng.choice(letters)}{rng.choice(letters)}"
    number = f"{prefix}{some(rng, string.digits, 6)}{rng.choice('ABCD')}"
    gap = rng.choice(("", " "))
    return gap.join((number[:2], number[2:4], number[4:6], number[6:8], number[8]))


def german_tax_id(rng: random.Random) -> str:
    """Return a German tax id."""
    while True:
        ten = rng.sample(string.digits, 9)
        ten.insert(rng.randrange(10), rng.choice(ten))
        if ten[0] != "0":
            break
    product = 10
    for digit in ten:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    number = "".join(ten) + str((11 - product) % 10)
    return rng.choice(
        (
            f"{number[:2]} {number[2:5]} {number[5:8]} {number[8:]}",
            f"Steuer-ID {number}",
            f"IdNr.: {number}",
        )
    )


def nir(rng: random.Random) -> str:
    """Return a French social security number."""
    department = rng.choice((f"{rng.randint(1, 19):02}", f"{rng.randint(21, 95)}", "2A", "2B"))
    month, rest = rng.randint(1, 12), some(rng, "123456789", 6)
    base = f"{rng.choice('12')}{rng.randrange(100):02}{month:02}{department}{rest}"
    key = 97 - int(base.replace("2A", "19").replace("2B", "18")) % 97
    grouped = " ".join(cut(base, 1, 3, 5, 7, 10))
    return rng.choice(
        (
            f"{grouped} {key:02}",
            f"NIR {base}{key:02}",
            f"numéro de sécurité sociale : {base} {key:02}",
        )
    )


def dni(rng: random.Random) -> str:
    """Return a Spanish DNI or NIE."""
    number = rng.randrange(100_000_000)
    foreign = rng.random() < 0.5
    letter = "TRWAGMYFPDXBNJZSQVHLCKE"[(number % 30_000_000 if foreign else number) % 23]
    if foreign:
        first, seven = divmod(number % 30_000_000, 10_000_000)
        return f"{'XYZ'[first]}{seven:07}{letter}"
    return f"{number:08}{rng.choice(('', '-'))}{letter}"


def codice_fiscale(rng: random.Random) -> str:
    """Return an Italian codice fiscale."""
    consonants = "BCDFGLMNPRSTVZ"
    code = (
        f"{some(rng, consonants, 6)}{rng.randrange(100):02}{rng.choice('ABCDEHLMPRST')}"
        f"{rng.choice((0, 40)) + rng.randint(1, 28):02}{rng.choice('ABCDEFGHIL')}{rng.randint(1, 999):03}"
    )
    # The values of odd places, from the decree's table, as one row of letters A to Z; digits count
    # as A to J.
    odd = (
        1,
        0,
        5,
        7,
        9,
        13,
        15,
        17,
        19,
        21,
        2,
        4,
        18,
        20,
        11,
        3,
        6,
        8,
        12,
        14,
        16,
        10,
        22,
        25,
        24,
        23,
    )
    places = [int(sign) if sign.isdigit() else ord(sign) - ord("A") for sign in code]
    total = sum(odd[place] if index % 2 == 0 else place for index, place in enumerate(places))
    return code + string.ascii_uppercase[total % 26]


def bsn(rng: random.Random) -> str:
    """Return a Dutch burgerservicenummer."""
    while True:
        eight = some(rng, "123456789", 8)
        check = _weighted(eight, (9, 8, 7, 6, 5, 4, 3, 2)) % 11
        if check < 10:
            return rng.choice(("BSN {}", "BSN: {}", "burgerservicenummer {}")).format(
                f"{eight}{check}"
            )


def pesel(rng: random.Random) -> str:
    """Return a Polish PESEL."""
    month = rng.randint(1, 12) + rng.choice((0, 20))  # 20 more for those born from 2000 on
    ten = f"{rng.randrange(100):02}{month:02}{rng.randint(1, 28):02}{rng.randrange(10_000):04}"
    return rng.choice(("PESEL {}", "PESEL: {}")).format(
        f"{ten}{-_weighted(ten, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10}"
    )


def cpf(rng: random.Random) -> str:
    """Return a Brazilian CPF."""
    digits = "1" + some(rng, string.digits, 7) + "2"
    for count in (9, 10):
        rest = _weighted(digits, tuple(range(count + 1, 1, -1))) % 11
        digits += str(0 if rest < 2 else 11 - rest)
    return rng.choice((f"{digits[:3]}.{digits[3:6]}.{digits[6:9]}-{digits[9:]}", f"CPF {digits}"))


def aadhaar(rng: random.Random) -> str:
    """Return an Indian Aadhaar number."""
    eleven = rng.choice("3456789") + some(rng, string.digits, 10)
    state = 0
    for place, digit in enumerate(reversed(eleven), start=1):
        turned = int(digit)
        for _ in range(place % 8):
            turned = int("1576283094"[turned])
        state = _dihedral_product(state, turned)
    check = next(digit for digit in range(10) if _dihedral_product(state, digit) == 0)
    number = f"{eleven}{check}"
    gap = rng.choice((" ", " ", "-"))
    return rng.choice((gap.join((number[:4], number[4:8], number[8:])), f"Aadhaar {number}"))


def _dihedral_product(left: int, right: int) -> int:
    """Return the product in the symmetries of the pentagon: 0 to 4 turn, 5 to 9 turn and flip."""
    turned = (left + right if left < 5 else left - right) % 5
    return turned + (5 if (left < 5) != (right < 5) else 0)


NATIONAL_IDS: tuple[Draw, ...] = (
    ssn,
    nino,
    german_tax_id,
    nir,
    dni,
    codice_fiscale,
    bsn,
    pesel,
    cpf,
    aadhaar,
)

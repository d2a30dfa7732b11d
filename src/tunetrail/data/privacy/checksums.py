"""Check digits and structure of account and identity numbers. Takes bare numbers; knows nothing of texts."""

from datetime import date

_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTHS = {
    country: length
    for length, countries in _IBAN_COUNTRIES.items()
    for country in countries.split()
}
"""Characters of an IBAN by country (the SWIFT registry of ISO 13616)."""

_DOUBLED = {str(digit): sum(divmod(2 * digit, 10)) for digit in range(10)}
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_OMOCODIA = str.maketrans("LMNPQRSTUV", "0123456789")
_ODD_DIGITS = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
_ODD_LETTERS = (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_CODICE_FISCALE_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (*_ODD_DIGITS, *_ODD_DIGITS, *_ODD_LETTERS),
        strict=True,
    )
)
# Verhoeff's tables: the dihedral group of order 10, and the permutation applied once more at each place.
_DIHEDRAL = (
    *("0123456789", "1234067895", "2340178956", "3401289567", "4012395678"),
    *("5987604321", "6598710432", "7659821043", "8765932104", "9876543210"),
)
_PERMUTATIONS = (
    *("0123456789", "1576283094", "5803796142", "8916043527"),
    *("9453126870", "4286573901", "2793806415", "7046913258"),
)


def luhn_holds(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit (ISO/IEC 7812-1, annex B)."""
    return (
        sum(map(int, digits[-1::-2])) + sum(_DOUBLED[digit] for digit in digits[-2::-2])
    ) % 10 == 0


def card_holds(digits: str) -> bool:
    """Whether a payment card's number has an issuer's prefix, that issuer's length and its Luhn digit."""
    length, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    six = int(digits[:6])
    issued = (
        (digits[0] == "4" and length in (13, 16, 19))  # Visa
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and length == 16)  # Mastercard
        or (two in (34, 37) and length == 15)  # American Express
        or (
            (four == 6011 or 644 <= three <= 659 or 622126 <= six <= 622925) and 16 <= length <= 19
        )  # Discover
        or (
            (300 <= three <= 305 or three == 309 or two in (36, 38, 39)) and 14 <= length <= 19
        )  # Diners Club
        or (3528 <= four <= 3589 and 16 <= length <= 19)  # JCB
        or (four in (1800, 2131) and length == 15)  # JCB's older numbers
        or (two == 62 and 16 <= length <= 19)  # UnionPay
        or (2200 <= four <= 2204 and 16 <= length <= 19)  # Mir
        or (
            (56 <= two <= 58 or four in (5018, 5020, 5038, 6304, 6390, 6759, 6761, 6762, 6763))
            and 13 <= length <= 19
        )  # Maestro
    )
    return issued and luhn_holds(digits)


def iban_holds(iban: str) -> bool:
    """Whether an IBAN in capitals has its country's length and leaves 1 modulo 97 (ISO 7064, MOD 97-10)."""
    if IBAN_LENGTHS.get(iban[:2]) != len(iban) or not iban.isalnum() or not iban.isascii():
        return False
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def ssn_holds(digits: str) -> bool:
    """Whether a US social security number has an area, a group and a serial that are given out."""
    return (
        digits[:3] not in ("000", "666")
        and digits[0] != "9"
        and digits[3:5] != "00"
        and digits[5:] != "0000"
    )


def nino_holds(number: str) -> bool:
    """Whether a British national insurance number (AA999999A) has a prefix that is given out."""
    first, second = number[0], number[1]
    return (
        first not in "DFIQUV"
        and second not in "DFIOQUV"
        and number[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    )


def german_tax_id_holds(digits: str) -> bool:
    """Whether 11 digits are a German tax id: one digit comes twice or thrice in the first ten; ISO 7064, MOD 11,10."""
    most = sorted((digits[:10].count(digit) for digit in set(digits[:10])), reverse=True)
    if digits[0] == "0" or most[0] not in (2, 3) or most[1] != 1:
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = 2 * total % 11
    return (11 - product) % 10 == int(digits[10])


def nir_holds(number: str) -> bool:
    """Whether 15 characters are a French social security number; its key is 97 less the rest modulo 97."""
    month = int(number[3:5])
    if not (1 <= month <= 12 or 20 <= month <= 42 or month >= 50):
        return False
    # Corsica's departments are counted as 19 and 18.
    base = number[:13].replace("2A", "19").replace("2B", "18")
    return base.isdigit() and 97 - int(base) % 97 == int(number[13:])


def dni_holds(number: str) -> bool:
    """Whether a Spanish DNI (99999999A) or NIE (X9999999A) ends in the letter of its rest modulo 23."""
    digits = number[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return digits.isdigit() and number[-1] == _DNI_LETTERS[int(digits) % 23]


def codice_fiscale_holds(code: str) -> bool:
    """Whether 16 capitals and digits are an Italian codice fiscale: a possible day, and the check letter."""
    day = int(code[9:11].translate(_OMOCODIA))
    if not (1 <= day <= 31 or 41 <= day <= 71):
        return False
    odd = sum(_CODICE_FISCALE_ODD[character] for character in code[0:15:2])
    even = sum(
        int(character, 36) - (0 if character.isdigit() else 10) for character in code[1:15:2]
    )
    return chr(ord("A") + (odd + even) % 26) == code[15]


def bsn_holds(digits: str) -> bool:
    """Whether nine digits pass the eleven test of the Dutch burgerservicenummer."""
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    total = sum(weight * int(digit) for weight, digit in zip(weights, digits, strict=True))
    return total > 0 and total % 11 == 0


def pesel_holds(digits: str) -> bool:
    """Whether 11 digits are a Polish PESEL: a date whose month tells the century, and a check digit."""
    century, month = divmod(int(digits[2:4]), 20)
    try:
        date((1900, 2000, 2100, 2200, 1800)[century] + int(digits[:2]), month, int(digits[4:6]))
    except ValueError:
        return False
    return (
        sum(
            weight * int(digit)
            for weight, digit in zip((1, 3, 7, 9) * 2 + (1, 3, 1), digits, strict=True)
        )
        % 10
        == 0
    )


def cpf_holds(digits: str) -> bool:
    """Whether 11 digits are a Brazilian CPF: not all alike, and two check digits modulo 11."""
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(
            int(digit) * (length + 1 - place) for place, digit in enumerate(digits[:length])
        )
        if total * 10 % 11 % 10 != int(digits[length]):
            return False
    return True


def aadhaar_holds(digits: str) -> bool:
    """Whether 12 digits are an Indian Aadhaar number: it begins with 2 to 9, and Verhoeff's check holds."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_DIHEDRAL[check][int(_PERMUTATIONS[place % 8][int(digit)])])
    return digits[0] not in "01" and check == 0

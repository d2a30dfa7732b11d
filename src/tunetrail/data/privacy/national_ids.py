"""Find national identity, tax and insurance numbers of ten countries in a text.

A number without a form of its own, such as nine digits in a row, counts only if a word near it
says what it is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from stdnum.br import cpf
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel

from tunetrail.data.privacy.spans import BLANK, LATIN, NUMBER_ENDS, Span, first, stands_near


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """One way to write one country's number.

    Attributes:
        pattern: Finds candidates.
        is_valid: Whether a candidate, without its separators, can be such a number.
        word: The word that must stand near it, if any.
    """

    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]
    word: re.Pattern[str] | None = None


def _form(head: str, tail: str, is_valid: Callable[[str], bool], word: str | None = None) -> _Form:
    """Return a form from the patterns of its first character and of the characters after it.

    In `tail`, `_` stands for a blank.
    """
    # Grouped numbers mustn't be the middle of a longer row of groups.
    is_grouped = "_" in tail
    left = first(head) + (rf"(?<![0-9]{BLANK}.)" if is_grouped else "")
    right = NUMBER_ENDS + (rf"(?!{BLANK}[0-9])" if is_grouped else "")

    return _Form(
        pattern=re.compile(f"{left}(?:{tail.replace('_', BLANK)}){right}"),
        is_valid=is_valid,
        word=None
        if word is None
        else re.compile(rf"(?i)(?<![{LATIN}0-9])(?:{word})(?![{LATIN}0-9])"),
    )


def _is_ssn(digits: str) -> bool:
    """Tell whether a US social security number has an area, group and serial that are issued."""
    # stdnum's own check refuses the numbers that were published by mistake, such as 078-05-1120;
    # they were people's all the same.
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def _is_nino(number: str) -> bool:
    """Tell whether a British national insurance number (AA999999A) has a prefix that is issued."""
    prefix = number[:2]
    return (
        prefix[0] not in "DFIQUV"
        and prefix[1] not in "DFIOQUV"
        and prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    )


def _is_nir(number: str) -> bool:
    """Tell whether 15 characters are a French social security number with an issued month."""
    # From 20 on: people whose month of birth isn't known, and people born abroad.
    month = int(number[3:5])
    return (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) and nir.is_valid(number)


def _is_cpf(digits: str) -> bool:
    """Tell whether 11 digits are a Brazilian CPF."""
    # Eleven equal digits pass the check, but are what people type into a form to get on.
    return len(set(digits)) > 1 and cpf.is_valid(digits)


def _is_aadhaar(digits: str) -> bool:
    """Tell whether 12 digits are an Indian Aadhaar number, and not three years in a row."""
    years = (digits[:4], digits[4:8], digits[8:])
    return not all(year.startswith(("19", "20")) for year in years) and aadhaar.is_valid(digits)


_SSN = r"ssns?|social[ _-]?security(?:[ _-]?(?:number|no))?"
_GERMAN_TAX_ID = (
    r"steuer[ -]?id(?:entifikationsnummer|nr)?|steueridentifikationsnummer"
    r"|steuer-?identifikationsnummer|idnr|tax[ _-]?(?:id|identification|number)|tin"
)
_NIR = r"nir|s[ée]cu(?:rit[ée])?(?: sociale)?|n° ?s[ée]cu|insee|social security"
_BSN = r"bsn|burgerservice(?:nummer)?|sofi[ -]?(?:nummer|nr)"

# Sex, year, month, department (Corsica's are 2A and 2B), commune, order of birth, check digits.
_NIR_IN_GROUPS = r"_[0-9]{2}_[0-9]{2}_(?:[0-9]{2}|2[AB])_[0-9]{3}_[0-9]{3}_[0-9]{2}"
_HYPHEN = r"[-\u2011\u2013]"

_FORMS = (
    _form("[0-8]", rf"[0-9]{{2}}{_HYPHEN}[0-9]{{2}}{_HYPHEN}[0-9]{{4}}", _is_ssn),
    _form("[0-8]", r"[0-9]{2}_?[0-9]{2}_?[0-9]{4}", _is_ssn, _SSN),
    _form("[1-9]", r"[0-9]_[0-9]{3}_[0-9]{3}_[0-9]{3}", idnr.is_valid),
    _form("[1-9]", r"[0-9]{10}", idnr.is_valid, _GERMAN_TAX_ID),
    _form("[12]", _NIR_IN_GROUPS, _is_nir),
    _form("[12]", _NIR_IN_GROUPS.replace("_", "_?"), _is_nir, _NIR),
    _form("[0-9]", r"[0-9]{7}-?[A-HJ-NP-TV-Z]", dni.is_valid),
    _form("[XYZ]", r"-?[0-9]{7}-?[A-HJ-NP-TV-Z]", nie.is_valid),
    _form("[0-9]", r"[0-9]{8}|[0-9]{3}\.[0-9]{2}\.[0-9]{3}", bsn.is_valid, _BSN),
    _form("[0-9]", r"[0-9]{10}", pesel.is_valid, r"pesel(?:u|em)?"),
    _form("[0-9]", r"[0-9]{2}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", _is_cpf),
    _form("[0-9]", r"[0-9]{10}", _is_cpf, r"cpf|cadastro de pessoas? f[íi]sicas?"),
    _form("[2-9]", r"[0-9]{3}_[0-9]{4}_[0-9]{4}|[0-9]{3}-[0-9]{4}-[0-9]{4}", _is_aadhaar),
    _form("[2-9]", r"[0-9]{11}", aadhaar.is_valid, r"aadhaar|aadhar|uidai"),
)

# An Italian codice fiscale may have letters (L to V) in place of digits, so that no two are equal.
_DIGIT_OR_LETTER = "[0-9L-NP-V]"
_LETTERED_FORMS = (
    _form("[A-Z]", r"[A-Z]_?[0-9]{2}_?[0-9]{2}_?[0-9]{2}_?[A-D]", _is_nino),
    _form(
        "[A-Z]",
        f"[A-Z]{{5}}{_DIGIT_OR_LETTER}{{2}}[A-EHLMPR-T]{_DIGIT_OR_LETTER}{{2}}"
        f"[A-Z]{_DIGIT_OR_LETTER}{{3}}[A-Z]",
        codicefiscale.is_valid,
    ),
)
_SEPARATORS = re.compile(r"[^A-Z0-9]+")


def find_national_ids(text: str) -> list[Span]:
    """Return the ids made of digits, each confirmed by its check digits or the rules of issue."""
    return _find(text, _FORMS)


def find_lettered_ids(text: str) -> list[Span]:
    """Return the ids in which letters and digits alternate: British and Italian ones."""
    return _find(text, _LETTERED_FORMS)


def _find(text: str, forms: tuple[_Form, ...]) -> list[Span]:
    spans = []
    for form in forms:
        for match in form.pattern.finditer(text):
            is_named = form.word is None or stands_near(text, match.span(), form.word)
            if is_named and form.is_valid(_SEPARATORS.sub("", match[0])):
                spans.append(match.span())
    return spans

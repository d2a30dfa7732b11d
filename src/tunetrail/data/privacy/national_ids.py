"""National identity, tax and insurance numbers in a text. Knows the numbers' forms, and no other personal data.

A number without a form of its own, such as nine digits in a row, counts only where a word beside it says what it is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from tunetrail.data.privacy.checksums import (
    aadhaar_holds,
    bsn_holds,
    codice_fiscale_holds,
    cpf_holds,
    dni_holds,
    german_tax_id_holds,
    nino_holds,
    nir_holds,
    pesel_holds,
    ssn_holds,
)
from tunetrail.data.privacy.spans import BLANK, NUMBER_ENDS, Span, first, stands_near


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """One way to write one country's number: its pattern, its proof, and the word that must stand near, if any."""

    pattern: re.Pattern[str]
    holds: Callable[[str], bool]
    word: re.Pattern[str] | None = None


def _form(head: str, tail: str, holds: Callable[[str], bool], word: str | None = None) -> _Form:
    """Return a form from the patterns of its first character and of its rest, in which `_` is a blank."""
    # Grouped numbers mustn't be the middle of a longer row of groups.
    grouped = "_" in tail
    left = first(head) + (rf"(?<![0-9]{BLANK}.)" if grouped else "")
    right = NUMBER_ENDS + (rf"(?!{BLANK}[0-9])" if grouped else "")
    return _Form(
        pattern=re.compile(f"{left}(?:{tail.replace('_', BLANK)}){right}"),
        holds=holds,
        word=None if word is None else re.compile(rf"(?i)(?<![^\W_])(?:{word})(?![^\W_])"),
    )


def _aadhaar_is_no_row_of_years(digits: str) -> bool:
    years = (digits[:4], digits[4:8], digits[8:])
    return aadhaar_holds(digits) and not all(year.startswith(("19", "20")) for year in years)


_SSN = r"ssns?|social[ _-]?security(?:[ _-]?(?:number|no))?"
_GERMAN_TAX_ID = (
    r"steuer[ -]?id(?:entifikationsnummer|nr)?|steueridentifikationsnummer|steuer-?identifikationsnummer|idnr|"
    r"tax[ _-]?(?:id|identification|number)|tin"
)
_NIR = r"nir|s[ée]cu(?:rit[ée])?(?: sociale)?|n° ?s[ée]cu|insee|social security"

_BSN = r"bsn|burgerservice(?:nummer)?|sofi[ -]?(?:nummer|nr)"

_FORMS = (
    _form("[0-8]", r"[0-9]{2}[-\u2011\u2013][0-9]{2}[-\u2011\u2013][0-9]{4}", ssn_holds),
    _form("[0-8]", r"[0-9]{2}_?[0-9]{2}_?[0-9]{4}", ssn_holds, _SSN),
    _form("[1-9]", r"[0-9]_[0-9]{3}_[0-9]{3}_[0-9]{3}", german_tax_id_holds),
    _form("[1-9]", r"[0-9]{10}", german_tax_id_holds, _GERMAN_TAX_ID),
    _form("[12]", r"_[0-9]{2}_[0-9]{2}_(?:[0-9]{2}|2[AB])_[0-9]{3}_[0-9]{3}_[0-9]{2}", nir_holds),
    _form(
        "[12]",
        r"_?[0-9]{2}_?[0-9]{2}_?(?:[0-9]{2}|2[AB])_?[0-9]{3}_?[0-9]{3}_?[0-9]{2}",
        nir_holds,
        _NIR,
    ),
    _form("[0-9]", r"[0-9]{7}-?[A-HJ-NP-TV-Z]", dni_holds),
    _form("[XYZ]", r"-?[0-9]{7}-?[A-HJ-NP-TV-Z]", dni_holds),
    _form("[0-9]", r"[0-9]{8}|[0-9]{3}\.[0-9]{2}\.[0-9]{3}", bsn_holds, _BSN),
    _form("[0-9]", r"[0-9]{10}", pesel_holds, r"pesel(?:u|em)?"),
    _form("[0-9]", r"[0-9]{2}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", cpf_holds),
    _form("[0-9]", r"[0-9]{10}", cpf_holds, r"cpf|cadastro de pessoas? f[íi]sicas?"),
    _form(
        "[2-9]",
        r"[0-9]{3}_[0-9]{4}_[0-9]{4}|[0-9]{3}-[0-9]{4}-[0-9]{4}",
        _aadhaar_is_no_row_of_years,
    ),
    _form("[2-9]", r"[0-9]{11}", aadhaar_holds, r"aadhaar|aadhar|uidai"),
)
_LETTERED_FORMS = (
    _form("[A-Z]", r"[A-Z]_?[0-9]{2}_?[0-9]{2}_?[0-9]{2}_?[A-D]", nino_holds),
    _form(
        "[A-Z]",
        r"[A-Z]{5}[0-9L-NP-V]{2}[A-EHLMPR-T][0-9L-NP-V]{2}[A-Z][0-9L-NP-V]{3}[A-Z]",
        codice_fiscale_holds,
    ),
)
_SEPARATORS = re.compile(r"[^A-Z0-9]+")


def find_national_ids(text: str) -> list[Span]:
    """Return the ids made of digits, each proved by its check digits or by the rules for giving it out."""
    return _found(text, _FORMS)


def find_lettered_ids(text: str) -> list[Span]:
    """Return the ids in which letters and digits alternate: British and Italian ones."""
    return _found(text, _LETTERED_FORMS)


def _found(text: str, forms: tuple[_Form, ...]) -> list[Span]:
    return [
        match.span()
        for form in forms
        for match in form.pattern.finditer(text)
        if form.holds(_SEPARATORS.sub("", match[0]))
        and (form.word is None or stands_near(text, match.span(), form.word))
    ]

from collections.abc import Callable

import pytest

from tunetrail.data.privacy import checksums

# Examples that the issuers or the standards publish.
PUBLISHED = [
    (checksums.luhn_holds, "79927398713"),
    (checksums.card_holds, "4111111111111111"),
    (checksums.card_holds, "378282246310005"),
    (checksums.card_holds, "30569309025904"),
    (checksums.card_holds, "3530111333300000"),
    (checksums.card_holds, "5555555555554444"),
    (checksums.card_holds, "2223003122003222"),
    (checksums.iban_holds, "GB82WEST12345698765432"),
    (checksums.iban_holds, "DE89370400440532013000"),
    (checksums.iban_holds, "NO9386011117947"),
    (checksums.iban_holds, "MT84MALT011000012345MTLCAST001S"),
    (checksums.german_tax_id_holds, "86095742719"),
    (checksums.german_tax_id_holds, "47036892816"),
    (checksums.nir_holds, "255081416802538"),
    (checksums.dni_holds, "12345678Z"),
    (checksums.dni_holds, "X1234567L"),
    (checksums.codice_fiscale_holds, "RSSMRA85T10A562S"),
    (checksums.bsn_holds, "111222333"),
    (checksums.pesel_holds, "44051401359"),
    (checksums.cpf_holds, "11144477735"),
    (checksums.aadhaar_holds, "234123412346"),
]


@pytest.mark.parametrize(("holds", "number"), PUBLISHED)
def test_checksums_hold_for_the_published_examples(
    holds: Callable[[str], bool], number: str
) -> None:
    assert holds(number)


@pytest.mark.parametrize(("holds", "number"), PUBLISHED)
def test_checksums_catch_another_last_character(holds: Callable[[str], bool], number: str) -> None:
    others = "0123456789" if number[-1].isdigit() else "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert not any(holds(number[:-1] + other) for other in others if other != number[-1])


@pytest.mark.parametrize(
    ("holds", "number"),
    [
        (checksums.card_holds, "79927398713"),  # no issuer
        (checksums.card_holds, "411111111111116"),  # Luhn's digit is right, the length isn't Visa's
        (checksums.iban_holds, "DE8937040044053201300"),
        (checksums.iban_holds, "XX82WEST12345698765432"),
        (checksums.iban_holds, "GB82WEST1234569876543é"),
        (checksums.ssn_holds, "000121234"),
        (checksums.ssn_holds, "666121234"),
        (checksums.ssn_holds, "912121234"),
        (checksums.ssn_holds, "123001234"),
        (checksums.ssn_holds, "123120000"),
        (checksums.nino_holds, "QQ123456C"),
        (checksums.nino_holds, "GB123456C"),
        (checksums.german_tax_id_holds, "11111111111"),
        (checksums.german_tax_id_holds, "01234567899"),
        (checksums.nir_holds, "255131416802538"),  # month 13
        (checksums.codice_fiscale_holds, "RSSMRA85T99A562S"),  # day 99
        (checksums.bsn_holds, "000000000"),
        (checksums.pesel_holds, "44991401359"),
        (checksums.pesel_holds, "44023001357"),  # 30 February
        (checksums.cpf_holds, "11111111111"),
        (checksums.aadhaar_holds, "134123412346"),
    ],
)
def test_checksums_refuse_numbers_that_nobody_is_given(
    holds: Callable[[str], bool], number: str
) -> None:
    assert not holds(number)


def test_numbers_without_a_check_digit_pass_if_they_are_given_out() -> None:
    assert checksums.ssn_holds("078051120") and checksums.nino_holds("AB123456C")


def test_corsican_departments_count_as_19_and_18() -> None:
    assert checksums.nir_holds("180122A01234548") and not checksums.nir_holds("180122B01234548")

import string

import pytest

from tunetrail.data.privacy.accounts import find_cards, find_ibans

# Examples that the issuers or the standards publish.
PUBLISHED_CARDS = (
    "4111111111111111",
    "378282246310005",
    "30569309025904",
    "3530111333300000",
    "5555555555554444",
    "2223003122003222",
)
PUBLISHED_IBANS = (
    "GB82WEST12345698765432",
    "DE89370400440532013000",
    "NO9386011117947",
    "MT84MALT011000012345MTLCAST001S",
)


@pytest.mark.parametrize("card", PUBLISHED_CARDS)
def test_published_cards_are_found_with_their_check_digit_only(card: str) -> None:
    valid_digits = [digit for digit in string.digits if find_cards(card[:-1] + digit)]

    assert valid_digits == [card[-1]]


@pytest.mark.parametrize("iban", PUBLISHED_IBANS)
def test_published_ibans_are_found_with_their_last_character_only(iban: str) -> None:
    characters = string.digits if iban[-1].isdigit() else string.ascii_uppercase

    valid_characters = [character for character in characters if find_ibans(iban[:-1] + character)]

    assert valid_characters == [iban[-1]]


@pytest.mark.parametrize(
    "account",
    [
        "7992739871300018",  # Luhn's digit is right, but no issuer has the prefix
        "411111111111116",  # Luhn's digit is right, the length isn't Visa's
        "DE8937040044053201300",
        "XX82WEST12345698765432",
        "GB82WEST1234569876543é",
    ],
)
def test_numbers_that_no_bank_gives_out_are_left_alone(account: str) -> None:
    assert find_cards(account) == find_ibans(account) == []


@pytest.mark.parametrize(
    ("text", "cards"),
    [
        (
            "4111111111111111, 3782 822463 10005; 4222 2222 2222 2",
            ["4111111111111111", "3782 822463 10005", "4222 2222 2222 2"],
        ),
        ("4111-1111-1111-1111 123", ["4111-1111-1111-1111"]),
        ("4111-1111-1111-1111-123", ["4111-1111-1111-1111"]),
        ("order 2024 4111 1111 1111 1111", ["4111 1111 1111 1111"]),
        ("4111111111111111,5555555555554444", ["4111111111111111", "5555555555554444"]),
        (
            "4111 1111 1111 1112, 9999999999999995, 0.4111111111111111, a4111111111111111, 41111111111111111",
            [],
        ),
        ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1, 4111-1111 1111-1111", []),
    ],
)
def test_cards_have_an_issuer_a_check_digit_and_even_groups(text: str, cards: list[str]) -> None:
    assert [text[start:end] for start, end in find_cards(text)] == cards


@pytest.mark.parametrize(
    ("text", "ibans"),
    [
        ("DE89 3704 0044 0532 0130 00 COBADEFF", ["DE89 3704 0044 0532 0130 00"]),
        ("GB82WEST12345698765432.", ["GB82WEST12345698765432"]),
        ("gb82west12345698765432", ["gb82west12345698765432"]),
        ("AB12 3456 7890 123 DE89 3704 0044 0532 0130 00", ["DE89 3704 0044 0532 0130 00"]),
        ("DE88370400440532013000, DE893704004405320130001, xDE89370400440532013000, DE89 3704", []),
    ],
)
def test_ibans_have_their_countrys_length_and_their_check(text: str, ibans: list[str]) -> None:
    assert [text[start:end] for start, end in find_ibans(text)] == ibans


def test_the_groups_of_a_mistyped_iban_are_no_card() -> None:
    assert find_cards("SE33 4111 1111 1111 1111 5815") == []

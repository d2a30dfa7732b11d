import pytest

from tunetrail.data.privacy.accounts import find_cards, find_ibans


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

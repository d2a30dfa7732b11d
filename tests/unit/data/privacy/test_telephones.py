import pytest
from tests.corpora.personal_data import near_misses

from tunetrail.data.privacy.telephones import find_phones


def longest_found(text: str) -> set[str]:
    spans = find_phones(text)
    return {
        text[start:end]
        for start, end in spans
        if not any(
            outer[0] <= start and end <= outer[1] and outer != (start, end) for outer in spans
        )
    }


@pytest.mark.parametrize(
    "phone",
    [
        *(
            "+49 170 1234567",
            "+49 (0)30 12345678",
            "+491701234567",
            "0049 170 1234567",
            "+1 (415) 555-2671",
        ),
        *(
            "(415) 555-2671",
            "415-555-2671",
            "415.555.2671",
            "1-800-555-1234",
            "415-555-2671 ext. 12",
            "555-123-4567",
        ),
        *(
            "020 7946 0958",
            "07911 123456",
            "0170/1234567",
            "(030) 12345678",
            "0170-1234567",
            "03-1234-5678",
        ),
        *(
            "06 12 34 56 78",
            "01.23.45.67.89",
            "+33 6 12 34 56 78",
            "+55 11 91234-5678",
            "0571 8888 8888",
        ),
    ],
)
def test_numbers_are_found_whole_in_the_ways_people_write_them(phone: str) -> None:
    for text in (phone, f"It's {phone}.", f"tel={phone},", f"({phone})", f"a {phone}\n1 b"):
        assert longest_found(text) == {phone}


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("Phone: 4155552671", "4155552671"),
        ("telefonnummer 1701234567", "1701234567"),
        ("call me at 415 555 2671 now", "415 555 2671"),
        ('"mobile": "98765 43210"', "98765 43210"),
        ("+49 170 1234567 2024-01-01", "+49 170 1234567"),
        ("+1 415 555 2671 300", "+1 415 555 2671"),
    ],
)
def test_words_in_front_tell_a_number_and_length_ends_it(text: str, phone: str) -> None:
    assert longest_found(text) == {phone}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "The number 4155552671 is prime",
            "a = +4294967296",
            "(r>>>0)+4294967296*a",
            "Boston, MA 02110-1301",
            "+35236450.6",
        ),
        *(
            "0040 4142 4344 4546",
            "3.14159 + 2.71828 - 5.0",
            "555-1234",
            "2024-555-2671",
            "$415-555-2671",
            "+12345678",
        ),
        *near_misses("phone", 200, seed=6),
    ],
)
def test_other_numbers_are_left_alone(text: str) -> None:
    assert find_phones(text) == []

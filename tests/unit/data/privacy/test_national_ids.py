import string

import pytest

from tunetrail.data.privacy.national_ids import find_lettered_ids, find_national_ids


def found(text: str) -> list[str]:
    return sorted(
        {text[start:end] for start, end in (*find_national_ids(text), *find_lettered_ids(text))}
    )


# Examples that the authorities publish, with the word that must stand near bare digits.
PUBLISHED = (
    ("Steuer-ID ", "86095742719"),
    ("Steuer-ID ", "47036892816"),
    ("NIR ", "255081416802538"),
    ("NIR ", "180122A01234548"),  # Corsica
    ("", "12345678Z"),
    ("", "X1234567L"),
    ("", "RSSMRA85T10A562S"),
    ("BSN ", "111222333"),
    ("PESEL ", "44051401359"),
    ("CPF ", "11144477735"),
    ("aadhaar ", "234123412346"),
)


@pytest.mark.parametrize(("word", "national_id"), PUBLISHED)
def test_published_numbers_are_found_with_their_last_character_only(
    word: str, national_id: str
) -> None:
    characters = string.digits if national_id[-1].isdigit() else string.ascii_uppercase

    accepted = [character for character in characters if found(word + national_id[:-1] + character)]

    assert accepted == [national_id[-1]]


@pytest.mark.parametrize(
    "text",
    [
        *("000-12-1234", "666-12-1234", "912-12-1234", "123-00-1234", "123-12-0000"),
        *("QQ123456C", "GB123456C"),
        *("Steuer-ID 11111111111", "Steuer-ID 01234567899"),
        "NIR 255131416802538",  # month 13
        "NIR 180122B01234548",  # the check digits of another department
        "RSSMRA85T99A562S",  # day 99
        "RSSMRA85B30A562G",  # 30 February
        "BSN 000000000",
        "PESEL 44991401359",
        "PESEL 44023001357",  # 30 February
        "CPF 11111111111",
        "aadhaar 134123412346",
    ],
)
def test_numbers_that_nobody_is_given_are_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "national_id",
    [
        *(
            "078-05-1120",
            "AB123456C",
            "AB 12 34 56 C",
            "86 095 742 719",
            "2 55 08 14 168 025 38",
            "12345678Z",
            "12345678-Z",
        ),
        *("X1234567L", "RSSMRA85T10A562S", "111.444.777-35", "2341 2341 2346", "2341-2341-2346"),
    ],
)
def test_numbers_with_a_form_of_their_own_need_no_word(national_id: str) -> None:
    assert found(f"It is {national_id}.") == found(f"({national_id}),") == [national_id]


@pytest.mark.parametrize(
    ("word", "national_id"),
    [
        *(
            ("SSN", "078051120"),
            ("Social Security Number:", "078 05 1120"),
            ("Steuer-ID", "86095742719"),
        ),
        *(
            ("NIR", "255081416802538"),
            ("BSN", "111222333"),
            ("PESEL", "44051401359"),
            ("CPF:", "11144477735"),
        ),
        ("aadhaar_no=", "234123412346"),
    ],
)
def test_bare_digits_count_only_beside_their_word(word: str, national_id: str) -> None:
    assert found(f"{word} {national_id}") == found(f"{national_id} ({word})") == [national_id]
    assert found(f"the number {national_id}") == []
    assert found(f"{word} {'and so on ' * 8} {national_id}") == []


@pytest.mark.parametrize(
    "text",
    [
        *(
            "000-12-3456",
            "900-12-3456",
            "123-45-6789-0",
            "QQ123456C",
            "12345678A",
            "RSSMRA85T10A562T",
            "111.444.777-36",
        ),
        *(
            "BSN 111222334",
            "PESEL 44051401358",
            "2341 2341 2347",
            "2017 2018 2019",
            "2341 2341 2346 2341",
            "+48 509 574 271",
        ),
    ],
)
def test_numbers_that_fail_their_check_are_left_alone(text: str) -> None:
    assert found(text) == []

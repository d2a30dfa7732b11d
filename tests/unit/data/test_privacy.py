"""Personal data planted into sentences of the standard library, beside things that only look like it."""

import ast
import dataclasses
import pickle
import random
import re
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.corpora.personal_data import KINDS, instances, near_misses

from tunetrail.config import PrivacyConfig
from tunetrail.data.privacy import Scrubber

SCRUBBER = Scrubber(PrivacyConfig())
STDLIB = Path(sysconfig.get_paths()["stdlib"])
DOCUMENTED = (
    "argparse",
    "bisect",
    "collections/__init__",
    "configparser",
    "datetime",
    "decimal",
    "difflib",
    "enum",
)
PLACEHOLDER = re.compile(r"\[(?:EMAIL|PHONE|CARD|IBAN|IP_ADDRESS|NATIONAL_ID|SECRET)\]")
PLANTED = 400


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """First paragraphs of docstrings: technical prose with names, numbers and punctuation."""
    paragraphs = []
    for module in (
        *DOCUMENTED,
        "functools",
        "heapq",
        "shutil",
        "statistics",
        "subprocess",
        "threading",
        "typing",
    ):
        for node in ast.walk(ast.parse((STDLIB / f"{module}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
                docstring := ast.get_docstring(node)
            ):
                paragraphs.append(" ".join(docstring.partition("\n\n")[0].split()))
    return [sentence for sentence in paragraphs if 30 <= len(sentence) <= 300]


def test_sentences_of_the_standard_library_are_left_alone(sentences: list[str]) -> None:
    assert len(sentences) > 400
    assert [sentence for sentence in sentences if SCRUBBER.scrub(sentence) != (sentence, {})] == []


@pytest.mark.parametrize(
    "folder", ["asyncio", "concurrent", "importlib", "json", "logging", "unittest", "xml"]
)
def test_source_of_the_standard_library_holds_nothing_but_its_authors_addresses(
    folder: str,
) -> None:
    counts: Counter[str] = Counter()
    for path in (STDLIB / folder).rglob("*.py"):
        if "test" not in path.parts and "__pycache__" not in path.parts:
            counts.update(SCRUBBER.scrub(path.read_text(encoding="utf-8"))[1])
    assert set(counts) <= {"EMAIL"}


@pytest.mark.parametrize("kind", KINDS)
def test_scrubber_finds_what_was_planted_and_little_else(kind: str, sentences: list[str]) -> None:
    rng = random.Random(kind)
    right = detected = 0
    for text in instances(kind, PLANTED, seed=1):
        counts = SCRUBBER.scrub(f"{rng.choice(sentences)} {text} {rng.choice(sentences)}")[1]
        right += counts == {kind.upper(): 1}
        detected += sum(counts.values())

    assert right / PLANTED >= 0.98

    for text in near_misses(kind, PLANTED, seed=1):
        detected += sum(
            SCRUBBER.scrub(f"{rng.choice(sentences)} {text} {rng.choice(sentences)}")[1].values()
        )
    assert right / detected >= 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_scrubber_leaves_nothing_of_what_it_found(kind: str) -> None:
    for text in instances(kind, PLANTED, seed=2):
        scrubbed, counts = SCRUBBER.scrub(f"a {text} b")
        assert counts == {kind.upper(): 1}
        assert text not in scrubbed and scrubbed.count(f"[{kind.upper()}]") == 1
        surroundings = scrubbed.partition(f"[{kind.upper()}]")
        assert scrubbed.startswith("a ") and scrubbed.endswith(" b")
        if kind in ("card", "iban"):
            assert surroundings == ("a ", f"[{kind.upper()}]", " b")


@pytest.mark.parametrize("kind", KINDS)
def test_each_switch_turns_its_kind_off_and_no_other(kind: str) -> None:
    scrubber = Scrubber(dataclasses.replace(PrivacyConfig(), **{kind: False}))

    for text in instances(kind, 100, seed=3):
        assert scrubber.scrub(text) == (text, {})
    for other_kind in set(KINDS) - {kind}:
        for text in instances(other_kind, 20, seed=3):
            assert scrubber.scrub(text)[1] == {other_kind.upper(): 1}


def test_a_scrubber_that_is_turned_off_changes_nothing() -> None:
    scrubber = Scrubber(PrivacyConfig(enabled=False))
    for kind in KINDS:
        for text in instances(kind, 5, seed=4):
            assert scrubber.scrub(text) == (text, {}) and scrubber.mask(text) == text


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("mail a@b.io or c+d@e.org.", "mail [EMAIL] or [EMAIL]."),
        (
            "IBAN DE89 3704 0044 0532 0130 00, card 4111 1111 1111 1111.",
            "IBAN [IBAN], card [CARD].",
        ),
        ("https://bob:s3cr3t@db.example.com/x", "https://bob:[SECRET]@db.example.com/x"),
        ("https://bob:p@ss@db.example.com/x", "https://bob:[SECRET]@db.example.com/x"),
        ("password: 'bob@example.com'", "password: '[SECRET]'"),
        ("ssh root@10.1.2.3 then +49 170 1234567", "ssh root@[IP_ADDRESS] then [PHONE]"),
        ("4111 1111 1111 1111 4111-1111-1111-1111", "[CARD] [CARD]"),
        ("(415) 555-2671/10.20.30.40", "[PHONE]/[IP_ADDRESS]"),
        ("[EMAIL] and [SECRET] stay", "[EMAIL] and [SECRET] stay"),
    ],
)
def test_neighbours_and_overlaps_are_told_apart(text: str, scrubbed: str) -> None:
    result, counts = SCRUBBER.scrub(text)
    assert result == SCRUBBER.mask(text) == scrubbed
    assert sum(counts.values()) == len(PLACEHOLDER.findall(scrubbed)) - len(
        PLACEHOLDER.findall(text)
    )


_PIECES = st.one_of(
    st.sampled_from(
        [text for kind in KINDS for text in (*instances(kind, 40, 5), *near_misses(kind, 40, 5))]
    ),
    st.sampled_from([f"[{kind.upper()}]" for kind in KINDS]),
    st.sampled_from(
        [
            " ",
            "",
            "\n",
            ", ",
            "-",
            ".",
            "/",
            ":",
            "@",
            "+",
            "1",
            "password=",
            'token = "',
            '"',
            "(",
            ")",
            "://a:",
        ]
    ),
    st.text(max_size=8),
    st.text(alphabet="0123456789 -.+()/@:aF", max_size=24),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_PIECES, max_size=12).map("".join))
def test_scrubbing_once_more_changes_nothing(text: str) -> None:
    scrubbed, counts = SCRUBBER.scrub(text)

    assert SCRUBBER.scrub(scrubbed) == (scrubbed, {})
    assert all(count > 0 for count in counts.values()) and {name.lower() for name in counts} <= set(
        KINDS
    )

    if not counts:
        assert scrubbed == text


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "1",
            "@",
            "a@",
            "1-",
            "eyJ.",
            " +",
            "a.",
            "1 ",
            "::",
            "1:",
            "-----BEGIN PRIVATE KEY-----",
            'token="',
            "password=",
        ),
        *(
            "://a:b@",
            "x@y.",
            "4111 1111 1111 1111 ",
            "1.1.1.1 ",
            "GB12 ",
            "(415) ",
            "phone 1",
            "\x00",
            "\ud800",
            "00 1",
        ),
    ],
)
@pytest.mark.timeout(30)  # a quarter of a second, or minutes if it is quadratic
def test_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (250_000 // len(unit))
    SCRUBBER.scrub(text)


@pytest.mark.parametrize("unit", [" ", "\n", "a", "-", "aB", "a-", "aA1"])
@pytest.mark.timeout(30)  # a quarter of a second, or minutes if it is quadratic
def test_a_private_key_without_an_end_takes_linear_time(unit: str) -> None:
    SCRUBBER.scrub("-----BEGIN PRIVATE KEY-----" + unit * (250_000 // len(unit)))


def test_a_scrubber_survives_pickling() -> None:
    scrubber = pickle.loads(pickle.dumps(Scrubber(PrivacyConfig(phone=False))))  # noqa: S301 - our own bytes
    assert scrubber.scrub("a@b.io, +49 170 1234567") == ("[EMAIL], +49 170 1234567", {"EMAIL": 1})

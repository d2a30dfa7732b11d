import pytest

from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.samples import SampleKind, parse_sample


@pytest.fixture(scope="module")
def pairs():
    return stdlib_docs(SampleKind.EMBEDDING)


def test_stdlib_docs_finds_thousands_of_pairs_in_many_modules(pairs):
    assert 1000 < len(pairs) < 10_000
    assert len({row["group"] for row in pairs}) > 100
    assert {"json", "json.decoder", "textwrap"} <= {row["group"] for row in pairs}
    assert len({(row["anchor"], row["positive"]) for row in pairs}) == len(pairs)


def test_stdlib_docs_keeps_the_documentation_out_of_its_code(pairs):
    assert all(row["anchor"] not in " ".join(row["positive"].split()) for row in pairs)


def test_stdlib_docs_keeps_to_its_lengths(pairs):
    assert all(30 <= len(row["anchor"]) <= 400 and row["anchor"][-1] in ".!?" for row in pairs)
    assert all(80 <= len(row["positive"]) <= 1500 for row in pairs)
    assert all(row["positive"].startswith(("def ", "async def ", "class ")) for row in pairs)


def test_stdlib_docs_leaves_tests_out(pairs):
    assert not [row for row in pairs if {"test", "tests", "idlelib"} & set(row["group"].split(".")[:-1])]


def test_stdlib_docs_gives_rows_that_are_samples(pairs):
    sample = parse_sample(pairs[0], SampleKind.EMBEDDING)
    assert (sample.shape, sample.group) == ("pair", pairs[0]["group"])
    (row,) = stdlib_docs(SampleKind.LLM, limit=1)
    assert parse_sample(row, SampleKind.LLM).shape == "completion"


def test_stdlib_docs_turns_pairs_round_for_language_models(pairs):
    limited = stdlib_docs(SampleKind.EMBEDDING, limit=50)
    turned = stdlib_docs(SampleKind.LLM, limit=50)
    assert [(row["input"], row["output"]) for row in turned] == [(row["positive"], row["anchor"]) for row in limited]


def test_stdlib_docs_spreads_a_limit_over_modules(pairs):
    limited = stdlib_docs(SampleKind.EMBEDDING, limit=100)
    assert len(limited) == len({row["group"] for row in limited}) == 100
    assert limited == [row for row in pairs if row in limited]
    assert len({row["group"][0] for row in limited}) > 10

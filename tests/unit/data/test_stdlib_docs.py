import ast

import pytest

from tunetrail.data.stdlib_docs import _pairs_of_file, stdlib_docs
from tunetrail.samples import SampleKind, parse_sample

# The form feed is no line's end to the parser, but is one to str.splitlines.
SOURCE = '''\f
class Kinds:
    """Holds one method of
    every kind of body."""  # stays

    def several(self):
        # stays
        """Cut.

        Over some lines.
        """
        return "stays"

    def only(self):
        """Cut."""

    def beside(self): "Cut."

    def before(self, é="é"): "Cut."; return é

    async def nested(self):
        ("Cut."
         "Cut.")
        class Inner:
            \'\'\'Cut.\'\'\'; name = """Stays."""
        """Stays, for it is no docstring."""
        return Inner
'''

CODE = '''class Kinds:
    # stays

    def several(self):
        # stays
        return "stays"

    def only(self):
        pass

    def beside(self): pass

    def before(self, é="é"): return é

    async def nested(self):
        class Inner:
            name = """Stays."""
        """Stays, for it is no docstring."""
        return Inner'''


@pytest.fixture(scope="module")
def pairs():
    return stdlib_docs(SampleKind.EMBEDDING)


def test_stdlib_docs_finds_thousands_of_pairs_in_many_modules(pairs):
    assert 1000 < len(pairs) < 10_000
    assert len({row["group"] for row in pairs}) > 100
    assert {"json", "json.decoder", "textwrap"} <= {row["group"] for row in pairs}
    assert len({(row["anchor"], row["positive"]) for row in pairs}) == len(pairs)


def test_stdlib_docs_keeps_every_anchor_out_of_every_code(pairs):
    all_code = "\0".join(" ".join(row["positive"].split()) for row in pairs)
    assert not [row["anchor"] for row in pairs if row["anchor"] in all_code]


def test_stdlib_docs_cuts_every_docstring_and_leaves_valid_python(pairs):
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for row in pairs:
        nodes = [
            node for node in ast.walk(ast.parse(row["positive"])) if isinstance(node, definitions)
        ]
        assert not [node.name for node in nodes if ast.get_docstring(node) is not None]


def test_stdlib_docs_keeps_the_rest_of_the_code_as_it_stands(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE, encoding="utf-8")
    (pair,) = _pairs_of_file(path, "module")
    assert (pair.module, pair.paragraph) == ("module", "Holds one method of every kind of body.")
    assert pair.code == CODE


def test_stdlib_docs_keeps_to_its_lengths(pairs):
    assert all(30 <= len(row["anchor"]) <= 400 and row["anchor"][-1] in ".!?" for row in pairs)
    assert all(80 <= len(row["positive"]) <= 1500 for row in pairs)
    assert all(row["positive"].startswith(("def ", "async def ", "class ")) for row in pairs)


def test_stdlib_docs_leaves_tests_out(pairs):
    assert not [
        row for row in pairs if {"test", "tests", "idlelib"} & set(row["group"].split(".")[:-1])
    ]


def test_stdlib_docs_gives_rows_that_are_samples(pairs):
    sample = parse_sample(pairs[0], SampleKind.EMBEDDING)
    assert (sample.shape, sample.group) == ("pair", pairs[0]["group"])
    (row,) = stdlib_docs(SampleKind.LLM, limit=1)
    assert parse_sample(row, SampleKind.LLM).shape == "completion"


def test_stdlib_docs_turns_pairs_round_for_language_models(pairs):
    limited = stdlib_docs(SampleKind.EMBEDDING, limit=50)
    turned = stdlib_docs(SampleKind.LLM, limit=50)
    assert [(row["input"], row["output"]) for row in turned] == [
        (row["positive"], row["anchor"]) for row in limited
    ]


def test_stdlib_docs_spreads_a_limit_over_modules(pairs):
    limited = stdlib_docs(SampleKind.EMBEDDING, limit=100)
    assert len(limited) == len({row["group"] for row in limited}) == 100
    assert limited == [row for row in pairs if row in limited]
    assert len({row["group"][0] for row in limited}) > 10

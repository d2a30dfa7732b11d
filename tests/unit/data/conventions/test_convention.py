import pytest

from tunetrail.data.conventions import convention, reading
from tunetrail.data.conventions.convention import (
    Convention,
    find_convention,
    known_columns,
    list_of,
    register,
    with_other_columns,
)
from tunetrail.errors import SampleError
from tunetrail.samples import SampleKind

EMBEDDING, LLM = SampleKind.EMBEDDING, SampleKind.LLM


@pytest.mark.parametrize(
    ("columns", "kind", "name"),
    [
        (["instruction", "input", "output"], LLM, "Alpaca"),
        (["instruction", "response"], LLM, "Alpaca"),
        (["instruction", "context", "response", "category"], LLM, "Dolly"),
        (["prompt", "completion", "label"], LLM, "KTO"),
        (["chosen", "rejected"], LLM, "HH-RLHF"),
        (["prompt", "prompt_id", "chosen", "rejected", "messages"], LLM, "UltraFeedback"),
        (["conversations", "id"], LLM, "ShareGPT"),
        (["premise", "hypothesis", "label"], EMBEDDING, "NLI"),
        (["sentence1", "sentence2", "label"], EMBEDDING, "STS"),
        (["text1", "text2"], EMBEDDING, "text1/text2"),
        (["text1", "text2", "label"], EMBEDDING, "STS"),
        (["query", "pos", "neg", "pos_scores"], EMBEDDING, "FlagEmbedding"),
    ],
)
def test_find_convention_takes_the_one_that_explains_most_columns(columns, kind, name):
    assert find_convention(columns, kind).name == name


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        (["text", "label"], EMBEDDING),
        (["sentence1", "sentence2", "score"], EMBEDDING),
        (["text", "category"], LLM),
    ],
)
def test_find_convention_leaves_the_shapes_of_samples_alone(columns, kind):
    assert find_convention(columns, kind) is None


def test_find_convention_names_the_columns_if_nothing_fits():
    with pytest.raises(SampleError, match="columns must hold one of"):
        find_convention(["title"], LLM)


def test_register_adds_a_convention_of_another_package(monkeypatch):
    monkeypatch.setattr(convention, "_CONVENTIONS", list(convention._CONVENTIONS))
    register(
        Convention(
            name="tickets",
            kind=EMBEDDING,
            columns=("subject", "solution"),
            becomes=lambda row: [{"anchor": row["subject"], "positive": row["solution"]}],
        )
    )

    reader = reading.RowReader(EMBEDDING)
    (sample,) = reader.read({"subject": "a", "solution": "b", "priority": 1})

    assert sample.content == {"anchor": "a", "positive": "b"}
    assert reader.account.read_as == {"tickets": 1} and reader.account.unused == {"priority": 1}
    assert "subject" in known_columns(EMBEDDING)


def test_with_other_columns_refuses_a_column_that_is_there_twice():
    alpaca = find_convention(["instruction", "output"], LLM)
    row = {"instruction": "a", "output": "b", "messages": "c"}
    with pytest.raises(SampleError, match="messages must be stated once"):
        with_other_columns(row, {"messages": []}, alpaca)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a"], ["a"]),
        (("a",), ["a"]),
        ('["a", "b"]', ["a", "b"]),
        ("[a", None),
        ("a", None),
        (3, None),
        ({"a": 1}, None),
    ],
)
def test_list_of_takes_lists_and_their_json(value, expected):
    assert list_of(value) == expected

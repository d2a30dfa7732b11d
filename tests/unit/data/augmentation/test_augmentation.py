import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from tunetrail.config import AUGMENTATION_METHODS, AugmentationConfig
from tunetrail.data.augmentation.augmentation import (
    PARAPHRASE_REQUEST,
    QUERY_REQUEST,
    AugmentationResult,
    AugmentationTools,
    augment,
)
from tunetrail.data.rows import object_series, rows_frame
from tunetrail.errors import ConfigError
from tunetrail.samples import Sample, SampleKind

TEXT = "one two three four five"
WORD_METHODS = ("word_dropout", "word_swap", "typo", "synonym")
TOPICS = (
    "invoice",
    "garden",
    "violin",
    "harbour",
    "compiler",
    "bakery",
    "glacier",
    "parrot",
    "theatre",
    "motor",
)
CONTENTS: dict[str, dict[str, Any]] = {
    "pair": {"anchor": TEXT, "positive": TEXT, "negative": TEXT},
    "score": {"sentence1": TEXT, "sentence2": TEXT, "score": 0.5},
    "label": {"text": TEXT, "label": TEXT},
    "vector": {"text": TEXT, "embedding": [1.0]},
    "text": {"text": TEXT},
    "completion": {"input": TEXT, "output": TEXT},
    "chat": {"messages": [{"role": "assistant", "content": TEXT}]},
    "document": {"text": TEXT},
    "preference": {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT.upper()},
}
READ = {
    "pair": "anchor",
    "label": "text",
    "vector": "text",
    "text": "text",
    "completion": "input",
    "preference": "prompt",
}


def frame(shape: str, count: int = 10, **content: Any) -> pd.DataFrame:
    kind = (
        SampleKind.LLM
        if shape in ("completion", "chat", "document", "preference")
        else SampleKind.EMBEDDING
    )
    sample = Sample(kind=kind, shape=shape, content=CONTENTS[shape] | content, group="g")
    return rows_frame((index + 100, sample) for index in range(count)).assign(
        cluster=object_series([f"k{index}" for index in range(count)])
    )


def topics(shape: str = "pair") -> pd.DataFrame:
    """Ten rows, each with a passage on a topic of its own."""
    passages = [f"All about the {topic} and how it works." for topic in TOPICS]
    rows = frame(shape)
    rows[READ[shape]] = object_series(passages)
    if shape == "pair":
        rows["anchor"] = object_series([f"old question {index}" for index in range(10)])
        rows["positive"] = object_series(passages)
    return rows


def config(*methods: str, **values: Any) -> AugmentationConfig:
    return AugmentationConfig(methods=list(methods), **{"share": 0.5, "rate": 0.3} | values)


def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Unit vectors of the topics in each text; one with none points away from all passages."""
    topic_vectors = np.array(
        [[float(topic in text.lower()) for topic in TOPICS] for text in texts], dtype=np.float32
    )
    topic_vectors = np.hstack([topic_vectors, 1e-3 * np.ones((len(texts), 1), dtype=np.float32)])
    return topic_vectors / np.linalg.norm(topic_vectors, axis=1, keepdims=True)


class Writer:
    """Writes about the topic that it reads; about what is in `wrong` it writes that instead."""

    def __init__(self, **wrong: str) -> None:
        self.wrong = wrong
        self.asked: list[tuple[str, list[str], str]] = []

    def __call__(self, instruction: str, texts: Sequence[str], opening: str) -> list[str]:
        self.asked.append((instruction, list(texts), opening))
        topic = [next((topic for topic in TOPICS if topic in text), "thing") for text in texts]
        return [
            self.wrong.get(read_topic, f"how does a {read_topic} work, {index}?")
            for index, read_topic in enumerate(topic)
        ]


def tools(write: Writer | None = None) -> AugmentationTools:
    return AugmentationTools(
        write=write or Writer(),
        translate=lambda texts: [
            text.replace("five", "5").replace("All about", "Everything on") for text in texts
        ],
        vectors=vectors,
    )


@pytest.fixture
def lexicon(tmp_path: Path) -> str:
    (tmp_path / "words.tsv").write_text("three\tiii\nfour\tiv, quattuor\n")
    return str(tmp_path / "words.tsv")


def added_rows(result: AugmentationResult) -> pd.DataFrame:
    return result.rows[result.rows["parent_id"].notna()]


@pytest.mark.parametrize("method", [*WORD_METHODS, "back_translation"])
@pytest.mark.parametrize("shape", READ)
def test_augment_varies_the_read_column_only(shape: str, method: str, lexicon: str) -> None:
    rows = frame(shape)
    result = augment(rows, config(method, lexicon=lexicon), 0, tools())

    added = result.rows.iloc[10:]
    assert result.added == {method: 5} and added["row_id"].tolist() == [-1, -2, -3, -4, -5]

    parents = rows.set_index("row_id").loc[added["parent_id"].astype(int)]
    assert added["parent_id"].is_unique
    assert added["cluster"].tolist() == parents["cluster"].tolist()
    for column in rows.columns.drop(["row_id", READ[shape]]):
        assert added[column].tolist() == parents[column].tolist()
    assert all(text.strip() and text != TEXT for text in added[READ[shape]])


@pytest.mark.parametrize("method", AUGMENTATION_METHODS)
@pytest.mark.parametrize("shape", CONTENTS)
def test_augment_keeps_the_original_rows_as_they_are(shape: str, method: str, lexicon: str) -> None:
    rows = topics(shape) if shape in READ else frame(shape)
    before = rows.copy()

    result = augment(rows, config(method, lexicon=lexicon), 0, tools())

    pd.testing.assert_frame_equal(rows, before)
    assert result.rows["parent_id"].iloc[:10].isna().all()
    pd.testing.assert_frame_equal(result.rows.iloc[:10].drop(columns="parent_id"), rows)
    assert result.rows["row_id"].is_unique and len(result.rows) == 10 + sum(result.added.values())

    json.dumps(result.to_dict())


@pytest.mark.parametrize(
    ("method", "shape"),
    [(method, shape) for method in AUGMENTATION_METHODS for shape in ("score", "chat", "document")]
    + [("generated_query", "vector"), ("generated_query", "completion")],
)
def test_augment_skips_shapes_that_it_would_falsify_and_says_so(
    method: str, shape: str, lexicon: str
) -> None:
    result = augment(frame(shape), config(method, lexicon=lexicon), 0, tools())
    assert result.added == {method: 0} and len(result.rows) == 10
    assert f"{method} leaves {shape} rows as they are" in result.notes[0]


@pytest.mark.parametrize("method", WORD_METHODS)
def test_augment_makes_no_row_where_there_is_nothing_to_vary(method: str, lexicon: str) -> None:
    result = augment(frame("text", text="a"), config(method, lexicon=lexicon), 0)
    assert (
        result.added == {method: 0}
        and "asks for 5 rows to be varied, 0 hold a text" in result.notes[0]
    )


def test_augment_finds_the_rows_that_a_method_can_vary() -> None:
    rows = frame("text", text="a")
    rows["text"] = object_series([TEXT if index in (3, 7) else "a" for index in range(10)])

    result = augment(rows, config("word_dropout"), 0)

    assert sorted(added_rows(result)["parent_id"]) == [103, 107]
    assert result.notes == (
        "word_dropout: augmentation.share asks for 5 rows to be varied, 2 hold a text that it can vary.",
    )


@pytest.mark.parametrize("method", WORD_METHODS[:3])
def test_augment_follows_the_seed(method: str) -> None:
    first, again, of_another_seed = (
        augment(frame("text"), config(method), seed).rows["text"].tolist() for seed in (0, 0, 1)
    )
    assert first == again != of_another_seed


def test_augment_takes_the_same_rows_from_a_fold_as_from_the_whole_train_side() -> None:
    rows = frame("text", count=100)
    whole = added_rows(augment(rows, config("word_dropout"), 0))

    fold = added_rows(augment(rows.iloc[20:], config("word_dropout"), 0))

    texts = dict(zip(whole["parent_id"], whole["text"], strict=True))
    common = [
        (row_id, text)
        for row_id, text in zip(fold["parent_id"], fold["text"], strict=True)
        if row_id in texts
    ]
    assert len(common) > 0.8 * len(fold)
    assert all(texts[row_id] == text for row_id, text in common)


def test_augment_applies_several_methods_each_on_its_own() -> None:
    rows = frame("text", count=40)
    both = augment(rows, config("typo", "word_swap", share=0.25), 0)

    alone = augment(rows, config("word_swap", share=0.25), 0)

    assert both.added == {"typo": 10, "word_swap": 10}
    assert both.rows["row_id"].tolist()[40:] == list(range(-1, -21, -1))
    assert added_rows(both)["text"].tolist()[10:] == added_rows(alone)["text"].tolist()
    assert both.to_dict()["methods"]["typo"] == {"added": 10, "rejected": {}}


def test_augment_keeps_line_breaks_between_the_words_that_stay() -> None:
    rows = frame("completion", input="a = 1\n    b = 2\n    c = 3")
    result = augment(rows, config("word_dropout"), seed=0)
    assert any("\n    " in text for text in result.rows["input"].iloc[10:])


@pytest.mark.parametrize("off", [AugmentationConfig(), config("word_dropout", share=0.0)])
def test_augment_adds_nothing_when_turned_off(off: AugmentationConfig) -> None:
    result = augment(frame("text"), off, seed=0)
    assert sum(result.added.values()) == 0 and result.notes == () and "parent_id" in result.rows
    assert result.to_dict()["rows_out"] == 10 and result.rejected.empty


@pytest.mark.parametrize("method", AUGMENTATION_METHODS)
def test_augment_takes_an_empty_train_side(method: str, lexicon: str) -> None:
    empty = frame("text").iloc[:0]
    assert augment(empty, config(method, lexicon=lexicon), 0, tools()).added == {method: 0}


@pytest.mark.parametrize(
    ("shape", "read"), [("pair", "anchor"), ("label", "text"), ("text", "text")]
)
def test_augment_writes_queries_that_keep_the_rows_shape(shape: str, read: str) -> None:
    write = Writer()
    result = augment(topics(shape), config("generated_query"), 0, tools(write))
    added = added_rows(result)

    parents = topics(shape).set_index("row_id").loc[added["parent_id"].astype(int)]

    ((instruction, texts, opening),) = write.asked
    assert (instruction, opening) == QUERY_REQUEST
    assert texts == parents["positive" if shape == "pair" else "text"].tolist()
    assert result.added == {"generated_query": 5} and set(added["shape"]) == {shape}
    assert all(query.startswith("How does a ") for query in added[read])

    unchanged = "positive" if shape == "pair" else "group"
    assert added[unchanged].tolist() == parents[unchanged].tolist()


def test_augment_paraphrases_what_the_model_reads() -> None:
    write = Writer()
    result = augment(topics("completion"), config("paraphrase"), 0, tools(write))

    ((instruction, _, opening),) = write.asked
    assert (instruction, opening) == PARAPHRASE_REQUEST
    assert result.added == {"paraphrase": 5}
    assert added_rows(result)["output"].tolist() == [TEXT] * 5


def test_augment_drops_what_does_not_find_its_passage_again() -> None:
    write = Writer(
        invoice="What about the garden?", violin="", bakery="all ABOUT the bakery and how it works"
    )

    result = augment(topics(), config("generated_query", share=1.0), 0, tools(write))

    assert result.added == {"generated_query": 7}

    reasons = dict(zip(result.rejected["row_id"], result.rejected["reason"], strict=True))
    again = (
        "not found again: its own text came at place 10 of 10, augmentation.round_trip_rank is 1"
    )
    assert reasons == {100: again, 102: "nothing was made", 105: "no different from its parent"}

    line = result.rejected.set_index("row_id").loc[100]
    assert (line["step"], line["before"], line["after"]) == (
        "augmentation.generated_query",
        "All about the invoice and how it works.",
        "What about the garden?",
    )
    assert result.to_dict()["methods"]["generated_query"] == {
        "added": 7,
        "rejected": {
            "not found again": 1,
            "nothing was made": 1,
            "no different from its parent": 1,
        },
    }

    deeper = augment(
        topics(), config("generated_query", share=1.0, round_trip_rank=10), 0, tools(write)
    )
    assert deeper.added == {"generated_query": 8}


def test_augment_counts_no_twin_of_the_parent_as_wrong() -> None:
    rows = topics()
    rows["cluster"] = object_series(["twins" if index < 2 else f"k{index}" for index in range(10)])
    rows.at[1, "positive"] = "The invoice once more"
    write = Writer()
    tied = rows.assign(cluster=object_series([f"k{index}" for index in range(10)]))

    parent_ids = {
        name: set(
            added_rows(augment(varied_rows, config("generated_query", share=1.0), 0, tools(write)))[
                "parent_id"
            ]
        )
        for name, varied_rows in (("twins", rows), ("strangers", tied))
    }

    assert parent_ids["twins"] >= {100, 101} and not parent_ids["strangers"] & {100, 101}


def test_augment_tries_several_times_and_takes_each_text_once() -> None:
    class Same(Writer):
        def __call__(self, instruction: str, texts: Sequence[str], opening: str) -> list[str]:
            lines = super().__call__(instruction, texts, opening)
            return [line.partition(",")[0] if "parrot" in line else line for line in lines]

    result = augment(
        topics(), config("generated_query", share=1.0, generations_per_row=3), 0, tools(Same())
    )
    assert result.added == {"generated_query": 28}
    assert result.rejected["reason"].tolist() == ["made before from the same row"] * 2


@pytest.mark.parametrize(
    ("method", "missing_tools", "rule"),
    [
        (
            "back_translation",
            {"translate": None},
            r"augmentation\.translation_models must name two models.* got \[\]",
        ),
        (
            "generated_query",
            {"write": None},
            r"augmentation\.generator must be .* generated_query, got 'root'",
        ),
        (
            "paraphrase",
            {"write": None},
            r"augmentation\.generator must be .* paraphrase, got 'root'",
        ),
        (
            "paraphrase",
            {"vectors": None},
            r"augmentation\.methods must not include paraphrase .* got \['paraphrase'\]",
        ),
    ],
)
def test_augment_names_the_way_out_where_a_tool_is_missing(
    method: str, missing_tools: dict[str, None], rule: str
) -> None:
    with pytest.raises(ConfigError, match=rule):
        augment(topics(), config(method), 0, replace(tools(), **missing_tools))


def test_augment_needs_no_cluster_and_survives_odd_texts() -> None:
    rows = frame("text").drop(columns="cluster")
    rows["text"] = object_series(
        ["", " ", "\x00", "\ud800 lone", "x" * 100_000, None, "a b", "\n\n", "é è", "1 2"]
    )

    result = augment(rows, config(*WORD_METHODS[:3], share=1.0), 0)

    assert sum(result.added.values()) > 0
    assert all(isinstance(text, str) and text.strip() for text in added_rows(result)["text"])

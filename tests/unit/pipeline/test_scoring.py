from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest

from tunetrail.config import EmbeddingConfig, EvaluationConfig, LanguageModelConfig, Settings
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.errors import SampleError
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.pipeline.families import EMBEDDING, LLM
from tunetrail.pipeline.scoring import (
    draw_by_content,
    score_embedding_model,
    score_language_model,
)
from tunetrail.samples import SampleKind, parse_sample


def rows(kind: SampleKind, *contents: Mapping[str, Any]) -> pd.DataFrame:
    return rows_frame(
        (number, parse_sample(content, kind)) for number, content in enumerate(contents)
    )


def test_score_embedding_model_scores_pairs_by_retrieval(tiny_embedding_model: str) -> None:
    learner = EmbeddingLearner(config=EmbeddingConfig(), shape="pair", seed=0)
    pairs = [{"anchor": f"ask {n}", "positive": f"answer {n}"} for n in range(4)]

    scores = score_embedding_model(
        learner, learner.load(tiny_embedding_model), pairs, [], EvaluationConfig()
    )

    assert scores.metric == "ndcg_at_10"


def test_score_language_model_gives_texts_and_preferences_their_primary_metrics(
    tiny_language_model: str,
) -> None:
    learner = LanguageModelLearner(config=LanguageModelConfig(), seed=0)
    model = learner.load(tiny_language_model)
    completions = [{"input": "say", "output": f"{n}"} for n in range(4)]
    preferences = [{"prompt": "say", "chosen": f"{n}", "rejected": "no"} for n in range(4)]

    texts, choices = (
        score_language_model(learner, model, records, [], EvaluationConfig())
        for records in (completions, preferences)
    )

    assert (texts.metric, texts.higher_is_better, texts.examples) == ("bits_per_byte", False, 4)
    assert (choices.metric, choices.higher_is_better, choices.examples) == (
        "preference_accuracy",
        True,
        4,
    )
    assert set(choices.metrics) == {"preference_accuracy", "preference_margin", "bits_per_byte"}


@pytest.mark.parametrize(
    "contents",
    [
        [{"input": "say", "output": f"{n}"} for n in range(3)],
        [{"text": f"{n} and more"} for n in range(3)],
        [{"prompt": "say", "chosen": f"{n}", "rejected": "no"} for n in range(3)],
    ],
    ids=["completion", "document", "preference"],
)
def test_score_of_a_language_model_names_the_row_of_each_example(
    tiny_language_model: str, contents: list[dict[str, str]]
) -> None:
    learner = LanguageModelLearner(config=LanguageModelConfig(), seed=0)
    frame = rows(SampleKind.LLM, *contents).assign(cluster=["a", "a", "b"])[::-1]

    model = learner.load(tiny_language_model)
    scores = score_language_model(learner, model, records_of(frame), [], EvaluationConfig())

    table = scores.table()
    assert table["row_id"].tolist() == [2, 1, 0]
    assert table["cluster"].tolist() == ["b", "a", "a"]
    assert scores.metric in table


def test_scorable_rows_leaves_out_rows_that_are_cut_off(
    tiny_language_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(llm=LanguageModelConfig(max_length=40))
    learner = LLM.learner(settings, "completion", None)
    model = learner.load(tiny_language_model)
    frame = rows(
        SampleKind.LLM,
        {"input": "say", "output": "short"},
        {"input": "say " * 50, "output": "cut off"},
    )

    scorable = LLM.scorable_rows(settings, learner, [model, model], frame)

    assert list(scorable["row_id"]) == [0]
    assert "1 row left unscored, as llm.max_length cuts off the output" in caplog.text
    with pytest.raises(
        SampleError, match=r"llm\.max_length=40 cuts off the outputs of all rows.* Raise it"
    ):
        LLM.scorable_rows(settings, learner, [model], frame.tail(1).reset_index(drop=True))


def test_score_reads_queries_and_documents_behind_the_models_prompts_of_folder(
    tiny_embedding_model: str,
) -> None:
    def learner(**prompts: str) -> EmbeddingLearner:
        return EmbeddingLearner(config=EmbeddingConfig(**prompts), shape="pair", seed=0)

    def scores(model: Any, records: list[dict[str, str]]) -> Any:
        return score_embedding_model(learner(), model, records, [], EvaluationConfig())

    pairs = [{"anchor": f"ask {n}", "positive": f"answer {n * 3}"} for n in range(12)]
    written = [
        {"anchor": f"query: {pair['anchor']}", "positive": f"passage: {pair['positive']}"}
        for pair in pairs
    ]
    prompted = learner(query_prompt="query: ", document_prompt="passage: ").load(
        tiny_embedding_model
    )
    plain = learner().load(tiny_embedding_model)

    assert scores(prompted, pairs).metrics == pytest.approx(scores(plain, written).metrics)


def pairs_frame(*words: str) -> pd.DataFrame:
    contents = [{"anchor": f"ask {word}", "positive": f"answer {word}"} for word in words]
    return rows(SampleKind.EMBEDDING, *contents)


def labels_frame(*words: str) -> pd.DataFrame:
    return rows(SampleKind.EMBEDDING, *[{"text": word, "label": word[0]} for word in words])


def test_draw_by_content_depends_on_neither_the_order_nor_the_ids_of_the_rows() -> None:
    frame = pairs_frame(*(f"word {count}" for count in range(50)))

    drawn = draw_by_content(frame, 20)
    turned = draw_by_content(frame[::-1].reset_index(drop=True), 20)

    assert len(drawn) == 20
    assert sorted(turned["anchor"]) == sorted(drawn["anchor"])
    assert drawn["row_id"].is_monotonic_increasing


def test_draw_by_content_keeps_its_choice_as_rows_come_in() -> None:
    words = [f"word {count}" for count in range(60)]

    before = set(draw_by_content(pairs_frame(*words[:50]), 20)["anchor"])
    after = set(draw_by_content(pairs_frame(*words), 20)["anchor"])

    newcomers = {f"ask {word}" for word in words[50:]}
    assert after - before <= newcomers


def test_corpus_of_pairs_holds_all_rows_that_are_not_scored() -> None:
    train, validation = pairs_frame("bread", "snow"), pairs_frame("fire")

    corpus = EMBEDDING.corpus_rows(Settings(), train, validation)

    assert list(corpus["positive"]) == ["answer bread", "answer snow", "answer fire"]


def test_corpus_of_labels_holds_the_texts_that_are_learnt_from() -> None:
    train, validation = labels_frame("bread", "snow"), labels_frame("fire")

    corpus = EMBEDDING.corpus_rows(Settings(), train, validation)

    assert list(corpus["text"]) == ["bread", "snow"]


def test_corpus_is_empty_if_nothing_is_ranked() -> None:
    scores = rows(SampleKind.EMBEDDING, {"sentence1": "a", "sentence2": "b", "score": 0.5})
    completions = rows(SampleKind.LLM, {"input": "say", "output": "it"})

    assert EMBEDDING.corpus_rows(Settings(), scores).empty
    assert LLM.corpus_rows(Settings(), completions).empty


def test_corpus_size_bounds_the_corpus() -> None:
    settings = Settings(evaluation=EvaluationConfig(corpus_size=2))
    assert len(EMBEDDING.corpus_rows(settings, pairs_frame("a", "b", "c"))) == 2
    none = Settings(evaluation=EvaluationConfig(corpus_size=0))
    assert EMBEDDING.corpus_rows(none, pairs_frame("a", "b", "c")).empty

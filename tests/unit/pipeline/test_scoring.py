from typing import Any

import pandas as pd
import pytest

from tunetrail.config import EmbeddingConfig, EvaluationConfig, LanguageModelConfig, Settings
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.errors import SampleError
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.pipeline.families import LLM
from tunetrail.pipeline.scoring import score_embedding_model, score_language_model
from tunetrail.samples import SampleKind, parse_sample


def rows(kind: SampleKind, *contents: dict[str, str]) -> pd.DataFrame:
    return rows_frame(
        (number, parse_sample(content, kind)) for number, content in enumerate(contents)
    )


def test_score_embedding_model_scores_pairs_by_retrieval(tiny_embedding_model: str) -> None:
    learner = EmbeddingLearner(config=EmbeddingConfig(), shape="pair", seed=0)
    pairs = [{"anchor": f"ask {n}", "positive": f"answer {n}"} for n in range(4)]

    scores = score_embedding_model(
        learner, learner.load(tiny_embedding_model), pairs, EvaluationConfig()
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
        score_language_model(learner, model, records, EvaluationConfig())
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
    scores = score_language_model(learner, model, records_of(frame), EvaluationConfig())

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
    assert "1 rows aren't scored, as llm.max_length cuts off their outputs" in caplog.text
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
        return score_embedding_model(learner(), model, records, EvaluationConfig())

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

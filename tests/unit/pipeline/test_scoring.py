import pandas as pd
import pytest

from tunetrail.config import EmbeddingConfig, EvaluationConfig, LanguageModelConfig
from tunetrail.data.rows import rows_frame
from tunetrail.errors import SampleError
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.pipeline.scoring import scorable_by_all, score
from tunetrail.samples import SampleKind, parse_sample


def rows(kind: SampleKind, *contents: dict[str, str]) -> pd.DataFrame:
    return rows_frame(
        (number, parse_sample(content, kind)) for number, content in enumerate(contents)
    )


def test_score_gives_each_kind_its_primary_metric(
    tiny_embedding_model: str, tiny_language_model: str
) -> None:
    embedding = EmbeddingLearner(config=EmbeddingConfig(), shape="pair", seed=0)
    pairs = rows(
        SampleKind.EMBEDDING, *({"anchor": f"ask {n}", "positive": f"answer {n}"} for n in range(4))
    )
    assert (
        score(embedding, embedding.load(tiny_embedding_model), pairs, EvaluationConfig()).metric
        == "ndcg_at_10"
    )
    llm = LanguageModelLearner(config=LanguageModelConfig(), seed=0)
    chats = rows(SampleKind.LLM, *({"input": "say", "output": f"{n}"} for n in range(4)))
    scores = score(llm, llm.load(tiny_language_model), chats, EvaluationConfig())
    assert (scores.metric, scores.higher_is_better, scores.examples) == ("bits_per_byte", False, 4)
    preferences = rows(
        SampleKind.LLM, *({"prompt": "say", "chosen": f"{n}", "rejected": "no"} for n in range(4))
    )
    scores = score(llm, llm.load(tiny_language_model), preferences, EvaluationConfig())
    assert (scores.metric, scores.higher_is_better, scores.examples) == (
        "preference_accuracy",
        True,
        4,
    )
    assert set(scores.metrics) == {"preference_accuracy", "preference_margin", "bits_per_byte"}


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

    scores = score(learner, learner.load(tiny_language_model), frame, EvaluationConfig())

    table = scores.table()
    assert table["row_id"].tolist() == [2, 1, 0]
    assert table["cluster"].tolist() == ["b", "a", "a"]
    assert scores.metric in table


def test_scorable_by_all_leaves_out_rows_that_are_cut_off(
    tiny_language_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    learner = LanguageModelLearner(config=LanguageModelConfig(max_length=40), seed=0)
    model = learner.load(tiny_language_model)
    frame = rows(
        SampleKind.LLM,
        {"input": "say", "output": "short"},
        {"input": "say " * 50, "output": "cut off"},
    )
    kept = scorable_by_all(learner, [model, model], frame)
    assert list(kept["row_id"]) == [0]
    assert "cuts off all that could be scored of 1 rows" in caplog.text
    with pytest.raises(
        SampleError, match=r"llm\.max_length=40 cuts off the outputs of all rows.* Raise it"
    ):
        scorable_by_all(learner, [model], frame.tail(1).reset_index(drop=True))


def test_score_reads_queries_and_documents_behind_the_models_own_prompts(
    tiny_embedding_model: str,
) -> None:
    def learner(**prompts: str) -> EmbeddingLearner:
        return EmbeddingLearner(config=EmbeddingConfig(**prompts), shape="pair", seed=0)

    pairs = [(f"ask {n}", f"answer {n * 3}") for n in range(12)]
    prompted = learner(query_prompt="query: ", document_prompt="passage: ").load(
        tiny_embedding_model
    )
    found = score(
        learner(),
        prompted,
        rows(
            SampleKind.EMBEDDING,
            *({"anchor": anchor, "positive": positive} for anchor, positive in pairs),
        ),
        EvaluationConfig(),
    )
    written = [
        {"anchor": f"query: {anchor}", "positive": f"passage: {positive}"}
        for anchor, positive in pairs
    ]
    plain = learner().load(tiny_embedding_model)
    expected = score(learner(), plain, rows(SampleKind.EMBEDDING, *written), EvaluationConfig())
    assert found.metrics == pytest.approx(expected.metrics)

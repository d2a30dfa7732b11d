from typing import Any

import pytest

from tunetrail.config import (
    EvaluationConfig,
    GenerationConfig,
    LanguageModelConfig,
    PrivacyConfig,
)
from tunetrail.data.privacy.scrubber import Scrubber
from tunetrail.evaluation.answers import WRITTEN, AnswerChecks, mask_answers, with_answers
from tunetrail.evaluation.scores import Scores
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.pipeline.answers import add_answers, answer_table
from tunetrail.pipeline.scoring import score_language_model

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<b>Bye</b>"},
        {"role": "assistant", "content": "See you."},
    ]
}


def answered(path: str, records: list[dict[str, Any]], **generation: Any) -> Scores:
    learner = LanguageModelLearner(config=LanguageModelConfig(), seed=0)
    model = learner.load(path)
    config = EvaluationConfig(generation=GenerationConfig(max_new_tokens=4, **generation))
    scores = score_language_model(learner, model, records, [], config)
    return add_answers(learner, model, records, scores, config)


def test_answers_are_written_to_rows_drawn_by_their_content(tiny_language_model: str) -> None:
    records = [{"input": f"say {n}", "output": f"{n}", "row_id": n} for n in range(12)]

    scores = answered(tiny_language_model, records, rows=5)
    turned = answered(tiny_language_model, records[::-1], rows=5)

    written = scores.per_example[WRITTEN]
    assert sum(answer is not None for answer in written) == 5
    assert written.tolist() == turned.per_example[WRITTEN].tolist()[::-1]
    assert {"exact_match", "rouge_l", "chrf"} <= set(scores.metrics)
    assert scores.metric == "bits_per_byte" and 0.0 <= scores.metrics["token_accuracy"] <= 1.0


@pytest.mark.parametrize(
    "record",
    [{"text": "a document"}, {"prompt": "say", "chosen": "yes", "rejected": "no"}],
    ids=["document", "preference"],
)
def test_rows_without_a_prompt_or_with_two_answers_have_none(
    tiny_language_model: str, record: dict[str, Any]
) -> None:
    scores = answered(tiny_language_model, [record, record])
    assert WRITTEN not in scores.per_example and "exact_match" not in scores.metrics


def test_checks_of_the_settings_reach_the_metrics(tiny_language_model: str) -> None:
    scores = answered(
        tiny_language_model,
        [{"input": "say", "output": "1"}, CHAT],
        pattern="^never written$",
        json_schema='{"type": "object"}',
    )
    assert scores.metrics["pattern_match"] == scores.metrics["schema_match"] == 0.0


def test_answer_table_has_a_line_for_each_answer(tiny_language_model: str) -> None:
    records = [{"input": "say", "output": "1", "row_id": 7}, {"text": "a document"}, CHAT]
    scores = answered(tiny_language_model, records)

    table = answer_table(records, scores, scores)

    assert table["prompt"].tolist() == ["say", "system: Be brief.\nuser: <b>Bye</b>"]
    assert table["expected"].tolist() == ["1", "See you."]
    assert table["before"].tolist() == table["after"].tolist()
    assert table["row_id"].tolist()[0] == 7 and not table["exact_match_after"].any()


@pytest.mark.parametrize(
    ("secret", "placeholder"),
    [
        ("jane.doe@example.com", "[EMAIL]"),
        ("+1 212 555 0123", "[PHONE]"),
        ("4111 1111 1111 1111", "[CARD]"),
    ],
)
def test_answers_are_masked_but_scored_as_they_were_written(
    tiny_language_model: str, secret: str, placeholder: str
) -> None:
    chat = [{"role": "system", "content": f"Be {secret}"}, *CHAT["messages"][1:]]
    records = [{"input": f"ask {secret}", "output": f"Ask {placeholder}"}, {"messages": chat}]
    scores = answered(tiny_language_model, records)
    written = [f"Ask {secret}"] * 2
    scores = with_answers(scores, written, [f"Ask {placeholder}"] * 2, AnswerChecks())
    mask = Scrubber(PrivacyConfig()).mask

    masked = mask_answers(scores, mask)
    table = answer_table(records, scores, scores, mask)

    # An answer isn't right because its masked form is.
    assert masked.metrics["exact_match"] == 0.0 and masked.metrics == scores.metrics
    assert masked.per_example[WRITTEN].tolist() == [f"Ask {placeholder}"] * 2
    assert secret not in table.to_json(force_ascii=False)
    assert table["prompt"].tolist()[1].startswith(f"system: Be {placeholder}")
    assert table["before"].tolist() == table["after"].tolist() == [f"Ask {placeholder}"] * 2


def test_nothing_is_masked_if_privacy_is_off(tiny_language_model: str) -> None:
    records = [{"input": "ask jane.doe@example.com", "output": "no"}]
    scores = answered(tiny_language_model, records)
    mask = Scrubber(PrivacyConfig(enabled=False)).mask
    assert answer_table(records, scores, scores, mask)["prompt"].tolist() == [records[0]["input"]]

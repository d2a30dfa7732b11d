import dataclasses

import pytest

from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.decision_text import decision_text

COMPARISON = Comparison(
    metric="ndcg_at_10",
    before=0.7558,
    after=0.7948,
    improvement=0.039,
    lower=0.0211,
    upper=0.0581,
    confidence=0.95,
    examples=209,
    bootstrap_samples=1000,
    better_share=0.2,
    worse_share=0.1,
    clusters=77,
    documents=799,
    scored_rows=216,
    side_rows=216,
)


def test_decision_text_has_the_evidence_and_the_reason() -> None:
    text = decision_text(COMPARISON, against="base", promoted=True, reason="it is above 0")

    assert text == (
        "Promoted to root: nDCG@10 is 0.7948 against 0.7558 of the base model, an improvement of "
        "+0.0390 (95 % interval +0.0211 … +0.0581) over 216 of 216 test rows (209 queries) in 77 "
        "groups, ranked among 799 documents. Reason: it is above 0."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"improvement": -0.01}, "Refused, root stays: nDCG@10 is 0.7948 against 0.7558 of"),
        ({"improvement": -0.01}, "a change of -0.0100 (95 % interval"),
        (
            {"lower": None, "upper": None, "differing": 2},
            "(no interval: only 2 of 77 test groups changed, and a 95% interval needs 6",
        ),
        ({"clusters": 209}, "over 216 of 216 test rows (209 queries), ranked among 799"),
        ({"confidence": 0.993}, "(99.3 % interval"),
    ],
)
def test_decision_text_of_other_results(changes: dict[str, object], words: str) -> None:
    comparison = dataclasses.replace(COMPARISON, **changes)  # type: ignore[arg-type]

    text = decision_text(comparison, against="models:/embedding/2", promoted=False, reason="no")

    assert words in text and "of embedding/2" in text and text.endswith("Reason: no.")

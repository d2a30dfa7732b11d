from typing import Any

from tunetrail.evaluation.looks import rows_sketch
from tunetrail.pipeline.looks import earlier_looks, promotion_rows
from tunetrail.stores.database.ledger import PromotionRecord


def sketch_of(first: int, last: int) -> list[str]:
    return rows_sketch([[f"question {row}"] for row in range(first, last)])


def decision(
    word: str = "refused", rows: list[str] | None = None, **values: Any
) -> PromotionRecord:
    return PromotionRecord(
        model_name="embedding", version="1", decision=word, reason="", test_rows=rows, **values
    )


TODAY = sketch_of(0, 100)


def test_first_look_has_none_before_it() -> None:
    assert earlier_looks([], TODAY, ["s1"]) == 0.0


def test_looks_count_by_the_share_of_the_rows_that_they_had() -> None:
    promotions = [decision(rows=TODAY), decision(rows=sketch_of(50, 200)), decision(rows=["f"])]
    assert earlier_looks(promotions, TODAY, ["s1"]) == 1.5


def test_looks_begin_again_when_root_moves() -> None:
    promotions = [decision(rows=TODAY), decision("promoted", TODAY), decision(rows=TODAY)]
    assert earlier_looks(promotions, TODAY, ["s1"]) == 1.0


def test_own_decision_of_a_resumed_run_is_no_earlier_look() -> None:
    promotions = [decision(rows=TODAY, mlflow_run_id="mine"), decision(rows=TODAY)]
    assert earlier_looks(promotions, TODAY, ["s1"], "mine") == 1.0
    assert earlier_looks(promotions, TODAY, ["s1"]) == 2.0


def test_decisions_of_older_ledgers_count_if_they_are_of_the_session() -> None:
    promotions = [decision(session_id="s1"), decision(session_id="s2")]
    assert earlier_looks(promotions, TODAY, ["s1"]) == 1.0


def test_promotion_rows_are_those_that_made_a_version_root() -> None:
    promotions = [decision("promoted", TODAY), decision("refused", sketch_of(0, 5))]
    assert promotion_rows(promotions, "1") == TODAY
    assert promotion_rows(promotions, "2") is None
    assert promotion_rows([decision("promoted")], "1") is None

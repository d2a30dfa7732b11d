from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tunetrail.data.lengths import measure_lengths
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind


class Words:
    """Counts words: a real counter of a very simple model."""

    max_length = 6
    identity = "words"

    def of_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.array([len(text.split()) for text in texts], dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
        return np.array(
            [max(len(str(value).split()) for value in record.values()) for record in records]
        )


LONG = "One two three. Four five six seven eight."
ROWS = rows_frame(
    [
        (
            1,
            Sample(
                kind=SampleKind.EMBEDDING,
                shape="pair",
                content={"anchor": "short", "positive": "words"},
            ),
        ),
        (
            2,
            Sample(
                kind=SampleKind.EMBEDDING,
                shape="pair",
                content={"anchor": "short", "positive": LONG},
            ),
        ),
    ]
)
COMPLETIONS = rows_frame(
    [(3, Sample(kind=SampleKind.LLM, shape="completion", content={"input": "a", "output": LONG}))]
)
PREFERENCES = rows_frame(
    [
        (
            4,
            Sample(
                kind=SampleKind.LLM,
                shape="preference",
                content={"prompt": "a", "chosen": "b", "rejected": LONG},
            ),
        )
    ]
)


def test_measure_lengths_counts_and_keeps() -> None:
    result = measure_lengths(ROWS, "keep", Words())

    assert (
        result.rows["token_count"].tolist() == [1, 8]
        and len(result.set_aside) == len(result.changes) == 0
    )
    assert result.too_long == ((2, 8, False),)


def test_measure_lengths_truncates_at_a_sentence_and_says_so() -> None:
    result = measure_lengths(ROWS, "truncate", Words())

    assert result.rows["positive"].tolist() == ["words", "One two three."]
    assert result.rows["token_count"].tolist() == [1, 3]
    assert result.changes["reason"].tolist() == [
        "truncated at a sentence: 8 tokens are more than the 6 that the model reads"
    ]
    assert ROWS.at[1, "positive"] == LONG


@pytest.mark.parametrize(
    ("rows", "policy"),
    [(ROWS, "drop"), (COMPLETIONS, "drop"), (COMPLETIONS, "truncate"), (PREFERENCES, "truncate")],
)
def test_measure_lengths_drops_rows_and_never_cuts_an_answer(rows: Any, policy: str) -> None:
    result = measure_lengths(rows, policy, Words())
    assert len(result.rows) == len(rows) - 1
    assert result.set_aside["reason"].tolist() == [
        "8 tokens are more than the 6 that the model reads"
    ]


def test_measure_lengths_takes_no_rows() -> None:
    assert len(measure_lengths(ROWS.iloc[:0], "drop", Words()).rows) == 0


def test_measure_lengths_hands_the_counter_a_thousand_rows_at_a_time() -> None:
    handed: list[int] = []

    class Noting(Words):
        def of_records(self, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
            handed.append(len(records))
            return super().of_records(records)

    texts = [" ".join(["word"] * (1 + index % 9)) for index in range(2100)]
    samples = [
        Sample(kind=SampleKind.EMBEDDING, shape="text", content={"text": text}) for text in texts
    ]
    result = measure_lengths(rows_frame(enumerate(samples)), "keep", Noting())
    assert result.rows["token_count"].tolist() == [len(text.split()) for text in texts]
    assert handed == [1000, 1000, 100]

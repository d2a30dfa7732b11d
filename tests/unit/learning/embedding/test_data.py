from itertools import zip_longest
from typing import Any

import pytest
import torch

from tunetrail.learning.embedding.data import EmbeddingBatch, EmbeddingDataModule
from tunetrail.learning.training.micro_batches import MicroBatchLoader


def micro_batches(loader: MicroBatchLoader) -> list[EmbeddingBatch]:
    return [shared.batch for shared in loader]


def loaded(
    shape: str, records: list[dict[str, Any]], batch_size: int = 4, shuffled: bool = False
) -> list[EmbeddingBatch]:
    data = EmbeddingDataModule(
        train=records,
        validation=records,
        shape=shape,
        batch_size=batch_size,
        validation_rows=batch_size,
    )
    return micro_batches(data.train_dataloader() if shuffled else data.val_dataloader())


def column(batch: EmbeddingBatch, number: int) -> list[int]:
    """One number per text, so that a batch shows which rows it holds."""
    read = batch.columns[number]
    return [len(read.prompt + text) for text in read.texts]


def test_data_pair_batch_has_the_negatives_of_the_rows_that_have_one() -> None:
    records = [
        {"anchor": "a", "positive": "bb", "negative": "ccc"},
        {"anchor": "aaaa", "positive": "bbbbb", "negative": None},
        {"anchor": "aaaaaaa", "positive": "bbbbbbbb"},
    ]
    (batch,) = loaded("pair", records)
    assert [column(batch, number) for number in range(3)] == [[1, 4, 7], [2, 5, 8], [3]]
    assert (batch.target, batch.rows, batch.weight) == (None, (0, 1, 2), 3.0)
    (batch,) = loaded("pair", records[1:])
    assert len(batch.columns) == 2


@pytest.mark.parametrize(
    ("shape", "records", "expected"),
    [
        (
            "score",
            [{"sentence1": "a", "sentence2": "b", "score": score} for score in (0.25, 1)],
            [0.25, 1.0],
        ),
        ("label", [{"text": "a", "label": label} for label in ("y", "x", "y", "x")], [1, 1, 0, 0]),
        (
            "vector",
            [{"text": "a", "embedding": [1, 2.5]}, {"text": "b", "embedding": [0, 0]}],
            [[1, 2.5], [0, 0]],
        ),
    ],
)
def test_data_targets_of_each_shape(
    shape: str, records: list[dict[str, Any]], expected: list[Any]
) -> None:
    (batch,) = loaded(shape, records)
    assert batch.target.tolist() == expected
    assert batch.target.dtype == (torch.int64 if shape == "label" else torch.float32)
    assert len(batch.columns) == (2 if shape == "score" else 1)


def test_data_labels_have_one_number_in_training_and_validation() -> None:
    data = EmbeddingDataModule(
        train=[{"text": "a", "label": "z"}, {"text": "b", "label": "z"}],
        validation=[{"text": "c", "label": "m"}, {"text": "d", "label": "z"}],
        shape="label",
        batch_size=2,
    )
    assert [batch.target.tolist() for batch in micro_batches(data.train_dataloader())] == [[1, 1]]
    assert sorted(micro_batches(data.val_dataloader())[0].target.tolist()) == [0, 1]


@pytest.mark.parametrize("shuffled", [True, False])
def test_data_keeps_equal_texts_of_pairs_in_different_batches(shuffled: bool) -> None:
    anchors = ["Same text", "x", "same TEXT", "xx", "SAME text", "xxx"]
    records = [{"anchor": text, "positive": f"p{number}"} for number, text in enumerate(anchors)]
    for batch in loaded("pair", records, batch_size=2, shuffled=shuffled):
        assert column(batch, 0).count(len("same text")) == 1


@pytest.mark.parametrize("shape", ["pair", "text", "label"])
def test_data_leaves_out_a_last_single_row_where_others_are_the_negatives(shape: str) -> None:
    records = [
        {"anchor": f"a{n}", "positive": f"p{n}", "text": f"t{n}", "label": "one"} for n in range(5)
    ]
    assert [len(batch.rows) for batch in loaded(shape, records)] == [4]


def test_data_keeps_a_last_single_row_of_scores() -> None:
    records = [{"sentence1": "a", "sentence2": "b", "score": n / 5} for n in range(5)]
    assert [len(batch.rows) for batch in loaded("score", records)] == [4, 1]


@pytest.mark.parametrize(
    ("shape", "record", "expected"),
    [
        ("pair", {"anchor": "a", "positive": "bb", "negative": "ccc"}, [11, 102, 103]),
        ("score", {"sentence1": "a", "sentence2": "bb", "score": 1.0}, [11, 12]),
        ("label", {"text": "a", "label": "x"}, [11]),
        ("vector", {"text": "a", "embedding": [1.0]}, [11]),
        ("text", {"text": "a"}, [11]),
    ],
)
def test_data_puts_the_prompt_of_its_role_before_each_column(
    shape: str, record: dict[str, Any], expected: list[int]
) -> None:
    data = EmbeddingDataModule(
        train=[record],
        validation=[record],
        shape=shape,
        batch_size=2,
        prompts={"query": "q" * 10, "document": "d" * 100},
    )
    for loader in (data.train_dataloader(), data.val_dataloader()):
        (batch,) = micro_batches(loader)
        assert [column(batch, number)[0] for number in range(len(batch.columns))] == expected


def test_data_gives_the_texts_of_some_shapes_twice() -> None:
    records = [{"text": "a"}, {"text": "bb"}]
    data = EmbeddingDataModule(
        train=records, validation=records, shape="text", batch_size=2, seen_twice=("text",)
    )
    (batch,) = micro_batches(data.val_dataloader())
    assert [column(batch, number) for number in range(len(batch.columns))] == [[1, 2], [1, 2]]


def test_data_gives_each_batch_rows_of_one_shape() -> None:
    pairs = [{"anchor": f"a{n}", "positive": f"b{n}", "shape": "pair"} for n in range(10)]
    scores = [
        {"sentence1": f"c{n}", "sentence2": f"d{n}", "score": n / 7, "shape": "score"}
        for n in range(7)
    ]
    records = [record for two in zip_longest(pairs, scores) for record in two if record]
    data = EmbeddingDataModule(train=records, validation=pairs, shape="pair", batch_size=4, seed=1)
    orders = set()
    for epoch in range(8):
        loader = data.train_dataloader()
        loader.batches.set_epoch(epoch)
        batches = micro_batches(loader)
        for batch in batches:
            assert {records[row]["shape"] for row in batch.rows} == {batch.shape}
            assert (batch.target is None) == (batch.shape == "pair")
        assert sorted(row for batch in batches for row in batch.rows) == list(range(17))
        assert len(batches) == len(loader) == 5
        orders.add(tuple(batch.shape for batch in batches))
    assert len(orders) > 1  # shapes come in random turns
    assert {batch.shape for batch in micro_batches(data.val_dataloader())} == {"pair"}


def test_data_gives_each_row_once_per_epoch() -> None:
    records = [{"sentence1": "a", "sentence2": "b", "score": n / 9} for n in range(9)]
    data = EmbeddingDataModule(
        train=records, validation=records, shape="score", batch_size=3, validation_rows=2
    )

    batches = micro_batches(data.train_dataloader())

    assert sorted(row for batch in batches for row in batch.rows) == list(range(9))
    validation_rows = [batch.rows for batch in micro_batches(data.val_dataloader())]
    assert validation_rows == [(0, 1), (2, 3), (4, 5), (6, 7), (8,)]


def test_data_loads_its_own_records_before_a_training_begins() -> None:
    records = [{"text": "a"}, {"text": "bb"}]
    data = EmbeddingDataModule(
        train=records,
        validation=records,
        shape="text",
        batch_size=2,
        refresh=lambda epoch: [{"text": "ccc"}] * 2,
        refresh_epochs=1,
    )
    (batch,) = micro_batches(data.train_dataloader())
    assert sorted(column(batch, 0)) == [1, 2]

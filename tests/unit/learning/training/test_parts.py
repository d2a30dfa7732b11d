import logging

import numpy as np
import pytest
import torch

from tunetrail.errors import TrainingError
from tunetrail.learning.training.parts import Numbers, in_parts


def test_in_parts_yields_batches_as_they_are_where_all_fit() -> None:
    found = [
        (numbers.tolist(), result)
        for numbers, result in in_parts([[0, 1], [2]], lambda numbers: numbers.sum())
    ]
    assert found == [([0, 1], 1), ([2], 2)]


def test_in_parts_halves_a_batch_that_does_not_fit_and_all_later_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[int] = []

    def compute(numbers: Numbers) -> int:
        tried.append(len(numbers))
        if len(numbers) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return int(numbers.sum())

    batches = [np.arange(2), np.arange(2, 12), np.arange(12, 20)]
    found = list(in_parts(batches, compute))
    assert [number for numbers, _ in found for number in numbers] == list(range(20))
    assert all(result == numbers.sum() for numbers, result in found)
    assert [size for size in tried if size > 3] == [
        10,
        5,
    ]  # the third batch is cut before it is tried
    assert [each.levelno for each in caplog.records] == [logging.WARNING] * 2
    assert "in 4 parts" in caplog.text


def test_in_parts_says_what_to_do_where_one_does_not_fit() -> None:
    def compute(numbers: Numbers) -> int:
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
        )

    with pytest.raises(
        TrainingError, match=r"one text alone doesn't fit into memory\. Lower max_length"
    ):
        list(in_parts([[1, 2, 3]], compute))


def test_in_parts_lets_other_errors_through() -> None:
    def compute(numbers: Numbers) -> int:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_parts([[1, 2]], compute))

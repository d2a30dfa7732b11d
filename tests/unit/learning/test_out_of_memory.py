import errno
import logging
import os

import numpy as np
import pytest
import torch

from tunetrail.errors import ConfigError, TrainingError
from tunetrail.learning.out_of_memory import (
    RowIndices,
    compute_batches,
    explaining_full_memory,
    is_out_of_memory,
)


def test_compute_batches_yields_batches_as_they_are_where_all_fit() -> None:
    found = [
        (numbers.tolist(), result)
        for numbers, result in compute_batches([[0, 1], [2]], lambda numbers: numbers.sum())
    ]
    assert found == [([0, 1], 1), ([2], 2)]


def test_compute_batches_halves_a_batch_that_does_not_fit_and_all_later_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[int] = []

    def compute(numbers: RowIndices) -> int:
        tried.append(len(numbers))
        if len(numbers) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return int(numbers.sum())

    batches = [np.arange(2), np.arange(2, 12), np.arange(12, 20)]
    found = list(compute_batches(batches, compute))
    assert [number for numbers, _ in found for number in numbers] == list(range(20))
    assert all(result == numbers.sum() for numbers, result in found)
    assert [size for size in tried if size > 3] == [
        10,
        5,
    ]  # the third batch is cut before it is tried
    assert [each.levelno for each in caplog.records] == [logging.WARNING] * 2
    assert "in 4 parts" in caplog.text


def test_compute_batches_says_what_to_do_where_one_does_not_fit() -> None:
    def compute(numbers: RowIndices) -> int:
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
        )

    with pytest.raises(
        TrainingError, match=r"one text alone doesn't fit into memory\. Lower max_length"
    ):
        list(compute_batches([[1, 2, 3]], compute))


def test_compute_batches_lets_other_errors_through() -> None:
    def compute(numbers: RowIndices) -> int:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(compute_batches([[1, 2]], compute))


def test_a_full_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_file_that_is_not_mapped_for_want_of_memory_is_recognised() -> None:
    assert is_out_of_memory(
        RuntimeError("unable to mmap 538 bytes from file <x>: Cannot allocate memory (12)")
    )
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(ValueError("Cannot allocate memory"))
    assert not is_out_of_memory(RuntimeError(ValueError("something else")))
    assert not is_out_of_memory(NotImplementedError(int))


def test_a_full_memory_is_explained_and_other_errors_stay() -> None:
    message = r"^the memory is full\. Lower it\. \(\[enforce fail .*\)$"
    with pytest.raises(TrainingError, match=message) as raised, explaining_full_memory("Lower it."):
        torch.empty(2**60)
    assert isinstance(raised.value.__cause__, RuntimeError)
    for error in (RuntimeError("else"), ConfigError("out of memory"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as other, explaining_full_memory(""):
            raise error
        assert other.value is error

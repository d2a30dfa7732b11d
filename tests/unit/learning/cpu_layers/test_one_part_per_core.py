"""Parts are computed side by side, and leave torch's number of threads as it was."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tunetrail.learning.cpu_layers.one_part_per_core import compute_parts


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return counts[0]


def test_results_have_the_order_of_the_parts() -> None:
    parts = list(torch.randn(5, 3, requires_grad=True).unbind())

    results = compute_parts(lambda part: part * 2, parts)

    assert [result.tolist() for result in results] == [(part * 2).tolist() for part in parts]
    assert not any(result.requires_grad for result in results)


def test_parts_are_computed_at_the_same_time_by_one_thread_each() -> None:
    # Whoever came alone would wait here for the other in vain.
    both = threading.Barrier(2, timeout=30)

    def compute(part: int) -> Tensor:
        both.wait()
        return torch.tensor([part, torch.get_num_threads()])

    assert torch.stack(compute_parts(compute, [7, 8])).tolist() == [[7, 1], [8, 1]]
    assert torch.get_num_threads() == threads_of_a_new_thread() == 2


def test_an_error_of_a_part_is_raised_and_the_threads_are_as_before() -> None:
    def compute(part: int) -> Tensor:
        raise MemoryError(f"part {part}")

    with pytest.raises(MemoryError, match="part 0"):
        compute_parts(compute, [0, 1])
    assert torch.get_num_threads() == threads_of_a_new_thread() == 2


@pytest.mark.parametrize(("threads", "parts"), [(1, [1, 2]), (2, [1])])
def test_without_anything_to_share_no_thread_is_started(threads: int, parts: list[int]) -> None:
    torch.set_num_threads(threads)
    callers = []

    compute_parts(lambda part: callers.append(threading.get_ident()) or torch.ones(1), parts)  # type: ignore[func-returns-value]

    assert set(callers) == {threading.get_ident()}

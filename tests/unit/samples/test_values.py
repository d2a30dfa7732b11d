import math
from typing import Any

import numpy as np
import pytest

from tunetrail.samples.values import (
    is_finite_number,
    is_text,
    is_vector,
    is_weight,
)


@pytest.mark.parametrize(
    ("value", "finite", "weight"),
    [
        (1, True, True),
        (np.float32(0.5), True, True),
        (0, True, False),
        (-1.5, True, False),
        (math.nan, False, False),
        (math.inf, False, False),
        (10**400, False, False),
        (True, False, False),
        (np.True_, False, False),
        ("1", False, False),
        (None, False, False),
    ],
)
def test_numbers_are_finite_and_weights_above_0(value: Any, finite: bool, weight: bool) -> None:
    assert is_finite_number(value) == finite
    assert is_weight(value) == weight


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2.5], True),
        ((math.nan,), True),
        (np.zeros(3, dtype=np.float32), True),
        ([], False),
        ([True], False),
        (["1"], False),
        (np.zeros((2, 2)), False),
        ("12", False),
        (3.0, False),
    ],
)
def test_is_vector_takes_lists_and_arrays_of_numbers(value: Any, expected: bool) -> None:
    assert is_vector(value) == expected


def test_is_text_refuses_half_a_character() -> None:
    assert is_text("") and is_text("Grüße")
    assert not is_text("\ud800") and not is_text(b"text")

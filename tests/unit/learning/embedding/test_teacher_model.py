from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tunetrail.cache import ResultCache
from tunetrail.learning.embedding.teacher_model import CachedTeacher

TEXTS = ("who", "she", "nobody at all")


@pytest.fixture
def teacher(tiny_embedding_model: str) -> CachedTeacher:
    return CachedTeacher(
        folder=tiny_embedding_model, max_length=64, device=torch.device("cpu"), cache=None
    )


def is_loaded(teacher: CachedTeacher) -> bool:
    return "_model" in vars(teacher)


def test_the_second_teacher_is_not_loaded_and_has_the_same_vectors(
    teacher: CachedTeacher, tmp_path: Path
) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    first, second = replace(teacher, cache=cache), replace(teacher, cache=cache)

    vectors = [one.encode(TEXTS, "query") for one in (teacher, first, second)]

    assert is_loaded(teacher) and is_loaded(first) and not is_loaded(second)
    assert vectors[0].shape == (3, 32)
    assert np.array_equal(vectors[0], vectors[1]) and np.array_equal(vectors[1], vectors[2])


def test_other_texts_roles_and_lengths_are_encoded(teacher: CachedTeacher, tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    replace(teacher, cache=cache).encode(TEXTS, "query")

    for texts, role, max_length in (
        (TEXTS[1:], "query", 64),
        (TEXTS, "document", 64),
        (TEXTS, "query", 4),
    ):
        further = replace(teacher, cache=cache, max_length=max_length)
        assert len(further.encode(texts, role)) == len(texts)
        assert is_loaded(further)

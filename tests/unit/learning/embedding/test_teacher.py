from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tunetrail.config.losses import LOSSES
from tunetrail.errors import ConfigError, ModelError, SampleError
from tunetrail.learning.embedding.losses import build_vector_loss
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.embedding.teacher import taught_records, teacher_target

TEXTS: list[dict[str, Any]] = [{"text": "ab"}, {"text": "c"}, {"text": "ab"}, {"text": "defg"}]
PAIRS: list[dict[str, Any]] = [
    {"anchor": "who", "positive": "she", "negative": "nobody at all"},
    {"anchor": "where", "positive": "there", "group": "g"},
    {"anchor": "who", "positive": "he himself", "negative": "it"},
]


class Teacher:
    """A teacher of few numbers: how long a text is, how many vowels it has, and its role."""

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[str, ...], str]] = []

    def __call__(self, texts: Sequence[str], role: str) -> Any:
        self.seen.append((tuple(texts), role))
        rows = [
            [
                len(text),
                sum(letter in "aeiou" for letter in text) + 1.0,
                2.0 if role == "query" else -1.0,
            ]
            for text in texts
        ]
        return np.array(rows, dtype=np.float64)


@pytest.mark.parametrize("loss", ["mse", "cosine", "l2"])
def test_texts_get_the_teachers_vectors_and_each_text_is_encoded_once(loss: str) -> None:
    teacher = Teacher()
    taught = taught_records(TEXTS, loss=LOSSES[loss], encode=teacher, dimensions=3)
    assert teacher.seen == [(("ab", "c", "defg"), "query")]
    assert [record["text"] for record in taught] == ["ab", "c", "ab", "defg"]
    target = teacher_target(taught)
    assert target is not None
    assert target.dtype == torch.float32
    assert target.tolist() == [[2.0, 2.0, 2.0], [1.0, 1.0, 2.0], [2.0, 2.0, 2.0], [4.0, 2.0, 2.0]]
    assert all("teacher_embedding" not in record for record in TEXTS)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    taught = taught_records(TEXTS, loss=LOSSES["mse"], encode=Teacher(), dimensions=3)
    student = torch.tensor(
        Teacher()([record["text"] for record in TEXTS], "query"), dtype=torch.float32
    )
    loss = build_vector_loss("text", "mse")
    assert loss([student], teacher_target(taught)).item() == 0.0
    assert loss([student + 1.0], teacher_target(taught)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("loss", ["mse", "cosine", "l2"])
def test_teacher_of_other_dimensions_is_refused(loss: str) -> None:
    with pytest.raises(
        ConfigError,
        match=f"embedding.teacher must give vectors of the model's 384 dimensions for the loss {loss}, got",
    ):
        taught_records(TEXTS, loss=LOSSES[loss], encode=Teacher(), dimensions=384)


@pytest.mark.parametrize("loss", ["margin_mse", "distill_kl_div"])
@pytest.mark.parametrize("similarity", [None, "dot", "cosine"])
def test_pairs_with_negatives_get_the_teachers_scores(loss: str, similarity: str | None) -> None:
    records = [PAIRS[0], PAIRS[2]]
    teacher = Teacher()
    taught = taught_records(
        records, loss=LOSSES[loss], encode=teacher, dimensions=384, similarity=similarity
    )
    assert [role for _, role in teacher.seen] == ["query", "document", "document"]
    assert teacher.seen[0][0] == ("who",)
    expected = []
    for record in records:
        anchor, positive, negative = (
            Teacher()([record[column]], role)[0]
            for column, role in (
                ("anchor", "query"),
                ("positive", "document"),
                ("negative", "document"),
            )
        )
        if similarity == "cosine":
            anchor, positive, negative = (
                each / np.linalg.norm(each) for each in (anchor, positive, negative)
            )
        expected.append([float(anchor @ positive), float(anchor @ negative)])
    target = teacher_target(taught)
    assert target is not None
    torch.testing.assert_close(target, torch.tensor(expected))


def test_margin_loss_is_zero_where_the_student_scores_as_its_teacher() -> None:
    records = [PAIRS[0], PAIRS[2]]
    taught = taught_records(records, loss=LOSSES["margin_mse"], encode=Teacher(), dimensions=3)
    roles = (("anchor", "query"), ("positive", "document"), ("negative", "document"))
    student = [
        torch.tensor(Teacher()([record[column] for record in records], role), dtype=torch.float32)
        for column, role in roles
    ]
    loss = build_vector_loss("pair", "margin_mse")
    assert loss(student, teacher_target(taught)).item() == pytest.approx(0.0, abs=1e-9)
    assert loss([2.0 * student[0], *student[1:]], teacher_target(taught)).item() > 0.1


@pytest.mark.parametrize("loss", ["margin_mse", "distill_kl_div"])
def test_pairs_without_negatives_are_refused_where_scores_are_to_be_learnt(loss: str) -> None:
    with pytest.raises(
        SampleError, match=f"negative must be in every row for the loss {loss}, got 2 for 3 rows"
    ):
        taught_records(PAIRS, loss=LOSSES[loss], encode=Teacher(), dimensions=3)


def test_guide_vectors_come_column_after_column_and_only_where_there_is_a_text() -> None:
    taught = taught_records(PAIRS, loss=LOSSES["gist_embed"], encode=Teacher(), dimensions=384)
    assert taught[1]["group"] == "g"
    assert ["teacher_negative" in record for record in taught] == [True, False, True]
    target = teacher_target(taught)
    assert target is not None
    assert target.tolist() == [
        *Teacher()(["who", "where", "who"], "query").tolist(),
        *Teacher()(["she", "there", "he himself"], "document").tolist(),
        *Teacher()(["nobody at all", "it"], "document").tolist(),
    ]
    vectors = [
        torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows)) for rows in (3, 3, 2)
    ]
    assert bool(torch.isfinite(build_vector_loss("pair", "gist_embed")(vectors, target)))


def test_guide_keeps_a_false_negative_out_of_the_loss() -> None:
    """The second positive answers the first anchor as well as the first does; only the guide knows."""
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positives = torch.tensor([[0.8, 0.6], [1.0, 0.0]])
    blind = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    knowing = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [1.0, 0.0]])
    loss = build_vector_loss("pair", "gist_embed")
    assert loss([anchors, positives], knowing).item() < loss([anchors, positives], blind).item()


def test_records_of_no_teacher_have_no_target() -> None:
    assert teacher_target(PAIRS) is None
    assert teacher_target(TEXTS) is None
    assert teacher_target([{"text": "a", "embedding": [1.0]}]) is None
    assert teacher_target([]) is None


@pytest.mark.parametrize("loss", ["mse", "margin_mse", "gist_embed"])
def test_no_records_stay_none(loss: str) -> None:
    assert taught_records([], loss=LOSSES[loss], encode=Teacher(), dimensions=3) == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_teacher_that_gives_no_finite_numbers_is_refused(wrong: float) -> None:
    def broken(texts: Sequence[str], role: str) -> Any:
        return np.array([[wrong, 1.0, 1.0]] * len(texts))

    with pytest.raises(ModelError, match="the teacher's vectors must be finite numbers"):
        taught_records(TEXTS, loss=LOSSES["mse"], encode=broken, dimensions=3)


def test_encode_of_another_form_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match=r"encode must return \[3, dimensions\], got \[2, 3\]"):
        taught_records(
            TEXTS, loss=LOSSES["mse"], encode=lambda texts, role: np.zeros((2, 3)), dimensions=3
        )


def test_a_real_model_teaches_another_one(tiny_embedding_model: str) -> None:
    teacher = load_embedding_model(tiny_embedding_model)
    records = [{"text": text} for text in ("a red fox", "the blue sea", "an old book", "rain")]
    taught = taught_records(
        records,
        loss=LOSSES["mse"],
        encode=lambda texts, role: teacher.encode(list(texts), show_progress_bar=False),
        dimensions=32,
    )
    target = teacher_target(taught)
    student = load_embedding_model(tiny_embedding_model).eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws))
    loss, optimizer, values = (
        build_vector_loss("text", "mse"),
        torch.optim.Adam(student.parameters(), lr=0.01),
        [],
    )
    for _ in range(5):
        features = student.preprocess([record["text"] for record in records])
        value = loss([student(features)["sentence_embedding"]], target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tunetrail.config import TrainingConfig
from tunetrail.config.training import BatchesConfig
from tunetrail.errors import ConfigError, SampleError, TrainingError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.embedding.preflight import EMBEDDING_CHECKS
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.preflight.findings import PreflightReport, Severity
from tunetrail.learning.training_plan import TrainingPlan

TRAINING = TrainingConfig(max_steps=1, warmup_steps=0, early_stopping_patience=0)
PAIRS = [{"anchor": f"question {n}", "positive": f"the answer is {n * 7}"} for n in range(8)]
TRIPLETS = [record | {"negative": "no"} for record in PAIRS]
SCORES = [
    {"sentence1": f"one {n}", "sentence2": f"other {n * n}", "score": n / 8} for n in range(8)
]
LABELS = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(8)]
TEXTS = [{"text": f"text {n}"} for n in range(8)]
VECTORS = [{"text": f"text {n}", "embedding": [float(n)] * 32} for n in range(8)]


def fit_and_check(
    module: EmbeddingModule, data: EmbeddingDataModule, folder: Path
) -> PreflightReport:
    plan = TrainingPlan(folder=folder, on_metrics=lambda metrics, step: None)
    result = fit(module, data, TRAINING, plan, seed=0, checks=EMBEDDING_CHECKS)
    assert result.preflight is not None
    return result.preflight


def checked(
    path: str,
    folder: Path,
    records: Any,
    *,
    shape: str = "pair",
    loss: str = "auto",
    batch_size: int = 4,
    max_length: int = 64,
    validation: Any = None,
    batches: BatchesConfig | None = None,
    prompts: Any = None,
) -> PreflightReport:
    module = EmbeddingModule(
        model=path,
        shape=shape,
        loss=loss,
        max_length=max_length,
        optimization=optimization_settings(TRAINING),
    )
    data = EmbeddingDataModule(
        train=records,
        validation=records if validation is None else validation,
        shape=shape,
        batch_size=batch_size,
        batches=batches,
        seen_twice=("text",),
        prompts=prompts,
    )
    return fit_and_check(module, data, folder)


def warnings(report: PreflightReport) -> dict[str, str]:
    return {finding.name: finding.message for finding in report.of(Severity.WARNING)}


@pytest.mark.parametrize(
    ("shape", "records"),
    [
        ("pair", PAIRS),
        ("pair", TRIPLETS),
        ("score", SCORES),
        ("label", LABELS),
        ("text", TEXTS),
        ("vector", VECTORS),
    ],
)
def test_preflight_is_silent_on_good_rows(
    tiny_embedding_model: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    shape: str,
    records: Any,
) -> None:
    report = checked(tiny_embedding_model, tmp_path, records, shape=shape)
    assert {finding.severity for finding in report.findings} == {Severity.OK}
    assert len(report.findings) == 9
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_preview_shows_rows_as_the_model_reads_them(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    report = checked(
        tiny_embedding_model, tmp_path / "pairs", PAIRS, prompts={"query": "find: ", "document": ""}
    )

    assert "Row 0:\n  read: find: question 0\n  read: the answer is 0\n\nRow 1:" in report.preview

    report = checked(tiny_embedding_model, tmp_path / "scores", SCORES, shape="score")
    assert "read: other 1\n  learnt: score 0.125" in report.preview


@pytest.mark.parametrize(
    ("shape", "loss", "records", "alone"),
    [
        ("pair", "auto", PAIRS, False),
        ("pair", "auto", TRIPLETS, True),
        ("pair", "triplet", TRIPLETS, True),
        ("pair", "mega_batch_margin", PAIRS, False),
        ("text", "simcse", TEXTS, False),
        ("score", "auto", SCORES, False),
        ("score", "cosine_similarity", SCORES, True),
        ("label", "auto", LABELS, False),
        ("vector", "auto", VECTORS, True),
    ],
)
def test_preflight_refuses_batches_of_one_row_where_the_loss_needs_company(
    tiny_embedding_model: str, tmp_path: Path, shape: str, loss: str, records: Any, alone: bool
) -> None:
    if alone:
        report = checked(
            tiny_embedding_model, tmp_path, records, shape=shape, loss=loss, batch_size=1
        )
        assert "rows per batch" not in warnings(report)
        return

    with pytest.raises(
        ConfigError,
        match=r"training\.batch_size must be at least 2 for the loss .* 8 rows in 8 batches",
    ):
        checked(tiny_embedding_model, tmp_path, records, shape=shape, loss=loss, batch_size=1)


def test_preflight_refuses_a_token_budget_of_one_row(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    same = [record | {"positive": "the answer"} for record in PAIRS]

    with pytest.raises(
        ConfigError,
        match=r"training\.batches\.tokens must allow several rows per batch for the loss",
    ):
        checked(tiny_embedding_model, tmp_path, same, batches=BatchesConfig(tokens=1))

    report = checked(tiny_embedding_model, tmp_path, PAIRS, batches=BatchesConfig(tokens=1))
    assert warnings(report)["rows per batch"].startswith(
        "training.batches.tokens=1 leaves many batches with one row"
    )

    report = checked(tiny_embedding_model, tmp_path, PAIRS, batches=BatchesConfig(tokens=60))
    assert warnings(report) == {}


def test_preflight_refuses_one_row_and_warns_of_one_validation_row(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    with pytest.raises(
        SampleError,
        match="must have at least 2 rows for the loss multiple_negatives_ranking, got 1",
    ):
        checked(tiny_embedding_model, tmp_path, PAIRS[:1], validation=PAIRS)

    report = checked(tiny_embedding_model, tmp_path, PAIRS, validation=PAIRS[:1])
    assert "The validation has one row" in warnings(report)["rows per batch"]


def test_preflight_looks_for_pairs_of_equal_texts(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    equal = [{"anchor": record["anchor"], "positive": f" {record['anchor']}\n"} for record in PAIRS]
    report = checked(tiny_embedding_model, tmp_path, [*equal[:2], *PAIRS[2:]])

    assert warnings(report) == {"pairs": "25 % of the anchors equal their positive (2 of 8 rows)."}

    with pytest.raises(
        SampleError,
        match=r"62\.5 % of the anchors equal their positive \(5 of 8 rows\)\. Look at the",
    ):
        checked(tiny_embedding_model, tmp_path, [*equal[:5], *PAIRS[5:]])


def test_pairs_that_the_model_tells_apart_are_not_equal(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    shouted = [
        {"anchor": record["anchor"], "positive": record["anchor"].upper()} for record in PAIRS
    ]

    assert (
        warnings(checked(tiny_embedding_model, tmp_path, shouted)) == {}
    )  # this tokenizer reads case


def test_preflight_warns_of_texts_that_are_cut_off(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    long = [{"anchor": "why " * 40, "positive": f"the answer is {n}"} for n in range(8)]
    report = checked(tiny_embedding_model, tmp_path, long)

    assert warnings(report) == {
        "lengths": "50 % of the texts fill max_length=64 or are cut off there."
    }
    assert warnings(checked(tiny_embedding_model, tmp_path, [*long[:1], *PAIRS])) == {}


def test_preflight_refuses_texts_that_see_each_other(
    tiny_embedding_model: str, tmp_path: Path, replace_segment_attention: Callable[[Any], None]
) -> None:
    def blind(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, None]:
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2), None

    optimization = optimization_settings(TRAINING)
    module = EmbeddingModule(model=tiny_embedding_model, shape="pair", optimization=optimization)
    data = EmbeddingDataModule(train=PAIRS, validation=PAIRS, shape="pair", batch_size=4)
    replace_segment_attention(blind)

    with pytest.raises(
        TrainingError, match=r"other vectors than one by one, by .*: they see each other\."
    ):
        fit_and_check(module, data, tmp_path)

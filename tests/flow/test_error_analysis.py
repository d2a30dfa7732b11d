"""Error analysis of whole runs: user's columns, labels, and a session in which a source is broken."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tunetrail import DataSciencePipeline
from tunetrail.config import Settings, SplitConfig
from tunetrail.data.rows import rows_frame
from tunetrail.pipeline.history import History
from tunetrail.samples import SampleKind, parse_sample

WORDS = "apple river engine window doctor garden planet violin hammer island".split()  # noqa: SIM905


def sentences(count: int) -> list[str]:
    drawn = random.Random(5)
    return [" ".join(drawn.choices(WORDS, k=7)) + f" {row}" for row in range(count)]


@pytest.fixture
def settings(workplace: Path, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(workplace, split=SplitConfig(test_share=0.4, validation_share=0.1))


def run(
    settings: Settings,
    rows: list[dict[str, Any]],
    own_columns: Mapping[int, Mapping[str, Any]],
    folder: Path,
) -> tuple[Path, dict[str, Any]]:
    def read_own_columns(row_ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        return {row_id: own_columns[row_id] for row_id in row_ids}

    samples = [parse_sample(row, SampleKind.EMBEDDING) for row in rows]
    pipeline = DataSciencePipeline(settings)
    outcome = pipeline.run(
        "embedding",
        rows_frame(enumerate(samples)),
        history=History(read_own_columns=read_own_columns),
        until="evaluate",
    )
    client = pipeline.tracker.client
    artifacts = client.download_artifacts(outcome.mlflow_run_id, "evaluation", str(folder))
    return Path(artifacts), dict(outcome.steps["comparison"]["error_analysis"])


def test_a_broken_source_is_the_weakest_slice(settings: Settings, tmp_path: Path) -> None:
    texts = sentences(300)
    shuffled = random.Random(1).sample(texts, len(texts))
    # A third of the rows have an answer that belongs to another question.
    is_broken = [row % 3 == 0 for row in range(len(texts))]
    positives = [
        f"{other} answer" if broken else f"{text} answer"
        for text, other, broken in zip(texts, shuffled, is_broken, strict=True)
    ]
    rows = [{"anchor": a, "positive": p} for a, p in zip(texts, positives, strict=True)]
    own_columns = {
        row: {"source": "crawl" if broken else "manual", "price": row}
        for row, broken in enumerate(is_broken)
    }

    folder, errors = run(settings, rows, own_columns, tmp_path)

    slices = pd.read_csv(folder / "slices.csv")
    assert {"source", "price", "characters", "embedding_cluster"} <= set(slices["attribute"])
    assert errors["slices"] == len(slices)
    weakest = errors["weakest_slice"]
    assert (weakest["attribute"], weakest["value"]) == ("source", "crawl")
    assert weakest["gap_upper"] < 0.0
    assert (folder / "slices.png").stat().st_size > 5000
    table = pd.read_parquet(folder / "rows.parquet")
    assert set(table["source"]) == {"crawl", "manual"} and table["price"].dtype == "float64"


def test_labels_that_are_mixed_up_are_counted(settings: Settings, tmp_path: Path) -> None:
    rows = [
        {"text": text, "label": label}
        for label in WORDS[:3]
        for text in (f"{label} {sentence}" for sentence in sentences(60))
    ]

    folder, errors = run(settings, rows, {row: {} for row in range(len(rows))}, tmp_path)

    assert errors["rule"] == "its predicted label is its label"
    examples = json.loads((folder / "examples.json").read_text())
    confusions = pd.read_csv(folder / "confusions.csv")
    assert confusions["rows"].sum() == errors["broken"] + errors["wrong"]
    assert all(example["label"] != example["predicted_label"] for example in examples["worst"])
    assert (folder / "confusion.png").stat().st_size > 2000

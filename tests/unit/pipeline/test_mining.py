from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.cache import ResultCache
from tunetrail.config import EmbeddingConfig, HardNegativesConfig, TrainingConfig
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.training.records import Encode, Refresh
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline.mining import (
    mine_negatives,
    mine_once,
    remembered,
    remining,
    wants_negatives,
)
from tunetrail.samples import SampleKind, parse_sample

SUBJECTS = ("snow", "fire", "bread", "music", "iron", "a river", "chess", "the moon")
CONFIG = HardNegativesConfig(enabled=True, margin=0.0, remine_every_epochs=1)


def pairs(*, repeated: bool = False) -> pd.DataFrame:
    contents = [
        {"anchor": f"what is {subject}", "positive": f"{subject} is this"} for subject in SUBJECTS
    ]
    contents += contents[:2] if repeated else []
    return rows_frame(
        (row_id, parse_sample(content, SampleKind.EMBEDDING))
        for row_id, content in enumerate(contents)
    )


def encoder(path: str, read: list[tuple[str, list[str]]] | None = None) -> Encode:
    learner = EmbeddingLearner(config=EmbeddingConfig(query_prompt="ask: "), shape="pair", seed=0)
    model = learner.load(path)

    def encode(texts: list[str], role: str = "query") -> np.ndarray:
        if read is not None:
            read.append((role, list(texts)))
        return learner.vectors(model, texts, role=role)

    return encode


def test_wants_negatives_for_pairs_only_and_if_asked_for() -> None:
    assert wants_negatives(pairs(), CONFIG)
    assert not wants_negatives(pairs(), HardNegativesConfig())
    assert not wants_negatives(pairs().assign(shape="text"), CONFIG)
    assert not wants_negatives(pairs().iloc[:0], CONFIG)


def test_mine_negatives_reads_anchors_as_queries_and_each_text_once(
    tiny_embedding_model: str,
) -> None:
    read: list[tuple[str, list[str]]] = []
    result = mine_negatives(pairs(repeated=True), encoder(tiny_embedding_model, read), CONFIG, 0)
    assert read == [("query", list(pairs()["anchor"])), ("document", list(pairs()["positive"]))]
    assert (len(result.rows), result.passages) == (10, 8)
    assert result.mined > 0 and result.mined + result.without == 10


def test_remining_is_there_if_asked_for() -> None:
    assert remining(pairs(), HardNegativesConfig(enabled=True), 0) is None
    assert remining(pairs(), HardNegativesConfig(remine_every_epochs=2), 0) is None
    refresh = remining(pairs(), HardNegativesConfig(enabled=True, remine_every_epochs=2), 0)
    assert refresh is not None and refresh.every_epochs == 2


def test_remining_draws_again_in_each_epoch_and_the_same_in_each_run(
    tiny_embedding_model: str,
) -> None:
    config = HardNegativesConfig(enabled=True, margin=0.0, remine_every_epochs=1, sampling="random")
    refresh = remining(pairs(), config, 3)

    assert refresh is not None

    encode = encoder(tiny_embedding_model)
    first, again, second = (refresh.records(encode, epoch) for epoch in (1, 1, 2))
    assert first == again != second


@pytest.mark.parametrize("sampling", ["hardest", "random"])
def test_remining_follows_the_model_through_a_training(
    tiny_embedding_model: str, tmp_path: Path, sampling: str
) -> None:
    def ignore(metrics: Mapping[str, float], step: int) -> None:
        """Take metrics and forget them."""

    config = HardNegativesConfig(enabled=True, margin=0.0, remine_every_epochs=1, sampling=sampling)
    learner = EmbeddingLearner(config=EmbeddingConfig(), shape="pair", seed=0)
    training = TrainingConfig(
        batch_size=4, num_epochs=3, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-3
    )
    rows = pairs()
    start = records_of(mine_negatives(rows, encoder(tiny_embedding_model), config, 0).rows)
    mined_rows = []
    for index, refresh in enumerate([remining(rows, config, 0), remining(rows, config, 0), None]):
        model, _ = learner.train(
            tiny_embedding_model,
            start,
            [],
            training,
            TrainingPlan(
                folder=tmp_path / str(index), on_metrics=ignore, validate=False, refresh=refresh
            ),
        )
        mined_rows.append(learner.vectors(model, SUBJECTS))
    assert np.array_equal(mined_rows[0], mined_rows[1])
    assert not np.array_equal(mined_rows[0], mined_rows[2])


def constant_vectors(texts: Sequence[str], role: str = "query") -> Any:
    return np.ones((len(texts), 2), dtype=np.float32)


def counting_refresh(calls: list[int], every: int = 1) -> Refresh:
    def records(encode: Any, epoch: int) -> list[dict[str, Any]]:
        calls.append(epoch)
        return [
            {"anchor": "a", "positive": "b"},
            {"anchor": "c", "positive": "d", "negative": f"mined in {epoch}"},
        ]

    return Refresh(every_epochs=every, records=records)


def test_refresh_gives_the_same_records_again_after_an_interruption(tmp_path: Path) -> None:
    calls: list[int] = []
    refresh = remembered(counting_refresh(calls), tmp_path)

    assert refresh is not None and refresh.every_epochs == 1

    first = refresh.records(constant_vectors, 1)
    assert first == [
        {"anchor": "a", "positive": "b"},
        {"anchor": "c", "positive": "d", "negative": "mined in 1"},
    ]

    resumed = remembered(counting_refresh(calls), tmp_path)
    assert resumed is not None and resumed.records(constant_vectors, 1) == first
    assert calls == [1]


@pytest.mark.parametrize("every", [1, 2])
def test_refresh_keeps_the_records_of_this_epoch_and_of_the_one_before(
    tmp_path: Path, every: int
) -> None:
    refresh = remembered(counting_refresh([], every), tmp_path)

    assert refresh is not None

    for epoch in range(every, 5 * every, every):
        refresh.records(constant_vectors, epoch)
    mined = sorted(path.name for path in tmp_path.glob("mined-*"))
    assert mined == [f"mined-{epoch}.parquet" for epoch in (3 * every, 4 * every)]


def test_refresh_is_none_where_nothing_is_mined(tmp_path: Path) -> None:
    assert remembered(None, tmp_path) is None


def test_mine_once_encodes_nothing_the_second_time_and_returns_the_same(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    read: list[tuple[str, list[str]]] = []
    encode = encoder(tiny_embedding_model, read)
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    rows = pairs(repeated=True)

    plain = mine_once(rows, encode, CONFIG, 0, None, "model")
    first = mine_once(rows, encode, CONFIG, 0, cache, "model")
    read.clear()
    second = mine_once(rows, encode, CONFIG, 0, cache, "model")

    assert read == [] and plain.mined > 0
    assert plain.to_dict() == first.to_dict() == second.to_dict()
    pd.testing.assert_frame_equal(plain.rows, second.rows)
    pd.testing.assert_frame_equal(plain.rows, first.rows)


@pytest.mark.parametrize(
    ("rows", "config", "seed", "model"),
    [
        (pairs().iloc[1:], CONFIG, 0, "model"),
        (pairs(), HardNegativesConfig(enabled=True, margin=0.1), 0, "model"),
        (pairs(), CONFIG, 1, "model"),
        (pairs(), CONFIG, 0, "another model"),
    ],
)
def test_mine_once_mines_again_for_other_inputs(
    rows: pd.DataFrame,
    config: HardNegativesConfig,
    seed: int,
    model: str,
    tiny_embedding_model: str,
    tmp_path: Path,
) -> None:
    read: list[tuple[str, list[str]]] = []
    encode = encoder(tiny_embedding_model, read)
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    mine_once(pairs(), encode, CONFIG, 0, cache, "model")
    read.clear()
    mine_once(rows, encode, config, seed, cache, model)
    assert len(read) == 2

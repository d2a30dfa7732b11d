import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import embedding_folder, language_folder

from tunetrail.cache import ResultCache
from tunetrail.config import EmbeddingConfig, LanguageModelConfig, TrainingConfig
from tunetrail.config.language_model import AdapterConfig
from tunetrail.config.losses import EMBEDDING_LOSSES
from tunetrail.config.training import BatchesConfig, MemoryConfig
from tunetrail.errors import ConfigError
from tunetrail.learning.automatic.auto_values import AutoValues, trial_records
from tunetrail.learning.automatic.batch_size_finder import BatchSizeResult
from tunetrail.learning.automatic.learning_rate_finder import RangeTestResult
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.training_plan import TrainingPlan

# Whole trainings, some seconds each.
pytestmark = pytest.mark.processes

RECORDS: dict[str, list[dict[str, Any]]] = {
    "pair": [
        {"anchor": f"question {n}", "positive": f"answer {n * 7}", "negative": f"no {n}"}
        for n in range(16)
    ],
    "score": [
        {"sentence1": f"one {n}", "sentence2": f"two {n}", "score": float(n % 2)} for n in range(16)
    ],
    "label": [{"text": f"text {n}", "label": f"label {n % 2}"} for n in range(16)],
    "vector": [{"text": f"text {n}", "embedding": [float(n)] * 32} for n in range(16)],
    "text": [{"text": f"text {n}"} for n in range(16)],
}
OUTPUTS = [
    {"input": f"question {n}", "output": f"answer {n * 7} " * (n % 4 + 1)} for n in range(16)
]
PREFERENCES = [
    {"prompt": f"question {n}", "chosen": f"answer {n}", "rejected": f"no {n}"} for n in range(16)
]
AUTO_SIZE = TrainingConfig(
    batch_size="auto", learning_rate=1e-3, batches=BatchesConfig(effective_size=8)
)
AUTO_RATE = TrainingConfig(batch_size=8, learning_rate="auto", max_steps=2, warmup_steps=0)
WITHOUT_TEACHER = [
    (shape, loss)
    for shape, losses in EMBEDDING_LOSSES.items()
    for loss in losses
    if loss not in ("gist_embed", "margin_mse", "distill_kl_div")
    and not (shape == "text" and loss != "simcse")
]


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(folder=tmp_path / "cache", gigabytes=1.0)


def embedding(
    shape: str = "pair", cache: ResultCache | None = None, **config: Any
) -> EmbeddingLearner:
    return EmbeddingLearner(config=EmbeddingConfig(**config), shape=shape, seed=0, cache=cache)


def language(cache: ResultCache | None = None, **config: Any) -> LanguageModelLearner:
    return LanguageModelLearner(config=LanguageModelConfig(**config), seed=0, cache=cache)


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


@pytest.mark.parametrize(("shape", "loss"), WITHOUT_TEACHER)
def test_a_batch_size_is_found_for_every_loss(
    tiny_embedding_model: str, shape: str, loss: str
) -> None:
    records = RECORDS[shape]
    if loss == "mega_batch_margin":
        records = [{**record, "negative": None} for record in records]
    found = embedding(shape, loss=loss).find_auto_values(tiny_embedding_model, records, AUTO_SIZE)
    assert found.batch is not None and found.rate is None
    training = found.applied_to(AUTO_SIZE)
    assert training.rows_per_batch * training.batches.accumulate == 8
    whole_step = loss not in ("triplet", "cosine_similarity", "contrastive", "mse", "cosine", "l2")
    assert not whole_step or training.rows_per_batch == 8


@pytest.mark.parametrize("records", [OUTPUTS, PREFERENCES])
def test_a_batch_size_is_found_for_a_language_model(
    tiny_language_model: str, records: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tunetrail")
    found = language().find_auto_values(tiny_language_model, records, AUTO_SIZE)
    training = found.applied_to(AUTO_SIZE)
    assert training.rows_per_batch * training.batches.accumulate == 8
    assert found.mini_batch_size == 0
    lines = [
        record.message
        for record in caplog.records
        if "training.batch_size=auto: " in record.message
    ]
    assert len(lines) == 1 and f"{training.rows_per_batch} rows" in lines[0]


@pytest.mark.parametrize(
    "options",
    [{"memory": MemoryConfig(gradient_checkpointing=True)}, {"precision": "bf16-mixed"}],
    ids=str,
)
def test_precision_and_memory_are_those_of_the_training(
    tiny_embedding_model: str, options: dict[str, Any]
) -> None:
    training = TrainingConfig(batch_size="auto", batches=BatchesConfig(effective_size=4), **options)
    found = embedding().find_auto_values(tiny_embedding_model, RECORDS["pair"], training)
    assert found.batch is not None and found.batch.batch_size == 4


def test_what_is_not_auto_is_not_looked_for(tiny_embedding_model: str) -> None:
    training = TrainingConfig(batch_size=4, learning_rate=1e-3)
    found = embedding().find_auto_values(tiny_embedding_model, RECORDS["pair"], training)
    assert (found, found.to_dict(), found.applied_to(training)) == (AutoValues(), {}, training)


def test_given_pieces_are_kept(tiny_embedding_model: str) -> None:
    found = embedding(mini_batch_size=2).find_auto_values(
        tiny_embedding_model, RECORDS["pair"], AUTO_SIZE
    )
    assert found.batch == BatchSizeResult(batch_size=8, accumulate=1, mini_batch_size=2)


def test_devices_share_a_step_for_which_a_batch_size_is_found(tiny_embedding_model: str) -> None:
    found = embedding().find_auto_values(tiny_embedding_model, RECORDS["pair"], AUTO_SIZE, 2)
    assert found.batch is not None and found.batch.devices == 2
    assert (found.batch.batch_size, found.batch.accumulate) == (8, 1)
    assert max(batch.rows for batch in found.batch.measured) == 4

    # A share of four rows needs no mini-batches of four.
    for mini_batch_size, needed in ((2, 2), (4, 0)):
        pieces = embedding(mini_batch_size=mini_batch_size)
        found = pieces.find_auto_values(tiny_embedding_model, RECORDS["pair"], AUTO_SIZE, 2)
        assert found.batch == BatchSizeResult(
            batch_size=8, accumulate=1, mini_batch_size=needed, devices=2
        )


@pytest.mark.parametrize("family", ["embedding", "llm"])
def test_the_rate_of_several_devices_is_found_on_one_in_pieces(tmp_path: Path, family: str) -> None:
    # Without dropout, whose draws the pieces change, the losses differ by rounding only.
    learner: Any = language(adapter=AdapterConfig(dropout=0.0))
    path = str(tmp_path / "model")
    # The last batch of an epoch has one row, and so nothing for the second device.
    records = [*OUTPUTS, OUTPUTS[0]]
    if family == "embedding":
        learner, records = embedding(), RECORDS["pair"]
        path = embedding_folder(tmp_path, "bert")
    else:
        language_folder(tmp_path / "model", "llama")

    one = learner.find_auto_values(path, records, AUTO_RATE)
    two = learner.find_auto_values(path, records, AUTO_RATE, 2)

    assert two.rate.rate == one.rate.rate
    assert [rate for rate, _ in two.rate.curve] == [rate for rate, _ in one.rate.curve]
    # At the highest rates, rounding grows to differences that can be seen.
    losses = [loss for _, loss in one.rate.curve[:50]]
    assert [loss for _, loss in two.rate.curve[:50]] == pytest.approx(losses, rel=1e-3)


def test_batches_of_tokens_have_no_size_to_find(tiny_embedding_model: str) -> None:
    training = TrainingConfig(batch_size="auto", batches=BatchesConfig(tokens=512))
    with pytest.raises(ConfigError, match=r"training\.batches\.tokens must be 0 .* got 512"):
        embedding().find_auto_values(tiny_embedding_model, RECORDS["pair"], training)


def test_a_second_run_takes_what_the_first_has_found(
    tiny_embedding_model: str, cache: ResultCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tunetrail")
    training = TrainingConfig(
        batch_size="auto", learning_rate="auto", batches=BatchesConfig(effective_size=8)
    )
    learner = embedding(cache=cache)
    first = learner.find_auto_values(tiny_embedding_model, RECORDS["pair"], training)
    assert "found before" not in caplog.text
    second = learner.find_auto_values(tiny_embedding_model, RECORDS["pair"], training)
    assert second == first
    assert caplog.text.count("found before") == 2


def test_other_rows_have_a_rate_of_their_own(
    tiny_embedding_model: str, cache: ResultCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tunetrail")
    learner = embedding(cache=cache)
    learner.find_auto_values(tiny_embedding_model, RECORDS["pair"], AUTO_RATE)
    learner.find_auto_values(tiny_embedding_model, RECORDS["pair"][:12], AUTO_RATE)
    assert "found before" not in caplog.text


@pytest.mark.parametrize("broken", ["{", "{}", "[]"])
def test_what_is_kept_is_found_anew_where_it_is_broken(
    tiny_embedding_model: str, cache: ResultCache, broken: str
) -> None:
    learner = embedding(cache=cache)
    learner.find_auto_values(tiny_embedding_model, RECORDS["pair"], AUTO_SIZE)
    (file,) = [path for path in cache.folder.rglob("found.json")]
    file.write_text(broken)
    assert (
        learner.find_auto_values(tiny_embedding_model, RECORDS["pair"], AUTO_SIZE).batch is not None
    )
    assert json.loads(file.read_text())["batch_size"] == 8


def test_a_kept_batch_size_for_which_memory_is_gone_is_looked_for_again(
    tiny_embedding_model: str, cache: ResultCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tunetrail")
    learner = embedding(cache=cache)
    learner.find_auto_values(tiny_embedding_model, RECORDS["pair"], AUTO_SIZE)
    (file,) = [path for path in cache.folder.rglob("found.json")]
    kept = json.loads(file.read_text())
    for candidate in kept["measured"]:
        candidate["memory_bytes"] = 2**60
    file.write_text(json.dumps(kept))
    found = learner.find_auto_values(tiny_embedding_model, RECORDS["pair"], AUTO_SIZE)
    assert "less memory is free" in caplog.text
    assert found.batch is not None and found.batch.memory_bytes < 2**60


def test_a_training_with_a_rate_found_is_that_with_the_rate_given(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    records = RECORDS["pair"]
    learner = embedding()
    torch.manual_seed(0)
    model, result = learner.train(
        tiny_embedding_model,
        records,
        records,
        AUTO_RATE,
        TrainingPlan(folder=tmp_path / "auto", on_metrics=ignore),
    )
    rate = result.auto_values["learning_rate"]["rate"]
    assert json.loads(json.dumps(result.to_dict()))["found"]["learning_rate"]["curve"]
    given = TrainingConfig(batch_size=8, learning_rate=rate, max_steps=2, warmup_steps=0)
    torch.manual_seed(1)
    other, plain = learner.train(
        tiny_embedding_model,
        records,
        records,
        given,
        TrainingPlan(folder=tmp_path / "given", on_metrics=ignore),
    )
    assert plain.auto_values == {}
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_a_training_goes_with_what_it_is_told_was_found(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = TrainingConfig(batch_size="auto", learning_rate="auto", num_epochs=1, warmup_steps=0)
    found = AutoValues(
        batch=BatchSizeResult(batch_size=4, accumulate=2),
        rate=RangeTestResult(rate=1e-3, curve=((1e-4, 1.0), (1e-3, 0.9))),
    )
    _, result = embedding().train(
        tiny_embedding_model,
        RECORDS["pair"],
        [],
        training,
        TrainingPlan(
            folder=tmp_path,
            on_metrics=ignore,
            validate=False,
            auto_values=AutoValues.from_dict(json.loads(json.dumps(found.to_dict()))),
        ),
    )
    assert result.steps == 2
    assert result.auto_values == found.to_dict()


def test_the_curve_is_handed_out_step_by_step() -> None:
    received: list[tuple[int, Mapping[str, float]]] = []
    found = AutoValues(rate=RangeTestResult(rate=1e-3, curve=((1e-4, 1.0), (1e-3, 0.9))))
    found.report(lambda metrics, step: received.append((step, metrics)))
    AutoValues().report(lambda metrics, step: received.append((step, metrics)))
    assert received == [
        (0, {"finder/loss": 1.0, "finder/learning_rate": 1e-4}),
        (1, {"finder/loss": 0.9, "finder/learning_rate": 1e-3}),
    ]


def test_a_language_model_trains_with_what_was_found(
    tiny_language_model: str, tmp_path: Path
) -> None:
    training = TrainingConfig(
        batch_size="auto",
        learning_rate="auto",
        max_steps=2,
        warmup_steps=0,
        batches=BatchesConfig(effective_size=8),
    )
    learner = language(adapter=AdapterConfig(rank=2, alpha=4))
    _, result = learner.train(
        tiny_language_model,
        OUTPUTS,
        OUTPUTS,
        training,
        TrainingPlan(folder=tmp_path, on_metrics=ignore),
    )
    found = AutoValues.from_dict(result.auto_values)
    assert result.steps == 2
    assert found.batch is not None and found.rate is not None
    assert 1e-5 <= found.rate.rate <= 0.1


def test_a_trial_has_the_longest_records_and_evenly_spaced_ones_in_their_order() -> None:
    records = [
        {"text": "x" * (number % 50 + 200 * (number in (5001, 7003)))} for number in range(20_000)
    ]
    found = trial_records(records, 2)
    assert len(found) <= 4096 + 2
    assert records[5001] in found and records[7003] in found
    numbers = [
        number
        for number, record in enumerate(records)
        if any(record is each for each in found[:50])
    ]
    assert numbers == sorted(numbers)
    assert trial_records(records[:100], 2) == records[:100]

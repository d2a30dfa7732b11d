import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_lightning.utilities.exceptions import SIGTERMException
from sentence_transformers import SentenceTransformer

from tunetrail.config import EmbeddingConfig, TrainingConfig
from tunetrail.errors import ConfigError, SampleError, TunetrailError
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.training.records import Encode, Refresh
from tunetrail.learning.training_plan import TrainingPlan

TEXTS = ["a", "a much longer text about foxes", "日本語", "two words", "a"]
RECORDS: dict[str, list[dict[str, Any]]] = {
    "pair": [
        {"anchor": f"question {n}", "positive": f"answer {n * 7}", "negative": None}
        for n in range(8)
    ],
    "score": [{"sentence1": f"one {n}", "sentence2": f"two {n}", "score": n / 8} for n in range(8)],
    "label": [{"text": f"text {n}", "label": f"label {n % 2}"} for n in range(8)],
    "vector": [{"text": f"text {n}", "embedding": [float(n)] * 32} for n in range(8)],
    "text": [{"text": f"text {n}"} for n in range(8)],
}


def learner(shape: str = "pair", seed: int = 0, **config: Any) -> EmbeddingLearner:
    return EmbeddingLearner(config=EmbeddingConfig(**config), shape=shape, seed=seed)


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


@pytest.mark.parametrize(
    ("shape", "config", "change", "error", "message"),
    [
        (
            "pair",
            {"loss": "cosent"},
            {},
            ConfigError,
            r"embedding\.loss must be one of auto, multiple_negatives_ranking",
        ),
        ("score", {"loss": "simcse"}, {}, ConfigError, r"for score samples, got 'simcse'"),
        ("label", {"loss": "mse"}, {}, ConfigError, r"for label samples, got 'mse'"),
        (
            "score",
            {"loss": "cosine_similarity"},
            {"score": 1.5},
            SampleError,
            r"score must be between -1 and 1",
        ),
        (
            "score",
            {"loss": "cosine_similarity"},
            {"score": float("nan")},
            SampleError,
            r"score must be between -1 and 1",
        ),
        (
            "vector",
            {},
            {"embedding": [0.0] * 31},
            SampleError,
            r"must have the model's 32 dimensions, got 31",
        ),
        (
            "vector",
            {"loss": "cosine"},
            {"embedding": [0.0] * 33},
            SampleError,
            r"32 dimensions, got 33",
        ),
    ],
)
def test_check_refuses_what_does_not_fit_together(
    tiny_embedding_model: str,
    shape: str,
    config: dict[str, Any],
    change: dict[str, Any],
    error: type[TunetrailError],
    message: str,
) -> None:
    records = [*RECORDS[shape], RECORDS[shape][0] | change]
    checked = learner(shape, **config)

    with pytest.raises(error, match=message) as caught:
        checked.check(tiny_embedding_model, records, checked.load)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        *((shape, {}) for shape in RECORDS),
        *((shape, {"mini_batch_size": 2}) for shape in RECORDS),
        ("text", {"mini_batch_size": 2, "loss": "simcse"}),
        ("score", {"loss": "cosine_similarity"}),
    ],
)
def test_check_passes_what_can_be_trained(
    tiny_embedding_model: str, shape: str, config: dict[str, Any]
) -> None:
    checked = learner(shape, **config)
    checked.check(tiny_embedding_model, RECORDS[shape], checked.load)


def test_vectors_have_unit_length_in_the_order_of_the_texts(tiny_embedding_model: str) -> None:
    model = learner().load(tiny_embedding_model)
    vectors = learner().vectors(model, TEXTS)
    assert (vectors.shape, vectors.dtype) == ((5, 32), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[4], atol=1e-5)
    order = [3, 1, 4, 0, 2]
    again = learner().vectors(model, [TEXTS[number] for number in order])
    np.testing.assert_allclose(again, vectors[order], atol=1e-5)


def test_vectors_of_no_texts_are_empty(tiny_embedding_model: str) -> None:
    assert len(learner().vectors(learner().load(tiny_embedding_model), [])) == 0


@pytest.mark.parametrize("mini_batch_size", [0, 3])
@pytest.mark.parametrize("shape", RECORDS)
def test_train_changes_the_vectors_and_keeps_them_through_a_folder(
    tiny_embedding_model: str, tmp_path: Path, shape: str, mini_batch_size: int
) -> None:
    trained = learner(shape, mini_batch_size=mini_batch_size)
    training = TrainingConfig(
        batch_size=4, num_epochs=1, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-3
    )
    model, result = trained.train(
        tiny_embedding_model,
        RECORDS[shape],
        RECORDS[shape],
        training,
        TrainingPlan(folder=tmp_path / "fit", on_metrics=ignore),
    )
    assert (result.steps, model.training) == (2, False)
    vectors = trained.vectors(model, TEXTS)
    base = trained.vectors(trained.load(tiny_embedding_model), TEXTS)
    assert float(np.abs(vectors - base).max()) > 1e-4
    trained.save(model, tmp_path / "saved")
    reloaded = trained.vectors(trained.load(str(tmp_path / "saved")), TEXTS)
    np.testing.assert_allclose(reloaded, vectors, atol=1e-6)


def test_train_with_one_seed_gives_identical_models(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = TrainingConfig(
        batch_size=4, num_epochs=1, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-3
    )
    found = []
    for seed in (5, 5, 6):
        trained = learner(seed=seed)
        model, _ = trained.train(
            tiny_embedding_model,
            RECORDS["pair"],
            [],
            training,
            TrainingPlan(folder=tmp_path, on_metrics=ignore, validate=False),
        )
        found.append(trained.vectors(model, TEXTS))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


PROMPTED = {"query_prompt": "ask: ", "document_prompt": "tell: "}


def trained_vectors(path: str, folder: Path, refresh: Refresh | None, **config: Any) -> np.ndarray:
    """Train for three epochs of two steps."""
    trained = learner(**config)
    training = TrainingConfig(
        batch_size=4,
        num_epochs=3,
        warmup_steps=0,
        validations_per_epoch=1,
        learning_rate=1e-3,
        logging_steps=10,
    )
    model, result = trained.train(
        path,
        RECORDS["pair"],
        RECORDS["pair"],
        training,
        TrainingPlan(folder=folder, on_metrics=ignore, refresh=refresh),
    )
    assert (result.steps, result.epochs) == (6, 3)
    rates = [rate for _, rate in result.history["train/learning_rate"]]
    assert rates == pytest.approx([1e-3 * 5 / 6])  # the linear schedule's, over six steps
    return trained.vectors(model, TEXTS)


def test_train_refreshes_its_records_between_epochs_with_the_current_model(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    seen: list[tuple[int, np.ndarray]] = []

    def records(encode: Encode, epoch: int) -> Sequence[Mapping[str, Any]]:
        vectors = encode(TEXTS)
        np.testing.assert_allclose(encode(TEXTS), vectors, atol=1e-6)  # no dropout
        assert float(np.abs(encode(TEXTS, "document") - vectors).max()) > 1e-3
        np.random.rand(3)
        seen.append((epoch, vectors))
        return [
            record | {"negative": f"not {epoch} {number}"}
            for number, record in enumerate(RECORDS["pair"])
        ]

    refresh = Refresh(every_epochs=1, records=records)
    first = trained_vectors(tiny_embedding_model, tmp_path / "first", refresh, **PROMPTED)
    assert [epoch for epoch, _ in seen] == [1, 2]
    base = learner(**PROMPTED).load(tiny_embedding_model)
    weights = [learner().vectors(base, TEXTS), *(vectors for _, vectors in seen), first]
    assert all(float(np.abs(a - b).max()) > 1e-4 for a, b in pairwise(weights))
    again = trained_vectors(tiny_embedding_model, tmp_path / "again", refresh, **PROMPTED)
    assert np.array_equal(first, again)
    alone = trained_vectors(tiny_embedding_model, tmp_path / "alone", None, **PROMPTED)
    assert not np.array_equal(first, alone)


def test_train_is_the_same_whether_equal_records_are_loaded_again_or_not(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    def same(encode: Encode, epoch: int) -> Sequence[Mapping[str, Any]]:
        encode(TEXTS)
        return list(RECORDS["pair"])

    def never(encode: Encode, epoch: int) -> Sequence[Mapping[str, Any]]:
        raise AssertionError("three epochs were trained")

    found = [
        trained_vectors(
            tiny_embedding_model,
            tmp_path / str(every),
            Refresh(every_epochs=every, records=records),
        )
        for every, records in ((1, same), (2, same), (9, never))
    ]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def trained_on_refreshed(
    path: str, folder: Path, every: int, stop: int = 0, resume: Path | None = None
) -> tuple[np.ndarray, Mapping[str, Any]]:
    """Train for four epochs of two steps on negatives that depend on the model; stop after the step `stop`."""

    def records(encode: Encode, epoch: int) -> Sequence[Mapping[str, Any]]:
        order = np.argsort(encode([record["positive"] for record in RECORDS["pair"]])[:, 0])
        return [
            record | {"negative": f"not {epoch} {place}"}
            for record, place in zip(RECORDS["pair"], order, strict=True)
        ]

    def sink(metrics: Mapping[str, float], step: int) -> None:
        if step == stop and "train/loss" in metrics:
            os.kill(os.getpid(), signal.SIGTERM)

    training = TrainingConfig(
        batch_size=4,
        num_epochs=4,
        warmup_steps=0,
        validations_per_epoch=1,
        learning_rate=1e-2,
        logging_steps=1,
        early_stopping_patience=0,
    )
    model, result = learner().train(
        path,
        RECORDS["pair"],
        RECORDS["pair"],
        training,
        TrainingPlan(
            folder=folder,
            on_metrics=sink,
            refresh=Refresh(every_epochs=every, records=records),
            resume=resume,
        ),
    )
    return learner().vectors(model, TEXTS), {
        name: result.history[name] for name in ("train/loss", "val/loss")
    }


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_embedding_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[np.ndarray, Mapping[str, Any]]]:
    """Take how often records are refreshed, and return the vectors and the history."""

    @cache
    def train(every: int) -> tuple[np.ndarray, Mapping[str, Any]]:
        return trained_on_refreshed(tiny_embedding_model, tmp_path_factory.mktemp("whole"), every)

    return train


@pytest.mark.parametrize(
    ("every", "stop"), [(1, 2), (1, 3), (1, 5), (1, 8), (2, 3), (2, 4), (2, 5), (2, 7)]
)
def test_train_resumes_with_the_records_that_were_refreshed_before_the_stop(
    tiny_embedding_model: str,
    tmp_path: Path,
    uninterrupted: Callable[[int], tuple[np.ndarray, Mapping[str, Any]]],
    every: int,
    stop: int,
) -> None:
    vectors, history = uninterrupted(every)

    with pytest.raises(SIGTERMException):
        trained_on_refreshed(tiny_embedding_model, tmp_path, every, stop=stop)
    last = tmp_path / "checkpoints" / "last.ckpt"
    found, found_history = trained_on_refreshed(tiny_embedding_model, tmp_path, every, resume=last)

    assert found_history == history
    assert np.array_equal(found, vectors)


def test_train_refuses_another_number_of_records(tiny_embedding_model: str, tmp_path: Path) -> None:
    refresh = Refresh(every_epochs=2, records=lambda encode, epoch: RECORDS["pair"][:-1])
    with pytest.raises(ValueError, match="refresh must return 8 records, got 7"):
        trained_vectors(tiny_embedding_model, tmp_path, refresh)


def test_prompts_change_the_training_and_stay_with_the_model(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = TrainingConfig(
        batch_size=4, num_epochs=1, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-3
    )
    histories = {}
    for name, config in (("plain", {}), ("prompted", PROMPTED)):
        model, result = learner(**config).train(
            tiny_embedding_model,
            RECORDS["pair"],
            RECORDS["pair"],
            training,
            TrainingPlan(folder=tmp_path, on_metrics=ignore),
        )
        histories[name] = result.history
        learner(**config).save(model, tmp_path / name)
    for metric in ("train/loss", "val/loss"):
        assert histories["plain"][metric] != histories["prompted"][metric]
    written = json.loads((tmp_path / "prompted" / "config_sentence_transformers.json").read_text())
    assert (
        written["prompts"] == {"query": "ask: ", "document": "tell: "}
        and written["default_prompt_name"] is None
    )
    model = SentenceTransformer(str(tmp_path / "prompted"), device="cpu")
    for role, prompt, encode in (
        ("query", "ask: ", model.encode_query),
        ("document", "tell: ", model.encode_document),
    ):
        vectors = encode(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(
            vectors,
            model.encode([prompt + text for text in TEXTS], normalize_embeddings=True),
            atol=1e-6,
        )
        np.testing.assert_allclose(learner().vectors(model, TEXTS, role=role), vectors, atol=1e-6)
    plain = learner().load(
        str(tmp_path / "prompted")
    )  # another learner's configuration, as for the base model
    assert plain.prompts == {"query": "", "document": ""}


def test_prompts_count_towards_the_length(tiny_embedding_model: str) -> None:
    prompted = learner(max_length=8, **PROMPTED)
    model = prompted.load(tiny_embedding_model)
    cut = prompted.vectors(model, ["abc", "abcdefg"])  # five of the eight tokens are the prompt's
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)


def test_check_refuses_a_prompt_that_leaves_no_room(tiny_embedding_model: str) -> None:
    message = (
        r"embedding\.document_prompt must have fewer tokens than max_length=6, got 6\. Shorten it"
    )
    short, longer = (learner(max_length=length, **PROMPTED) for length in (6, 7))

    with pytest.raises(ConfigError, match=message):
        short.check(tiny_embedding_model, RECORDS["pair"], short.load)
    longer.check(tiny_embedding_model, RECORDS["pair"], longer.load)


def test_check_warns_of_prompts_of_the_base_model_that_are_not_used(
    tiny_embedding_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompted, asking = learner(**PROMPTED), learner(query_prompt="ask: ")
    prompted.save(prompted.load(tiny_embedding_model), tmp_path)

    prompted.check(str(tmp_path), RECORDS["pair"], prompted.load)
    assert caplog.text == ""
    asking.check(str(tmp_path), RECORDS["pair"], asking.load)
    assert "comes with the prompts {'document': 'tell: '}, which aren't used" in caplog.text


@pytest.mark.parametrize(
    ("shape", "record", "times"),
    [
        ("pair", {"anchor": "one", "positive": "two or three"}, 1),
        (
            "pair",
            {"anchor": "one", "positive": "two or three", "negative": "quite another text"},
            1,
        ),
        ("text", {"text": "seen with two dropouts"}, 2),
    ],
)
def test_the_length_of_a_row_counts_every_text_that_goes_through_the_model(
    tiny_embedding_model: str, shape: str, record: dict[str, Any], times: int
) -> None:
    own = learner(shape)
    _, data = own._prepare(
        tiny_embedding_model, [dict(record) for _ in range(4)], [], TrainingConfig()
    )
    tokenizer = own.load(tiny_embedding_model).tokenizer
    assert data.lengths is not None
    assert data.lengths(record) == times * sum(
        len(tokenizer(text)["input_ids"]) for text in record.values()
    )

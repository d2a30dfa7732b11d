from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.cli.python_overrides import compose_request, overrides_of
from tunetrail.cli.text_values import keep_text
from tunetrail.config import TrainRequest
from tunetrail.errors import ConfigError


def composed(**settings: Any) -> TrainRequest:
    return compose_request(overrides_of({"session_id": "s1", **settings}))


def test_overrides_of_writes_what_one_would_type() -> None:
    settings = {
        "seed": 7,
        "embedding": {"training": {"learning_rate": 3e-5, "max_steps": np.int64(4)}},
        "llm.max_length": 64,
        "experiments": "quick",
        "trainer": {"callbacks": {"early": {"patience": 3}}},
        "callbacks": ["ema", "frequent_checkpoints"],
        "validation.drift.enabled": False,
    }
    assert overrides_of(settings) == [
        "seed=7",
        "embedding.training.learning_rate=3e-05",
        "embedding.training.max_steps=4",
        "llm.max_length=64",
        "+experiments=quick",
        "+trainer.callbacks.early.patience=3",
        "callbacks=[ema,frequent_checkpoints]",
        "validation.drift.enabled=false",
    ]


def test_settings_reach_the_request() -> None:
    request = composed(
        model_type="embedding",
        embedding={"training": {"learning_rate": 1e-4, "batch_size": "auto"}},
        output_dir=Path("somewhere/else"),
        experiments="quick",
        optimizer="sgd",
        callbacks=["ema"],
    )
    training = request.embedding.training

    assert (request.session_id, request.model_type) == ("s1", "embedding")
    assert (training.learning_rate, training.batch_size) == (1e-4, "auto")
    assert (training.optimizer.name, training.averaging.kind) == ("sgd", "ema")
    assert request.output_dir == "somewhere/else"
    # Of experiments/quick.yaml.
    assert request.cross_validation.n_splits == 0


def test_option_of_a_group_and_a_key_below_it_both_count() -> None:
    request = composed(**{"embedding": "minilm", "embedding.max_length": 99})
    assert request.embedding.max_length == 99 and "minilm" in request.embedding.model.lower()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
def test_overrides_of_keep_every_text(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = overrides_of({"output_dir": text})
    parsed = OverridesParser.create().parse_override(keep_text(override, {"output_dir": False}))
    assert parsed.value() == text


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", lambda: 1])
def test_overrides_of_refuse_what_no_setting_holds(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^seed must be a text, a number, .* got "):
        overrides_of({"seed": value})

from pathlib import Path

import pytest

from tunetrail.cli.conf_groups import shadowed_experiments
from tunetrail.cli.unused_settings import unused_overrides
from tunetrail.config import AugmentationConfig, TrainRequest

OVERRIDES = ["seed=1", "llm=qwen2.5-0.5b", "+llm.adapter.rank=4", "embedding.loss=auto"]


@pytest.mark.parametrize(
    ("model_type", "unused"),
    [
        ("embedding", ["llm=qwen2.5-0.5b", "+llm.adapter.rank=4"]),
        ("llm", ["embedding.loss=auto"]),
        ("all", []),
        ("reranker", []),
    ],
)
def test_overrides_of_a_model_that_is_not_trained(model_type: str, unused: list[str]) -> None:
    request = TrainRequest(session_id="s1", model_type=model_type)
    assert unused_overrides(request, OVERRIDES) == unused


def test_the_language_model_that_writes_rows_is_used() -> None:
    augmentation = AugmentationConfig(methods=["paraphrase"])
    request = TrainRequest(session_id="s1", model_type="embedding", augmentation=augmentation)
    assert unused_overrides(request, OVERRIDES) == []


@pytest.mark.parametrize("value", ["quick", "[demo,quick]", "'quick'"])
def test_an_experiment_that_replaces_a_shipped_one_is_named(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TUNETRAIL_HOME", str(workplace))
    (workplace / "experiments").mkdir()
    file = workplace / "experiments/quick.yaml"

    assert shadowed_experiments([f"+experiments={value}"]) == []
    file.touch()
    assert shadowed_experiments([f"+experiments={value}", "seed=1"]) == [file]
    assert shadowed_experiments(["+experiments=demo"]) == []

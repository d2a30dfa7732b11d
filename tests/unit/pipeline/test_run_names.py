import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tunetrail.config import EmbeddingConfig, LanguageModelConfig, Settings, TrainingConfig
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.run_names import run_name, typed_changes

EMBEDDING, LLM = family_named("embedding"), family_named("llm")


def settings_with(**training: Any) -> Settings:
    config = EmbeddingConfig(model="minilm", training=TrainingConfig(**training))
    return Settings(embedding=config, llm=LanguageModelConfig(model="smollm2-135m"))


def test_a_run_with_the_defaults_is_named_after_its_session_and_model() -> None:
    assert run_name(settings_with(), "s1", [EMBEDDING]) == "embedding minilm on s1"


@pytest.mark.parametrize(
    ("model", "shown"),
    [("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"), ("/a/b/mine/", "mine")],
)
def test_a_model_is_named_by_the_last_component_of_its_id_or_folder(model: str, shown: str) -> None:
    settings = Settings(embedding=EmbeddingConfig(model=model))

    assert run_name(settings, "s1", [EMBEDDING]) == f"embedding {shown} on s1"


def test_the_training_comes_first_among_what_differs_and_four_values_are_named() -> None:
    settings = settings_with(learning_rate=3e-5, batch_size=8, num_epochs=7, weight_decay=0.5)
    settings = dataclasses.replace(settings, seed=7)

    name = run_name(settings, "s1", [EMBEDDING])

    assert "learning_rate=3e-05" in name and "batch_size=8" in name and "num_epochs=7" in name
    assert name.endswith(", and 1 more: embedding minilm on s1") and "seed" not in name


def test_equal_names_of_two_models_keep_their_sections() -> None:
    training = TrainingConfig(batch_size=4)
    settings = Settings(
        embedding=EmbeddingConfig(training=training), llm=LanguageModelConfig(training=training)
    )

    both = run_name(settings, "s1", [EMBEDDING, LLM])

    assert both.endswith(": embedding minilm + llm smollm2-135m on s1")
    assert "embedding.training.batch_size=4" in both and "llm.training.batch_size=4" in both
    # What another family was told says nothing about this one's run.
    assert run_name(settings, "s1", [LLM]).startswith("batch_size=4")


def test_stores_and_folders_are_not_named(tmp_path: Path) -> None:
    settings = dataclasses.replace(settings_with(), output_dir=str(tmp_path))
    settings.tracking.uri = "http://user:secret@host"
    settings.database.url = "postgresql+psycopg://u:secret@host/db"

    assert run_name(settings, "s1", [EMBEDDING]) == "embedding minilm on s1"


def test_values_are_short_and_have_no_quotation_mark() -> None:
    settings = settings_with()
    settings.embedding.query_prompt = 'say "yes" ' * 9
    settings.embedding.matryoshka_dimensions = [256, 128]

    name = run_name(settings, "s1", [EMBEDDING])

    assert "matryoshka_dimensions=[256,128]" in name
    assert '"' not in name and len(name) < 120


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["session_id=s1", "embedding.training.num_epochs=2"], None),
        (["session_id=s1", "model_type=all", "+experiments=demo"], ["demo"]),
        (["+experiments=[quick,mine]", "embedding=minilm", "seed=7"], ["quick,mine", "seed=7"]),
        (["cross_validation=off", "experiments='quick'"], ["quick", "cross_validation=off"]),
        (
            ["+experiments=quick", "embedding.max_length=64", "llm.max_length=32", "output_dir=o"],
            ["quick", "embedding.max_length=64", "llm.max_length=32"],
        ),
        (["+experiments=quick", "database.url=sqlite:///a", "hydra.job.name=x"], ["quick"]),
    ],
)
def test_an_experiment_is_named_before_what_was_typed(
    overrides: list[str], changes: list[str] | None
) -> None:
    assert typed_changes(overrides) == changes


def test_a_run_of_an_experiment_is_named_after_it() -> None:
    settings = settings_with(learning_rate=3e-5, num_epochs=1)

    name = run_name(settings, "s1", [EMBEDDING, LLM], ["quick", "learning_rate=3e-5"])

    assert name == "quick, learning_rate=3e-5: embedding minilm + llm smollm2-135m on s1"

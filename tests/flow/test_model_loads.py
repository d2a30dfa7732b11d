"""How often a whole run loads its base model, counted in the libraries that load it."""

import gc
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM

from tunetrail import DataSciencePipeline
from tunetrail.config import (
    AugmentationConfig,
    CrossValidationConfig,
    FeatureEngineeringConfig,
    HardNegativesConfig,
    Settings,
)
from tunetrail.data.rows import rows_frame
from tunetrail.pipeline.families import family_named
from tunetrail.samples import parse_sample

# Whole trainings, some seconds each.
pytestmark = pytest.mark.processes

_STAGES = "tunetrail.pipeline.stages."


@dataclass(frozen=True)
class Loads:
    """The loads of a base model: the stage that each was for, and the model."""

    stages: list[str] = field(default_factory=list)
    models: list["weakref.ref[Any]"] = field(default_factory=list)

    def add(self, model: Any) -> None:
        """Add a load of the stage that is running."""
        modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_stack(None)]
        stage = next(filter(lambda module: module.startswith(_STAGES), modules))
        self.stages.append(stage.removeprefix(_STAGES))
        self.models.append(weakref.ref(model))

    def alive(self) -> list[str]:
        """Return the stages whose models are still in memory."""
        gc.collect()
        pairs = zip(self.stages, self.models, strict=True)
        return [stage for stage, model in pairs if model() is not None]


@pytest.fixture
def loads(
    monkeypatch: pytest.MonkeyPatch, tiny_embedding_model: str, tiny_language_model: str
) -> dict[str, Loads]:
    """The loads of both base models by model type; the libraries load them as always."""
    loads = {"embedding": Loads(), "llm": Loads()}
    initialise = SentenceTransformer.__init__
    from_pretrained = AutoModelForCausalLM.from_pretrained

    def load_embedding_model(self: Any, path: Any = None, *args: Any, **options: Any) -> None:
        initialise(self, path, *args, **options)
        if path == tiny_embedding_model:
            loads["embedding"].add(self)

    def load_language_model(path: Any, *args: Any, **options: Any) -> Any:
        model = from_pretrained(path, *args, **options)
        if path == tiny_language_model:
            loads["llm"].add(model)
        return model

    monkeypatch.setattr(SentenceTransformer, "__init__", load_embedding_model)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_language_model)
    return loads


def frame_of(rows: list[dict[str, Any]], model_type: str) -> pd.DataFrame:
    kind = family_named(model_type).kind
    return rows_frame(enumerate((parse_sample(row, kind) for row in rows), start=1))


@pytest.mark.parametrize(("model_type", "shape"), [("embedding", "pair"), ("llm", "completion")])
def test_a_run_loads_its_base_model_once_for_all_rows_and_once_for_each_training(
    workplace: Path,
    make_settings: Callable[..., Settings],
    make_rows: Any,
    loads: dict[str, Loads],
    model_type: str,
    shape: str,
) -> None:
    mining = HardNegativesConfig(enabled=model_type == "embedding")
    settings = make_settings(
        workplace,
        cross_validation=CrossValidationConfig(n_splits=2),
        feature_engineering=FeatureEngineeringConfig(hard_negatives=mining),
    )
    alive_in_fit: list[list[str]] = []

    outcome = DataSciencePipeline(settings).run(
        model_type,
        frame_of(make_rows(shape), model_type),
        on_metrics=lambda metrics, step: alive_in_fit.append(loads[model_type].alive()),
    )

    assert outcome.state == "promoted"
    assert loads[model_type].stages == [
        # The vectors of the checks, the check of model and rows, and all mining share a model.
        "prepare",
        # A training changes the weights and may be another process: each fold loads a copy,
        "cross_validate",
        "cross_validate",
        # and so does the fit.
        "fit",
        # The candidate is compared with the base model, which the fit had no memory for.
        "evaluate",
    ]
    # Whatever was loaded before the fit has left the memory to it.
    assert alive_in_fit and all(stages == ["fit"] for stages in alive_in_fit)


def test_a_base_model_that_writes_rows_is_the_one_that_the_run_has_loaded(
    workplace: Path, make_settings: Callable[..., Settings], make_rows: Any, loads: dict[str, Loads]
) -> None:
    augmentation = AugmentationConfig(methods=["paraphrase"], generator="base", max_new_tokens=4)
    settings = make_settings(workplace, augmentation=augmentation)

    DataSciencePipeline(settings).run("llm", frame_of(make_rows("completion"), "llm"))

    assert loads["llm"].stages == ["prepare", "fit", "evaluate"]

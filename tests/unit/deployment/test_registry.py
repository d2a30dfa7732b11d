import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.models import Model
from tests.tracking import client_of

from tunetrail.config import TrackingConfig
from tunetrail.deployment.flavors import EmbeddingFlavor, LanguageModelFlavor, pinned
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.deployment.registry import Registry
from tunetrail.errors import DeploymentError, TrackingError
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker

FLAVORS = {"embedding": EmbeddingFlavor(), "llm": LanguageModelFlavor()}
PROBES = ["a short text", "another", ""]


class AlteringFlavor(EmbeddingFlavor):
    """Loses a weight between saving and loading, as a silent bug of a library would."""

    def load(self, folder: str) -> Any:
        model = super().load(folder)
        next(model.parameters()).data[:, :5] += 0.5
        return model


class NanFlavor(EmbeddingFlavor):
    """Gives no numbers at all."""

    def outputs(self, model: Any, probes: Sequence[str]) -> Any:
        return np.full((len(probes), 2), np.nan)


class FullDiskFlavor(EmbeddingFlavor):
    """Writes half of the model, then the disk is full."""

    def save(self, model: Any, folder: Path, metadata: Model) -> None:
        super().save(model, folder, metadata)
        raise OSError(28, "No space left on device")


@pytest.fixture
def tracker(workplace: Path) -> Tracker:
    return Tracker(
        TrackingConfig(
            uri=f"sqlite:///{workplace}/mlflow.db", artifacts=str(workplace / "mlartifacts")
        )
    )


@pytest.fixture
def run(tracker: Tracker) -> TrackedRun:
    return tracker.start_run("embedding")


@pytest.fixture(scope="module")
def embedding_model(tiny_embedding_model: str) -> Any:
    return load_embedding_model(tiny_embedding_model).eval()


@pytest.fixture(scope="module")
def language_model(tiny_language_model: str) -> LanguageModel:
    return LanguageModel(
        model=load_language_model(tiny_language_model).eval(),
        tokenizer=load_tokenizer(tiny_language_model),
    )


def register(registry: Registry, model: Any, run: TrackedRun) -> ModelVersion:
    return registry.writer.write(
        model, run, base_model="tiny", probes=PROBES, tags={"tunetrail.session_id": "s1"}
    )


def left_over(tracker: Tracker, name: str) -> list[Any]:
    client = tracker.client
    logged = client.search_logged_models([tracker.experiment_id])
    return [*client.search_model_versions(f"name = '{name}'"), *logged]


@pytest.mark.processes
def test_register_and_move_root_give_a_model_that_mlflow_loads_offline(
    tracker: Tracker,
    run: TrackedRun,
    embedding_model: Any,
    language_model: LanguageModel,
    workplace: Path,
) -> None:
    """A fresh process loads both by alias with MLflow alone, gets the same outputs, and asks no network."""
    for name, model in (("embedding", embedding_model), ("llm", language_model)):
        registry = Registry(tracker, name, FLAVORS[name])
        assert registry.root() is None
        version = register(registry, model, run)
        assert (
            version == ModelVersion(name=name, version="1", base_model="tiny")
            and version.uri == f"models:/{name}/1"
        )
        assert registry.root() is None
        registry.move_root(version, None, {"tunetrail.run_id": run.run_id})
        assert registry.root() == version
        stored = tracker.client.get_model_version(name, "1")
        assert stored.run_id == run.run_id
        assert {
            "tunetrail.base_model": "tiny",
            "tunetrail.session_id": "s1",
            "tunetrail.previous_root": "none",
        }.items() <= stored.tags.items()
    program = f"""
import os, socket
os.environ["HF_HUB_OFFLINE"] = "1"
def refuse(*arguments): raise AssertionError(f"network: {{arguments}}")
socket.socket.connect = socket.getaddrinfo = refuse
import json, mlflow, torch
mlflow.set_tracking_uri("sqlite:///{workplace}/mlflow.db")
model = mlflow.sentence_transformers.load_model("models:/embedding@root")
parts = mlflow.transformers.load_model("models:/llm@root", return_type="components")
encoded = parts["tokenizer"]("a short text", return_tensors="pt")
with torch.inference_mode():
    logits = parts["model"].cpu().eval()(**encoded).logits[0, -1]
print(json.dumps([model.cpu().encode("a short text", show_progress_bar=False).tolist(), logits.tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]

    vector, logits = json.loads(done.stdout.splitlines()[-1])
    assert np.allclose(vector, EmbeddingFlavor().outputs(embedding_model, PROBES)[0], atol=1e-5)
    assert np.allclose(logits, LanguageModelFlavor().outputs(language_model, PROBES)[0], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("embedding", {"mlflow", "sentence-transformers", "transformers", "torch"}),
        ("llm", {"mlflow", "transformers", "torch"}),
    ],
)
def test_register_writes_signature_and_requirements(
    tracker: Tracker,
    run: TrackedRun,
    embedding_model: Any,
    language_model: LanguageModel,
    name: str,
    packages: set[str],
) -> None:
    version = register(
        Registry(tracker, name, FLAVORS[name]),
        embedding_model if name == "embedding" else language_model,
        run,
    )
    logged_model = Model.load(version.uri)

    assert (
        logged_model.signature is not None
        and logged_model.signature.inputs is not None
        and logged_model.signature.outputs is not None
    )

    if name == "llm":
        # As OpenAI's chat completions, since the model has a chat template.
        names = logged_model.signature.inputs.input_names()
        assert {"messages", "max_tokens", "temperature"} <= set(names)
    (logged,) = tracker.client.search_logged_models([tracker.experiment_id])
    folder = Path(logged.artifact_location.removeprefix("file://"))
    requirements = (folder / "requirements.txt").read_text().split()
    assert {requirement.split("==")[0] for requirement in requirements} == packages
    assert not any("+" in requirement for requirement in requirements)


def test_pinned_strips_the_local_label() -> None:
    (torch,) = pinned("torch")
    assert torch.startswith("torch==") and "+" not in torch


@pytest.mark.parametrize(
    ("flavor", "error", "message"),
    [
        (
            AlteringFlavor(),
            DeploymentError,
            "the written embedding model must have the trained model's weights, got a different "
            ".*embeddings.* root is unchanged",
        ),
        (NanFlavor(), DeploymentError, "must give the trained model's outputs"),
        (FullDiskFlavor(), (TrackingError, DeploymentError), "No space left on device"),
    ],
)
def test_register_leaves_nothing_of_a_version_that_failed(
    tracker: Tracker, run: TrackedRun, embedding_model: Any, flavor: Any, error: Any, message: str,
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, workplace: Path,
) -> None:  # fmt: skip
    temporary = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    registry = Registry(tracker, "embedding", EmbeddingFlavor())
    registry.flavor = flavor

    with pytest.raises(error, match=message):
        register(registry, embedding_model, run)
    assert left_over(tracker, "embedding") == []
    assert list(workplace.rglob("mlartifacts/**/model.safetensors")) == []
    assert list(temporary.iterdir()) == []
    assert registry.root() is None


def test_register_gives_versions_their_numbers_in_order(
    tracker: Tracker, run: TrackedRun, embedding_model: Any
) -> None:
    registry = Registry(tracker, "embedding", EmbeddingFlavor())
    assert [register(registry, embedding_model, run).version for _ in range(2)] == ["1", "2"]


def test_move_root_refuses_where_root_moved_meanwhile(
    tracker: Tracker, run: TrackedRun, embedding_model: Any
) -> None:
    registry = Registry(tracker, "embedding", EmbeddingFlavor())
    first, second, third = (register(registry, embedding_model, run) for _ in range(3))
    registry.move_root(first, None, {})

    with pytest.raises(DeploymentError, match=r"it was none, it is now version 1. Train again"):
        registry.move_root(second, None, {})

    registry.move_root(second, first, {})

    with pytest.raises(
        DeploymentError, match=r"it was version 1, it is now version 2. Train again"
    ):
        registry.move_root(third, first, {})
    assert registry.root() == second
    assert (
        tracker.client.get_model_version("embedding", "2").tags["tunetrail.previous_root"]
        == "version 1"
    )
    assert "tunetrail.previous_root" not in tracker.client.get_model_version("embedding", "3").tags


def test_load_says_what_to_do_where_the_files_are_gone(
    tracker: Tracker, run: TrackedRun, embedding_model: Any, workplace: Path
) -> None:
    registry = Registry(tracker, "embedding", EmbeddingFlavor())
    version = register(registry, embedding_model, run)
    shutil.rmtree(workplace / "mlartifacts")

    with pytest.raises(
        DeploymentError, match=r"models:/embedding/1 can't be loaded: .* Restore its files"
    ):
        registry.load(version)


def test_root_is_none_after_its_version_was_deleted(
    tracker: Tracker, run: TrackedRun, embedding_model: Any
) -> None:
    """MLflow deletes the alias with the version."""
    registry = Registry(tracker, "embedding", EmbeddingFlavor())
    version = register(registry, embedding_model, run)
    registry.move_root(version, None, {})
    client_of(tracker.config.uri).delete_model_version("embedding", "1")
    assert registry.root() is None


def test_registry_uses_its_own_store_after_another_was_opened(
    tracker: Tracker,
    run: TrackedRun,
    embedding_model: Any,
    workplace: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    registry = Registry(tracker, "embedding", EmbeddingFlavor())
    version = register(registry, embedding_model, run)
    folder = tmp_path_factory.mktemp("other")
    shutil.copy(workplace / "mlflow.db", folder / "mlflow.db")
    Tracker(
        dataclasses.replace(tracker.config, uri=f"sqlite:///{folder}/mlflow.db", experiment="other")
    )
    loaded = registry.load(version)

    assert np.allclose(
        registry.flavor.outputs(loaded, PROBES), registry.flavor.outputs(embedding_model, PROBES)
    )

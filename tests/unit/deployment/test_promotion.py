from pathlib import Path
from typing import Any

import pytest

from tunetrail.config import TrackingConfig
from tunetrail.deployment.gate import Decision
from tunetrail.deployment.promotion import Candidate, deploy
from tunetrail.deployment.registry import ModelVersion, Registry
from tunetrail.errors import DeploymentError
from tunetrail.learning.embedding.module import load_embedding_model
from tunetrail.stores.tracking import Tracker

PROMOTE = Decision(promote=True, reason="better")
REFUSE = Decision(promote=False, reason="not better")


@pytest.fixture
def registry(workplace: Path) -> Registry:
    config = TrackingConfig(
        uri=f"sqlite:///{workplace}/mlflow.db", artifacts=str(workplace / "mlartifacts")
    )
    return Registry(Tracker(config), "embedding")


@pytest.fixture
def candidate(registry: Registry, tiny_embedding_model: str) -> Candidate:
    model = load_embedding_model(tiny_embedding_model).eval()

    def save(folder: Path) -> None:
        model.save_pretrained(str(folder), create_model_card=False)

    run = registry.tracker.start_run("embedding")
    return Candidate(
        model=model, save=save, run=run, base_model="tiny", probes=["a text"], tags={"k": "v"}
    )


def versions(registry: Registry) -> list[Any]:
    return list(registry.tracker.client.search_model_versions("name = 'embedding'"))


def test_deploy_promotes_then_tells_then_exports(
    registry: Registry, candidate: Candidate, workplace: Path
) -> None:
    seen: list[tuple[ModelVersion, ModelVersion | None, bool]] = []

    def on_decision(version: ModelVersion) -> None:
        seen.append((version, registry.root(), (workplace / "models/embedding/root").exists()))

    version, path = deploy(candidate, PROMOTE, registry, None, workplace / "models", on_decision)
    assert seen == [(version, version, False)]
    assert path == workplace / "models/embedding/root"
    assert load_embedding_model(str(path)).get_embedding_dimension() == 32


def test_deploy_registers_a_refused_candidate_and_leaves_root(
    registry: Registry, candidate: Candidate, workplace: Path
) -> None:
    told: list[ModelVersion] = []
    version, path = deploy(candidate, REFUSE, registry, None, workplace / "models", told.append)
    assert (told, path, registry.root()) == ([version], None, None)
    assert len(versions(registry)) == 1
    assert not (workplace / "models").exists()


def test_deploy_registers_nothing_where_the_export_cannot_be_written(
    registry: Registry, candidate: Candidate, workplace: Path
) -> None:
    (workplace / "models").touch()
    told: list[ModelVersion] = []
    with pytest.raises(DeploymentError, match=r"model_dir .*models can't be written"):
        deploy(candidate, PROMOTE, registry, None, workplace / "models", told.append)
    assert (told, versions(registry), registry.root()) == ([], [], None)


def test_deploy_leaves_the_export_where_root_moved_meanwhile(
    registry: Registry, candidate: Candidate, workplace: Path
) -> None:
    first, path = deploy(
        candidate, PROMOTE, registry, None, workplace / "models", lambda version: None
    )
    assert path is not None
    before = path.readlink()
    told: list[ModelVersion] = []
    with pytest.raises(
        DeploymentError,
        match="moved while the candidate was trained: it was none, it is now version 1",
    ):
        deploy(candidate, PROMOTE, registry, None, workplace / "models", told.append)
    assert (told, registry.root(), path.readlink()) == ([], first, before)
    decisions = {each.version: each.tags["tunetrail.decision"] for each in versions(registry)}
    assert decisions == {1: "promoted", 2: "refused"}

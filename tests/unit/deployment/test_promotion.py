from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunetrail.config import TrackingConfig
from tunetrail.deployment import export
from tunetrail.deployment.flavors import EmbeddingFlavor
from tunetrail.deployment.gate import Decision
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.deployment.promotion import Candidate, deploy
from tunetrail.deployment.registry import Registry
from tunetrail.deployment.version_writer import VersionWriter
from tunetrail.errors import DeploymentError
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.stores.tracking.tracker import Tracker

PROMOTE = Decision(promote=True, reason="better")
REFUSE = Decision(promote=False, reason="not better")
MOVED = "moved while the candidate was trained: it was none, it is now version 1"


@pytest.fixture
def registry(workplace: Path) -> Registry:
    config = TrackingConfig(
        uri=f"sqlite:///{workplace}/mlflow.db", artifacts=str(workplace / "mlartifacts")
    )
    return Registry(Tracker(config), "embedding", EmbeddingFlavor())


@pytest.fixture
def make_candidate(registry: Registry, tiny_embedding_model: str) -> Callable[[], Candidate]:
    """Candidates of one model, each of a run of its own."""
    model = load_embedding_model(tiny_embedding_model).eval()

    def save(folder: Path) -> None:
        model.save_pretrained(str(folder), create_model_card=False)

    def make() -> Candidate:
        run = registry.tracker.start_run("embedding")
        return Candidate(
            model=model,
            save=save,
            run=run,
            base_model="tiny",
            probes=["a text"],
            tags={"k": "v"},
            description="the decision",
        )

    return make


@pytest.fixture
def candidate(make_candidate: Callable[[], Candidate]) -> Candidate:
    return make_candidate()


def ignore(version: ModelVersion, decision: Decision) -> None:
    """Take the decision and forget it."""


def telling(
    told: list[tuple[ModelVersion, Decision]],
) -> Callable[[ModelVersion, Decision], None]:
    """Return what writes each decision to a list."""
    return lambda version, decision: told.append((version, decision))


def versions(registry: Registry) -> list[Any]:
    return list(registry.tracker.client.search_model_versions("name = 'embedding'"))


def decisions(registry: Registry) -> dict[int, str | None]:
    return {
        version.version: version.tags.get("tunetrail.decision") for version in versions(registry)
    }


def interrupt_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """End the process, as it were, once this function has done its work."""
    function = getattr(owner, name)

    def interrupted(*arguments: Any, **keywords: Any) -> None:
        function(*arguments, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)


def test_deploy_promotes_then_tells_then_exports(
    registry: Registry, candidate: Candidate, workplace: Path
) -> None:
    seen: list[tuple[ModelVersion, ModelVersion | None, bool]] = []

    def on_decision(version: ModelVersion, decision: Decision) -> None:
        seen.append((version, registry.root(), (workplace / "models/embedding/root").exists()))

    deployed = deploy(candidate, PROMOTE, registry, None, workplace / "models", on_decision)

    version, path = deployed.version, deployed.exported_to
    assert seen == [(version, version, False)]
    assert path == workplace / "models/embedding/root"
    assert load_embedding_model(str(path)).get_embedding_dimension() == 32


def test_deploy_registers_a_refused_candidate_and_leaves_root(
    registry: Registry, candidate: Candidate, workplace: Path
) -> None:
    told: list[tuple[ModelVersion, Decision]] = []

    deployed = deploy(candidate, REFUSE, registry, None, workplace / "models", telling(told))

    assert told == [(deployed.version, REFUSE)]
    assert (deployed.exported_to, registry.root()) == (None, None)
    assert len(versions(registry)) == 1
    assert not (workplace / "models").exists()


@pytest.mark.parametrize("decision", [PROMOTE, Decision(promote=False, reason="x", waiting=True)])
def test_deploy_refuses_a_version_that_something_speaks_against(
    registry: Registry, candidate: Candidate, workplace: Path, decision: Decision
) -> None:
    told: list[tuple[ModelVersion, Decision]] = []
    candidate = replace(candidate, objection=lambda version: f"{version.uri} is odd")

    deployed = deploy(candidate, decision, registry, None, workplace / "models", telling(told))

    refusal = Decision(promote=False, reason="models:/embedding/1 is odd")
    assert deployed.decision == refusal
    assert told == [(deployed.version, refusal)]
    assert (deployed.exported_to, registry.root()) == (None, None)
    assert decisions(registry) == {1: "refused"}
    assert not list((workplace / "models").glob("*/root"))


def test_deploy_asks_for_no_objection_to_what_is_refused_or_root_already(
    registry: Registry, candidate: Candidate, workplace: Path
) -> None:
    def objection(version: ModelVersion) -> str:
        raise AssertionError(version)

    models, asked = workplace / "models", replace(candidate, objection=objection)

    refused = deploy(asked, REFUSE, registry, None, models, ignore)
    promoted = deploy(candidate, PROMOTE, registry, None, models, ignore)
    again = deploy(asked, PROMOTE, registry, None, models, ignore)

    assert refused.decision == REFUSE
    assert again == promoted


def test_deploy_registers_nothing_where_the_export_cannot_be_written(
    registry: Registry, candidate: Candidate, workplace: Path
) -> None:
    (workplace / "models").touch()
    told: list[tuple[ModelVersion, Decision]] = []

    with pytest.raises(DeploymentError, match=r"model_dir .*models can't be written"):
        deploy(candidate, PROMOTE, registry, None, workplace / "models", telling(told))

    assert (told, versions(registry), registry.root()) == ([], [], None)


def test_deploy_leaves_the_export_where_root_moved_meanwhile(
    registry: Registry, make_candidate: Callable[[], Candidate], workplace: Path
) -> None:
    deployed = deploy(make_candidate(), PROMOTE, registry, None, workplace / "models", ignore)
    first, path = deployed.version, deployed.exported_to
    assert path is not None
    before = path.readlink()
    told: list[tuple[ModelVersion, Decision]] = []

    with pytest.raises(DeploymentError, match=MOVED):
        deploy(make_candidate(), PROMOTE, registry, None, workplace / "models", telling(told))

    assert (told, registry.root(), path.readlink()) == ([], first, before)
    assert decisions(registry) == {1: "promoted", 2: "refused"}
    # What was decided before is no longer true of the second.
    descriptions = {version.version: version.description for version in versions(registry)}
    assert descriptions[1] == "the decision"
    assert descriptions[2].startswith("Refused: root of embedding moved while the candidate was")


def test_deploy_tags_the_refused_version_of_a_deployment_that_was_interrupted(
    registry: Registry,
    make_candidate: Callable[[], Candidate],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It had registered its version; before it went on, another candidate became root."""
    models, interrupted = workplace / "models", make_candidate()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_after(patched, VersionWriter, "write")
        deploy(interrupted, PROMOTE, registry, None, models, ignore)
    assert decisions(registry) == {1: None}
    deploy(make_candidate(), PROMOTE, registry, None, models, ignore)

    with pytest.raises(DeploymentError, match="it was none, it is now version 2"):
        deploy(interrupted, PROMOTE, registry, None, models, ignore)

    assert decisions(registry) == {1: "refused", 2: "promoted"}


@pytest.mark.parametrize(
    ("decision", "owner", "name"),
    [
        (PROMOTE, VersionWriter, "write"),
        (PROMOTE, Registry, "tag"),
        (PROMOTE, Registry, "move_root"),
        (PROMOTE, None, "on_decision"),
        (PROMOTE, export, "_point_root"),
        (REFUSE, VersionWriter, "write"),
        (REFUSE, Registry, "tag"),
        (REFUSE, None, "on_decision"),
    ],
)
def test_deploy_comes_to_the_same_end_after_an_interruption_of_any_step(
    registry: Registry,
    candidate: Candidate,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    decision: Decision,
    owner: Any,
    name: str,
) -> None:
    models, told = workplace / "models", list[str]()

    def on_decision(version: ModelVersion, decision: Decision) -> None:
        told.append(version.version)
        if owner is None and len(told) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if owner is not None:
            interrupt_after(patched, owner, name)
        deploy(candidate, decision, registry, None, models, on_decision)

    deployed = deploy(candidate, decision, registry, None, models, on_decision)

    assert decisions(registry) == {1: decision.word}
    assert set(told) == {"1"}
    assert registry.root() == (deployed.version if decision.promote else None)
    path = deployed.exported_to
    assert (path is not None) == decision.promote
    exported = sorted(str(file.relative_to(models)) for file in models.glob("*/*"))
    assert exported == (["embedding/root", "embedding/versions"] if decision.promote else [])
    if path is not None:
        assert path.readlink() == Path("versions/1") and (path / "config.json").exists()
        assert [folder.name for folder in (models / "embedding/versions").iterdir()] == ["1"]

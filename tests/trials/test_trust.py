"""Registered models whose files were swapped, added to or written by somebody else."""

import json
import logging
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.commands import CallMain
from tests.tracking import client_of

from tunetrail import DatabaseManager
from tunetrail.config import TrackingConfig
from tunetrail.deployment.digests import digest_folder
from tunetrail.deployment.flavors import EmbeddingFlavor, LanguageModelFlavor
from tunetrail.deployment.model_version import DIGEST_TAG, ModelVersion
from tunetrail.deployment.registry import Registry
from tunetrail.errors import DeploymentError, ModelError
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer
from tunetrail.learning.models.folders import check_model_folder
from tunetrail.pipeline.looks import recorded_digest
from tunetrail.samples import SampleKind
from tunetrail.stores.database.ledger import PromotionRecord
from tunetrail.stores.tracking.tracker import Tracker

FLAVORS = {"embedding": EmbeddingFlavor(), "llm": LanguageModelFlavor()}
PROBES = ["a short text", "another"]
EVIL = """from pathlib import Path
Path("ran").touch()
from transformers import LlamaForCausalLM
class EvilModel(LlamaForCausalLM): pass
"""


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Let new files be readable by all users, as most systems do."""
    previous = os.umask(0o022)
    yield
    os.umask(previous)


@pytest.fixture
def tracker(workplace: Path) -> Tracker:
    artifacts = str(workplace / "mlartifacts")
    return Tracker(TrackingConfig(uri=f"sqlite:///{workplace}/mlflow.db", artifacts=artifacts))


@pytest.fixture
def embedding_model(tiny_embedding_model: str) -> Any:
    return load_embedding_model(tiny_embedding_model).eval()


@pytest.fixture
def language_model(tiny_language_model: str) -> LanguageModel:
    model: Any = load_language_model(tiny_language_model)
    return LanguageModel(model=model.eval(), tokenizer=load_tokenizer(tiny_language_model))


def register(registry: Registry, model: Any) -> ModelVersion:
    run = registry.tracker.start_run(registry.name)
    return registry.writer.write(model, run, base_model="tiny", probes=PROBES, tags={})


def files_of(registry: Registry, version: ModelVersion) -> Path:
    """Return the folder of a version in the artifact store."""
    client = registry.tracker.client
    uri = client.get_model_version_download_uri(version.name, version.version)
    return Path(uri.removeprefix("file://"))


def forget_digest(registry: Registry, version: ModelVersion) -> None:
    """Make a version one that was registered before digests were kept."""
    registry.tracker.client.delete_model_version_tag(version.name, version.version, DIGEST_TAG)


def with_zeros(path: Path) -> None:
    """Overwrite all weights by zeros of the same shapes."""
    zeros = {name: np.zeros_like(weight) for name, weight in load_file(path).items()}
    save_file(zeros, path, metadata={"format": "pt"})


def test_swapped_weights_are_refused_by_name(tracker: Tracker, embedding_model: Any) -> None:
    registry = Registry(tracker, "embedding", FLAVORS["embedding"])
    version = register(registry, embedding_model)
    folder = files_of(registry, version)
    assert registry.load(version).get_embedding_dimension() == 32

    with_zeros(folder / "model.sentence_transformer/model.safetensors")
    (folder / "model.sentence_transformer/more.json").write_text("{}")
    (folder / "requirements.txt").unlink()

    with pytest.raises(
        DeploymentError,
        match=r"the files of models:/embedding/1 must be those that were registered, got others "
        r"\(changed: model.sentence_transformer/model.safetensors; missing: requirements.txt; "
        r"added: model.sentence_transformer/more.json\).* `tunetrail root rollback embedding",
    ):
        registry.load(version)


def test_a_changed_list_of_files_hides_no_change(tracker: Tracker, embedding_model: Any) -> None:
    registry = Registry(tracker, "embedding", FLAVORS["embedding"])
    version = register(registry, embedding_model)
    folder = files_of(registry, version)

    with_zeros(folder / "model.sentence_transformer/model.safetensors")
    (folder / "SHA256SUMS").write_text(digest_folder(folder).listing)

    with pytest.raises(DeploymentError, match=r"got others \(their list as well\)"):
        registry.load(version)


def test_the_ledger_tells_the_digest_whatever_the_tag_says(
    tracker: Tracker, embedding_model: Any
) -> None:
    registry = Registry(tracker, "embedding", FLAVORS["embedding"])
    version = register(registry, embedding_model)
    run_id = tracker.client.get_model_version("embedding", "1").run_id
    line = PromotionRecord(
        model_name="embedding",
        version="1",
        decision="promoted",
        reason="better",
        mlflow_run_id=run_id,
        digest=version.digest,
    )
    folder = files_of(registry, version)
    with_zeros(folder / "model.sentence_transformer/model.safetensors")
    tracker.client.set_model_version_tag("embedding", "1", DIGEST_TAG, digest_folder(folder).digest)
    registry.load(version)  # without the ledger, the tag is all that there is

    registry.read_digest = lambda version, run_id: recorded_digest([line], version, run_id)

    with pytest.raises(DeploymentError, match="must be those that were registered"):
        registry.load(version)


def test_the_digest_of_another_store_s_version_is_not_compared() -> None:
    line = PromotionRecord(
        model_name="llm",
        version="1",
        decision="promoted",
        reason="r",
        mlflow_run_id="a",
        digest="0",
    )
    assert recorded_digest([line], "1", "a") == "0"
    assert recorded_digest([line], "1", "b") is None
    assert recorded_digest([line], "2", "a") is None


@pytest.mark.parametrize("has_digest", [True, False])
def test_code_in_a_registered_model_is_never_run(
    tracker: Tracker, language_model: LanguageModel, workplace: Path, has_digest: bool
) -> None:
    """As somebody would who can write to the artifact store."""
    registry = Registry(tracker, "llm", FLAVORS["llm"])
    version = register(registry, language_model)
    folder = files_of(registry, version)
    mlmodel = folder / "MLmodel"
    mlmodel.write_text(mlmodel.read_text().replace("LlamaForCausalLM", "EvilModel"))
    config = json.loads((folder / "model/config.json").read_text())
    config |= {"architectures": ["EvilModel"], "model_type": "evil"}
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.EvilModel"}
    (folder / "model/config.json").write_text(json.dumps(config))
    (folder / "model/evil.py").write_text(EVIL)
    if not has_digest:
        forget_digest(registry, version)

    with pytest.raises(DeploymentError, match="models:/llm/1"):
        registry.load(version)

    assert not (workplace / "ran").exists()


@pytest.mark.parametrize(
    ("class_name", "is_known"),
    [
        ("sentence_transformers.models.Pooling", True),
        ("sentence_transformers.models.Pooling.Pooling", True),
        ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", True),
        ("evil.Pooling", False),
        ("sentence_transformers.util.misc.importlib", False),
        ("sentence_transformers.models.Router", False),
        ("sentence_transformers.models.os.Pooling.x", False),
        (None, False),
    ],
)
def test_only_known_modules_of_sentence_transformers_are_loaded(
    tmp_path: Path, class_name: str | None, is_known: bool
) -> None:
    (tmp_path / "model.safetensors").touch()
    modules = [{"idx": 0, "name": "0", "path": "1_Pooling", "type": class_name}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))

    if is_known:
        assert check_model_folder(tmp_path) == tmp_path
        return
    with pytest.raises(ModelError, match="type must be a module of sentence-transformers"):
        check_model_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "modules.json",
            [{"type": "sentence_transformers.models.Pooling", "path": "../x"}],
            "must name files in its own folder, got '../x'",
        ),
        (
            "model.safetensors.index.json",
            {"weight_map": {"w": "/etc/x.safetensors"}},
            "must name files in its own folder, got '/etc/x.safetensors'",
        ),
        ("config.json", {"attn_implementation": "somebody/kernel"}, "code from the hub isn't run"),
        ("modules.json", {}, "must hold a JSON array, got dict"),
        ("config.json", [], "must hold a JSON object, got list"),
    ],
)
def test_files_outside_the_folder_and_code_of_the_hub_are_refused(
    tmp_path: Path, file: str, content: Any, message: str
) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_text(json.dumps(content))

    with pytest.raises(ModelError, match=message):
        check_model_folder(tmp_path)


def test_links_in_a_version_are_refused(
    tracker: Tracker, embedding_model: Any, workplace: Path
) -> None:
    registry = Registry(tracker, "embedding", FLAVORS["embedding"])
    version = register(registry, embedding_model)
    weights = files_of(registry, version) / "model.sentence_transformer/model.safetensors"
    weights.rename(workplace / "elsewhere")
    weights.symlink_to(workplace / "elsewhere")

    with pytest.raises(DeploymentError, match=r"must hold plain files only.*model\.safetensors"):
        registry.load(version)


def test_a_version_from_before_digests_is_loaded_and_named_once(
    tracker: Tracker, embedding_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Another version number than in other tests: a process says it once for each version.
    registry = Registry(tracker, "old-embedding", FLAVORS["embedding"])
    version = register(registry, embedding_model)
    forget_digest(registry, version)

    with caplog.at_level(logging.WARNING):
        loaded = [registry.load(version) for _ in range(2)]

    assert np.array_equal(loaded[0].encode(PROBES), embedding_model.encode(PROBES))
    assert [record.message for record in caplog.records if "digests" in record.message] == [
        "models:/old-embedding/1 was registered before digests were kept, so its files aren't "
        "compared with what was registered. The next version has one."
    ]


class RoundingFlavor(EmbeddingFlavor):
    """Gives logits of some tens that differ by rounding from call to call."""

    def outputs(self, model: Any, probes: Sequence[str]) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return np.array([[38.0, -20.0 - 0.0002 * self.calls]])


class LossyFlavor(EmbeddingFlavor):
    """Changes one weight by less than any tolerance of outputs shows."""

    def weights(self, model: Any) -> Mapping[str, Any]:
        weights = dict(super().weights(model))
        self.calls = getattr(self, "calls", 0) + 1
        name = next(iter(weights))
        weights[name] = weights[name] + np.float32(1e-6) * (self.calls - 1)
        return weights


def test_a_rounding_difference_of_large_outputs_is_no_failure(
    tracker: Tracker, embedding_model: Any
) -> None:
    """Logits reach tens, where float32 rounds by more than an absolute 1e-4."""
    registry = Registry(tracker, "embedding", RoundingFlavor())
    assert register(registry, embedding_model).version == "1"


def test_a_version_that_differs_by_one_rounded_weight_leaves_no_file(
    tracker: Tracker, embedding_model: Any, workplace: Path
) -> None:
    registry = Registry(tracker, "embedding", LossyFlavor())

    with pytest.raises(DeploymentError, match="must have the trained model's weights"):
        register(registry, embedding_model)

    assert [path for path in (workplace / "mlartifacts").rglob("*") if path.is_file()] == []


def test_the_list_of_files_is_one_that_sha256sum_checks(
    tracker: Tracker, embedding_model: Any
) -> None:
    registry = Registry(tracker, "embedding", FLAVORS["embedding"])
    version = register(registry, embedding_model)
    folder = files_of(registry, version)

    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    files = {path for path in folder.rglob("*") if path.is_file()} - {folder / "SHA256SUMS"}
    assert checked.returncode == 0, checked.stderr
    assert len(checked.stdout.splitlines()) == len(files)
    assert digest_folder(folder).digest == version.digest


@pytest.mark.usefixtures("usual_umask")
def test_all_files_of_a_version_have_the_mode_of_the_umask(
    tracker: Tracker, embedding_model: Any, language_model: LanguageModel
) -> None:
    for name, model in (("embedding", embedding_model), ("llm", language_model)):
        registry = Registry(tracker, name, FLAVORS[name])
        folder = files_of(registry, register(registry, model))
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}
        assert any(path.name == "model.safetensors" for path in files)


@pytest.mark.processes
@pytest.mark.usefixtures("usual_umask")
def test_a_training_refuses_swapped_files_of_root_and_goes_on_once_they_are_restored(
    call_main: CallMain, tiny_embedding_model: str, workplace: Path
) -> None:
    texts = [f"the apple number {row} of the garden" for row in range(60)]
    rows = [{"anchor": text, "positive": text.upper()} for text in texts]
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        database.ingest("s1", rows, SampleKind.EMBEDDING)
    arguments = [
        "train", "session_id=s1", "model_type=embedding", f"embedding.model={tiny_embedding_model}",
        "cross_validation=off", "gate=point", "gate.minimum_improvement=-10",
        "gate.minimum_test_clusters=1", "gate.fresh_process=false",
        "evaluation.bootstrap_samples=100",
        "embedding.training.max_steps=2", "embedding.training.warmup_steps=0",
    ]  # fmt: skip
    assert call_main(*arguments).exit_code == 0
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    root = client.get_model_version_by_alias("embedding", "root")
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        (line,) = database.promotions()
    exported = workplace / "models/embedding/root"

    uri = client.get_model_version_download_uri("embedding", str(root.version))
    weights = Path(uri.removeprefix("file://")) / "model.sentence_transformer/model.safetensors"
    original = weights.read_bytes()
    with_zeros(weights)
    second = call_main(*arguments)
    weights.write_bytes(original)
    (run_id,) = re.findall(r"tunetrail resume (\w+)", second.err)[:1]
    store = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    resumed = call_main("resume", run_id, store, "model_dir=elsewhere")

    assert line.digest == root.tags[DIGEST_TAG] and len(line.digest) == 64
    assert second.exit_code == 1
    assert "the files of models:/embedding/1 must be those that were registered" in second.err
    assert resumed.exit_code == 0, resumed.err
    assert str(client.get_model_version_by_alias("embedding", "root").version) == "2"
    assert (workplace / "elsewhere/embedding/root").readlink() == Path("versions/2")
    assert exported.readlink() == Path("versions/1")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in exported.rglob("*") if path.is_file()}
    assert modes == {0o644}


@pytest.mark.processes
def test_a_model_dir_that_cannot_be_written_is_refused_before_anything_is_done(
    call_main: CallMain, tiny_embedding_model: str, workplace: Path
) -> None:
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        rows = [{"anchor": f"a {row}", "positive": f"b {row}"} for row in range(30)]
        database.ingest("s1", rows, SampleKind.EMBEDDING)
    (workplace / "taken/embedding/root").mkdir(parents=True)
    arguments = ["train", "session_id=s1", "model_type=embedding"]

    read_only = call_main(*arguments, "model_dir=/proc/x")
    taken = call_main(*arguments, "model_dir=taken")

    assert (read_only.exit_code, taken.exit_code) == (2, 2)
    assert "model_dir must be a folder that can be written, got '/proc/x'" in read_only.err
    assert "embedding/root is a link of tunetrail's, got 'taken' with something else" in taken.err
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    assert client.search_runs([run.experiment_id for run in client.search_experiments()]) == []

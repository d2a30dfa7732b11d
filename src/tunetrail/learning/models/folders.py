"""Checks of model folders: only safetensors, known classes, and nothing outside the folder.

The libraries that load a folder take its JSON files at their word. Some of these name classes to
import and files to open, so they are read here first.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tunetrail.errors import BrokenModelError

_MODULE_PACKAGES = r"models|base\.modules|sentence_transformer\.modules"
_MODULE_CLASSES = (
    "Transformer|Pooling|Normalize|Dense|Dropout|LayerNorm|WeightedLayerPooling|CNN|LSTM"
    "|StaticEmbedding"
)
# Older releases of sentence-transformers name a class by its package, newer ones by its file.
_KNOWN_MODULE = re.compile(
    rf"sentence_transformers\.({_MODULE_PACKAGES})(\.\w+)?\.({_MODULE_CLASSES})"
)

# The largest sizes in a configuration, a hundred times above the sizes of any model of today.
_MODEL_LIMITS = {
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), 2_000
    ),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), 1_000_000),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff"), 10_000_000),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), 100_000),
    "vocab_size": 100_000_000,
    "max_position_embeddings": 1_000_000_000,
}
# transformers writes 10**30 where a tokenizer has no limit.
_TOKENIZER_LIMITS = {"model_max_length": 10**31}


def check_model_folder(folder: Path, weight_files: str = "*.safetensors") -> Path:
    """Return the folder if it holds a model that can be loaded without running code of its own.

    Args:
        folder: The folder.
        weight_files: Pattern of the files that hold weights.

    Raises:
        BrokenModelError: Configuration or weights are missing, or a file names what must not be
            loaded.
    """
    _check_regular_files(folder)
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise BrokenModelError(
            f"model folder {folder} must hold config.json or modules.json. "
            "Name a Hugging Face model folder."
        )
    # In subfolders as well: sentence-transformers may give each module one.
    if not any(folder.rglob(weight_files)):
        raise BrokenModelError(
            f"model folder {folder} must hold {weight_files}: other weight files can run code when "
            "loaded. Save the model with safe_serialization=True."
        )
    check_named_code(folder)
    return folder


def check_named_code(folder: Path) -> None:
    """Raise `BrokenModelError` if a JSON file of the folder names unknown code, or files elsewhere.

    Code that `auto_map` names needs no check: transformers runs it only if it is told to trust it.
    """
    for path in sorted(folder.rglob("modules.json")):
        for module in _read_json(path):
            _check_module(path, module)

    for path in sorted(folder.rglob("*.index.json")):
        for weight_file in _read_json(path).get("weight_map", {}).values():
            _check_inside(path, weight_file)

    for path in sorted(folder.rglob("tokenizer_config.json")):
        _check_numbers(path, _read_json(path), _TOKENIZER_LIMITS)

    for path in sorted(folder.rglob("config.json")):
        config = _read_json(path)
        _check_numbers(path, config, _MODEL_LIMITS)
        attention = config.get("attn_implementation")
        # A name with a slash is a kernel, compiled code that transformers downloads from the hub.
        if attention is not None and "/" in json.dumps(attention):
            raise BrokenModelError(
                f"{path}: attn_implementation must be an implementation of transformers, got "
                f"{attention!r}. Remove the key: code from the hub isn't run."
            )


def check_plain_files(folder: Path) -> None:
    """Raise `BrokenModelError` unless the folder holds nothing but files and folders.

    A link could lead out of the folder, to files that nobody compared.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BrokenModelError(
                f"model folder {folder} must hold plain files only, got "
                f"{path.relative_to(folder)}, a link or a device. Replace it by a file."
            )


def _check_regular_files(folder: Path) -> None:
    """Raise `BrokenModelError` if the folder holds what reading would wait for, or never end.

    Links are taken: the hub's cache consists of them.
    """
    for path in folder.rglob("*"):
        if not (path.is_file() or path.is_dir()):
            raise BrokenModelError(
                f"model folder {folder} must hold files only, got {path.relative_to(folder)}, a "
                "pipe, a device or a link to nothing. Remove it, or choose another model."
            )


def _check_numbers(path: Path, config: Any, limits: Mapping[str, int]) -> None:
    """Raise `BrokenModelError` for a size in a JSON file that no model has.

    A model of a million layers would fill the memory before anything is compared with its weights.
    """
    for name, limit in limits.items():
        value = config.get(name)
        # Some models have another width in each layer.
        values = value if isinstance(value, list) else [value]
        for number in values:
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if number is not None and not (is_number and 1 <= number <= limit):
                raise BrokenModelError(
                    f"{path}: {name} must be a number from 1 to {limit:,}, got {number!r:.40}. "
                    "Download the model again, or choose another one."
                )


def _check_module(path: Path, module: Any) -> None:
    """Raise `BrokenModelError` unless a module is of a known class and in a subfolder."""
    class_name = module.get("type") if isinstance(module, dict) else None
    if not isinstance(class_name, str) or not _KNOWN_MODULE.fullmatch(class_name):
        raise BrokenModelError(
            f"{path}: type must be a module of sentence-transformers, got {class_name!r}. "
            "Choose another model: code that comes with a model isn't run."
        )
    _check_inside(path, module.get("path", ""))


def _check_inside(path: Path, name: Any) -> None:
    """Raise `BrokenModelError` unless a JSON file names a path below its own folder."""
    is_inside = isinstance(name, str) and not (
        PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    )
    if not is_inside:
        raise BrokenModelError(
            f"{path} must name files in its own folder, got {name!r}. Choose another model."
        )


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file, of the type that its first character promises."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenModelError(
            f"{path} must be JSON, got {error}. Download the model again."
        ) from error

    expected = list if path.name == "modules.json" else dict
    if not isinstance(content, expected):
        raise BrokenModelError(
            f"{path} must hold a JSON {'array' if expected is list else 'object'}, got "
            f"{type(content).__name__}. Download the model again."
        )
    return content

"""Fingerprints of what a cached result depends on: equal fingerprints mean equal inputs."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def value_fingerprint(value: Any) -> str:
    """Return the SHA-256 (hex) of a value as JSON; objects that aren't JSON count as text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_fingerprint(file: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_fingerprint(files: Iterable[Path], folder: Path) -> str:
    """Return the SHA-256 (hex) of files: their paths below `folder`, and their contents."""
    digest = hashlib.sha256()
    for file in sorted(files):
        content = bytes.fromhex(file_fingerprint(file))
        digest.update(file.relative_to(folder).as_posix().encode() + content)
    return digest.hexdigest()


def model_fingerprint(folder: Path, *, contents: bool = True) -> str:
    """Return the SHA-256 (hex) of a model's configuration and weights.

    Args:
        folder: The model's folder.
        contents: Whether the weights count by their values, or only by their names and shapes.
    """
    settings = [*folder.rglob("*.json"), *folder.rglob("*.txt")]
    weights = sorted(folder.rglob("*.safetensors"))
    if contents:
        return files_fingerprint([*settings, *weights], folder)

    headers = [_safetensors_header(file).decode("latin-1") for file in weights]
    return value_fingerprint([files_fingerprint(settings, folder), headers])


def weights_fingerprint(folder: Path) -> str:
    """Return the SHA-256 (hex) of a model's weights: their names, types, shapes and values.

    Neither the order of the tensors in their files nor what else the files say counts, so that
    another version of a library gives the same fingerprint. The shards of one folder are one file.
    """
    tensors: dict[str, list[Any]] = {}
    for file in folder.rglob("*.safetensors"):
        module = file.parent.relative_to(folder).as_posix()
        header = _safetensors_header(file)
        # The values follow the header and the eight bytes of its length.
        start = 8 + len(header)
        with file.open("rb") as stream:
            for name, tensor in json.loads(header).items():
                if name == "__metadata__":
                    continue
                first, last = tensor["data_offsets"]
                stream.seek(start + first)
                values = hashlib.sha256(stream.read(last - first)).hexdigest()
                tensors[f"{module}/{name}"] = [tensor["dtype"], tensor["shape"], values]
    return value_fingerprint(tensors)


def _safetensors_header(file: Path) -> bytes:
    """Return the header of a safetensors file: the names, types and shapes of its tensors."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return stream.read(length)

"""Fingerprints of what a result that was found on this machine depends on, as plain values."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

_GIB = 2.0**30
_PACKAGES = ("tunetrail", "torch", "transformers")


def machine_fingerprint() -> list[Any]:
    """Return what a measurement on this machine depends on.

    That is the device, its threads and its memory in GiB, and the versions of what computes.
    """
    # A new version may be faster, or take other memory.
    versions = map(importlib.metadata.version, _PACKAGES)
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return ["cuda", gpu.name, round(gpu.total_memory / _GIB), *versions]

    capability = torch.backends.cpu.get_cpu_capability()
    memory = round(psutil.virtual_memory().total / _GIB)
    return ["cpu", capability, torch.get_num_threads(), memory, *versions]


def model_fingerprint(folder: Path, *, contents: bool) -> str:
    """Return SHA-256 (hex) of a model's configuration and weights.

    Args:
        folder: The model's folder.
        contents: Whether the weights count by their values, or by their names and shapes only.
    """
    digest = hashlib.sha256()
    for file in sorted([*folder.rglob("*.json"), *folder.rglob("*.safetensors")]):
        digest.update(f"{file.relative_to(folder)}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            if file.suffix == ".safetensors" and not contents:
                # The file begins with the length of its header of names and shapes.
                header_length = int.from_bytes(stream.read(8), "little")
                digest.update(stream.read(header_length))
            else:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def records_fingerprint(records: Sequence[Mapping[str, Any]]) -> str:
    """Return SHA-256 (hex) of records in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def length_fingerprint(lengths: Sequence[int]) -> list[int]:
    """Return the longest and the median length, as exponents of the next powers of two.

    So similar rows have the same fingerprint.
    """
    ordered = sorted(lengths)
    longest, median = ordered[-1], ordered[len(ordered) // 2]
    return [int(longest - 1).bit_length(), int(median - 1).bit_length()]

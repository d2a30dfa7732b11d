"""What a result that was found on this machine depends on, as plain values. Finds nothing."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

_GIB = 2.0**30


def machine_fingerprint() -> list[Any]:
    """Return what a measurement on this machine depends on: device, threads, memory in GiB, and what computes."""
    versions = [importlib.metadata.version(name) for name in ("tunetrail", "torch", "transformers")]
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return ["cuda", properties.name, round(properties.total_memory / _GIB), *versions]
    memory = round(psutil.virtual_memory().total / _GIB)
    return [
        "cpu",
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        memory,
        *versions,
    ]


def model_fingerprint(folder: Path, *, contents: bool) -> str:
    """Return SHA-256 (hex) of a model's configuration and of its weights: of their values, or of their shapes only."""
    digest = hashlib.sha256()
    for file in sorted([*folder.rglob("*.json"), *folder.rglob("*.safetensors")]):
        digest.update(f"{file.relative_to(folder)}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            if file.suffix == ".safetensors" and not contents:
                digest.update(stream.read(int.from_bytes(stream.read(8), "little")))
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
    """Return the longest and the median length as exponents of the powers of two above: alike for like rows."""
    ordered = sorted(lengths)
    return [int(length - 1).bit_length() for length in (ordered[-1], ordered[len(ordered) // 2])]

"""Exporting: a registered version in the form of another program, checked before it is there."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.deployment.digests import digest_folder, write_listing
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.errors import UserError, did_you_mean, not_writable
from tunetrail.learning.exporting.packages import check_packages
from tunetrail.paths import give_usual_modes
from tunetrail.pipeline.export_formats import FORMATS, Original
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.root_sources import RegisteredRoot
from tunetrail.scratch import scratch_folder, sweep

DESCRIPTION = "export.json"
"""The file of an exported folder that says which version it is; `SHA256SUMS` is next to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedVersion:
    """An export.

    Attributes:
        version: The version, such as `embedding/3`.
        kind: What it was exported to.
        folder: Where it is.
        agreement: How well it agrees with the original, in words.
    """

    version: str
    kind: str
    folder: Path
    agreement: str

    def to_dict(self) -> dict[str, str]:
        """Return plain values."""
        return {
            "version": self.version,
            "to": self.kind,
            "folder": str(self.folder),
            "agreement": self.agreement,
        }


def export_version(
    name: str,
    kind: str,
    output: Path,
    *,
    version: str | None = None,
    precision: str = "f32",
    overwrite: bool = False,
    tracking_uri: str,
    database_url: str | None = None,
) -> ExportedVersion:
    """Write a registered version in another form, and compare it with the original's outputs.

    The folder appears in one step, once it is complete and checked.

    Args:
        name: Name of the registered model.
        kind: `onnx`, `openvino` or `merged` for an embedding model; `gguf`, `merged` or `adapter`
            for a language model.
        output: The folder to make.
        version: Number of the version; None for root.
        precision: How a GGUF file stores weights: `f32` or `f16`.
        overwrite: Whether an earlier export in the folder is replaced.
        tracking_uri: The MLflow store.
        database_url: The database whose ledger tells the digests of files; None if only the tags of
            the versions tell them.

    Raises:
        UserError: There is no such version, it can't be exported to this kind, or the folder is in
            use.
        DeploymentError: The files aren't those that were registered, or the export differs from the
            original.
    """
    check_packages(kind)
    root = RegisteredRoot(name, tracking_uri, database_url)
    export = _format_of(root.family, kind)
    _check_output(output, overwrite)
    chosen = root.root_version() if version is None else _find(root, version)

    # A killed export has left its folder; it is next to the output, since a rename can't cross file
    # systems.
    sweep(output.parent)
    with (
        root.registry.files(chosen) as files,
        scratch_folder(".writing-", output.parent) as staging,
    ):
        original = Original(
            flavor=root.family.flavor,
            model=root.family.flavor.load(str(files)),
            files=files,
            version=chosen,
            precision=precision,
        )
        folder = staging / "export"
        folder.mkdir()
        agreement = export(original, folder)
        exported = ExportedVersion(
            version=f"{name}/{chosen.version}",
            kind=kind,
            folder=output,
            agreement=str(agreement),
        )
        _describe(exported, chosen, folder)
        _move(folder, output, staging)
    return exported


def _format_of(family: ModelFamily, kind: str) -> Callable[[Original, Path], Any]:
    formats = FORMATS.get(type(family.flavor), {})
    if kind not in formats:
        known = ", ".join(formats) or "none"
        raise UserError(
            f"--to must be one of {known} for {family.name}, got {kind!r}."
            f"{did_you_mean(kind, formats)}"
        )
    return formats[kind]


def _find(root: RegisteredRoot, version: str) -> ModelVersion:
    stored = root.registry.alias.find(version) if version.isascii() and version.isdigit() else None
    if stored is None:
        raise UserError(
            f"--version must be a version of {root.name}, got {version!r}. "
            f"`tunetrail root log {root.name}` lists them."
        )
    return ModelVersion(
        name=root.name,
        version=str(stored.version),
        base_model=stored.tags.get("tunetrail.base_model"),
    )


def _check_output(output: Path, overwrite: bool) -> None:
    """Raise `UserError` unless the folder can be made, or replaced if that was asked for."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(
            f"--output must be a folder, got {str(output)!r}, which is none. Name another one."
        )

    is_used = output.is_dir() and any(output.iterdir())
    if is_used and not (output / DESCRIPTION).is_file():
        raise UserError(
            f"--output must be a new folder, got {str(output)!r}, which has other files in it. "
            "Name another one."
        )
    if is_used and not overwrite:
        raise UserError(
            f"--output must be a new folder, got {str(output)!r} with an earlier export. "
            "Name another one, or add --force to replace it."
        )

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable("--output", output, error) from error


def _describe(exported: ExportedVersion, version: ModelVersion, folder: Path) -> None:
    """Write what was exported, and the digests of the files, into the folder."""
    description = {
        "version": exported.version,
        "to": exported.kind,
        "base_model": version.base_model,
        "agreement": exported.agreement,
    }
    text = json.dumps(description, indent=2) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    give_usual_modes(folder)
    write_listing(digest_folder(folder), folder)


def _move(folder: Path, output: Path, staging: Path) -> None:
    """Let a folder take the place of the output, whose earlier content goes with the staging."""
    if output.is_dir():
        os.replace(output, staging / "replaced")
    os.replace(folder, output)

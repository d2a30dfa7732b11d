"""Packages that tests install: a module and the metadata that pip would write, on sys.path."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

Install = Callable[..., Path]
"""Takes the name of a package, the text of its module and its entry points by group; returns its folder."""


def write_package(
    folder: Path, name: str, module: str, entry_points: Mapping[str, Mapping[str, str]]
) -> None:
    """Write the package `name`, whose module has the same name with underscores."""
    module_name = name.replace("-", "_")
    metadata = folder / f"{module_name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")

    lines = []
    for group, values in entry_points.items():
        lines += [
            f"[{group}]",
            *(f"{key} = {module_name}:{value}" for key, value in values.items()),
        ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (folder / f"{module_name}.py").write_text(module)


@pytest.fixture
def install(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Install]:
    """Install packages for one test, each into a folder of its own."""
    names = []

    def install(
        module: str, *, name: str = "acme-models", **entry_points: Mapping[str, str]
    ) -> Path:
        folder = tmp_path_factory.mktemp("installed")
        groups = {f"tunetrail.{group}": values for group, values in entry_points.items()}
        write_package(folder, name, module, groups)
        monkeypatch.syspath_prepend(str(folder))
        names.append(name.replace("-", "_"))
        return folder

    yield install

    for module_name in names:
        sys.modules.pop(module_name, None)

"""The architecture page: its layers are those that are checked, and what it names is in the code."""

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "architecture.md"
SOURCES = REPOSITORY / "src" / "tunetrail"
LINK = re.compile(r"\[`([^`]+)`\]\(([^)#]+)\)")


def section(title: str) -> str:
    """Return the text of a section of the page."""
    _, _, rest = PAGE.read_text().partition(f"\n## {title}\n")
    assert rest, title
    return rest.partition("\n## ")[0]


def block(title: str) -> str:
    """Return the only block of text in a section."""
    (text,) = re.findall(r"```text\n(.*?)```", section(title), flags=re.DOTALL)
    return str(text)


def rows() -> dict[str, str]:
    """Return what to open for each change."""
    lines = section("Where do I change …?").strip().splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {change: files for change, files in cells}


def modules(target: Path) -> list[Path]:
    """Return the modules of a folder, or the file itself."""
    return sorted(target.rglob("*.py")) if target.is_dir() else [target]


def test_the_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    (checked,) = [contract for contract in contracts["contracts"] if contract["id"] == "layers"]
    layers = [re.findall(r"\w+", layer) for layer in checked["layers"]]

    shown = [re.findall(r"\w+", layer) for layer in block("Layers").split(">")]

    # What starts the command line is no layer that a reader needs.
    assert shown == [layer for layer in layers if layer != ["__main__"]]


def test_each_room_has_its_line() -> None:
    listed = set(re.findall(r"\w+(?:\.py|/)", block("The rooms")))
    files = {path.name for path in SOURCES.glob("[a-z]*.py")}
    # Of the rooms within rooms, those of the two largest.
    patterns = ("*/__init__.py", "data/*/__init__.py", "learning/*/__init__.py")
    rooms = {f"{path.parent.name}/" for pattern in patterns for path in SOURCES.glob(pattern)}

    assert files | rooms <= listed


@pytest.mark.parametrize("change", rows())
def test_what_a_change_opens_is_there(change: str) -> None:
    files = rows()[change]
    links = LINK.findall(files)

    opened = [(PAGE.parent / target).resolve() for _, target in links]
    assert opened and [path for path in opened if not path.exists()] == []
    for (name, _), path in zip(links, opened, strict=True):
        assert str(path).endswith(name.rstrip("/")), name

    # Other names are those of a class or table in these modules, or of a module next to them.
    code = [module for path in opened for module in modules(path)]
    text = "\n".join(module.read_text() for module in code if module.suffix == ".py")
    for name in re.findall(r"`([^`]+)`", LINK.sub("", files)):
        if name.endswith(".py"):
            neighbours = [path if path.is_dir() else path.parent for path in opened]
            assert any((folder / name).exists() for folder in neighbours), name
        elif re.fullmatch(r"_?[A-Z]\w+", name):
            assert re.search(rf"\b{name}\b", text), name
        else:
            assert name.startswith(("make ", "tunetrail ", "-")), name


def test_the_files_to_read_first_are_there() -> None:
    targets = [target for _, target in LINK.findall(section("Five files to read first"))]
    assert len(targets) == 5
    assert [target for target in targets if not (PAGE.parent / target).is_file()] == []

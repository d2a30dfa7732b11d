"""The documentation's site: it builds without a warning, holds every page, and asks no other host for anything."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "experiments/README.md")


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documentation") / "site"
    built = build(REPOSITORY, folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture
def documentation(tmp_path: Path) -> Path:
    """A copy of what the site is built from."""
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    shutil.copy(REPOSITORY / "mkdocs.yml", tmp_path)
    for document in DOCUMENTS:
        (tmp_path / document).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / document, tmp_path / document)
    (tmp_path / "src").symlink_to(REPOSITORY / "src")
    return tmp_path


def test_site_holds_every_page(site: Path) -> None:
    pages = {page.stem for page in site.glob("*.html")}
    assert {document.stem for document in (REPOSITORY / "docs").glob("*.md")} <= pages
    assert {"index", "contributing", "changelog", "security", "lab-log"} <= pages
    assert not list(site.glob("*.py"))


def test_site_requests_nothing_from_other_hosts(site: Path) -> None:
    requests = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//")
    imports = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//")

    for page in site.glob("*.html"):
        assert not requests.search(page.read_text()), page.name
    for style in site.rglob("*.css"):
        assert not imports.search(style.read_text()), style.name


def test_links_between_documents_follow_to_their_pages(site: Path) -> None:
    assert 'href="training.html#speed"' in (site / "index.html").read_text()
    assert 'href="lab-log.html"' in (site / "evaluation.html").read_text()
    # A module isn't part of the site.
    architecture = (site / "architecture.html").read_text()
    assert "deployment/gate.py" in architecture and 'href="../src' not in architecture


def test_reference_holds_the_public_names(site: Path) -> None:
    import tunetrail

    reference = (site / "api.html").read_text()
    for name in set(tunetrail.__all__) - {"__version__"}:
        assert f'id="tunetrail.{name}"' in reference, name
    assert "Trains the models of a session" in reference


def test_site_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text())
    assert any("learning_rate" in entry["text"] for entry in index["docs"])


@pytest.mark.parametrize(
    ("document", "text", "problem"),
    [
        ("docs/data.md", "[gone](gone.md)", "gone.md"),
        ("docs/data.md", "[gone](training.md#gone)", "training.md#gone"),
        ("docs/new.md", "# A page that nobody finds", "new.md"),
    ],
)
def test_faults_end_the_build(
    documentation: Path, tmp_path: Path, document: str, text: str, problem: str
) -> None:
    with (documentation / document).open("a") as file:
        file.write(f"\n{text}\n")

    built = build(documentation, tmp_path / "site")

    assert built.returncode == 1
    assert problem in built.stderr

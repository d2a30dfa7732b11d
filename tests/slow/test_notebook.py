"""The notebook of docs/, executed as it is in a folder of its own."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs/first_root.ipynb"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def shown(cell: Any) -> str:
    """Return what a cell shows, as text and as HTML."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append(output.get("text", ""))
        texts += output.get("data", {}).values()
    return "\n".join(map(str, texts))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    folder = tmp_path_factory.mktemp("notebook")
    metadata = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=1000, kernel_name="python3", resources=metadata).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_leads_to_a_root_that_answers(executed: list[Any]) -> None:
    trained = next(cell for cell in executed if "tunetrail.train(" in cell.source)
    assert "<th>decision</th>" in shown(trained) and "<td>1 = root</td>" in shown(trained)
    assert "def " in shown(executed[-1])


def test_notebook_shows_our_lines_and_no_library_s(executed: list[Any]) -> None:
    everything = "\n".join(map(shown, executed))
    assert "INFO    embedding:" in everything
    for stranger in ("INFO mlflow", "INFO alembic", "Downloading artifacts", "View run"):
        assert stranger not in everything
    # A notebook shows stderr in the colour of errors.
    streams = [output for cell in executed for output in cell.get("outputs", [])]
    assert [output.text for output in streams if output.get("name") == "stderr"] == []


def test_notebook_keeps_outputs_for_those_who_only_read_it() -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert "<td>1 = root</td>" in "\n".join(map(shown, notebook.cells))

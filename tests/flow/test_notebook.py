"""The notebook of docs/, executed in a Jupyter kernel: as it is, except for a tiny model and few rows."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs/first_root.ipynb"

pytestmark = pytest.mark.processes


def shown(cell: Any) -> str:
    """Return what a cell shows, as text and as HTML."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append(output.get("text", ""))
        texts += output.get("data", {}).values()
    return "\n".join(map(str, texts))


@pytest.fixture
def executed(
    workplace: Path, tiny_embedding_model: str, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """The cells of code, with what they show."""
    training = {"max_steps": 3, "warmup_steps": 0, "num_epochs": 1}
    settings = {
        "embedding": {"model": tiny_embedding_model, "training": training},
        "cross_validation": "off",
        "gate": "point",
        "gate.minimum_improvement": -10,
        "evaluation": {"bootstrap_samples": 100},
    }
    # MLflow leaves these behind in the process of earlier tests.
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "TUNETRAIL_VERBOSE"):
        monkeypatch.delenv(variable, raising=False)
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        small = cell.source.replace("limit=800", "limit=60")
        small = small.replace('experiments="quick"', f"**{settings!r}")
        cell.source = small.replace(
            'output_dir="look"',
            f'output_dir="look", **{{"embedding.model": {tiny_embedding_model!r}}}',
        )

    folder = {"metadata": {"path": str(workplace)}}
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources=folder).execute()
    return cells


def test_notebook_leads_to_a_root_that_answers(executed: list[Any]) -> None:
    trained = next(cell for cell in executed if "tunetrail.train(" in cell.source)
    assert "<th>decision</th>" in shown(trained) and "<td>1 = root</td>" in shown(trained)
    assert "def " in shown(executed[-1])

    everything = "\n".join(map(shown, executed))
    assert "INFO    embedding: training from base" in everything
    for stranger in ("INFO mlflow", "INFO alembic", "Downloading artifacts", "View run"):
        assert stranger not in everything
    # A notebook shows stderr in the colour of errors: our lines aren't there.
    streams = [output for cell in executed for output in cell.get("outputs", [])]
    errors = [output.text for output in streams if output.get("name") == "stderr"]
    assert "INFO" not in "".join(errors)

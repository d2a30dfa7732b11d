"""The layers: import-linter passes on the real tree and names the contract that a planted import breaks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_WAY = "Imports go one way"
TENSORS = "Tensors stay in learning"
MLFLOW = "MLflow stays in stores and deployment"
HYDRA = "Hydra stays in cli and sweeps"
LEARNING = "Learning is built from the bottom up"
FAMILIES = "Families don't know one another"


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the `src` and the configuration in `root`, never on the installed package."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--config", str(root / "pyproject.toml")],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def broken_contracts(report: str) -> list[str]:
    return re.findall(r"^(.+) BROKEN", report, flags=re.MULTILINE)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the source and of the project's configuration, with a node to import even before there is one."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    shutil.copytree(
        REPOSITORY / "src",
        tmp_path / "src",
        ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
    )
    (tmp_path / "src/tunetrail/node.py").touch()
    return tmp_path


def test_layers_hold_in_the_real_tree() -> None:
    result = lint_imports(REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("data/planted.py", "import torch", TENSORS),
        ("evaluation/__init__.py", "from torch.nn import functional", TENSORS),
        ("deployment/planted.py", "def load():\n    import sentence_transformers", TENSORS),
        ("node.py", "import pytorch_lightning", TENSORS),
        ("learning/training/planted.py", "import mlflow", MLFLOW),
        ("sweeps/planted.py", "from mlflow import MlflowClient", MLFLOW),
        ("config/planted.py", "from omegaconf import DictConfig", HYDRA),
        ("node.py", "import hydra", HYDRA),
        ("stores/planted.py", "from tunetrail import node", ONE_WAY),
        ("stores/planted.py", "from tunetrail import ModelTrainingNode", ONE_WAY),
        ("data/planted.py", "import tunetrail.learning", ONE_WAY),
        ("learning/training/planted.py", "from tunetrail import deployment", ONE_WAY),
        ("reporting/planted.py", "from tunetrail import data", ONE_WAY),
        ("samples/planted.py", "from tunetrail.config import Settings", ONE_WAY),
        ("errors.py", "from tunetrail import samples", ONE_WAY),
        ("sweeps/planted.py", "from tunetrail import cli", ONE_WAY),
        ("utils.py", "", ONE_WAY),
        ("learning/planted.py", "", LEARNING),
        ("learning/training/planted.py", "from tunetrail.learning import recovery", LEARNING),
        ("learning/recovery/planted.py", "from tunetrail.learning import fitting", LEARNING),
        ("learning/automatic/planted.py", "from tunetrail.learning import recovery", LEARNING),
        ("learning/preflight/planted.py", "import tunetrail.learning.embedding", LEARNING),
        ("learning/training_plan.py", "from tunetrail.learning import fitting", LEARNING),
        ("learning/tokens/planted.py", "from tunetrail.learning import training", LEARNING),
        ("learning/cpu_layers/planted.py", "from tunetrail.learning import padding_free", LEARNING),
        ("learning/embedding/planted.py", "import tunetrail.learning.language_model", FAMILIES),
    ],
)
def test_layers_report_a_planted_violation(
    tree: Path, module: str, planted: str, contract: str
) -> None:
    (tree / "src/tunetrail/cli.py").touch()
    with (tree / "src/tunetrail" / module).open("a") as file:
        file.write(f"\n{planted}\n")
    result = lint_imports(tree)
    assert result.returncode != 0, result.stdout
    assert broken_contracts(result.stdout) == [contract], result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("learning/training/planted.py", "import peft, pytorch_lightning, torch, transformers"),
        ("learning/__init__.py", "import torch"),
        ("stores/planted.py", "import mlflow"),
        ("deployment/planted.py", "from tunetrail import learning, stores\nimport mlflow"),
        ("sweeps/planted.py", "import hydra, omegaconf\nfrom tunetrail import node"),
        ("data/planted.py", "from tunetrail import config, errors, reporting\nimport pandas"),
        ("evaluation/planted.py", "from tunetrail import reporting, samples\nimport seaborn"),
    ],
)
def test_layers_allow_each_room_its_own_libraries(tree: Path, module: str, allowed: str) -> None:
    with (tree / "src/tunetrail" / module).open("a") as file:
        file.write(f"\n{allowed}\n")
    result = lint_imports(tree)
    assert result.returncode == 0, result.stdout + result.stderr

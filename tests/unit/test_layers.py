"""The layers: import-linter passes on the real tree and names the contract that each planted import breaks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_WAY = "Imports go one way"
ROOMS = "Tensors and scores don't know how rows are prepared"
STORES = "Stores know data's conventions only"
TENSORS = "Tensors stay in learning"
MLFLOW = "MLflow stays in stores and deployment"
HYDRA = "Hydra stays in cli and sweeps"
STORE_ROOMS = "The database doesn't know MLflow, nor MLflow's store the database"
LEARNING = "Learning is built from the bottom up"
FAMILIES = "Families don't know one another"

VIOLATIONS = [
    ("data/planted.py", "import torch", "torch", TENSORS),
    ("evaluation/__init__.py", "from torch.nn import functional", "torch", TENSORS),
    (
        "deployment/planted.py",
        "def load():\n    import sentence_transformers",
        "sentence_transformers",
        TENSORS,
    ),
    ("node/model_training_node.py", "import pytorch_lightning", "pytorch_lightning", TENSORS),
    ("learning/training/planted.py", "import mlflow", "mlflow", MLFLOW),
    ("sweeps/planted.py", "from mlflow import MlflowClient", "mlflow", MLFLOW),
    ("config/planted.py", "from omegaconf import DictConfig", "omegaconf", HYDRA),
    ("node/model_training_node.py", "import hydra", "hydra", HYDRA),
    ("stores/planted.py", "from tunetrail import node", "tunetrail.node", ONE_WAY),
    ("stores/root.py", "from tunetrail import ModelTrainingNode", "tunetrail", ONE_WAY),
    ("data/planted.py", "import tunetrail.learning", "tunetrail.learning", ONE_WAY),
    ("data/stored.py", "import tunetrail.stores", "tunetrail.stores", ONE_WAY),
    ("evaluation/rows.py", "from tunetrail.data import rows", "tunetrail.data.rows", ROOMS),
    ("stores/rows.py", "from tunetrail.data import rows", "tunetrail.data.rows", STORES),
    (
        "stores/database/planted.py",
        "from tunetrail.stores import tracking",
        "tunetrail.stores.tracking",
        STORE_ROOMS,
    ),
    (
        "learning/training/planted.py",
        "from tunetrail import deployment",
        "tunetrail.deployment",
        ONE_WAY,
    ),
    ("reporting/planted.py", "from tunetrail import data", "tunetrail.data", ONE_WAY),
    (
        "samples/planted.py",
        "from tunetrail.config import Settings",
        "tunetrail.config",
        ONE_WAY,
    ),
    ("errors.py", "from tunetrail import samples", "tunetrail.samples", ONE_WAY),
    ("sweeps/planted.py", "from tunetrail import cli", "tunetrail.cli", ONE_WAY),
    *(
        (
            module,
            f"from tunetrail.learning import {imported}",
            f"tunetrail.learning.{imported}",
            LEARNING,
        )
        for module, imported in (
            ("learning/training/planted.py", "recovery"),
            ("learning/recovery/planted.py", "fitting"),
            ("learning/automatic/planted.py", "recovery"),
            ("learning/preflight/planted.py", "embedding"),
            ("learning/training_plan.py", "fitting"),
            ("learning/tokens/planted.py", "training"),
            ("learning/cpu_layers/planted.py", "padding_free"),
        )
    ),
    (
        "learning/embedding/planted.py",
        "import tunetrail.learning.language_model",
        "tunetrail.learning.language_model",
        FAMILIES,
    ),
]
ALLOWED = [
    ("learning/training/planted.py", "import peft, pytorch_lightning, torch, transformers"),
    ("learning/__init__.py", "import torch"),
    ("stores/tracking/planted.py", "import mlflow"),
    ("deployment/planted.py", "from tunetrail import learning, stores\nimport mlflow"),
    ("sweeps/planted.py", "import hydra, omegaconf\nfrom tunetrail import node"),
    ("data/planted.py", "from tunetrail import config, errors, reporting\nimport pandas"),
    ("evaluation/planted.py", "from tunetrail import reporting, samples\nimport seaborn"),
]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the source and configuration in `root`, never on the installed package."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--config", str(root / "pyproject.toml")],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def copy_tree(root: Path) -> Path:
    """Copy the source and the project's configuration to `root`, and return the package's folder."""
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "src", root / "src", ignore=ignored)
    return root / "src/tunetrail"


def plant(package: Path, module: str, statement: str) -> None:
    with (package / module).open("a") as file:
        file.write(f"\n{statement}\n")


def broken_imports(report: str) -> dict[str, set[tuple[str, str]]]:
    """Return the importing and the imported module of each broken import, by contract."""
    _, _, broken = report.partition("Broken contracts")
    sections = re.split(r"^(\S.*)\n-+$", broken, flags=re.MULTILINE)
    arrow = re.compile(r"(\S+) -> (\S+) \(")
    contracts = zip(sections[1::2], sections[2::2], strict=True)
    return {contract: set(arrow.findall(section)) for contract, section in contracts}


def module_name(path: str) -> str:
    return "tunetrail." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.fixture(scope="module")
def report_of_violations(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("violations")
    package = copy_tree(root)
    for module, statement, _, _ in VIOLATIONS:
        plant(package, module, statement)

    result = lint_imports(root)

    assert result.returncode != 0
    return result.stdout


def test_layers_hold_in_the_real_tree() -> None:
    result = lint_imports(REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(("module", "statement", "imported", "contract"), VIOLATIONS)
def test_layers_report_a_planted_violation(
    report_of_violations: str, module: str, statement: str, imported: str, contract: str
) -> None:
    violation = (module_name(module), imported)
    broken = broken_imports(report_of_violations)
    assert [name for name in broken if violation in broken[name]] == [contract]


@pytest.mark.parametrize(
    ("module", "contract"), [("utils.py", ONE_WAY), ("learning/planted.py", LEARNING)]
)
def test_layers_ask_for_the_place_of_a_new_module(
    tmp_path: Path, module: str, contract: str
) -> None:
    plant(copy_tree(tmp_path), module, "")
    result = lint_imports(tmp_path)
    assert result.returncode != 0
    assert re.findall(r"^(.+) BROKEN", result.stdout, flags=re.MULTILINE) == [contract]


def test_layers_allow_each_room_its_own_libraries(tmp_path: Path) -> None:
    package = copy_tree(tmp_path)
    for module, statement in ALLOWED:
        plant(package, module, statement)

    result = lint_imports(tmp_path)

    assert result.returncode == 0, result.stdout + result.stderr

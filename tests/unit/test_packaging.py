"""The package as people get it: what is in the wheel, what make offers, and which versions are pinned."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).resolve().parents[2]
SHOW_HOME = (
    "import tunetrail, tunetrail.paths as paths; "
    "print(tunetrail.__file__, paths.conf_dir(), paths.experiments_dir())"
)


def run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def files_of(folder: Path, *, without: tuple[str, ...] = ()) -> set[str]:
    """Return the paths below `folder`, relative to it, that a person put there."""
    paths = (
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {path.relative_to(folder).as_posix() for path in paths if path.name not in without}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, so that a build leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("packaging") / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, copy)
    for name in ("src", "conf", "experiments"):
        shutil.copytree(
            REPOSITORY / name,
            copy / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """The wheel, built from the sdist as a package index would have it, without any network."""
    result = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."], source)
    assert result.returncode == 0, result.stdout + result.stderr
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def packed(wheel: Path) -> set[str]:
    """The paths in the wheel, relative to the package."""
    with zipfile.ZipFile(wheel) as archive:
        prefix = "tunetrail/"
        return {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)}


def test_wheel_holds_every_file_of_the_source(packed: set[str]) -> None:
    source_files = files_of(REPOSITORY / "src/tunetrail")
    assert "py.typed" in source_files
    assert source_files - packed == set()


@pytest.mark.parametrize("folder", ["conf", "experiments"])
def test_wheel_holds_every_config_file(packed: set[str], folder: str) -> None:
    expected = {
        f"{folder}/{path}"
        for path in files_of(REPOSITORY / folder, without=("README.md", "__init__.py"))
    }
    assert {path for path in packed if path.startswith(f"{folder}/")} == expected


def test_wheel_holds_a_config_folder_that_is_added_later(source: Path, tmp_path: Path) -> None:
    grown = Path(
        shutil.copytree(source, tmp_path / "grown", ignore=shutil.ignore_patterns("build", "dist"))
    )
    for path in (
        "conf/room/deeper/later.yaml",
        "src/tunetrail/stores/database/migrations/versions/9999_later.py",
    ):
        (grown / path).parent.mkdir(parents=True, exist_ok=True)
        (grown / path).touch()
    result = run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "."], grown)

    assert result.returncode == 0, result.stdout + result.stderr

    with zipfile.ZipFile(next((grown / "dist").glob("*.whl"))) as archive:
        names = archive.namelist()
    assert "tunetrail/conf/room/deeper/later.yaml" in names
    assert "tunetrail/stores/database/migrations/versions/9999_later.py" in names


def test_wheel_installed_elsewhere_finds_its_own_files(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    installed = run(pip, elsewhere)

    assert installed.returncode == 0, installed.stdout + installed.stderr

    shown = run([sys.executable, "-c", SHOW_HOME], elsewhere, PYTHONPATH=str(site))
    home = site / "tunetrail"
    assert shown.stdout.split() == [
        str(home / "__init__.py"),
        str(home / "conf"),
        str(home / "experiments"),
    ], shown.stderr
    assert (home / "conf/train.yaml").is_file()


def test_checkout_finds_its_own_files_from_elsewhere(tmp_path: Path) -> None:
    shown = run([sys.executable, "-c", SHOW_HOME], tmp_path, PYTHONPATH=str(REPOSITORY / "src"))
    package = REPOSITORY / "src/tunetrail/__init__.py"

    assert shown.stdout.split() == [
        str(package),
        str(REPOSITORY / "conf"),
        str(REPOSITORY / "experiments"),
    ], shown.stderr
    assert (REPOSITORY / "conf/train.yaml").is_file()


TYPED_SCRIPT = """\
from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig, TrainingResult

with DatabaseManager("sqlite:///tunetrail.db") as manager:
    node = ModelTrainingNode(NodeConfig(model_dir="models"), manager)
    result = node.execute({"session_id": "s1", "model_type": "embedding"})

reveal_type(result)
reveal_type(result.families["embedding"].comparison.lower)
print(result["results"]["steps"])
print(result.familys)
NodeConfig(model="minilm")
"""


@pytest.mark.parametrize("install", ["wheel", "editable"])
def test_mypy_follows_the_installed_package(
    install: str, source: Path, wheel: Path, tmp_path: Path
) -> None:
    environment, script = tmp_path / "env", tmp_path / "script.py"
    script.write_text(TYPED_SCRIPT)
    interpreter = environment / "bin/python"
    made = run([sys.executable, "-m", "venv", "--without-pip", str(environment)], tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install"]
    built = wheel if install == "wheel" else editable_wheel(source)
    installed = run([*pip, "--no-deps", "--no-index", str(built)], tmp_path)
    assert installed.returncode == 0, installed.stdout + installed.stderr

    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(interpreter)]
    checked = run([*mypy, "--cache-dir", str(tmp_path / "cache"), str(script)], tmp_path)

    *lines, _ = [line.partition(": ")[2] for line in checked.stdout.splitlines()]
    assert lines == [
        'note: Revealed type is "tunetrail.pipeline.training_result.TrainingResult"',
        'note: Revealed type is "float | None"',
        'error: "TrainingResult" has no attribute "familys"; maybe "families"?  [attr-defined]',
        'error: Unexpected keyword argument "model" for "NodeConfig"  [call-arg]',
    ], checked.stdout + checked.stderr


def editable_wheel(source: Path) -> Path:
    """Build what `pip install --editable` installs."""
    code = "from setuptools.build_meta import build_editable; print(build_editable('editable'))"
    built = run([sys.executable, "-c", code], source)
    assert built.returncode == 0, built.stdout + built.stderr
    return next((source / "editable").glob("*.whl"))


def test_import_of_tunetrail_takes_no_tenth_of_a_second(tmp_path: Path) -> None:
    code = (
        "import time; before = time.perf_counter(); import tunetrail; "
        "print(time.perf_counter() - before)"
    )
    seconds = []
    for _ in range(5):
        shown = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(REPOSITORY / "src"))
        seconds.append(float(shown.stdout))
    # The fastest: other processes make the others wait.
    assert min(seconds) < 0.1


def test_import_of_tunetrail_leaves_the_heavy_libraries_alone(tmp_path: Path) -> None:
    code = "import sys, tunetrail; print(sorted({'torch', 'mlflow', 'pandas', 'hydra'} & set(sys.modules)))"
    shown = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(REPOSITORY / "src"))
    assert shown.stdout.strip() == "[]", shown.stderr


def test_help_explains_every_public_name_in_words_that_users_know(tmp_path: Path) -> None:
    code = "import pydoc, tunetrail; print(pydoc.plain(pydoc.render_doc(tunetrail)))"
    shown = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(REPOSITORY / "src"))

    for name in ("class ModelTrainingNode", "class NodeConfig", "class TrainingResult", "train("):
        assert name in shown.stdout, shown.stderr
    for name in ("prepare(", "runs(", "compare(", "load_root(", "class DatabaseManager"):
        assert name in shown.stdout
    assert "specification" not in shown.stdout.lower()


def test_constraints_pin_every_dependency_within_its_bounds() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = [
        line
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[a-z0-9.]+", line)] == []

    pins = {
        name.lower().replace("_", "-"): version
        for name, version in (line.split("==") for line in lines)
    }
    asked = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, asked):
        pinned = pins.get(requirement.name.lower().replace("_", "-"), "")
        assert pinned and pinned in requirement.specifier, (
            f"{requirement} is pinned to {pinned or 'nothing'}"
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files that make reads, and no environment yet."""
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a terminal, even when the tests were started by make."""
    return run(
        ["make", *arguments], checkout, **({"MAKEFLAGS": "", "MAKELEVEL": "0"} | environment)
    )


def fake_python(checkout: Path, version: str) -> Path:
    """Write an interpreter that only makes environments of copies of itself; its pip fails when $PIP_FAILS is set."""
    python = checkout / f"python{version}"
    python.write_text(
        f"""#!/bin/sh
        case "$*" in
            --version) echo Python {version} ;;
            -c*) [ {version} != 3.10 ] ;;
            "-m venv --clear .venv") rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
            "-m pip install "*) touch .venv/leftover; [ -z "$PIP_FAILS" ] ;;
        esac
        """
    )
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_make_help_lists_every_target(checkout: Path, arguments: tuple[str, ...]) -> None:
    targets = re.findall(
        r"^([a-z][a-z-]*):", (checkout / "Makefile").read_text(), flags=re.MULTILINE
    )

    assert {
        "help",
        "install",
        "demo",
        "test",
        "test-all",
        "test-slow",
        "check",
        "ui",
        "clean",
    } <= set(targets)

    shown = make(checkout, *arguments)
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[1] for line in shown.stdout.splitlines()] == targets
    assert all(len(line.split()) > 3 for line in shown.stdout.splitlines()), (
        "a target has no description"
    )


def test_make_passes_the_constraints_to_every_pip(checkout: Path) -> None:
    shown = make(checkout, "--dry-run", "demo")
    pip_lines = [line for line in shown.stdout.splitlines() if "-m pip" in line]
    assert len(pip_lines) == 3, shown.stdout + shown.stderr
    assert all("-c constraints.txt" in line for line in pip_lines)
    assert shown.stdout.splitlines()[-1] == ".venv/bin/tunetrail demo"


def test_make_install_refuses_an_old_interpreter(checkout: Path) -> None:
    shown = make(checkout, "install", f"PYTHON={fake_python(checkout, '3.10')}")
    assert shown.returncode != 0
    assert "needs Python 3.11 or newer, got Python 3.10." in shown.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("test", "-n 2 --dist worksteal -m 'not slow and not processes'"),
        ("test-all", "-n 2 --dist worksteal"),
        ("test-slow", "-m slow"),
    ],
)
def test_make_test_reuses_a_finished_environment(
    checkout: Path, target: str, arguments: str
) -> None:
    python = f"PYTHON={fake_python(checkout, '3.11')}"
    assert make(checkout, "install", python).returncode == 0

    shown = make(checkout, "--dry-run", target, python)

    assert shown.stdout.splitlines() == [f".venv/bin/python -m pytest {arguments}"]


def test_make_install_begins_again_after_an_interruption(checkout: Path) -> None:
    python = f"PYTHON={fake_python(checkout, '3.11')}"
    assert make(checkout, "install", python, PIP_FAILS="yes").returncode != 0
    (checkout / ".venv/leftover").write_text("half a package")
    assert make(checkout, "install", python).returncode == 0
    assert (checkout / ".venv/leftover").read_text() == ""


def test_make_install_updates_a_finished_environment_in_place(checkout: Path) -> None:
    python = f"PYTHON={fake_python(checkout, '3.11')}"

    assert make(checkout, "install", python).returncode == 0

    (checkout / ".venv/leftover").write_text("a package")
    later = (checkout / ".venv/.installed").stat().st_mtime + 10
    os.utime(checkout / "constraints.txt", (later, later))
    updated = make(checkout, "install", python)
    assert "-m pip install" in updated.stdout, updated.stderr
    assert (checkout / ".venv/leftover").read_text() == "a package"

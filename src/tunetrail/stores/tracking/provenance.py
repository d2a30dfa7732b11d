"""Tags that tell what made a run: the versions of libraries, and the git commit."""

import importlib.metadata
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = (
    "tunetrail",
    "torch",
    "pytorch-lightning",
    "transformers",
    "sentence-transformers",
    "peft",
    "mlflow",
)


def version_tags() -> dict[str, str]:
    """Return the versions of tunetrail and its main libraries, by `version.NAME`."""
    return {f"version.{name}": importlib.metadata.version(name) for name in LIBRARIES}


def changed_versions(tags: Mapping[str, str]) -> list[str]:
    """Return a phrase for each library whose version differs from the one in a run's tags."""
    return [
        f"{name.removeprefix('version.')} {tags[name]} (now {version})"
        for name, version in version_tags().items()
        if name in tags and tags[name] != version
    ]


def git_tags() -> dict[str, str]:
    """Return the commit of the current folder and whether it is dirty; empty outside of git."""
    commit = run_git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "mlflow.source.git.commit": commit.strip(),
        "git.dirty": str(bool((run_git("status", "--porcelain") or "").strip())).lower(),
    }


def run_git(*arguments: str, folder: Path | None = None) -> str | None:
    """Return what git prints in a folder, by default the current one; None if it fails."""
    executable = shutil.which("git")
    if executable is None:
        return None

    command = [executable, *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
            cwd=folder,
        )
    # A git that hangs or can't be started costs a run its tags, never the training.
    except (OSError, subprocess.TimeoutExpired):
        return None

    return done.stdout if done.returncode == 0 else None

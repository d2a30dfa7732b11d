"""Tags that tell what made a run: the versions of libraries, and the git commit."""

import importlib.metadata
import shutil
import subprocess
from collections.abc import Mapping

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
    executable = shutil.which("git")
    if executable is None:
        return {}

    def git(*arguments: str) -> str | None:
        command = [executable, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - fixed words
        # A git that hangs or can't be started costs a run its tags, never the training.
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "mlflow.source.git.commit": commit,
        "git.dirty": str(bool(git("status", "--porcelain"))).lower(),
    }

"""What a run was made with: packages, machine and source code, kept so that it can be repeated."""

import functools
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunetrail.errors import TrackingError, one_line
from tunetrail.learning.devices import machine_facts
from tunetrail.pipeline.source_code import SourceCode, changed_code, kept_diff, present_code
from tunetrail.plain_values import plain_values
from tunetrail.stores.tracking.tracker import TrackedRun
from tunetrail.stores.tracking.tracking_errors import shown_uri

_FOLDER = "environment"
ENVIRONMENT = f"{_FOLDER}/environment.json"
"""The artifact of a run with its machine and the digests of its source files."""
_REQUIREMENTS, _DIFF = f"{_FOLDER}/requirements.txt", f"{_FOLDER}/uncommitted.diff"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a process computes with.

    Attributes:
        packages: The version of each installed package; where it was installed from, if that isn't
            a registry.
        machine: Python, the system, the processor, its threads and the GPUs.
        code: The source of tunetrail.
    """

    packages: Mapping[str, str]
    machine: Mapping[str, Any]
    code: SourceCode


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that isn't as it was when a run was made.

    Attributes:
        kind: `package`, `machine`, `code`, `row`, `model` or `file`.
        name: What differs.
        then: What it was; None if it wasn't there.
        now: What it is; None if it isn't there any more.
    """

    kind: str
    name: str
    then: str | None = None
    now: str | None = None

    @property
    def in_words(self) -> str:
        """Return the difference in one line."""
        if self.then is None and self.now is None:
            return f"{self.kind}: {self.name}"
        return f"{self.kind}: {self.name} was {self.then or 'absent'}, is {self.now or 'absent'}"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return plain_values(self)


def present_environment() -> Environment:
    """Return what this process computes with."""
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **machine_facts(),
    }
    return Environment(packages=_packages(), machine=machine, code=present_code())


def log_environment(run: TrackedRun) -> None:
    """Write to a run what it is made with, so that it can be repeated."""
    environment = present_environment()
    code = environment.code
    lines = [f"{name}{version}\n" for name, version in _requirements(environment.packages)]
    run.log_text("".join(lines), _REQUIREMENTS)
    if code.diff:
        run.log_text(kept_diff(code.diff), _DIFF)
    content = {
        "machine": environment.machine,
        "packages": environment.packages,
        "code": {"commit": code.commit, "files": code.files},
    }
    # Last, since it says that the others are there.
    run.log_dict(content, ENVIRONMENT)


def read_environment(run: TrackedRun) -> Environment | None:
    """Return what a run was made with; None if it kept nothing of it, as runs of older versions.

    Raises:
        TrackingError: What it kept can't be read.
    """
    artifacts = run.artifacts(_FOLDER)
    if ENVIRONMENT not in artifacts:
        return None
    content = run.read_dict(ENVIRONMENT)
    try:
        diff = run.read_text(_DIFF) if _DIFF in artifacts else ""
        code = SourceCode(**content["code"], diff=diff)
        return Environment(packages=content["packages"], machine=content["machine"], code=code)
    except (KeyError, TypeError) as error:
        raise TrackingError(
            f"the artifact {ENVIRONMENT} of the run {run.run_id} can't be read: {one_line(error)}. "
            "Another version of tunetrail may have written it: update tunetrail."
        ) from error


def differences_since(then: Environment) -> list[Difference]:
    """Return how this process differs from what a run was made with."""
    now = present_environment()
    places = changed_code(then.code)
    return [
        *_differing("package", then.packages, now.packages),
        *_differing("machine", then.machine, now.machine),
        *(Difference(kind="code", name=place) for place in places),
    ]


def _differing(kind: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for name in sorted(then.keys() | now.keys()):
        old, new = then.get(name), now.get(name)
        if old != new:
            yield Difference(kind=kind, name=name, then=_as_text(old), now=_as_text(new))


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)


@functools.cache
def _packages() -> dict[str, str]:
    """Return the version of each installed package, by its normalised name."""
    packages: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # Read once: each access parses the whole description.
        metadata = distribution.metadata
        name = metadata["Name"]
        # A folder that a broken installation has left has no name.
        if name:
            version = metadata["Version"] + _origin(distribution)
            # The first one that Python finds is the one that it imports.
            packages.setdefault(name.lower().replace("_", "-"), version)
    return dict(sorted(packages.items()))


def _origin(distribution: importlib.metadata.Distribution) -> str:
    """Return where a package was installed from, without credentials; empty for a registry."""
    text = distribution.read_text("direct_url.json")
    if text is None:
        return ""
    try:
        origin = json.loads(text)
        commit = origin.get("vcs_info", {}).get("commit_id", "")
        return f" from {shown_uri(str(origin['url']))}{f'@{commit}' if commit else ''}"
    except (ValueError, KeyError, AttributeError):
        return ""


def _requirements(packages: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield names and versions as pip reads them; where a package came from is a comment."""
    for name, version in packages.items():
        release, _, origin = version.partition(" from ")
        yield name, f"=={release}" + (f"  # from {origin}" if origin else "")

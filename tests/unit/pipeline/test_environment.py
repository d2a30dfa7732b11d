import dataclasses
import json
from pathlib import Path

import pytest

from tunetrail.pipeline import environment
from tunetrail.pipeline.environment import differences_since, present_environment


@pytest.mark.parametrize(
    ("packages", "machine", "words"),
    [
        ({}, {}, []),
        ({"torch": "1.0"}, {}, ["package: torch was 1.0, is {torch}"]),
        ({"gone": "3"}, {"threads": 64}, [
            "package: gone was 3, is absent",
            "machine: threads was 64, is {threads}",
        ]),
    ],
)  # fmt: skip
def test_differences_name_packages_and_machine(
    packages: dict[str, str], machine: dict[str, object], words: list[str]
) -> None:
    now = present_environment()
    then = dataclasses.replace(
        now, packages={**now.packages, **packages}, machine={**now.machine, **machine}
    )

    differences = differences_since(then)

    present = {"torch": now.packages["torch"], "threads": now.machine["threads"]}
    assert [found.in_words for found in differences] == [text.format(**present) for text in words]


@pytest.mark.parametrize(
    ("origin", "version"),
    [
        (None, "1.0"),
        ({"url": "https://pypi.org/x.whl"}, "1.0 from https://pypi.org/x.whl"),
        (
            {
                "url": "https://anna:secret@git.example.org/x.git",
                "vcs_info": {"vcs": "git", "commit_id": "abc"},
            },
            "1.0 from https://anna:***@git.example.org/x.git@abc",
        ),
        ({"url": "https://host/x.whl?token=secret"}, "1.0 from https://host/x.whl?token=***"),
        ("no JSON", "1.0"),
    ],
)
def test_packages_have_no_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: object, version: str
) -> None:
    folder = tmp_path / "My_Package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: My_Package\nVersion: 1.0\n")
    if origin is not None:
        text = origin if isinstance(origin, str) else json.dumps(origin)
        (folder / "direct_url.json").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    environment._packages.cache_clear()

    try:
        assert environment._packages()["my-package"] == version
    finally:
        environment._packages.cache_clear()

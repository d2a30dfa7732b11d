"""The page about migrating names keys that exist, and agrees with what a guessed key is answered."""

import re
from pathlib import Path

import pytest

from tunetrail.cli.conf_groups import groups
from tunetrail.config.key_suggestions import is_known_key, suggest_keys

PAGE = Path(__file__).parents[3] / "docs/migrating.md"
ROW = re.compile(r"^\| `(.+)` \| (.*`.*) \|$", flags=re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")


def rows() -> list[tuple[str, list[str]]]:
    """Return what the other trainer calls a setting, and our keys or overrides, of all tables."""
    return [(theirs, CODE.findall(ours)) for theirs, ours in ROW.findall(PAGE.read_text())]


def overrides() -> list[str]:
    return [
        word
        for _, ours in rows()
        for word in ours
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)*(=.+)?", word)
    ]


def test_keys_exist() -> None:
    keys = [override.partition("=")[0] for override in overrides()]
    # `none` is a value of the key before it.
    unknown = [key for key in keys if key != "none" and not is_known_key(key, groups())]
    assert len(keys) >= 45 and unknown == []


@pytest.mark.parametrize(
    "theirs", [theirs for theirs, ours in rows() if re.fullmatch(r"[a-z_0-9]+", theirs)]
)
def test_old_name_leads_to_the_key(theirs: str) -> None:
    (ours,) = (ours for name, ours in rows() if name == theirs)
    model_type = "llm" if ours[0].startswith("llm.") else "embedding"

    if not is_known_key(theirs, groups()):
        assert ours[0] in suggest_keys(theirs, groups(), model_type)

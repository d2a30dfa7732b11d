import dataclasses

import pytest

from tunetrail.pipeline.source_code import (
    SourceCode,
    changed_code,
    differing_lines,
    kept_diff,
    present_code,
)

HEADER = "diff --git a/src/tunetrail/{0} b/src/tunetrail/{0}\n--- a/{0}\n+++ b/{0}\n"
FIRST = HEADER.format("one.py") + "@@ -10,3 +10,3 @@ def f():\n a = 1\n-b = 2\n+b = 3\n c = 4\n"
SECOND = HEADER.format("two.py") + "@@ -1,0 +2,2 @@\n+import x\n+import y\n"


@pytest.mark.parametrize(
    ("then", "now", "lines"),
    [
        ("", "", {}),
        (FIRST, FIRST, {}),
        ("", FIRST, {"one.py": [11]}),
        (FIRST, "", {"one.py": [11]}),
        (FIRST, FIRST + SECOND, {"two.py": [2, 3]}),
        (FIRST, FIRST.replace("b = 3", "b = 5"), {"one.py": [11]}),
        # Lines that were added above move the others, but don't change them.
        (FIRST, HEADER.format("one.py") + "@@ -1,0 +1,1 @@\n+new\n" + FIRST, {"one.py": [1]}),
    ],
)
def test_differing_lines_are_the_ones_that_only_one_diff_changes(
    then: str, now: str, lines: dict[str, list[int]]
) -> None:
    assert differing_lines(then, now) == lines


def test_a_kept_diff_has_no_secrets_and_the_same_lines() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + ("MIIEowIBAAKCAQEA" * 4 + "\n") * 6
    added = "".join(f"+{line}\n" for line in f"{key}-----END RSA PRIVATE KEY-----".splitlines())
    diff = FIRST + '+password = "hunter2hunter2"\n+mail("anna@example.org")\n' + added

    kept = kept_diff(diff)

    assert "hunter2" not in kept and "anna@" not in kept and "MIIE" not in kept
    assert kept.startswith(FIRST)
    assert differing_lines(diff, diff) == {}


def test_a_kept_diff_is_bounded_and_says_so() -> None:
    diff = FIRST + "+x = 1\n" * 200_000
    kept = kept_diff(diff)
    assert len(kept) < 1_000_100
    assert kept.endswith(f"... cut off: {len(diff):,} characters\n")
    assert kept_diff("") == ""


def test_changed_code_names_files_that_differ() -> None:
    present = present_code()
    assert changed_code(present) == []

    files = {**present.files, "errors.py": "0" * 16, "old.py": "1" * 16}
    del files["paths.py"]
    installed = SourceCode(files=files)
    unknown_commit = dataclasses.replace(installed, commit="0" * 40)

    assert changed_code(installed) == ["errors.py", "old.py is gone", "paths.py is new"]
    assert changed_code(unknown_commit) == changed_code(installed)


@pytest.mark.skipif(present_code().commit is None, reason="tunetrail isn't run from a checkout")
def test_changed_code_names_the_lines_of_a_checkout() -> None:
    present = present_code()
    # As if a line had been there that nobody has now.
    diff = HEADER.format("errors.py") + "@@ -3,0 +4,1 @@\n+import this\n"
    then = dataclasses.replace(
        present, files={**present.files, "errors.py": "0" * 16}, diff=present.diff + diff
    )

    (place,) = changed_code(then)

    assert place.startswith("errors.py, line") and "3" in place

"""The source of tunetrail that runs: its files, the commit, and the changes that nobody committed.

From it a later process tells which lines of code differ from those that a run was made with.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunetrail.config import PrivacyConfig
from tunetrail.data.privacy.scrubber import Scrubber
from tunetrail.fingerprints import value_fingerprint
from tunetrail.stores.tracking.provenance import run_git

_PACKAGE = Path(__file__).parents[1]
# Whatever the user's own configuration of git says.
_DIFF = (
    *("diff", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)
_DIGITS = 16
# Of the uncommitted changes: what is longer is cut off, and says so.
_MOST_CHARACTERS = 1_000_000
# Changed lines of a file that are named.
_MOST_LINES = 3
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)")


@dataclass(frozen=True, kw_only=True)
class SourceCode:
    """The source that a process runs.

    Attributes:
        files: The digest of each Python file by its path below the package.
        commit: The commit of tunetrail's own checkout; None if it was installed without one.
        diff: The uncommitted changes to the package, as git shows them; empty without a checkout.
    """

    files: Mapping[str, str]
    commit: str | None = None
    diff: str = field(default="", repr=False)


@functools.cache
def present_code() -> SourceCode:
    """Return the source that this process has begun with, without new files in its diff."""
    files = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        content = path.read_text(encoding="utf-8")
        files[path.relative_to(_PACKAGE).as_posix()] = value_fingerprint(content)[:_DIGITS]

    # A copy in the environment of somebody's project lies in that project's checkout.
    is_checkout = run_git("ls-files", "--error-unmatch", "__init__.py", folder=_PACKAGE)
    commit = run_git("rev-parse", "HEAD", folder=_PACKAGE) if is_checkout else None
    if commit is None:
        return SourceCode(files=files)
    diff = run_git(*_DIFF, "HEAD", "--", ".", folder=_PACKAGE) or ""
    return SourceCode(files=files, commit=commit.strip(), diff=diff)


def kept_diff(diff: str) -> str:
    """Return changes, as git shows them, without secrets and not longer than a megabyte."""
    if not diff:
        return ""
    # Whatever the settings say about samples: a password that is being tried out isn't kept.
    masked = "\n".join(_masked_lines(diff, Scrubber(PrivacyConfig(enabled=True)).mask)) + "\n"
    if len(masked) <= _MOST_CHARACTERS:
        return masked
    return f"{masked[:_MOST_CHARACTERS]}\n... cut off: {len(masked):,} characters\n"


def _masked_lines(diff: str, mask: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines, with the text of successive ones of one kind masked together.

    A private key has many lines, and the sign in front of each would hide it.
    """
    is_text, sign, texts = False, "", list[str]()

    def masked() -> Iterator[str]:
        if texts:
            yield from (f"{sign}{line}" for line in mask("\n".join(texts)).split("\n"))
            texts.clear()

    for line in diff.splitlines():
        is_text = not line.startswith("diff ") and (is_text or line.startswith("@@ "))
        if not is_text or line.startswith("@@ "):
            yield from masked()
            yield line
        else:
            if line[:1] != sign:
                yield from masked()
                sign = line[:1]
            texts.append(line[1:])
    yield from masked()


def changed_code(then: SourceCode) -> list[str]:
    """Return where this process's source differs from another one: a file each, with its lines.

    Without the checkout and the commit that the other one came from, the files are all that is
    known.

    Args:
        then: The other source, with its diff as it was kept.
    """
    now = present_code()
    names = sorted(then.files.keys() | now.files.keys())
    changed = [name for name in names if then.files.get(name) != now.files.get(name)]
    if not changed:
        return []

    lines: Mapping[str, list[int]] = {}
    if then.commit is not None and now.commit is not None:
        # Both relative to the same commit, so that equal changes cancel out.
        since = run_git(*_DIFF, then.commit, "--", ".", folder=_PACKAGE)
        if since is not None:
            lines = differing_lines(then.diff, kept_diff(since))
    return [_described(name, then, now, lines.get(name, [])) for name in changed]


def _described(name: str, then: SourceCode, now: SourceCode, lines: list[int]) -> str:
    if name not in now.files:
        return f"{name} is gone"
    if name not in then.files:
        return f"{name} is new"
    if not lines:
        return name
    shown = ", ".join(map(str, lines[:_MOST_LINES]))
    further = len(lines) - _MOST_LINES
    more = f" and {further} more" if further > 0 else ""
    return f"{name}, line{'s' if len(lines) > 1 else ''} {shown}{more}"


def differing_lines(then: str, now: str) -> dict[str, list[int]]:
    """Return, by path below the package, the numbers of the lines in which two diffs differ.

    Both are relative to the same commit. A line that only the second one has is counted as in the
    file after its changes; any other line as in the commit.
    """
    old, new = _lines_of(then), _lines_of(now)
    lines: dict[str, set[int]] = {}
    for place in old.keys() ^ new.keys():
        path = place[0]
        lines.setdefault(path, set()).add(new[place] if place in new else place[1])
    return {path: sorted(numbers) for path, numbers in lines.items()}


def _lines_of(diff: str) -> dict[tuple[str, int, str], int]:
    """Return the number in the changed file of each line that a diff adds or removes.

    A line is known by its file's path below the package, its number in the commit, and its text
    with the sign before it.
    """
    lines: dict[tuple[str, int, str], int] = {}
    path, old_line, new_line, is_text = "", 0, 0, False
    # What is added in place of removed lines counts as added where the first of them was.
    first = 0

    for line in diff.splitlines():
        hunk = _HUNK.match(line)
        if hunk is not None:
            old_line, new_line, is_text = int(hunk[1]), int(hunk[2]), True
        elif line.startswith("diff "):
            # Up to the package's own folder, below which files are named.
            path, is_text = line.rpartition(f"/{_PACKAGE.name}/")[2], False
        elif is_text:
            sign = line[:1]
            if sign in ("+", "-"):
                lines[path, first if sign == "+" else old_line, line] = new_line
            old_line += sign in (" ", "-")
            new_line += sign in (" ", "+")

        if line[:1] not in ("+", "-"):
            first = old_line
    return lines

"""Real pairs of documentation and code from Python's own standard library, for demo and tests.

A row pairs the first paragraph of a docstring with the code below it. Every docstring is cut out of
the code, also in nested functions and classes, so that only the code's meaning links the
two.
"""

import ast
import functools
import hashlib
import sysconfig
import textwrap
import tokenize
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.samples import SampleKind

# Tests, bundled applications, and packages that aren't part of the library.
_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "ensurepip",
    "__pycache__",
    "turtledemo",
}
_PARAGRAPH_CHARACTERS = range(30, 401)
_CODE_CHARACTERS = range(80, 1501)
_SENTENCE_ENDS = (".", "!", "?")

# The fields of statements that hold further statements, in the order in which they are written.
_STATEMENT_FIELDS = ("body", "handlers", "orelse", "finalbody", "cases")

_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    module: str
    paragraph: str
    code: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.module}\n{self.paragraph}\n{self.code}".encode()).hexdigest()


def stdlib_docs(
    kind: SampleKind, limit: int | None = None, longest_code: int = _CODE_CHARACTERS[-1]
) -> list[dict[str, Any]]:
    """Return rows from the documented functions, methods and classes of the standard library.

    Args:
        kind: `embedding` gives `anchor` (documentation), `positive` (code) and `group` (module);
            `llm` gives `input` (code), `output` (documentation) and `group`.
        limit: Maximum number of rows, spread evenly over the modules; the same ones in each call.
        longest_code: Maximum number of characters of code in a row, up to 1,500.

    Returns:
        The rows in the order of the modules; they differ between Python versions.
    """
    columns = ("anchor", "positive") if kind == SampleKind.EMBEDDING else ("output", "input")
    documentation, code = columns

    short_pairs = [pair for pair in _all_pairs() if len(pair.code) <= longest_code]
    rows = []
    for pair in _spread(short_pairs, limit):
        rows.append({documentation: pair.paragraph, code: pair.code, "group": pair.module})
    return rows


@functools.cache
def _all_pairs() -> tuple[_Pair, ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    distinct: dict[tuple[str, str], _Pair] = {}
    for path in sorted(root.rglob("*.py")):
        location = path.relative_to(root)
        if _SKIPPED_FOLDERS.isdisjoint(location.parts[:-1]):
            for pair in _pairs_of_file(path, _module_name(location)):
                # A repeated pair stays in its first module, at its last position.
                content = (pair.paragraph, pair.code)
                distinct[content] = distinct.pop(content, pair)

    # Docstrings are gone, but a comment or a message may quote one.
    all_code = "\0".join(" ".join(pair.code.split()) for pair in distinct.values())
    return tuple(pair for pair in distinct.values() if pair.paragraph not in all_code)


def _module_name(path: Path) -> str:
    names = path.with_suffix("").parts
    is_package = names[-1] == "__init__" and len(names) > 1
    return ".".join(names[:-1] if is_package else names)


def _pairs_of_file(path: Path, module: str) -> Iterator[_Pair]:
    """Yield the usable pairs of a file; a file that can't be parsed has none."""
    try:
        with tokenize.open(path) as file:
            # str.splitlines also breaks at form feeds, which the parser doesn't count as lines.
            lines = file.readlines()
        with warnings.catch_warnings():
            # The parser warns about odd escapes in code that isn't ours.
            warnings.simplefilter("ignore")
            tree = ast.parse("".join(lines))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return

    # All docstrings are cut before any code is read: functions are nested.
    documented = list(_documented_nodes(tree))
    for node in documented:
        _cut_docstring(node, lines)
    for node in documented:
        paragraph, code = _first_paragraph(node), _code(node, lines)
        if _is_usable(paragraph, code):
            yield _Pair(module=module, paragraph=paragraph, code=code)


def _documented_nodes(tree: ast.Module) -> Iterator[_Documented]:
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
            yield node
        # The list grows while it is walked. ast.walk would also visit all expressions, which hold
        # no definitions.
        for field in _STATEMENT_FIELDS:
            nodes.extend(getattr(node, field, ()))


def _cut_docstring(node: _Documented, lines: list[str]) -> None:
    """Cut the node's docstring out of the file's lines, in place; no line moves."""
    docstring = node.body[0]
    assert docstring.end_lineno is not None and docstring.end_col_offset is not None
    first, last = docstring.lineno - 1, docstring.end_lineno - 1

    # The parser counts columns in bytes of UTF-8.
    before = lines[first].encode()[: docstring.col_offset].decode()
    after = lines[last].encode()[docstring.end_col_offset :].decode()
    # A body that was only a docstring needs a statement.
    remainder = before + (f"pass{after}" if len(node.body) == 1 else after.lstrip(" \t;"))
    lines[first : last + 1] = [remainder if remainder.strip() else "", *[""] * (last - first)]


def _first_paragraph(node: _Documented) -> str:
    docstring = ast.get_docstring(node) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _code(node: _Documented, lines: list[str]) -> str:
    # With its docstring cut out, nothing is left to pair with it.
    if len(node.body) == 1:
        return ""
    return textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno])).strip()


def _is_usable(paragraph: str, code: str) -> bool:
    return (
        len(paragraph) in _PARAGRAPH_CHARACTERS
        and paragraph.endswith(_SENTENCE_ENDS)
        and len(code) in _CODE_CHARACTERS
    )


def _spread(pairs: Sequence[_Pair], limit: int | None) -> Sequence[_Pair]:
    """Return at most `limit` pairs, spread evenly over the modules."""
    if limit is None or limit >= len(pairs):
        return pairs

    digests_by_module: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        digests_by_module[pair.module].append(pair.digest)

    # Each module gives one pair per round, in the order of the digests.
    turns = []
    for digests in digests_by_module.values():
        turns += list(enumerate(sorted(digests)))
    chosen = {digest for _, digest in sorted(turns)[: max(limit, 0)]}
    return [pair for pair in pairs if pair.digest in chosen]

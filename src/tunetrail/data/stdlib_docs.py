"""Real pairs of documentation and code from Python's own standard library: samples that need no network and no licence.

A row pairs the first paragraph of a docstring with the code below it; every docstring is cut out of the code, those of
nested functions and classes too, so that nothing but the code's meaning links the two. Knows nothing of models.
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
    """Return rows made of documented functions, methods and classes of the running Python's standard library.

    Args:
        kind: `embedding` gives `anchor` (documentation), `positive` (code) and `group` (module);
            `llm` gives `input` (code), `output` (documentation) and `group`.
        limit: At most so many rows, spread evenly over the modules and the same ones at every call.
        longest_code: Characters of code that a row may have; 1,500 at most.

    Returns:
        The rows in the order of module and place; they differ between Python's versions.
    """
    pairs = _spread([pair for pair in _all_pairs() if len(pair.code) <= longest_code], limit)
    documentation, code = (
        ("anchor", "positive") if kind == SampleKind.EMBEDDING else ("output", "input")
    )
    return [
        {documentation: pair.paragraph, code: pair.code, "group": pair.module} for pair in pairs
    ]


@functools.cache
def _all_pairs() -> tuple[_Pair, ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path
        for path in root.rglob("*.py")
        if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts[:-1])
    )
    pairs = [
        pair
        for path in files
        for pair in _pairs_of_file(path, _module_name(path.relative_to(root)))
    ]
    distinct = list({(pair.paragraph, pair.code): pair for pair in reversed(pairs)}.values())[::-1]
    # Docstrings are gone, but a comment or a message may quote one; which do differs between Python's versions.
    all_code = "\0".join(" ".join(pair.code.split()) for pair in distinct)
    return tuple(pair for pair in distinct if pair.paragraph not in all_code)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _pairs_of_file(path: Path, module: str) -> Iterator[_Pair]:
    try:
        with tokenize.open(path) as file:
            # Not str.splitlines: it also breaks at form feeds, which the parser doesn't count as lines.
            lines = file.readlines()
        with warnings.catch_warnings():
            # The parser warns of odd escapes in code that isn't ours.
            warnings.simplefilter("ignore")
            tree = ast.parse("".join(lines))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return
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
        # The list grows while it is walked; expressions hold no definitions, and ast.walk would go through them all.
        nodes.extend(
            child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)
        )


def _cut_docstring(node: _Documented, lines: list[str]) -> None:
    """Cut the node's docstring out of the file's lines, in place; a line left empty stays as `""`, so none moves."""
    docstring = node.body[0]
    assert docstring.end_lineno is not None and docstring.end_col_offset is not None
    first, last = docstring.lineno - 1, docstring.end_lineno - 1
    # The parser counts columns in bytes of UTF-8.
    before = lines[first].encode()[: docstring.col_offset].decode()
    after = lines[last].encode()[docstring.end_col_offset :].decode()
    kept = before + (f"pass{after}" if len(node.body) == 1 else after.lstrip(" \t;"))
    lines[first : last + 1] = [kept if kept.strip() else "", *[""] * (last - first)]


def _first_paragraph(node: _Documented) -> str:
    docstring = ast.get_docstring(node) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _code(node: _Documented, lines: list[str]) -> str:
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
    if limit is None or limit >= len(pairs):
        return pairs
    by_module: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        by_module[pair.module].append(pair.digest)
    rounds = {
        digest: turn
        for digests in by_module.values()
        for turn, digest in enumerate(sorted(digests))
    }
    chosen = set(sorted(rounds, key=lambda digest: (rounds[digest], digest))[: max(limit, 0)])
    return [pair for pair in pairs if pair.digest in chosen]

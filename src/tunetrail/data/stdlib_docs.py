"""Real pairs of documentation and code from Python's own standard library: samples that need no network and no licence.

A row pairs the first paragraph of a docstring with the code below it; the docstring itself is cut out of the code, so
that nothing but the code's meaning links the two. Knows nothing of models.
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

_SKIPPED_FOLDERS = {"test", "tests", "idlelib", "lib2to3", "site-packages", "ensurepip", "__pycache__", "turtledemo"}
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


def stdlib_docs(kind: SampleKind, limit: int | None = None) -> list[dict[str, Any]]:
    """Return rows made of documented functions, methods and classes of the running Python's standard library.

    Args:
        kind: `embedding` gives `anchor` (documentation), `positive` (code) and `group` (module);
            `llm` gives `input` (code), `output` (documentation) and `group`.
        limit: At most so many rows, spread evenly over the modules and the same ones at every call.

    Returns:
        The rows in the order of module and place; they differ between Python's versions.
    """
    pairs = _spread(_all_pairs(), limit)
    documentation, code = ("anchor", "positive") if kind == SampleKind.EMBEDDING else ("output", "input")
    return [{documentation: pair.paragraph, code: pair.code, "group": pair.module} for pair in pairs]


@functools.cache
def _all_pairs() -> tuple[_Pair, ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts[:-1]))
    pairs = [pair for path in files for pair in _pairs_of_file(path, _module_name(path.relative_to(root)))]
    return tuple({(pair.paragraph, pair.code): pair for pair in reversed(pairs)}.values())[::-1]


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _pairs_of_file(path: Path, module: str) -> Iterator[_Pair]:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        with warnings.catch_warnings():
            # The parser warns of odd escapes in code that isn't ours.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, OSError):
        return
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, _Documented):
            paragraph, code = _first_paragraph(node), _code_without_docstring(node, lines)
            if _is_usable(paragraph, code):
                yield _Pair(module=module, paragraph=paragraph, code=code)


def _first_paragraph(node: _Documented) -> str:
    docstring = ast.get_docstring(node) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _code_without_docstring(node: _Documented, lines: list[str]) -> str:
    docstring = node.body[0]
    if len(node.body) < 2 or docstring.lineno == node.lineno or docstring.end_lineno is None:
        return ""
    kept = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    return textwrap.dedent("".join(kept)).strip()


def _is_usable(paragraph: str, code: str) -> bool:
    return (
        len(paragraph) in _PARAGRAPH_CHARACTERS
        and paragraph.endswith(_SENTENCE_ENDS)
        and len(code) in _CODE_CHARACTERS
        and paragraph not in " ".join(code.split())
    )


def _spread(pairs: Sequence[_Pair], limit: int | None) -> Sequence[_Pair]:
    if limit is None or limit >= len(pairs):
        return pairs
    by_module: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        by_module[pair.module].append(pair.digest)
    rounds = {digest: turn for digests in by_module.values() for turn, digest in enumerate(sorted(digests))}
    chosen = set(sorted(rounds, key=lambda digest: (rounds[digest], digest))[: max(limit, 0)])
    return [pair for pair in pairs if pair.digest in chosen]

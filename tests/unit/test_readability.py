"""How the source reads: functions have paragraphs, and variables are called after what they hold.

`make check` runs this file by itself. The limits are a little above what the source reaches: a
place that reads well as it is may stay, but the sum may not drift.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[2] / "src"

LONG_FUNCTION = 15
"""Lines of code from which a function needs a blank line between its steps."""
SOLID_SHARE = 0.15
PLACEHOLDER_SHARE = 0.007
PLACEHOLDERS = frozenset(
    """
    data each foo found given info kept number numbers obj other others own part parts place places rest stuff temp
    thing things those tmp wanted
    """.split()  # noqa: SIM905 -- a list would take a line for each name
)


ODD_WORDS = re.compile(
    r"\b(alike|anew|behind|beside|but for|mend(ed)?|of its moment|puts? down|so many|that one|those of"
    r"|what is (asked|found|kept|left|wanted)|without a word)\b".replace(" ", r"[\s#]+"),
    re.IGNORECASE,
)
"""Words over which a native reader stumbles; some are right elsewhere, but never needed."""
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Module(NamedTuple):
    """A module of the source, with all nodes of its tree."""

    path: Path
    nodes: list[ast.AST]
    text: str
    lines: list[str]


@cache
def modules() -> list[Module]:
    """Return all modules: to parse them and to walk through their trees takes seconds."""
    parsed = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(text)))
        parsed.append(Module(path.relative_to(SOURCE), nodes, text, text.splitlines()))
    return parsed


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> list[str]:
    """Return the lines of a function's body without its docstring."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    if not statements:
        return []
    return lines[statements[0].lineno - 1 : function.end_lineno]


def is_code(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("#")


def test_long_functions_have_paragraphs() -> None:
    long_functions, solid = 0, []
    for path, nodes, _, lines in modules():
        for node in nodes:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = body_lines(node, lines)
            if sum(map(is_code, body)) < LONG_FUNCTION:
                continue
            long_functions += 1
            if all(line.strip() for line in body):
                solid.append(f"{path}:{node.lineno} {node.name}")

    assert long_functions > 0
    share = len(solid) / long_functions
    assert share <= SOLID_SHARE, "put a blank line between the steps of:\n" + "\n".join(solid)


def test_variables_have_names_of_their_own() -> None:
    assigned, placeholders = 0, []
    for path, nodes, _, _ in modules():
        for node in nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assigned += 1
                if node.id in PLACEHOLDERS:
                    placeholders.append(f"{path}:{node.lineno} {node.id}")

    assert assigned > 0
    share = len(placeholders) / assigned
    assert share <= PLACEHOLDER_SHARE, "say what these hold:\n" + "\n".join(placeholders)


def test_configuration_fields_have_docstrings() -> None:
    bare = []
    for path, nodes, _, _ in modules():
        for node in nodes:
            if not (isinstance(node, ast.ClassDef) and node.name.endswith("Config")):
                continue
            followers = [*node.body[1:], None]
            for statement, follower in zip(node.body, followers, strict=True):
                if not isinstance(statement, ast.AnnAssign):
                    continue
                described = isinstance(follower, ast.Expr) and isinstance(
                    follower.value, ast.Constant
                )
                if not described:
                    bare.append(f"{path}:{statement.lineno} {node.name}")

    assert not bare, "put a docstring under these fields:\n" + "\n".join(bare)


def test_no_comprehension_holds_another_one_or_a_choice() -> None:
    dense = []
    for path, nodes, _, _ in modules():
        for node in nodes:
            if not isinstance(node, COMPREHENSIONS):
                continue
            inner = [below for below in ast.walk(node) if below is not node]
            if any(isinstance(below, (*COMPREHENSIONS, ast.IfExp)) for below in inner):
                dense.append(f"{path}:{node.lineno}")

    assert not dense, "write these as loops, or name what is inside:\n" + "\n".join(dense)


def test_prose_has_no_odd_words() -> None:
    odd = []
    for module in modules():
        for match in ODD_WORDS.finditer(module.text):
            line = module.text.count("\n", 0, match.start()) + 1
            odd.append(f"{module.path}:{line} {match.group()!r}")

    assert not odd, "say these in other words:\n" + "\n".join(odd)

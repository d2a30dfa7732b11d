"""How the source reads: functions have paragraphs, and variables are called after what they hold.

`make check` runs this file by itself. The limits are a little above what the source reaches: a
place that reads well as it is may stay, but the sum may not drift.
"""

import ast
from functools import cache
from pathlib import Path

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


@cache
def modules() -> list[tuple[Path, ast.Module, list[str]]]:
    """Return the path, the tree and the lines of each module: parsing all takes seconds."""
    parsed = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parsed.append((path.relative_to(SOURCE), ast.parse(text), text.splitlines()))
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
    for path, tree, lines in modules():
        for node in ast.walk(tree):
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
    for path, tree, _ in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assigned += 1
                if node.id in PLACEHOLDERS:
                    placeholders.append(f"{path}:{node.lineno} {node.id}")

    assert assigned > 0
    share = len(placeholders) / assigned
    assert share <= PLACEHOLDER_SHARE, "say what these hold:\n" + "\n".join(placeholders)


def test_configuration_fields_have_docstrings() -> None:
    bare = []
    for path, tree, _ in modules():
        for node in ast.walk(tree):
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

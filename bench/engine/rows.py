"""Rows to train on: made from the standard library's documentation, or read from a user's file. Trains nothing."""

import csv
import functools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine.package_texts import named_passages
from bench.results import Options
from tunetrail.data.formats import read_rows
from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.errors import SampleError
from tunetrail.samples import BrokenRow, SampleKind

Row = dict[str, Any]

COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "score": {
        "sentence1": ("sentence1",),
        "sentence2": ("sentence2",),
        "score": ("score", "label"),
    },
    "pair": {
        "anchor": ("anchor", "query", "question", "input"),
        "positive": ("positive", "document", "answer", "output"),
    },
    "completion": {
        "input": ("input", "question", "prompt"),
        "output": ("output", "answer", "completion"),
    },
    "label": {"text": ("text",), "label": ("label", "category")},
}
"""By shape: each column with the names that files may give it."""
_SEED = 42
_COMPARED = 20
"""Other texts that a partner with many shared words is looked for among."""
_BEST_SCORE = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRows:
    """Rows for a benchmark.

    Attributes:
        name: What they are, for the result's name.
        train: Rows to train on, a whole number of batches.
        held_out: Rows that the loss is measured on before and after.
    """

    name: str
    train: Sequence[Row]
    held_out: Sequence[Row]


def training_rows(
    shape: str,
    options: Options,
    *,
    rows: int,
    batch_size: int,
    held_out: int,
    made: str | None = None,
) -> TrainingRows:
    """Return rows of that shape: of the file that was given, or made; a random choice, the same at every call.

    Args:
        shape: `score`, `pair` or `completion`.
        options: `data` names a file, `rows` another number of rows.
        rows: How many to train on where `options` doesn't say.
        batch_size: The number is rounded down to a multiple of it.
        held_out: How many are held out.
        made: Key of `MADE`, if not the shape.

    Raises:
        SampleError: The file has no row of that shape, or fewer than two batches.
    """
    made = made or shape
    found = read_records(options.data, shape) if options.data else made_records(made)
    name = name_of(options.data) if options.data else MADE[made][0]
    random.Random(_SEED).shuffle(found)
    wanted = (options.rows or rows) // batch_size * batch_size
    count = min(wanted, (len(found) - held_out) // batch_size * batch_size)
    if count < 2 * batch_size:
        raise SampleError(
            f"{name} must have at least {2 * batch_size + held_out} rows, two batches of {batch_size} and {held_out} "
            f"held out, got {len(found)} (ROWS={options.rows or rows}). Take more rows."
        )
    return TrainingRows(name=name, train=found[:count], held_out=found[count : count + held_out])


def made_records(made: str) -> list[Row]:
    """Return all rows of a key of `MADE` that can be made here, in an order that only this machine decides."""
    return MADE[made][1]()


def read_records(path: Path, shape: str) -> list[Row]:
    """Return the rows of a file that have the columns of that shape, under the shape's own names.

    Scored pairs may also be CSV without a header: two texts and a number.

    Raises:
        SampleError: There is none.
    """
    headless = _headless(path) if shape == "score" else None
    rows = (
        headless
        if headless is not None
        else [row for row in read_rows(path) if not isinstance(row, BrokenRow)]
    )
    found = [renamed for row in rows if (renamed := _renamed(row, COLUMNS[shape])) is not None]
    if not found:
        columns = " and ".join(" or ".join(names) for names in COLUMNS[shape].values())
        raise SampleError(
            f"{path} must have the columns {columns} for this benchmark, got none such row."
        )
    return found


def name_of(path: Path) -> str:
    """Return a file's name after its folder's: many files are called train."""
    return "/".join(path.resolve().parts[-2:])


def texts_of_file(path: Path) -> list[str]:
    """Return all different texts of a file, in its order: every cell that is a text of more than one word."""
    rows: Sequence[Mapping[str, Any]] | None = _headless(path)
    if rows is None:
        rows = [row for row in read_rows(path) if not isinstance(row, BrokenRow)]
    return list(
        dict.fromkeys(
            cell for row in rows for cell in row.values() if isinstance(cell, str) and " " in cell
        )
    )


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> str:
    """Write rows as JSONL and return the absolute path."""
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows))
    return str(path.resolve())


def load_rows(path: str) -> list[Row]:
    """Return what `write_rows` wrote."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@functools.cache
def _docs(kind: SampleKind) -> Sequence[Row]:
    """Return the standard library's documentation, which takes seconds to collect."""
    return stdlib_docs(kind)


def _made_pairs() -> list[Row]:
    rows = _docs(SampleKind.EMBEDDING)
    return [{"anchor": row["anchor"], "positive": row["positive"]} for row in rows]


def _made_completions() -> list[Row]:
    rows = _docs(SampleKind.LLM)
    return [{"input": row["input"], "output": row["output"]} for row in rows]


def _made_scores() -> list[Row]:
    """Pair each documentation with the nearest of a few others, and score both by their shared words, 0 to 5."""
    texts = list(dict.fromkeys(row["anchor"] for row in _docs(SampleKind.EMBEDDING)))
    rng = random.Random(_SEED)
    rows = []
    for text in texts:
        others = [other for other in rng.sample(texts, rng.randint(1, _COMPARED)) if other != text]
        partner = max(others, key=lambda other: shared_words(text, other), default=text)
        score = round(_BEST_SCORE * shared_words(text, partner), 3)
        rows.append({"sentence1": text, "sentence2": partner, "score": score})
    return rows


def shared_words(first: str, second: str) -> float:
    """Return the Jaccard index of two texts' words, case aside."""
    one, other = set(first.casefold().split()), set(second.casefold().split())
    return len(one & other) / len(one | other) if one or other else 1.0


MADE: dict[str, tuple[str, Callable[[], list[Row]]]] = {
    "score": ("stdlib sentences scored by shared words", _made_scores),
    "pair": ("stdlib documentation and code", _made_pairs),
    "passage": ("passages of package descriptions", named_passages),
    "completion": ("stdlib code to documentation", _made_completions),
}


def _renamed(row: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> Row | None:
    found: Row = {}
    for column, names in columns.items():
        value = next((row[name] for name in names if row.get(name) not in (None, "")), None)
        if column == "score":
            try:
                value = None if value is None else float(value)
            except (TypeError, ValueError):
                return None
        elif column == "label" and value is not None:
            value = str(value)
        elif not isinstance(value, str):
            return None
        if value is None:
            return None
        found[column] = value
    return found


def _headless(path: Path) -> list[Row] | None:
    """Return the rows of a CSV of two texts and a number without a header, None where it is none such."""
    if path.suffix != ".csv" or not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if line]
    if not lines or len(lines[0]) != 3 or not _is_number(lines[0][2]):
        return None
    return [
        {"sentence1": one, "sentence2": other, "score": float(score)}
        for one, other, score in (line for line in lines if len(line) == 3 and _is_number(line[2]))
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""What whole trainings learn, next to the peers': STS-B, Banking77 or GSM8K, as the columns of the files say.

`make bench ONLY=quality DATA=train.csv TEST=dev.csv`: scored pairs (Spearman), texts with labels
(nearest neighbours) or questions with answers (loss and exact match). Each round is another seed.
"""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.engine.comparing import ROUNDS
from bench.engine.figures import OURS
from bench.engine.rows import Row, name_of, read_records, write_rows
from bench.engine.tasks import SEED, Task
from bench.fresh import Arm, called_fresh, require
from bench.results import Figure, Options, Result
from bench.sft import PADDED, TRL_FUNCTION, language_task
from bench.stsb import PEER, PEER_FUNCTION
from tunetrail.errors import SampleError
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model

_HELD_OUT = 256
"""Test rows that the loss is measured on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recipe:
    """How one kind of rows is trained on and measured; both sides do the same."""

    measure: str
    title: str
    shape: str
    epochs: int
    batch_size: int
    max_length: int
    loss: str = "auto"
    most_rows: int | None = None
    most_tests: int | None = None
    at_least: float | None = None
    peer: str = PEER
    peer_function: str = PEER_FUNCTION
    module: str = "bench.engine.embedding"

    def task(self) -> Task:
        if self.shape == "completion":
            task = language_task(adapter="lora", learning_rate=2e-4)
        else:
            task = Task(
                model=resolve_model("minilm", EMBEDDING_MODELS).path,
                train="",
                held_out="",
                shape=self.shape,
                loss=self.loss,
                rows=0,
                batch_size=self.batch_size,
                epochs=self.epochs,
                max_length=self.max_length,
                learning_rate=2e-5,
            )
        return replace(
            task, epochs=self.epochs, batch_size=self.batch_size, max_length=self.max_length
        )


_RECIPES = {
    "score": _Recipe(
        measure="spearman",
        title="Spearman",
        shape="score",
        loss="cosine_similarity",
        epochs=4,
        batch_size=16,
        max_length=128,
        at_least=0.894,
    ),
    "label": _Recipe(
        measure="neighbours",
        title="accuracy of 5 nearest neighbours",
        shape="pair",
        loss="multiple_negatives_ranking",
        epochs=2,
        batch_size=32,
        max_length=64,
    ),
    "completion": _Recipe(
        measure="exact_match",
        title="exact match",
        shape="completion",
        epochs=2,
        batch_size=4,
        max_length=512,
        most_rows=512,
        most_tests=100,
        peer=PADDED,
        peer_function=TRL_FUNCTION,
        module="bench.engine.language",
    ),
}


def run(options: Options) -> list[Result]:
    """Train on `data` and measure on `test` by both sides, once per seed."""
    if options.data is None or options.test is None:
        raise SampleError(
            "quality must have a file to train on and one to measure on. Give DATA=... and TEST=..."
        )
    kind, known = _rows_of(options.data)
    recipe, tests = _RECIPES[kind], read_records(options.test, kind)
    if recipe.peer == PADDED:
        require("datasets", "accelerate", "trl")
    else:
        require("datasets", "accelerate")
    random.Random(SEED).shuffle(known)
    known = known[: options.rows or recipe.most_rows]
    tests = tests[: recipe.most_tests]
    train, test = _prepared(kind, known), _prepared(kind, tests)
    train = train[: len(train) // recipe.batch_size * recipe.batch_size]
    if not train:
        raise SampleError(
            f"{options.data} must have at least {recipe.batch_size} rows, got {len(known)}."
        )
    with tempfile.TemporaryDirectory(prefix="bench-rows-") as name:
        folder = Path(name)
        task = replace(
            recipe.task(),
            rows=len(train),
            train=write_rows(train, folder / "train.jsonl"),
            held_out=write_rows(test[:_HELD_OUT], folder / "held_out.jsonl"),
        )
        measure = {
            "kind": recipe.measure,
            "test": write_rows(tests, folder / "test.jsonl"),
            "neighbours": write_rows(known, folder / "known.jsonl"),
            "max_length": recipe.max_length,
        }
        before, runs = _measured(recipe, task, measure, options.rounds or ROUNDS)
    if options.rows:
        recipe = replace(
            recipe, at_least=None
        )  # it is STS-B's whole training set that the target holds for
    return [
        _result(
            f"quality, {name_of(options.data)}, {len(train):,} rows",
            recipe,
            before,
            runs,
            len(tests),
        )
    ]


def _measured(
    recipe: _Recipe, task: Task, measure: dict[str, Any], rounds: int
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    console = Console(stderr=True)
    scoring = {"model": task.model, "measure": measure}
    before = {
        **called_fresh(
            Arm(name="before", function="bench.engine.quality:score_model", arguments=scoring)
        ),
        **called_fresh(
            Arm(
                name="before",
                function=f"{recipe.module}:held_out_before",
                arguments={"task": task.to_dict()},
            )
        ),
    }
    sides = {OURS: f"{recipe.module}:train_with_tunetrail", recipe.peer: recipe.peer_function}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, function in sides.items():
            seeded = replace(task, seed=SEED + number).to_dict()
            arguments = {"train": function, "task": seeded, "arguments": {}, "measure": measure}
            arm = Arm(
                name=side, function="bench.engine.quality:train_and_score", arguments=arguments
            )
            found = called_fresh(arm)
            runs[side].append(found)
            console.print(
                f"round {number + 1} of {rounds}: {side}, {recipe.title} {found['score']:.4f} (before "
                f"{before['score']:.4f}), loss {found['held_out_loss']:.4f} (before {before['held_out_loss']:.4f})",
                highlight=False,
            )
    return before, runs


def _result(
    name: str,
    recipe: _Recipe,
    before: dict[str, Any],
    runs: dict[str, list[dict[str, Any]]],
    tests: int,
) -> Result:
    own, others = runs[OURS], runs[recipe.peer]
    figures = [
        Figure(name=f"{recipe.title} before", unit="", values=[before["score"]]),
        *(
            Figure(
                name=f"{recipe.title}, {side}",
                unit="",
                values=[each["score"] for each in found],
                at_least=recipe.at_least if side == OURS else None,
            )
            for side, found in runs.items()
        ),
        Figure(
            name=f"{recipe.title} above {recipe.peer}",
            unit="",
            values=[one["score"] - other["score"] for one, other in zip(own, others, strict=True)],
            at_least=0.0,
        ),
        Figure(name="loss before", unit="", values=[before["held_out_loss"]]),
        *(
            Figure(name=f"loss, {side}", unit="", values=[each["held_out_loss"] for each in found])
            for side, found in runs.items()
        ),
        *(
            Figure(
                name=f"time of all epochs but the first, {side}",
                unit="s",
                values=[each["seconds"] for each in found],
            )
            for side, found in runs.items()
        ),
    ]
    details = {
        "test_rows": tests,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "losses": {side: found[-1]["losses"] for side, found in runs.items()},
    }
    return Result(name=name, figures=figures, details=details)


def _rows_of(path: Path) -> tuple[str, list[Row]]:
    """Return which kind of rows a file has, and the rows."""
    problem: SampleError | None = None
    for kind in _RECIPES:
        try:
            return kind, read_records(path, kind)
        except SampleError as error:
            problem = error
    assert problem is not None
    raise problem


def _prepared(kind: str, rows: Sequence[Row]) -> list[Row]:
    """Return the rows as they are trained on: scores at most 1, pairs of texts of one label."""
    if kind == "score":
        most = max(1.0, *(abs(row["score"]) for row in rows))
        return [{**row, "score": row["score"] / most} for row in rows]
    return pairs_of_label(rows) if kind == "label" else list(rows)


def pairs_of_label(rows: Sequence[Row]) -> list[Row]:
    """Return each text with another one of its label, the next in a shuffled circle; a text without one is left out."""
    shuffled = random.Random(SEED).sample(list(rows), len(rows))
    by_label: dict[str, list[str]] = {}
    for row in shuffled:
        by_label.setdefault(row["label"], []).append(row["text"])
    pairs = [
        {"anchor": text, "positive": texts[(place + 1) % len(texts)]}
        for texts in by_label.values()
        if len(texts) > 1
        for place, text in enumerate(texts)
    ]
    random.Random(SEED).shuffle(pairs)
    return pairs

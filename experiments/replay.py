"""Measures what replay does against forgetting, on questions of Banking77.

The data isn't part of the project: DATA is the file `train.csv` of PolyAI's Banking77, with the
columns `text` and `category`.

`opposed`: two sessions of texts and labels. In the first one, a question's label is what it is
about; in the second one, questions of other categories begin with a channel, which is their label,
so that what they are about must not count any more. `five`: five sessions with 15 categories each, learnt
one after the other, each from the root that the last one left.
"""

import argparse
import csv
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import (
    CrossValidationConfig,
    EmbeddingConfig,
    EvaluationConfig,
    GateConfig,
    Settings,
    TrackingConfig,
    TrainingConfig,
)
from tunetrail.data.rows import records_of
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.forgetting import compare_by_session
from tunetrail.evaluation.scores import Scores
from tunetrail.pipeline.benchmark import Benchmark
from tunetrail.pipeline.families import family_named
from tunetrail.samples import SampleKind

Row = dict[str, str]

CATEGORIES = 20
"""Of each of the opposed sessions."""
CHANNELS = ("App", "Phone", "Letter", "Branch", "Chat", "Partner", "Website", "Post")
"""What the questions of the second one begin with."""
OPEN_GATE = GateConfig(
    require_interval=False, minimum_improvement=-1.0, minimum_test_clusters=1, maximum_loss=1.0
)
"""Lets every candidate through, so that the arms differ in nothing except what is replayed."""


def questions_by_category(data: Path, most: int) -> dict[str, list[str]]:
    """Return the first questions of each category, in the order of the categories' names."""
    questions: dict[str, list[str]] = defaultdict(list)
    with data.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            questions[row["category"]].append(row["text"])
    return {category: questions[category][:most] for category in sorted(questions)}


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Return the settings of a training with all of its stores in a folder."""
    training = TrainingConfig(
        batch_size=32, learning_rate=5e-5, num_epochs=5, early_stopping_patience=0
    )
    settings = Settings(
        output_dir=str(folder / "training_output"),
        model_dir=str(folder / "models"),
        cross_validation=CrossValidationConfig(n_splits=0),
        embedding=EmbeddingConfig(training=training),
        evaluation=EvaluationConfig(bootstrap_samples=2_000),
        gate=OPEN_GATE,
        tracking=TrackingConfig(
            uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "mlartifacts")
        ),
    )
    return replace(settings, **changes)


def open_database(folder: Path) -> DatabaseManager:
    """Return the database of a folder."""
    return DatabaseManager(f"sqlite:///{folder}/tunetrail.db")


def train(settings: Settings, folder: Path, session_id: str) -> dict[str, Any]:
    """Train on a session, and return the results by step."""
    with open_database(folder) as database:
        node = ModelTrainingNode(NodeConfig(settings=settings), database)
        results = node.execute({"session_id": session_id, "model_type": "embedding"})
    return {name: step["embedding"] for name, step in results["results"]["steps"].items()}


def opposed(data: Path, shares: Sequence[float], questions: int) -> None:
    """Train on one session, then on the opposed one with each share of replay, and print both."""
    categories = list(questions_by_category(data, questions).items())
    old: list[Row] = []
    for category, texts in categories[:CATEGORIES]:
        old += [{"text": text, "label": category} for text in texts]
    new: list[Row] = []
    for _, texts in categories[CATEGORIES : 2 * CATEGORIES]:
        for text, channel in zip(texts, cycle(CHANNELS)):
            new.append({"text": f"{channel}: {text}", "label": channel})

    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "first"
        first.mkdir()
        with open_database(first) as database:
            database.ingest("old", old, SampleKind.EMBEDDING)
            database.ingest("new", new, SampleKind.EMBEDDING)
        steps = train(settings_for(first), first, "old")
        print(f"old: {scores_in_words(steps['comparison'])}", flush=True)

        for share in shares:
            # Each arm goes on from the same root; a copied store finds its artifacts by itself.
            folder = Path(scratch) / f"replay-{share}"
            shutil.copytree(first, folder, symlinks=True)
            gate = GateConfig()
            steps = train(settings_for(folder, replay=share, gate=gate), folder, "new")
            change = steps["comparison"]["earlier_sessions"]["old"]
            replayed = steps["training"].get("replayed", {}).get("rows", 0)
            print(
                f"replay={share:g} ({replayed} of {steps['training']['rows']} rows): "
                f"new {scores_in_words(steps['comparison'])}; old {scores_in_words(change)}\n"
                f"    {steps['deployment']['decision']}: {steps['deployment']['reason']}",
                flush=True,
            )


def scores_in_words(step: dict[str, Any]) -> str:
    """Return the scores of a comparison, and the change with its interval."""
    comparison = Comparison.from_dict(step)
    return (
        f"{comparison.metric} {comparison.before:.4f} -> {comparison.after:.4f} "
        f"({comparison.improvement:+.4f}; {comparison.interval_in_words}; "
        f"{comparison.examples} rows)"
    )


def five(data: Path, shares: Sequence[float], questions: int) -> None:
    """Train on five sessions one after the other with each share of replay, and print the end."""
    categories = list(questions_by_category(data, questions).items())
    names = [f"s{number}" for number in range(1, 6)]
    for share in shares:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            with open_database(folder) as database:
                for position, name in enumerate(names):
                    of_session = categories[15 * position : 15 * position + 15]
                    rows: list[Row] = []
                    for category, texts in of_session:
                        rows += [{"text": text, "label": category} for text in texts]
                    database.ingest(name, rows, SampleKind.EMBEDDING)

            models = {}
            for name in names:
                own_share = share if models else 0.0
                train(settings_for(folder, replay=own_share), folder, name)
                models[name] = folder / f"model-{name}"
                shutil.copytree(folder / "models" / "embedding" / "root", models[name])
                print(f"replay={share:g}: trained on {name}", flush=True)
            print_end(folder, share, models)


def print_end(folder: Path, share: float, models: dict[str, Path]) -> None:
    """Print how the last model does on each session's test rows, against two other models."""
    family, settings = family_named("embedding"), settings_for(folder)
    with open_database(folder) as database:
        benchmark = Benchmark(database=database, family=family, session_ids=[])
        rows, session_of_row = benchmark.rows("label")
    learner = family.learner(settings, "label", None)
    names = list(models)
    paths = {"base": Path(family.resolve_base(settings).path), **models}
    scores = {name: score(family, settings, learner, path, rows) for name, path in paths.items()}

    last = scores[names[-1]]
    since_base = compare(scores["base"], last, session_of_row, settings)
    for name in names:
        since_own = compare(scores[name], last, session_of_row, settings)[name]
        print(
            f"replay={share:g} {name}: since base {in_words(since_base[name])}; "
            f"since its own training {in_words(since_own)}"
        )
    everywhere = dict.fromkeys(session_of_row, "all sessions")
    for name in ("base", names[0]):
        change = compare(scores[name], last, everywhere, settings)["all sessions"]
        print(f"replay={share:g} all sessions, since {name}: {in_words(change)}", flush=True)


def score(family: Any, settings: Settings, learner: Any, path: Path, rows: pd.DataFrame) -> Scores:
    """Return a model's scores by the primary metric, all test rows ranked together."""
    model = learner.load(str(path))
    return family.score_primary(learner, model, records_of(rows), [], settings.evaluation)


def compare(
    before: Scores, after: Scores, session_of_row: dict[int, str], settings: Settings
) -> dict[str, Any]:
    """Return the comparison on each session, each interval at 95 %."""
    sessions = set(session_of_row.values())
    return compare_by_session(
        before,
        after,
        session_of_row,
        bootstrap_samples=settings.evaluation.bootstrap_samples,
        confidence=1.0 - 0.05 * len(sessions),
        seed=settings.seed,
    )


def in_words(comparison: Any) -> str:
    """Return a comparison as `scores_in_words` does."""
    return scores_in_words(comparison.to_dict())


def main() -> None:
    """Run one of the two experiments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("opposed", "five"))
    parser.add_argument("data", type=Path, help="train.csv of Banking77")
    parser.add_argument("--replay", type=float, nargs="+", default=[0.0, 0.2, 0.5, 1.0])
    parser.add_argument("--questions", type=int, default=30, help="of each category")
    options = parser.parse_args()
    run = opposed if options.part == "opposed" else five
    run(options.data, options.replay, options.questions)


if __name__ == "__main__":
    main()

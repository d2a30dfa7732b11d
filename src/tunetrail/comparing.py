"""Comparison of models that were scored before: found in MLflow, read from their rows, compared.

No model is loaded, and neither is torch.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

from tunetrail.config import BASE, TrackingConfig
from tunetrail.errors import UserError
from tunetrail.evaluation.comparison_page import comparison_page
from tunetrail.evaluation.comparison_plots import comparison_pictures
from tunetrail.evaluation.example_rows import (
    FOLD,
    REFERENCE,
    ROWS_ARTIFACT,
    TEST,
    ExampleRows,
    read_example_rows,
)
from tunetrail.evaluation.model_comparison import ModelComparison, compare_models
from tunetrail.evaluation.scored_models import ScoredModel, same_rows
from tunetrail.scratch import scratch_folder
from tunetrail.stores.runs.model_references import ModelReference, find_model
from tunetrail.stores.tracking.tracker import Tracker, existing_store
from tunetrail.verbosity import saying

_FOLDER = "comparison"

SIDES = {"test": TEST, "folds": FOLD}
"""The rows that models can be compared on, by the names that users give them."""


@saying(None)
def compare(
    *models: str,
    tracking_uri: str | None = None,
    model_type: str | None = None,
    metric: str | None = None,
    common: bool = False,
    rows: str = "test",
    bootstrap_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ModelComparison:
    """Compare two or more models on the same rows, by the scores that their runs kept.

    `compare("embedding/2", "embedding@root")` tells whether root is better than version 2.

    Args:
        models: The models: the id or the name of a run, a version (`embedding/3` or
            `models:/embedding/3`), an alias (`embedding@root`), or `base`, the base model as one
            of the other runs scored it.
        tracking_uri: The MLflow store; by default `sqlite:///mlflow.db`.
        model_type: The family, if the runs trained several: `embedding` or `llm`.
        metric: Name of the metric; by default the primary one of the rows' shape.
        common: Compare on the rows that all models share, if their rows differ.
        rows: `test`, or `folds`: the held-out rows of all folds of the cross-validation, on which
            recipes are compared, each with the models that it trained on the other folds.
        bootstrap_samples: Resamples for each interval, and swaps for each p-value.
        confidence: Coverage of each interval; the level of the tests is 1 minus it.
        seed: Seed of all draws.

    Raises:
        UserError: A model isn't found, or the models can't be compared; the message says why.
        TrackingError: The store can't be reached or read.
    """
    if len(models) < 2:
        raise UserError(
            f"models must be at least 2, got {len(models)}. "
            "Name runs, versions, aliases or base: tunetrail compare embedding/1 embedding/2."
        )
    if not 0.5 <= confidence < 1.0:
        raise UserError(f"confidence must be at least 0.5 and below 1, got {confidence}. Try 0.95.")

    if rows not in SIDES:
        raise UserError(f"rows must be {' or '.join(SIDES)}, got {rows!r}.")

    tracker = existing_store(tracking_uri or TrackingConfig().uri)
    references = [find_model(tracker, model, ROWS_ARTIFACT) for model in models]
    model_type = _common_model_type(references, model_type)
    rows_by_run = _read_rows(tracker, references, model_type)
    return compare_models(
        _choose_columns(references, model_type, rows_by_run, SIDES[rows]),
        metric=metric,
        common=common,
        bootstrap_samples=bootstrap_samples,
        confidence=confidence,
        seed=seed,
    )


def log_comparison(
    comparison: ModelComparison, *, tracking_uri: str | None = None, experiment: str | None = None
) -> str:
    """Log a comparison to a new MLflow run: the table, the page and the pictures.

    Args:
        comparison: The comparison.
        tracking_uri: The MLflow store; by default `sqlite:///mlflow.db`.
        experiment: Name of the MLflow experiment; by default `tunetrail`.

    Returns:
        The id of the run.
    """
    default = TrackingConfig()
    config = TrackingConfig(
        uri=tracking_uri or default.uri,
        experiment=default.experiment if experiment is None else experiment,
    )
    names = [model.name for model in comparison.models]
    run = Tracker(config).start_run(
        f"compare {' '.join(names)}", tags={"tunetrail.compared": " ".join(names)}
    )

    with run.finish_on_exit():
        run.log_metrics({f"{model.name}/value": model.value for model in comparison.models})
        run.log_dict(comparison.to_dict(), f"{_FOLDER}/comparison.json")
        run.log_text(comparison.table().to_csv(index=False), f"{_FOLDER}/pairs.csv")
        pictures = comparison_pictures(comparison)
        run.log_text(comparison_page(comparison, pictures), f"{_FOLDER}/comparison.html")
        for name, picture in pictures.items():
            run.log_picture(picture, f"{_FOLDER}/{name}.png")
    return run.run_id


def _common_model_type(references: Sequence[ModelReference], model_type: str | None) -> str:
    """Return the one model type that all references have, or the one that is asked for."""
    with_runs = [reference for reference in references if reference.name != BASE]
    if not with_runs:
        raise UserError(
            "models must name a run or a version besides base, got base only. "
            "Name a run in which base was scored."
        )

    shared = set.intersection(*(set(reference.run_ids) for reference in with_runs))
    if model_type is not None:
        shared &= {model_type}
    if len(shared) == 1:
        return shared.pop()

    trained = [f"{', '.join(reference.run_ids)} of {reference.name}" for reference in with_runs]
    if shared:
        choice = " or ".join(f"--model-type {name}" for name in sorted(shared))
        raise UserError(f"model type must be one, got {'; '.join(trained)}. Add {choice}.")
    asked = f" {model_type}" if model_type else " the same"
    raise UserError(
        f"model type must be{asked} for all models, got {'; '.join(trained)}. "
        "Compare models of one family."
    )


def _read_rows(
    tracker: Tracker, references: Iterable[ModelReference], model_type: str
) -> dict[str, ExampleRows]:
    """Return the rows of the runs that the references name, by run id."""
    rows_by_run: dict[str, ExampleRows] = {}
    with scratch_folder() as folder:
        for reference in references:
            run_id = reference.run_ids.get(model_type)
            if run_id is not None and run_id not in rows_by_run:
                path = tracker.run(run_id).download(ROWS_ARTIFACT, folder)
                rows_by_run[run_id] = read_example_rows(path)
    return rows_by_run


def _choose_columns(
    references: Sequence[ModelReference],
    model_type: str,
    rows_by_run: Mapping[str, ExampleRows],
    side: str,
) -> list[ScoredModel]:
    """Return for each reference the file and the columns with its scores.

    A file holds the scores of two models, so that a version may be in several files: in its own as
    the candidate, and in the files of runs that were compared with it. If its own test rows differ
    from the other models', one of these may have the same.
    """
    sources = [
        _sources(reference, reference.run_ids.get(model_type), rows_by_run, side)
        for reference in references
    ]
    chosen = [source[0] for source in sources]

    for pivot in itertools.chain.from_iterable(sources):
        on_same_rows = [_scored_on_rows_of(pivot, source) for source in sources]
        if None not in on_same_rows:
            return [model for model in on_same_rows if model is not None]
    # Their difference becomes a readable error.
    return chosen


def _scored_on_rows_of(pivot: ScoredModel, candidates: Sequence[ScoredModel]) -> ScoredModel | None:
    """Return the first candidate that was scored on the pivot's rows; None if there is none."""
    return next((model for model in candidates if same_rows([pivot, model])), None)


def _sources(
    reference: ModelReference,
    own_run_id: str | None,
    rows_by_run: Mapping[str, ExampleRows],
    side: str,
) -> list[ScoredModel]:
    """Return the files and columns with a model's scores, its own run's first."""
    sources = []
    if own_run_id is not None:
        own_rows = rows_by_run[own_run_id]
        sources.append(ScoredModel(name=reference.name, rows=own_rows, side=side))
    for rows in rows_by_run.values():
        # Folds start from the base model, and are compared with it, whatever root is.
        against = BASE if side == FOLD else rows.run.against
        if against in reference.aliases:
            sources.append(ScoredModel(name=reference.name, rows=rows, column=REFERENCE, side=side))

    if not sources:
        compared = ", ".join(
            f"run {run_id} with {rows.run.against}" for run_id, rows in rows_by_run.items()
        )
        raise UserError(
            f"{BASE} must be what one of the models was compared with, got {compared}. "
            "Name the run of a first training, which has no root to beat."
        )
    return sources

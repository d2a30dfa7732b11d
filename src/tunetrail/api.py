"""Python's door: what the command line does, as functions that return typed values.

Each function composes the same configuration as its command, runs the same code and raises the
error of which the command line prints the text. The classes that it uses are imported when a
function is called.
"""

import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunetrail.errors import ConfigError, UserError
from tunetrail.verbosity import saying

if TYPE_CHECKING:
    import pandas as pd

    from tunetrail.config import TrainRequest
    from tunetrail.data.flow.prepared import PreparedSession
    from tunetrail.pipeline.planning.run_plan import RunPlan
    from tunetrail.pipeline.training_result import TrainingResult

logger = logging.getLogger(__name__)


def train(
    session_id: str | Sequence[str] | None = None,
    model_type: str | None = None,
    *,
    overrides: Sequence[str] = (),
    verbose: int | None = None,
    **settings: Any,
) -> "TrainingResult":
    """Train on a session's samples; the new model becomes root if it is measurably better.

    `train("faq", "embedding", embedding={"training": {"learning_rate": 3e-5}})` does what
    `tunetrail train session_id=faq model_type=embedding embedding.training.learning_rate=3e-5`
    does, in the folder in which Python runs.

    Args:
        session_id: The session to learn from, or several.
        model_type: `embedding`, `llm` or `all` (the default).
        overrides: Further settings as the command line takes them, such as `["optimizer=sgd"]`;
            they count more than `settings`.
        verbose: How much is said meanwhile: 0 for warnings, 1 for lines and progress bars, 2 for
            what libraries say as well; None for $TUNETRAIL_VERBOSE, or else 1. If the application
            has configured logging, its handlers take the lines.
        settings: Any key of docs/configuration.md, its section as a mapping or with dots; a group
            takes the name of an option (`embedding="minilm"`), and `experiments="quick"` takes a
            file of experiments/.

    Returns:
        What came of each model type; `print` and Jupyter show it as a table.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is out of range.
        UserError: The session or its samples can't be trained on.
        TunetrailError: Something failed; the run is marked as failed with the reason, in MLflow and
            in the database.
    """
    with saying(verbose):
        request = _composed(session_id, model_type, settings, overrides)
        if request.trainer.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes must be 1 in Python, got {request.trainer.num_nodes}. Several "
                "nodes are started by `tunetrail train` on each of them (docs/training.md)."
            )
        _say_loading()
        from tunetrail.cli.python_overrides import overrides_of
        from tunetrail.node import ModelTrainingNode, NodeConfig
        from tunetrail.pipeline.run_names import typed_changes
        from tunetrail.stores.database.manager import DatabaseManager

        changes = typed_changes([*overrides_of(settings), *overrides])
        with DatabaseManager(request.database.url) as manager:
            node = ModelTrainingNode(NodeConfig(settings=request), manager, changes=changes)
            return node.execute(
                {"session_id": request.session_id, "model_type": request.model_type}
            )


def plan(
    session_id: str | Sequence[str] | None = None,
    model_type: str | None = None,
    *,
    overrides: Sequence[str] = (),
    verbose: int | None = None,
    **settings: Any,
) -> "RunPlan":
    """Say what `train` with the same arguments will take, before it is paid for.

    A few steps of the real model on real rows are timed; nothing is trained or recorded.

    Args:
        session_id: The session to learn from, or several.
        model_type: `embedding`, `llm` or `all` (the default).
        overrides: As for `train`.
        verbose: As for `train`.
        settings: As for `train`.

    Returns:
        Rows, steps, time, memory and disk by model type: `.seconds`,
        `.families["embedding"].memory.peak_bytes`, `.to_dict()`.

    Raises:
        UserError: The settings, the session or its samples can't be trained on.
        TrainingError: The model or the machine isn't up to the training.
    """
    with saying(verbose):
        request = _composed(session_id, model_type, settings, overrides)
        _say_loading()
        from tunetrail.node import ModelTrainingNode, NodeConfig
        from tunetrail.stores.database.manager import DatabaseManager

        with DatabaseManager(request.database.url) as manager:
            node = ModelTrainingNode(NodeConfig(settings=request), manager)
            return node.plan({"session_id": request.session_id, "model_type": request.model_type})


def prepare(
    session_id: str | Sequence[str] | None = None,
    model_type: str | None = None,
    *,
    overrides: Sequence[str] = (),
    verbose: int | None = None,
    **settings: Any,
) -> "PreparedSession":
    """Validate, clean and split a session's rows into files, without training.

    Args:
        session_id: The session, or several.
        model_type: `embedding`, `llm` or `all` (the default): all that it has samples for.
        overrides: As for `train`.
        verbose: As for `train`.
        settings: As for `train`; `output_dir` is the folder of the files (default:
            `prepared/SESSION_ID`).

    Returns:
        The account of the rows: `.frame("train")`, `.findings`, `.folder`.

    Raises:
        SampleError: The validation found errors; the files are written anyway.
        UserError: The settings, the session or its samples can't be prepared.
    """
    with saying(verbose):
        from tunetrail.cli.prepare import DEFAULT_FOLDER

        request = _composed(session_id, model_type, settings, overrides, DEFAULT_FOLDER)
        _say_loading()
        from tunetrail.node.preparation import prepare_request
        from tunetrail.stores.database.manager import DatabaseManager

        with DatabaseManager(request.database.url) as manager:
            call = {"session_id": request.session_id, "model_type": request.model_type}
            session = prepare_request(request, manager, call, Path(request.output_dir))
        session.check_usable()
        return session


def runs(
    *,
    where: str | Iterable[str] = (),
    sort: str | None = None,
    descending: bool = False,
    limit: int | None = None,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> "pd.DataFrame":
    """Return the trainings and sweeps of an MLflow experiment, newest first.

    `runs(where="session=faq", sort="embedding/after", descending=True)` has the best one on top.

    Args:
        where: Conditions that must all hold, such as `"state=failed"` or `"batch_size>=32"`, by a
            fact, a setting or a metric, or the end of its name.
        sort: Order by this fact, setting or metric, smallest first.
        descending: Largest first.
        limit: The most rows; None for all.
        tracking_uri: The MLflow store; by default `sqlite:///mlflow.db`.
        experiment: Name of the experiment; by default `tunetrail`.

    Returns:
        A row for each run: `run_id`, `name`, `started` (UTC), `seconds`, `state`, `session`,
        `model_type`, `decision`, `reason`, `test_rows`, `sweep`; then a column for each metric and
        each setting. Scores of runs with other `test_rows` can't be compared.

    Raises:
        UserError: There is no such store, experiment or key, or a condition can't be read.
        TrackingError: The store can't be reached or read.
    """
    if limit is not None and limit < 0:
        raise UserError(f"limit must be 0 or more, got {limit}. None lists all runs.")
    with saying(None):
        from tunetrail.config import TrackingConfig
        from tunetrail.stores.runs.run_frame import runs_frame
        from tunetrail.stores.runs.run_list import existing_experiment, read_runs, select_runs

        store = TrackingConfig()
        tracker = existing_experiment(tracking_uri or store.uri, experiment or store.experiment)
        conditions = [where] if isinstance(where, str) else where
        all_runs = read_runs(tracker)
        selected = select_runs(all_runs, where=conditions, sort=sort, descending=descending)
        return runs_frame(selected[:limit])


def _composed(
    session_id: str | Sequence[str] | None,
    model_type: str | None,
    settings: dict[str, Any],
    overrides: Sequence[str],
    *defaults: str,
) -> "TrainRequest":
    """Return the request that the command line would make of the same settings."""
    from tunetrail.cli.python_overrides import compose_request, overrides_of

    named = {"session_id": session_id, "model_type": model_type}
    of_session = {name: value for name, value in named.items() if value is not None}
    composed = [*overrides_of({**of_session, **settings}), *overrides]
    return compose_request(composed, defaults=defaults)


def _say_loading() -> None:
    """Say that something happens: importing torch takes seconds."""
    if "torch" not in sys.modules:
        logger.info("loading the libraries ...")

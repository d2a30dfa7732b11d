"""Commands that are killed at a named point: what they had done stays, and the next one works."""

import json
import shutil
import signal
from collections.abc import Collection
from pathlib import Path

import pytest
from tests.faults.conftest import Overrides
from tests.faults.processes import Command, Point
from tests.flow.conftest import rows_of
from tests.roots import Workplace
from tests.tracking import client_of

from tunetrail.deployment.doctor import Doctor, repair_all
from tunetrail.deployment.flavors import EmbeddingFlavor
from tunetrail.stores.database.ingestion import CHUNK_SIZE
from tunetrail.stores.database.ledger import MOVES, PROMOTED
from tunetrail.stores.runs.mlflow_survey import MlflowSurvey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_DATABASE = "tunetrail.stores.database.manager:DatabaseManager"
_PIPELINE = "tunetrail.pipeline.data_science_pipeline"
_MODULE = "tunetrail.learning.embedding.module:EmbeddingModule"
_CLIENT = "mlflow:MlflowClient"

BEFORE_ITS_RUN = [
    Point(name="training recorded", function=f"{_DATABASE}.create_training_run", after=True),
    Point(
        name="MLflow run started",
        function="tunetrail.stores.tracking.tracker:Tracker.start_run",
        after=True,
    ),
]
"""Points of a training at which there is no run that could be resumed yet."""

TRAINING = [
    Point(name="first stage begins", function=f"{_PIPELINE}:prepare"),
    Point(name="rows split", function="tunetrail.pipeline.stages.prepare:_split_rows", after=True),
    Point(
        name="state of the run written", function="tunetrail.pipeline.run_state:write_json", call=3
    ),
    Point(name="fit begins", function="tunetrail.learning.attempt:Attempt.run"),
    Point(name="step within an epoch", function=f"{_MODULE}.training_step", call=2),
    Point(
        name="checkpoint being written",
        function="pytorch_lightning:Trainer.save_checkpoint",
        after=True,
    ),
    Point(name="step after a checkpoint", function=f"{_MODULE}.training_step", call=4),
    Point(name="validation", function=f"{_MODULE}.on_validation_epoch_start"),
    Point(name="fit written", function="tunetrail.pipeline.stages.fit:run_fit_job", after=True),
    Point(name="evaluation begins", function=f"{_PIPELINE}:evaluate"),
    Point(
        name="both models scored",
        function="tunetrail.pipeline.stages.evaluate:_score_both",
        after=True,
    ),
    Point(name="evaluation written", function=f"{_PIPELINE}:evaluate", after=True),
    Point(name="export staged", function="tunetrail.deployment.promotion:staged_root", after=True),
    Point(
        name="model folder exported",
        function="tunetrail.pipeline.stages.deploy:_export",
        after=True,
    ),
    Point(
        name="model logged",
        function="tunetrail.deployment.version_writer:VersionWriter._write",
        after=True,
    ),
    Point(
        name="model checked",
        function="tunetrail.deployment.version_writer:VersionWriter._check_written",
        after=True,
    ),
    Point(name="version created", function=f"{_CLIENT}.create_model_version", after=True),
    Point(name="intent written", function=f"{_DATABASE}.record_promotion", after=True),
    Point(
        name="alias moved", function="tunetrail.deployment.root_alias:RootAlias.move", after=True
    ),
    Point(name="decision being written", function=f"{_DATABASE}.record_promotion", call=2),
    Point(name="decision written", function=f"{_DATABASE}.record_promotion", call=2, after=True),
    Point(name="link of root being replaced", function="tunetrail.deployment.export:_replace_link"),
    Point(
        name="link of root replaced",
        function="tunetrail.deployment.export:_replace_link",
        after=True,
    ),
    Point(name="results being written", function="tunetrail.node.model_training_node:write_note"),
    Point(
        name="run finished in MLflow",
        function="tunetrail.stores.tracking.tracked_runs:TrackedRun.finish",
        after=True,
    ),
]
"""Points of a training that can be resumed, in their order."""

INGEST = [
    Point(
        name="rows being stored",
        function="tunetrail.stores.database.ingestion:_write_chunk",
        after=True,
    ),
    Point(
        name="first rows stored",
        function="tunetrail.stores.database.ingestion:_write_chunk",
        call=2,
    ),
    Point(name="all rows stored", function="tunetrail.cli.ingest:_finish"),
]
PREPARE = [
    Point(name="chunks done", function="tunetrail.data.flow.preparation:run_tasks", after=True),
    Point(name="families done", function="tunetrail.node.preparation:join_sessions"),
    Point(name="sides joined", function="tunetrail.node.preparation:join_sessions", after=True),
]
ROLLBACK = [
    Point(name="rollback intended", function=f"{_DATABASE}.record_promotion", after=True),
    Point(
        name="rollback alias removed",
        function="tunetrail.deployment.root_alias:RootAlias.remove",
        after=True,
    ),
    Point(name="rollback decided", function=f"{_DATABASE}.record_promotion", call=2, after=True),
]

INGESTED = 2 * CHUNK_SIZE + 100
"""Rows of three transactions."""
UNFINISHED = ("**/.writing-*", "**/.scratch-*", "**/.parts-*", "tmp/tunetrail-*")
"""Names of folders whose files are not finished."""


def workplace_of(project: Path) -> Workplace:
    """Return the stores and folders of a project."""
    return Workplace(folder=project, base="")


def kill(project: Path, point: Point, *arguments: str) -> None:
    """Run a command that kills itself at a point."""
    ended = Command(folder=project, arguments=arguments, killed_at=point).run()
    assert ended.exit_code == -signal.SIGKILL, f"the point was not met: {ended.printed}"


def succeed(project: Path, *arguments: str) -> str:
    """Run a command that has to succeed, and return what it printed."""
    ended = Command(folder=project, arguments=arguments).run()
    assert ended.exit_code == 0, ended.printed
    return ended.printed


def check_root_loads(project: Path, versions: Collection[str] = ("1", "2")) -> None:
    """Assert that the alias is one of some versions and loads, and so does the exported folder."""
    place = workplace_of(project)
    root = place.registry.root()
    assert root is not None and root.version in versions
    vectors = EmbeddingFlavor().outputs(place.registry.load(root), ["a text"])
    assert vectors.shape[0] == 1
    assert (project / "models/embedding/root/model.safetensors").is_file()


def check_nothing_is_left(project: Path, ends: Collection[str] = ("interrupted",)) -> None:
    """Assert that the stores agree, that nothing runs, and that no unfinished folder is left.

    First, the doctor repairs what is nobody's business but its own.

    Args:
        project: The project.
        ends: How runs may have ended that didn't succeed.
    """
    place = workplace_of(project)
    doctor = Doctor(
        database=place.database,
        store=MlflowSurvey(place.registry.tracker),
        model_dir=place.models,
        output_dir=place.folder / "training_output",
    )
    assert repair_all(doctor.findings()) == []
    assert doctor.findings() == []

    place.check()
    states = {run.state.value for run in place.database.training_runs()}
    assert states <= {"succeeded", *ends}
    client = client_of(place.uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert client.search_runs(experiments, "attributes.status = 'RUNNING'") == []
    assert place.database.session_summary("s1").samples["embedding"] == len(rows_of("pair"))
    assert [path for name in UNFINISHED for path in project.glob(name)] == []


@pytest.mark.parametrize("point", [*BEFORE_ITS_RUN, *TRAINING], ids=str)
def test_after_a_killed_training_resume_and_another_training_work(
    project: Path, tmp_path: Path, overrides: Overrides, point: Point
) -> None:
    kill(project, point, "train", *overrides())
    copy = tmp_path / "copy"
    # Before this process opens the stores: to read their files by hand would drop its locks on them.
    shutil.copytree(project, copy, symlinks=True)
    check_root_loads(project)

    succeed(copy, "train", *overrides("seed=1"))
    check_nothing_is_left(copy)

    if point in TRAINING:
        run = workplace_of(project).database.training_runs()[-1]
        succeed(project, "resume", run.run_id)
        check_nothing_is_left(project)
        # An intent that no process was left to carry out has a line as well: it was abandoned.
        moves = [line for line in workplace_of(project).lines() if line[1] in MOVES]
        assert moves == [("1", PROMOTED, None), ("2", PROMOTED, "1")]


@pytest.mark.parametrize("point", INGEST, ids=str)
def test_a_killed_ingest_is_completed_by_a_second(project: Path, point: Point) -> None:
    rows = [f'{{"anchor": "question {n}", "positive": "answer {n}"}}\n' for n in range(INGESTED)]
    (project / "rows.jsonl").write_text("".join(rows))
    arguments = ("ingest", "rows.jsonl", "--session", "s2", "--kind", "embedding")
    kill(project, point, *arguments)

    succeed(project, *arguments)

    summary = workplace_of(project).database.session_summary("s2")
    assert summary.samples["embedding"] == INGESTED and summary.rejected == 0
    check_nothing_is_left(project)


@pytest.mark.parametrize("point", PREPARE, ids=str)
def test_a_killed_preparation_is_replaced_by_a_second(
    project: Path, overrides: Overrides, point: Point
) -> None:
    arguments = ("prepare", *overrides("output_dir=look", "preparation.cache_gigabytes=0"))
    kill(project, point, *arguments)

    succeed(project, *arguments)

    assert (project / "look/rows/train.parquet").is_file()
    assert (project / "look/report.html").is_file()
    check_nothing_is_left(project)


@pytest.mark.parametrize("point", ROLLBACK, ids=str)
def test_a_killed_rollback_is_finished_or_taken_back(
    project: Path, overrides: Overrides, point: Point
) -> None:
    kill(project, point, "root", "rollback", "embedding", "base", "--reason", "tried")

    printed = succeed(project, "root", "--json")

    root = json.loads(printed[printed.index("{\n") :])["roots"][0]["root"]
    assert root is None or root["version"] == "1"
    check_nothing_is_left(project)
    succeed(project, "train", *overrides("seed=1"))
    check_nothing_is_left(project)

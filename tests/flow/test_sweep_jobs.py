"""Jobs of a sweep: trained up to the fit, compared by validation; only the best meets the test rows."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution
from tests.flow.conftest import ending_at, rows_of, store_rows
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.cli.sweep_table import print_sweep
from tunetrail.config import (
    CrossValidationConfig,
    SearchConfig,
    Settings,
    SplitConfig,
    SweepConfig,
    TrainRequest,
)
from tunetrail.errors import ConfigError, UserError
from tunetrail.samples import SampleKind
from tunetrail.stores.tracking.tracker import Tracker
from tunetrail.sweeps.job import run_job
from tunetrail.sweeps.objectives import check_objective
from tunetrail.sweeps.pinning import pins_of_now
from tunetrail.sweeps.space import Parameter, SearchSpace
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.sweep_job import JobState, SweepJob
from tunetrail.sweeps.sweep_plan import Objective
from tunetrail.sweeps.winner import decide_sweep

Make = Callable[..., Settings]


@dataclasses.dataclass
class Sweep:
    """A sweep over learning rates whose jobs this process runs one by one."""

    settings: Settings
    database: DatabaseManager
    study: SweepStudy

    @property
    def run_id(self) -> str:
        return self.study.sweep_run_id

    def run(self, number: int) -> SweepJob:
        """Run the next job as Hydra would: composed with its override."""
        (rate,) = self.study.job(number).overrides
        embedding = self.settings.embedding
        training = dataclasses.replace(
            embedding.training, learning_rate=float(rate.partition("=")[2])
        )
        settings = dataclasses.replace(
            self.settings,
            embedding=dataclasses.replace(embedding, training=training),
            sweep=dataclasses.replace(self.settings.sweep, run_id=self.run_id, job=number),
        )
        return run_job(settings, "s1", "embedding", self.database)

    def folders(self) -> set[str]:
        """The names of the folders that runs keep."""
        folder = Path(self.settings.output_dir)
        return {path.name for path in folder.iterdir()} if folder.exists() else set()

    def folder_of(self, job: SweepJob) -> str:
        """The name of the folder that the run of a job keeps."""
        assert job.mlflow_run_id is not None
        return job.mlflow_run_id

    def tags(self, run_id: str) -> dict[str, str]:
        return dict(client_of(self.settings.tracking.uri).get_run(run_id).data.tags)

    def datasets(self, job: SweepJob) -> set[tuple[str, str]]:
        """Name and digest of the rows that the run of a job has logged."""
        run = client_of(self.settings.tracking.uri).get_run(job.mlflow_run_id or "")
        return {
            (logged.dataset.name, logged.dataset.digest) for logged in run.inputs.dataset_inputs
        }

    def training(self, job: SweepJob) -> dict[str, Any]:
        """What the run of a job says of its training."""
        run = Tracker(self.settings.tracking).run(job.mlflow_run_id or "")
        return dict(run.read_dict("steps/training.json"))

    def metrics(self, run_id: str) -> dict[str, float]:
        return dict(client_of(self.settings.tracking.uri).get_run(run_id).data.metrics)


@pytest.fixture
def start_sweep(
    workplace: Path, make_settings: Make, database: DatabaseManager, session: str
) -> Callable[..., Sweep]:
    """Start a sweep of a session, with its run and study, and a job for each learning rate."""

    def start(rates: Sequence[str], *, search: dict[str, Any] | None = None, **sweep: Any) -> Sweep:
        settings = make_settings(workplace, split=SplitConfig(validation_share=0.4))
        settings = dataclasses.replace(settings, sweep=SweepConfig(**sweep))
        request = TrainRequest(
            session_id=session, model_type="embedding", tracking=settings.tracking
        )
        objectives = check_objective(settings, database, session, "embedding")
        values = list(map(float, rates))
        rate = Parameter(
            key="embedding.training.learning_rate",
            distribution=CategoricalDistribution(values),
            texts=tuple(rates),
        )
        run = Tracker(settings.tracking).start_run("sweep")
        study = SweepStudy.create(
            database,
            run.run_id,
            objectives,
            search=SearchConfig(**(search or {})),
            space=SearchSpace((rate,)),
            pins=pins_of_now(database, request),
        )
        for value in values:
            study.add_job({rate.name: value})
        return Sweep(settings, database, study)

    return start


@pytest.mark.processes
def test_only_the_best_job_is_evaluated_and_meets_the_gate(
    start_sweep: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = start_sweep(["1e-9", "1e-3", "1e-2"])

    jobs = [sweep.run(number) for number in range(3)]

    assert [job.state for job in jobs] == [JobState.FINISHED] * 3
    client = client_of(sweep.settings.tracking.uri)
    assert list(client.search_model_versions()) == []
    assert sweep.database.promotions("embedding") == []
    for job in jobs:
        assert job.mlflow_run_id is not None and job.values is not None and job.interval is not None
        metrics, tags = sweep.metrics(job.mlflow_run_id), sweep.tags(job.mlflow_run_id)
        assert metrics["validation/ndcg_at_10"] == job.values[0]
        # MLflow's page of compared runs draws the first one.
        assert next(iter(metrics)) == "validation/ndcg_at_10"
        assert metrics["validation/ndcg_at_10/upper"] == job.interval[1]
        assert not [name for name in metrics if name.startswith(("evaluation", "embedding/"))]
        assert (tags["tunetrail.state"], tags["mlflow.parentRunId"]) == ("fitted", sweep.run_id)
        name = client.get_run(job.mlflow_run_id).info.run_name
        assert name == job.overrides[0].removeprefix("embedding.training.")
    # As soon as a job is behind, its model is gone.
    best = max(jobs, key=lambda job: job.values or ())
    assert sweep.folders() == {sweep.folder_of(best)}

    decision = decide_sweep(sweep.settings, sweep.database, sweep.run_id)

    assert decision.best is not None and decision.best.number == best.number
    assert sweep.folders() == set()
    (version,) = client.search_model_versions()
    (promotion,) = sweep.database.promotions("embedding")
    assert version.run_id == sweep.folder_of(best)
    chosen = f"job {best.number}, the best of 3 jobs by nDCG@10 of the validation rows"
    assert decision.sentence == chosen and promotion.reason.endswith(f"; {chosen}")
    tags, metrics = sweep.tags(sweep.run_id), sweep.metrics(sweep.run_id)
    assert tags["tunetrail.sweep.best_run"] == best.mlflow_run_id
    assert metrics["best/ndcg_at_10"] == best.values[0]  # type: ignore[index]
    assert metrics["jobs/finished"] == 3
    assert tags["tunetrail.embedding.decision"] == "promoted"
    assert metrics["embedding/improvement"] == promotion.improvement

    # A driver that was killed at this point decides again, without another look.
    again = decide_sweep(sweep.settings, sweep.database, sweep.run_id)
    assert again.results == decision.results
    assert len(sweep.database.promotions("embedding")) == 1

    capsys.readouterr()
    print_sweep(decision, sweep.settings.tracking.uri)
    printed = capsys.readouterr().out
    assert "finished, best" in printed and "promoted" in printed and chosen in printed
    assert all(f" learning_rate={rate} " in printed for rate in ("1e-9", "1e-3", "1e-2"))


@pytest.mark.processes
def test_sweep_that_promotes_nothing_keeps_its_best_job_for_a_choice_by_hand(
    start_sweep: Callable[..., Sweep],
) -> None:
    sweep = start_sweep(["1e-3", "1e-2"], promote="none", objective=["recall_at_1", "seconds"])
    jobs = [sweep.run(number) for number in range(2)]

    decision = decide_sweep(sweep.settings, sweep.database, sweep.run_id)

    front = list(decision.front)
    assert decision.best in front and decision.results is None
    assert sweep.folders() == set(map(sweep.folder_of, front))
    assert sweep.database.promotions("embedding") == []
    assert "root stays, as sweep.promote=none" in decision.sentence
    assert [job.values and len(job.values) for job in jobs] == [2, 2]

    node = ModelTrainingNode(NodeConfig(settings=sweep.settings), sweep.database)
    assert decision.best is not None and decision.best.mlflow_run_id is not None
    results = node.resume(decision.best.mlflow_run_id)

    reason = results["results"]["steps"]["deployment"]["embedding"]["reason"]
    assert reason.endswith(
        f"job {decision.best.number} of the sweep {sweep.run_id}, chosen by hand"
    )


@pytest.mark.processes
def test_hopeless_job_is_pruned_and_leaves_no_folder(start_sweep: Callable[..., Sweep]) -> None:
    search = {"pruner": "median", "pruner_startup_jobs": 1}
    sweep = start_sweep(["1e-3", "1e-9"], search=search, objective="val/loss")
    learnt = sweep.run(0)

    pruned = sweep.run(1)

    assert (learnt.state, pruned.state) == (JobState.FINISHED, JobState.PRUNED)
    assert pruned.reason is not None and pruned.mlflow_run_id is not None
    assert "is worse than other jobs' (hydra.sweeper.pruner=median)" in pruned.reason
    assert sweep.folders() == {sweep.folder_of(learnt)}
    for run_id in (pruned.mlflow_run_id, sweep.folder_of(pruned)):
        tags = sweep.tags(run_id)
        assert (tags["tunetrail.state"], tags["tunetrail.outcome"]) == ("pruned", "pruned")
        assert tags["tunetrail.reason"] == pruned.reason
    node = ModelTrainingNode(NodeConfig(settings=sweep.settings), sweep.database)
    with pytest.raises(UserError, match=r"was pruned by its sweep, which keeps no model of it"):
        node.resume(pruned.mlflow_run_id)


@pytest.mark.processes
def test_job_that_fails_tells_its_reason_and_leaves_no_folder(
    start_sweep: Callable[..., Sweep],
) -> None:
    sweep = start_sweep(["1e-3"])

    # At a moment at which a run outside a sweep would keep its folder.
    error = OSError("no space left")
    with ending_at("scoring of", error), pytest.raises(OSError, match="no space left"):
        sweep.run(0)

    failed = sweep.study.job(0)
    assert failed.state == JobState.FAILED and failed.mlflow_run_id is not None
    assert failed.reason == "OSError: no space left"
    assert sweep.tags(failed.mlflow_run_id)["tunetrail.state"] == "failed"
    assert sweep.folders() == set()


@pytest.mark.processes
def test_job_that_was_stopped_continues_in_the_same_run(start_sweep: Callable[..., Sweep]) -> None:
    sweep = start_sweep(["1e-3"])

    with ending_at("scoring of", SystemExit(143)), pytest.raises(SystemExit):
        sweep.run(0)
    stopped = sweep.study.job(0)
    assert stopped.state == JobState.RUNNING and stopped.mlflow_run_id is not None
    node = ModelTrainingNode(NodeConfig(settings=sweep.settings), sweep.database)
    with pytest.raises(UserError, match=f"Continue with tunetrail resume {sweep.run_id}"):
        node.resume(stopped.mlflow_run_id)

    job = sweep.run(0)

    assert (job.state, job.mlflow_run_id) == (JobState.FINISHED, stopped.mlflow_run_id)
    assert job.steps == 3
    assert sweep.tags(job.mlflow_run_id or "")["tunetrail.resumed"] == "1"


@pytest.mark.processes
def test_job_that_begins_later_learns_from_the_same_samples_and_root(
    start_sweep: Callable[..., Sweep],
) -> None:
    sweep = start_sweep(["1e-3", "1e-2"])
    first = sweep.run(0)
    # Root moves, and samples arrive, before the second one begins.
    decide_sweep(sweep.settings, sweep.database, sweep.run_id)
    assert [line.version for line in sweep.database.promotions("embedding")] == ["1"]
    later = [{"anchor": f"later {row}", "positive": f"arrived {row}"} for row in range(9)]
    store_rows(sweep.database, "s1", SampleKind.EMBEDDING, later)

    second = sweep.run(1)

    assert sweep.datasets(first) == sweep.datasets(second) != set()
    starts = [sweep.training(job)["started_from"] for job in (first, second)]
    assert starts == ["base", "base"]


def test_sweep_without_a_finished_job_evaluates_none_and_names_the_reasons(
    start_sweep: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = start_sweep(["1e-3", "1e-2"])
    sweep.study.fail_job(0, "the disk is full", seconds=1.5)
    sweep.study.prune_job(1, "behind other jobs", steps=4)

    decision = decide_sweep(sweep.settings, sweep.database, sweep.run_id)
    print_sweep(decision, sweep.settings.tracking.uri)

    assert decision.best is None and decision.results is None
    assert sweep.metrics(sweep.run_id)["jobs/failed"] == 1
    printed = capsys.readouterr().out
    assert "job 0 failed: the disk is full" in printed and "Compare the runs:" in printed
    assert "none of 2 jobs has finished, so nothing is evaluated" in printed


def objectives_of(
    settings: Settings, database: DatabaseManager, objective: Any, model_type: str = "embedding"
) -> tuple[Objective, ...]:
    settings = dataclasses.replace(settings, sweep=SweepConfig(objective=objective))
    return check_objective(settings, database, "s1", model_type)


def test_objectives_have_the_direction_of_their_metric(
    workplace: Path, make_settings: Make, database: DatabaseManager, session: str
) -> None:
    settings = make_settings(workplace, cross_validation=CrossValidationConfig(n_splits=2))

    def directions(objective: Any, model_type: str = "embedding") -> list[tuple[str, bool]]:
        objectives = objectives_of(settings, database, objective, model_type)
        return [(objective.name, objective.higher_is_better) for objective in objectives]

    assert directions("auto") == [("ndcg_at_10", True)]
    assert directions("auto", "llm") == [("bits_per_byte", False)]
    assert directions(["recall_at_5", "seconds"]) == [("recall_at_5", True), ("seconds", False)]
    assert directions(["cross_validation", "model_mib"]) == [
        ("cross_validation", True),
        ("model_mib", False),
    ]
    assert directions("cross_validation", "llm") == [("cross_validation", False)]
    assert directions("val/loss") == [("val/loss", False)]


def test_objective_of_rows_that_are_sorted_by_label_is_the_metric_of_the_gate(
    workplace: Path, make_settings: Make, database: DatabaseManager
) -> None:
    rows = sorted(rows_of("label"), key=lambda row: str(row["label"]))
    store_rows(database, "s1", SampleKind.EMBEDDING, rows)

    objectives = objectives_of(make_settings(workplace), database, "auto")

    assert objectives == (Objective(name="ndcg_at_10", higher_is_better=True),)


def test_objective_of_too_few_validation_rows_is_the_loss_which_is_said_aloud(
    workplace: Path,
    make_settings: Make,
    database: DatabaseManager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store_rows(database, "s1", SampleKind.EMBEDDING, rows_of("pair")[:10])
    settings = make_settings(workplace)

    assert [goal.name for goal in objectives_of(settings, database, "auto")] == ["val/loss"]

    assert "can't tell models apart by the metric of the gate" in caplog.text


@pytest.mark.parametrize(
    ("objective", "model_type", "words"),
    [
        ("ndgc_at_10", "embedding", r"sweep.objective must be one of auto, .*'ndcg_at_10'\?"),
        ("bits_per_byte", "embedding", r"a metric of pair samples .* got 'bits_per_byte'"),
        ("ndcg_at_10", "llm", r"a metric of completion samples .* got 'ndcg_at_10'"),
        ("cross_validation", "embedding", r"n_splits must be at least 2 .* got 0. Set cross_val"),
        ("auto", "all", r"model_type must be one of embedding, llm in a sweep.*got 'all'. Add"),
    ],
)
def test_objective_that_no_job_can_make_is_refused_before_the_first(
    workplace: Path,
    make_settings: Make,
    database: DatabaseManager,
    session: str,
    objective: str,
    model_type: str,
    words: str,
) -> None:
    with pytest.raises(ConfigError, match=words):
        objectives_of(make_settings(workplace), database, objective, model_type)

"""What must hold for the jobs of a sweep, as somebody sees it who types the command."""

import json
import re
from pathlib import Path

import pytest
from tests.commands import CallMain
from tests.flow.conftest import rows_of, store_rows
from tests.tracking import client_of

from tunetrail import DatabaseManager
from tunetrail.samples import SampleKind

pytestmark = pytest.mark.processes


@pytest.fixture
def train(
    call_main: CallMain,
    workplace: Path,
    tiny_embedding_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> CallMain:
    """`tunetrail train session_id=s1 ...` of a session with pairs, in three steps."""
    monkeypatch.setenv("COLUMNS", "160")
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        store_rows(manager, "s1", SampleKind.EMBEDDING, rows_of("pair"))

    def call(*arguments: str) -> object:
        return call_main(
            "train",
            "session_id=s1",
            f"embedding.model={tiny_embedding_model}",
            "embedding.training.max_steps=3",
            "embedding.training.warmup_steps=0",
            "cross_validation=off",
            "gate=point",
            "gate.fresh_process=false",
            "gate.minimum_improvement=-10",
            "gate.minimum_test_clusters=1",
            "evaluation.bootstrap_samples=100",
            *arguments,
        )

    return call  # type: ignore[return-value]


def test_jobs_of_a_sweep_start_from_one_root_and_the_best_alone_meets_the_gate(
    train: CallMain, workplace: Path, tmp_path: Path
) -> None:
    assert train("model_type=embedding").exit_code == 0

    swept = train("-m", "embedding.training.learning_rate=1e-4,1e-3,1e-2")

    assert swept.exit_code == 0, swept.err
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    versions = client.search_model_versions()
    assert sorted(version.version for version in versions) == [1, 2]
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        decisions = manager.promotions("embedding")
        runs = manager.training_runs()
    assert [decision.previous_version for decision in decisions] == [None, "1"]
    assert re.search(r"; job \d, the best of 3 jobs by nDCG@10 of the valid", decisions[1].reason)
    assert sorted(run.state for run in runs) == ["fitted", "fitted", "succeeded", "succeeded"]

    # Root has moved after the jobs, which didn't build on one another.
    starts = set()
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiment_ids, "tags.`tunetrail.model_type` = 'embedding'"):
        if {artifact.path for artifact in client.list_artifacts(run.info.run_id, "steps")}:
            file = client.download_artifacts(run.info.run_id, "steps/training.json", str(tmp_path))
            starts.add(json.loads(Path(file).read_text())["started_from"])
    assert starts == {"base", "models:/embedding/1"}

    # One table at the end: a line per job, then what became of the best one.
    for rate in ("0.0001", "0.001", "0.01"):
        lines = [line for line in swept.out.splitlines() if f"learning_rate={rate} " in line]
        assert len(lines) == 1 and "finished" in lines[0], swept.out
    assert swept.out.count("finished, best") == 1
    assert swept.out.count("promoted") == 1
    assert not list((workplace / "training_output").glob("*/state.json"))


def test_objective_that_nobody_measures_ends_the_sweep_before_its_first_job(
    train: CallMain, workplace: Path
) -> None:
    result = train("-m", "embedding.training.learning_rate=1e-4,1e-3", "sweep.objective=ndgc_at_10")

    assert result.exit_code == 2
    assert "sweep.objective must be one of auto, cross_validation" in result.error_line
    assert "got 'ndgc_at_10'. Did you mean 'ndcg_at_10'?" in result.error_line
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert manager.training_runs() == []


def test_a_folder_of_hydra_s_own_is_refused_for_a_single_training_as_well(
    train: CallMain, workplace: Path
) -> None:
    result = train("model_type=embedding", "hydra.job.chdir=true")

    assert result.exit_code == 2
    assert "hydra.job.chdir must be false, got True" in result.err.splitlines()[-1]
    # No second database, in which nobody would look.
    assert list(workplace.rglob("tunetrail.db")) == [workplace / "tunetrail.db"]
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert manager.training_runs() == []

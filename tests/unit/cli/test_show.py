"""`tunetrail show` of real stores: what is printed, and what can't be shown."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain

from tunetrail.config import TrackingConfig
from tunetrail.run_summary import changed_settings
from tunetrail.stores.runs.quick_runs import QuickRuns
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker

COMPARISON = {
    "metric": "ndcg_at_10",
    "before": 0.5,
    "after": 0.625,
    "improvement": 0.125,
    "lower": 0.1,
    "upper": 0.15,
    "confidence": 0.95,
    "examples": 40,
    "clusters": 20,
    "evidence": "40 of 44 test rows in 20 groups, ranked among 300 documents",
    "against": "base",
    "sessions": {"s1": {"improvement": 0.125, "lower": 0.1, "upper": 0.15}},
}
DEPLOYMENT = {
    "decision": "promoted",
    "reason": "lower bound [of the improvement] +0.1000 is above +0.0000",
    "name": "embedding",
    "version": "3",
    "exported_to": "models/embedding/root",
}
METRICS = (
    "metric,label,before,before_lower,before_upper,after,after_lower,after_upper,improvement,"
    "improvement_lower,improvement_upper\n"
    "ndcg_at_10,nDCG@10,0.5,0.4,0.6,0.625,0.5,0.7,0.125,0.1,0.15\n"
    "effective_rank,effective rank,8.0,,,9.0,,,,,\n"
)
WORST = [
    {"row_id": 7, "before": 1.0, "after": 0.0, "content": '{"anchor": "why  not", "positive": "so"}'},
    {"row_id": None, "before": 0.5, "after": 0.25},
]  # fmt: skip

Start = Callable[..., TrackedRun]


@pytest.fixture
def start(workplace: Path) -> Start:
    """Starts a training in the store of the folder, with the settings that it was asked for."""
    uri = f"sqlite:///{workplace}/mlflow.db"
    tracker = Tracker(TrackingConfig(uri=uri, artifacts=str(workplace / "mlartifacts")))

    def start_run(name: str, tags: dict[str, str] | None = None, **settings: Any) -> TrackedRun:
        all_tags = {
            "tunetrail.training_run": "t",
            "tunetrail.session_id": "s1",
            "tunetrail.model_type": "embedding",
            "tunetrail.family": "embedding",
        }
        run = tracker.start_run(name, tags=all_tags if tags is None else tags)
        request = {"session_id": "s1", "model_type": "embedding", "seed": 42}
        run.log_dict({**request, **settings}, "config.json")
        return run

    return start_run


def evaluated(run: TrackedRun) -> str:
    """Leave what a training leaves after its decision, and return the run's id."""
    run.log_dict(COMPARISON, "steps/comparison.json")
    run.log_dict(DEPLOYMENT, "steps/deployment.json")
    run.log_dict({"rule": "it is first", "worst": WORST}, "evaluation/examples.json")
    run.log_text(METRICS, "report/embedding/metrics.csv")
    run.log_text("<html>", "report/report.html")
    client = run.tracker.client
    client.create_registered_model("embedding")
    for _ in range(3):
        client.create_model_version("embedding", run.artifact_location("model"), run.run_id)
    client.set_registered_model_alias("embedding", "root", "3")
    run.finish("succeeded")
    return run.run_id


def test_show_prints_what_came_of_a_training(
    call_main: CallMain, start: Start, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    settings = {
        "embedding": {"training": {"learning_rate": 3e-5, "num_epochs": 3}},
        "seed": 7,
        # Of which sweep it is a job isn't a setting.
        "sweep": {"run_id": "s", "job": 3},
    }
    run_id = evaluated(start("[b]good[/b]", **settings))

    result = call_main("show", run_id[:8])

    assert (result.exit_code, result.err) == (0, "")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert lines[0] == f"training {run_id}: [b]good[/b]"
    assert re.fullmatch(r"succeeded \(started 20.* UTC, took \d+ (s|min)\)", lines[1])
    # The default of num_epochs, and the session, aren't among what differs.
    sections = ("seed", "embedding.", "session", "sweep.")
    settings_shown = [line for line in lines if line.startswith(sections)]
    assert settings_shown == [
        "session: s1; model type: embedding",
        "seed 7 42",
        "embedding.training.learning_rate 3e-5 2e-5",
    ]
    for line in (
        "embedding: promoted (embedding/3, root now)",
        "nDCG@10 0.5000 -> 0.6250, +0.1250 (95 % interval +0.1000 … +0.1500) over 40 of 44 test "
        "rows in 20 groups, ranked among 300 documents, against the base model",
        f"reason: {DEPLOYMENT['reason']}",
        "nDCG@10 0.5000 0.6250 (0.5000 … 0.7000) +0.1250 (+0.1000 … +0.1500)",
        "effective rank 8.0000 9.0000",
        "on session s1: +0.1250 (+0.1000 … +0.1500)",
        "row 7: 1.0000 -> 0.0000 anchor: why not | positive: so",
        "row -: 0.5000 -> 0.2500",
        f"report: {workplace}/mlartifacts/{run_id}/artifacts/report/report.html",
        f"artifacts: {workplace}/mlartifacts/{run_id}/artifacts",
        "embedding version: models:/embedding/3",
        "embedding folder: models/embedding/root",
    ):
        assert line in lines


@pytest.mark.parametrize(
    "reference", ["good", "embedding/2", "models:/embedding/3", "embedding@root"]
)
def test_show_prints_one_object(call_main: CallMain, start: Start, reference: str) -> None:
    run_id = evaluated(start("good"))

    printed = json.loads(call_main("show", reference, "--json").out)

    assert (printed["run_id"], printed["kind"], printed["state"]) == (
        run_id,
        "training",
        "succeeded",
    )
    family = printed["families"]["embedding"]
    assert family["comparison"]["after"] == 0.625 and family["is_root"]
    assert family["metrics"][0]["improvement_interval"] == [0.1, 0.15]
    assert printed["next_command"] is None


def test_show_quietly_prints_nothing(call_main: CallMain, start: Start) -> None:
    result = call_main("show", evaluated(start("good")), "--quiet")
    assert (result.exit_code, result.out, result.err) == (0, "", "")


def test_show_lists_as_many_worst_rows_as_asked(call_main: CallMain, start: Start) -> None:
    run_id = evaluated(start("good"))
    assert "worst test rows" not in call_main("show", run_id, "--worst", "0").out
    one = call_main("show", run_id, "--worst", "1").out
    assert "row 7:" in one and "row -:" not in one


def test_show_of_a_failed_run_tells_the_reason_and_how_to_continue(
    call_main: CallMain, start: Start, workplace: Path
) -> None:
    run = start("poor", output_dir="out")
    run.finish("failed", "MemoryError: no memory")
    checkpoint = workplace / "out" / run.run_id / "fit" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()

    out = call_main("show", "poor").out

    assert "failed: MemoryError: no memory (started" in out and "embedding: not evaluated" in out
    assert f"embedding checkpoint: out/{run.run_id}/fit/checkpoints/last.ckpt" in out
    assert f"continue it: tunetrail resume {run.run_id[:8]}" in out


def test_show_tells_that_a_process_has_ended(call_main: CallMain, start: Start) -> None:
    run = start("killed")
    assert json.loads(call_main("show", "killed", "--json").out)["state"] == "running"
    # A process that started at another time than the one of this id.
    run.set_tags({"tunetrail.process_started": "1.0"})

    assert json.loads(call_main("show", "killed", "--json").out)["state"] == "interrupted"


def test_show_of_a_fold_shows_its_training(call_main: CallMain, start: Start) -> None:
    run = start("good")
    fold = run.child("fold-1", {"tunetrail.fold": "1"})

    assert json.loads(call_main("show", fold.run_id, "--json").out)["run_id"] == run.run_id


def test_show_of_a_sweep_names_the_command_for_its_jobs(call_main: CallMain, start: Start) -> None:
    sweep = start("sweep seed", tags={"tunetrail.sweep": "seed=1,2"})
    job = sweep.child("seed=1", {"tunetrail.training_run": "t"})

    assert f"jobs: tunetrail sweep show {sweep.run_id[:8]}" in call_main("show", sweep.run_id).out
    assert f"job of the sweep {sweep.run_id[:8]}" in call_main("show", job.run_id).out


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("god", "RUN must be a run's id or its beginning, its name, a version such as embedding/3"),
        ("embedding/9", "RUN must be a run's id"),
        ("100%", "RUN must be a run's id"),
        ("twice", "RUN must be one run, got 'twice', which names 2. Give more of the id: "),
    ],
)
def test_show_refuses_what_is_no_run_in_one_line(
    call_main: CallMain, start: Start, reference: str, message: str
) -> None:
    for name in ("good", "twice", "twice"):
        start(name)

    result = call_main("show", reference)

    assert (result.exit_code, result.out) == (2, "")
    assert result.error_line.startswith(f"error: {message}")
    assert reference != "god" or "Did you mean 'good'?" in result.error_line


def test_show_makes_no_store(call_main: CallMain, workplace: Path) -> None:
    result = call_main("show", "good", "--uri", "sqlite:///absent.db")

    assert result.exit_code == 2 and "there is no such file" in result.error_line
    assert not (workplace / "absent.db").exists()


def test_show_goes_on_without_artifacts_that_are_broken(call_main: CallMain, start: Start) -> None:
    run = start("broken")
    run.log_text("{", "steps/comparison.json")
    run.log_text("{", "config.json")

    assert "embedding: not evaluated" in call_main("show", "broken").out


def test_show_asks_mlflow_where_the_file_does_not_tell(
    call_main: CallMain, start: Start, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = evaluated(start("good"))
    quick = json.loads(call_main("show", "good", "--json").out)
    monkeypatch.setattr(QuickRuns, "open", lambda uri: None)

    for reference in (run_id[:6], "good", "embedding@root"):
        uri = f"sqlite:///{workplace}/mlflow.db"
        assert json.loads(call_main("show", reference, "--uri", uri, "--json").out) == quick
    assert call_main("show", "god", "--uri", uri).exit_code == 2


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("embedding", {"seed", "embedding.training.num_epochs", "llm.max_length"}),
        ("llm", {"seed", "llm.training.num_epochs", "llm.max_length"}),
        (
            "all",
            {
                "seed",
                "embedding.training.num_epochs",
                "llm.training.num_epochs",
                "llm.max_length",
            },
        ),
    ],
)
def test_only_trainings_that_took_place_have_changed_settings(
    model_type: str, keys: set[str]
) -> None:
    one_epoch = {"training": {"num_epochs": 1}}
    settings = {"seed": 7, "embedding": one_epoch, "llm": {"max_length": 64, **one_epoch}}

    assert dict(changed_settings(settings, model_type)).keys() == keys

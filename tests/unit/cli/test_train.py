import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain
from tests.tracking import client_of

from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager


def pairs(count: int = 5) -> list[dict[str, Any]]:
    return [{"anchor": f"question {n}", "positive": f"answer {n}"} for n in range(count)]


@pytest.fixture
def session(workplace: Path, migrated_database: Path) -> str:
    """A session with five pairs and no sample of a language model."""
    shutil.copy(migrated_database, "tunetrail.db")
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        manager.ingest("s1", pairs(), SampleKind.EMBEDDING)
    return "s1"


def mlflow_runs() -> list[Any]:
    client = client_of(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiment_ids))


def check_no_run() -> None:
    """The request was refused before anything was opened: neither store has a run of it."""
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert manager.training_runs() == []
    assert mlflow_runs() == []


def check_failed_run(reason: str) -> None:
    """The database and MLflow both tell that and why the run failed, and no version was registered."""
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        (run,) = manager.training_runs()
    assert run.state == "failed" and run.reason is not None and reason in run.reason
    runs = mlflow_runs()
    assert run.mlflow_run_id in [mlflow_run.info.run_id for mlflow_run in runs]
    for mlflow_run in runs:
        assert mlflow_run.info.status == "FAILED"
        assert reason in mlflow_run.data.tags["tunetrail.reason"]
        assert mlflow_run.data.tags["tunetrail.state"] == "failed"
    client = client_of(f"sqlite:///{Path.cwd()}/mlflow.db")
    assert not client.search_registered_models() and not client.search_model_versions()
    assert not list(Path().glob("models/**/*"))


def test_train_help_names_every_group_and_experiment(call_main: CallMain) -> None:
    result = call_main("train", "--help")

    assert result.exit_code == 0
    for word in (
        "embedding ",
        "bge-small, e5-small, minilm, mpnet",
        "word_dropout",
        "+experiments ",
        "demo, quick",
        "--debug",
    ):
        assert word in result.out


def test_train_help_names_the_experiments_of_the_folder(
    call_main: CallMain, workplace: Path
) -> None:
    (workplace / "experiments").mkdir()
    (workplace / "experiments" / "mine.yaml").write_text("# @package _global_\nseed: 1\n")
    assert "demo, mine, quick" in call_main("train", "--help").out


def test_train_prints_the_configuration_without_training(
    call_main: CallMain, workplace: Path
) -> None:
    result = call_main(
        "train", "session_id=s1", "embedding.training.learning_rate=3e-5", "--cfg", "job"
    )

    assert result.exit_code == 0
    assert "learning_rate: 3.0e-05" in result.out
    assert "session_id: s1" in result.out
    assert not (workplace / "tunetrail.db").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("embedding.training.precision=bf16", "got 'bf16'. Did you mean 'bf16-mixed'?"),
        ("embedding.loss=mnrl", "got 'mnrl'. Did you mean 'multiple_negatives_ranking'?"),
        ("llm.training.batch_size=-1", "error: llm.training.batch_size must be auto or at least 1"),
        ("optimizer=AdamW", "adafactor adam adamw sgd. Did you mean 'adamw'?"),
        ("lora.r=8", "error: there is no key lora.r. Did you mean 'llm.adapter.rank'?"),
    ],
)
@pytest.mark.parametrize("session_id", [[], ["session_id=s1"]], ids=["without", "with"])
def test_train_checks_what_it_only_prints(
    call_main: CallMain, workplace: Path, override: str, message: str, session_id: list[str]
) -> None:
    result = call_main("train", *session_id, override, "--cfg", "job")

    assert (result.exit_code, result.out) == (2, "")
    assert message in result.error_line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.job_logging.root.level=LOUD", "Unknown level: 'LOUD'"),
        ("hydra.hydra_logging.root.level=LOUD", "Unknown level: 'LOUD'"),
        ("hydra.job.chdir=true", "error: hydra.job.chdir must be false"),
        ("hydra.job.chdr=true", "error: there is no key hydra.job.chdr of Hydra. A plus adds one"),
    ],
)
def test_train_checks_the_settings_of_hydra_that_it_only_prints(
    call_main: CallMain, session: str, override: str, message: str
) -> None:
    before = set(Path.cwd().rglob("*"))
    result = call_main("train", f"session_id={session}", override, "--cfg", "job")

    assert (result.exit_code, result.out) == (2, "")
    assert message in result.error_line and "Traceback" not in result.err
    # It leaves no folder and no log.
    assert set(Path.cwd().rglob("*")) == before


def test_train_warns_of_settings_of_a_model_that_is_not_trained(
    call_main: CallMain, session: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = call_main("train", "session_id=s2", "model_type=embedding", "llm.adapter.rank=4")

    assert result.exit_code == 2
    warning, error = result.err.splitlines()
    assert "WARNING llm.adapter.rank=4 has no effect with model_type=embedding" in warning
    assert error.startswith("error: session_id must name a session")


def test_train_takes_an_experiment_of_the_folder(call_main: CallMain, workplace: Path) -> None:
    (workplace / "experiments").mkdir()
    (workplace / "experiments" / "mine.yaml").write_text("# @package _global_\nseed: 1234\n")
    result = call_main("train", "session_id=s1", "+experiments=mine", "--cfg", "job")
    assert result.exit_code == 0 and "seed: 1234" in result.out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+typo=1"], "there is no key typo."),
        (
            ["+embedding.training.learning_rat=1"],
            "there is no key embedding.training.learning_rat. Did you mean 'embedding.training.learning_rate'?",
        ),
        (
            ["+llm.adapter.ranks=1"],
            "there is no key llm.adapter.ranks. Did you mean 'llm.adapter.rank'?",
        ),
        (["embedding.training.learning_rat=1"], "Did you mean 'embedding.training.learning_rate'?"),
        (["embedding.batch_size=auto"], "Did you mean 'embedding.training.batch_size'?"),
        (
            ["batch_size=8"],
            "Did you mean 'embedding.training.batch_size' or 'llm.training.batch_size' or",
        ),
        (
            ["training.precision=32-true"],
            "Did you mean 'embedding.training.precision' or 'llm.training.precision'?",
        ),
        (["embeding=minilm"], "Did you mean 'embedding'?"),
        (
            ["+experiments=missing"],
            "Could not find 'experiments/missing' Available options in 'experiments': demo quick",
        ),
        (["+experiments={a: 1}"], "experiments must be one of demo, quick"),
        (["experiments=quick"], "+experiments=quick"),
        (
            ["embedding=missing"],
            "Available options in 'embedding': bge-small e5-small minilm mpnet",
        ),
        (["embedding=1"], "embedding"),
        (["trainer=deepspeed"], "low_memory ray. Did you mean 'fsdp'?"),
        (
            ["trainer.strategy=deepspeed"],
            "trainer.strategy must be one of auto, ddp, fsdp, got 'deepspeed'. Did you mean 'fsdp'?",
        ),
        (
            ["embedding.training.batch_size=0"],
            "error: embedding.training.batch_size must be auto or at least 1, got 0.",
        ),
        (
            ["llm.training.batch_size=many"],
            "error: llm.training.batch_size must be auto or at least 1, got 'many'",
        ),
        (["embedding.training=3"], "embedding.training=3"),
        (["split.test_share=0.9"], "split.validation_share + split.test_share must be below 1"),
        (
            ["model_type=embeding"],
            "model_type must be one of embedding, llm, all, got 'embeding'. Did you mean 'embedding'?",
        ),
        (["session_id=../x"], "session_id must be 1 to 128 letters"),
        (["session_id=a,b"], "add --multirun"),
        (["seed"], "missing EQUAL"),
        (["session_id=["], "at input '['"),
        (["-m", "--cfg", "job"], "Only one of --run, --multirun, --cfg"),
        (["database=postgres"], "TUNETRAIL_DATABASE_URL"),
        (
            ["model_type=embedding", "+trainer.callbacks.mine._target_=os.system"],
            "error: trainer.callbacks.mine._target_ must be one of DeviceStatsMonitor, EarlyStopping,",
        ),
        (
            [
                "model_type=embedding",
                "callbacks=device_stats",
                "+trainer.callbacks.device_stats.cpu=true",
            ],
            "error: trainer.callbacks.device_stats.cpu must be an argument of DeviceStatsMonitor",
        ),
        (
            [
                "model_type=embedding",
                "callbacks=device_stats",
                "+trainer.callbacks.device_stats.cpu_stats=3",
            ],
            "error: trainer.callbacks.device_stats.cpu_stats must be true or false or null, got 3.",
        ),
        (
            [
                "model_type=embedding",
                "embedding.training.monitor=val/loss",
                "+trainer.callbacks.stop={_target_: EarlyStopping, monitor: val/loss}",
            ],
            "error: trainer.callbacks.stop.monitor must be a metric other than val/loss, which",
        ),
        (
            ["+trainer.callbacks.mine.cpu_stats=true"],
            "error: trainer.callbacks.mine must be a mapping with the key _target_, got {'cpu_stats'",
        ),
        (
            ["model_type=embedding", "trainer.callbacks.mine._target_=Timerr"],
            "error: trainer.callbacks.mine._target_ must be one of DeviceStatsMonitor, EarlyStopping, ",
        ),
        (["+trainer.callbacks.mine=Timer"], "Write +trainer.callbacks.NAME._target_=CLASS."),
        (["trainer.logger=CSVLogger"], "trainer.logger must be a mapping of names to classes."),
        (
            ["model_type=embedding", "+trainer.logger.run._target_=CSVLoger"],
            "error: trainer.logger.run._target_ must be one of CSVLogger, TensorBoardLogger, Wandb",
        ),
        (["+trainer.loger.run._target_=CSVLogger"], "there is no key trainer.loger."),
        (
            ["evaluation.generation.pattern=a("],
            "error: evaluation.generation.pattern must be a regular expression, got 'a('. Correct",
        ),
        (
            ["evaluation.generation.json_schema=missing.json"],
            "error: evaluation.generation.json_schema must be a readable file, or JSON that begins",
        ),
        (
            ['evaluation.generation.json_schema={"type": "objekt"}'],
            'error: evaluation.generation.json_schema must be a JSON schema, got \'{"type": ',
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_train_refuses_what_it_does_not_know(
    call_main: CallMain, session: str, overrides: list[str], message: str
) -> None:
    result = call_main("train", "session_id=s1", *overrides)

    assert result.error_line.startswith("error: ")
    assert message in result.error_line
    assert result.exit_code == 2 and result.out == ""

    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert manager.training_runs() == []


def test_train_asks_for_a_session(call_main: CallMain) -> None:
    result = call_main("train")

    assert result.exit_code == 2
    assert (
        result.err
        == "error: session_id must be given, as in session_id=ID. `tunetrail sessions` lists them.\n"
    )


def test_train_refuses_an_unknown_session(call_main: CallMain, session: str) -> None:
    result = call_main("train", "session_id=s11")

    assert result.exit_code == 2
    assert (
        "session_id must name a session of the database, got 's11'. Did you mean 's1'?"
        in result.error_line
    )


def test_train_refuses_a_session_whose_rows_were_all_rejected(
    call_main: CallMain, workplace: Path
) -> None:
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        report = manager.ingest("s1", [{"anchor": "a"}, {"positive": "b"}], SampleKind.EMBEDDING)
        assert (report.added, report.rejected) == (0, 2)
    result = call_main("train", "session_id=s1")

    assert result.exit_code == 2
    assert "session 's1' has no samples" in result.error_line
    assert "tunetrail ingest" in result.error_line

    check_no_run()


def test_train_refuses_a_model_type_without_samples(call_main: CallMain, session: str) -> None:
    result = call_main("train", "session_id=s1", "model_type=llm")

    assert result.exit_code == 2
    assert (
        "session 's1' has no llm samples (5 embedding). Train with model_type=embedding"
        in result.error_line
    )

    check_no_run()


def test_train_trains_what_there_are_samples_of_and_says_so(
    call_main: CallMain, session: str
) -> None:
    # It is checked before the model is looked for.
    result = call_main("train", "session_id=s1", "embedding.model=./absent")

    assert result.exit_code == 2
    warning, error = result.err.splitlines()
    assert "s1: all samples are of one kind, so only model_type=embedding is trained" in warning
    assert error.startswith("error: embedding.model must be a local folder")
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        (run,) = manager.training_runs()
    assert run.model_type == "embedding"


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        (
            "nobody/no-such-model",
            1,
            "model 'nobody/no-such-model' was not found. Tried: local folder nobody/no-such-model",
        ),
        (
            "./absent",
            2,
            "embedding.model must be a local folder, a hub id owner/name or one of minilm",
        ),
        ("minlm", 2, "got 'minlm'. Did you mean 'minilm'?"),
        (".", 2, "must hold config.json or modules.json"),
    ],
)
def test_train_tells_what_was_tried_for_a_model_that_is_not_there(
    call_main: CallMain, session: str, model: str, code: int, message: str
) -> None:
    result = call_main("train", "session_id=s1", "model_type=embedding", f"embedding.model={model}")
    assert result.exit_code == code
    assert message in result.error_line
    check_failed_run(message)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql+psycopg://user:secret@127.0.0.1:9/tunetrail",
            "error: The database postgresql+psycopg://user:***@127.0.0.1:9",
        ),
        ("sqlite:///file/below.db", "a part of the path is a file"),
    ],
)
def test_train_says_in_one_line_why_the_database_failed(
    call_main: CallMain, workplace: Path, url: str, message: str
) -> None:
    (workplace / "file").touch()
    result = call_main("train", "session_id=s1", f"database.url={url}")
    assert result.exit_code == 1
    assert message in result.error_line
    assert "secret" not in result.error_line


@pytest.mark.processes
@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///file/below.db", "nonsense://x"])
def test_train_marks_the_run_failed_where_mlflow_is_unreachable(
    call_main: CallMain, session: str, workplace: Path, uri: str
) -> None:
    (workplace / "file").touch()
    result = call_main("train", "session_id=s1", "model_type=embedding", f"tracking.uri={uri}")

    assert result.exit_code == 1
    error_line = result.err.splitlines()[-1]
    assert error_line.startswith("error: MLflow store ")
    assert f"{uri.rpartition('/')[2]} failed" in error_line

    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        (run,) = manager.training_runs()
    assert run.state == "failed"
    assert run.reason is not None
    assert run.reason.startswith("TrackingError: MLflow store")


@pytest.mark.processes
@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///file/below.db"])
def test_a_sweep_ends_before_its_first_job_if_mlflow_is_unreachable(
    call_main: CallMain, session: str, workplace: Path, uri: str
) -> None:
    (workplace / "file").touch()

    result = call_main("train", "-m", "session_id=s1", "seed=1,2", f"tracking.uri={uri}")

    # The line of a single training, without the warning that Hydra makes of a callback's error.
    assert result.exit_code == 1
    error_line = result.err.splitlines()[-1]
    assert error_line.startswith("error: MLflow store ")
    assert f"{uri.rpartition('/')[2]} failed" in error_line
    assert "Launching" not in result.out
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert list(manager.training_runs()) == []


def test_train_shows_the_traceback_with_debug_only(call_main: CallMain, session: str) -> None:
    result = call_main("train", "session_id=s1", "model_type=llm", "--debug")
    assert result.exit_code == 2 and "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1].startswith("error: session 's1' has no llm samples")


def test_train_request_is_the_settings_the_job_and_the_watch() -> None:
    from tunetrail.config import Settings, TrainRequest

    settings_fields = {field.name for field in dataclasses.fields(Settings)}
    request_fields = {field.name for field in dataclasses.fields(TrainRequest)}
    assert request_fields - settings_fields == {"session_id", "model_type", "watch"}

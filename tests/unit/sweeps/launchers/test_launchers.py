"""Every launcher: a batch of jobs, as a sweeper hands it over."""

import stat
from pathlib import Path

import pytest
from hydra.core.utils import JobStatus
from tests.unit.sweeps.launchers.conftest import Launch

from tunetrail.errors import ConfigError
from tunetrail.sweeps.launchers.jobs import JobFailedError

EVERY_LAUNCHER = (
    ["hydra/launcher=processes", "hydra.launcher.slots=2"],
    ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    ["hydra/launcher=submitit_local"],
    ["hydra/launcher=ray"],
)


@pytest.mark.processes
@pytest.mark.parametrize("launcher", EVERY_LAUNCHER, ids=lambda words: words[0].partition("=")[2])
def test_each_job_has_its_own_process_log_and_reason(
    launch: Launch, launcher: list[str], workplace: Path
) -> None:
    # They fail before torch is imported: what is tested are the launchers, not trainings.
    common = [
        *launcher,
        "hydra.sweep.dir=jobs",
        "hydra.job.name=train",
        "database.url=sqlite:///a/SECRET.db",
    ]
    failures: dict[int, str] = {}
    ends = launch(common, [["seed=1"], ["seed=2", "+hydra.job.env_set.COLUMNS=77"]], failures)

    assert failures.keys() == {0, 1}
    for number, end in enumerate(ends):
        assert end.status is JobStatus.FAILED
        with pytest.raises(JobFailedError, match="session_id must be given"):
            _ = end.return_value
        assert end.cfg is not None and end.cfg.seed == number + 1
        assert "session_id must be given" in (workplace / f"jobs/{number}/train.log").read_text()
    for path in filter(Path.is_file, (workplace / "jobs").rglob("*")):
        assert b"SECRET" not in path.read_bytes(), path
    # While the jobs ran, submitit's files held it.
    for folder in (workplace / "jobs").glob(".submitit"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["hydra/launcher=processes", "hydra.launcher.slots=0"], r"hydra.launcher.slots must be"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], r"hydra.launcher.n_jobs must be"),
        (["hydra/launcher=submitit_local", "hydra.launcher.nodes=2"], r"launcher.nodes must be 1"),
        (["hydra/launcher=ray", "hydra.launcher.cpus=0"], r"hydra.launcher.cpus must be"),
        (["hydra/launcher=ray", "hydra.launcher.gpus=-1"], r"hydra.launcher.gpus must be"),
    ],
)
def test_bad_settings_are_refused(launch: Launch, overrides: list[str], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        launch(overrides, [["seed=1"]])

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.types import HydraContext

from tunetrail.cli.composition import register_schema
from tunetrail.paths import conf_dir, experiments_dir
from tunetrail.sweeps.launchers import launcher_of
from tunetrail.sweeps.launchers.base import JobLauncher

Launch = Callable[..., Sequence[JobReturn]]


@pytest.fixture
def launch(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Do a batch of jobs as a sweeper does: `launch(overrides of all, overrides of each)`.

    `failures`, if it is there, gets the reason of each failed job by the job's number.
    """
    monkeypatch.setenv("TUNETRAIL_HOME", str(workplace))
    monkeypatch.setenv("TUNETRAIL_SHIPPED", str(experiments_dir().parent))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def task(config: Any) -> None:
        raise AssertionError("jobs are processes of their own")

    def call(
        overrides: list[str], jobs: list[list[str]], failures: dict[int, str] | None = None
    ) -> Sequence[JobReturn]:
        register_schema()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", overrides, return_hydra_config=True)
            loader = GlobalHydra.instance().config_loader()
            context = HydraContext(config_loader=loader, callbacks=Callbacks())
            launcher = launcher_of(context, task, config)
            assert isinstance(launcher, JobLauncher)
            if failures is not None:
                launcher.on_failure = failures.__setitem__
            # As the sweeper numbers them; the folder of a job has its number.
            numbered = [
                [*overrides, *job, f"sweep.job={number}"] for number, job in enumerate(jobs)
            ]
            return launcher.launch(numbered, 0)

    return call

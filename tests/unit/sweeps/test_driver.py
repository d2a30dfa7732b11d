"""The driver of a sweep that is resumed after files of its configuration were edited."""

from pathlib import Path

import pytest

from tunetrail.config import SearchConfig, TrackingConfig, TrainRequest
from tunetrail.stores.database import DatabaseManager
from tunetrail.sweeps.driver import SweepDriver
from tunetrail.sweeps.space import SearchSpace
from tunetrail.sweeps.sweep_plan import Objective


def test_what_has_changed_since_a_sweep_began_is_said(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def request(**changes: object) -> TrainRequest:
        tracking = TrackingConfig(uri=f"sqlite:///{workplace}/mlflow.db")
        return TrainRequest(session_id="s1", tracking=tracking, **changes)  # type: ignore[arg-type]

    with DatabaseManager(f"sqlite:///{workplace}/tunetrail.db") as manager:
        driver = SweepDriver.start(
            manager,
            request(),
            [Objective(name="ndcg_at_10", higher_is_better=True)],
            search=SearchConfig(),
            space=SearchSpace(()),
            arguments=["session_id=s1"],
        )
        sweep = driver.tracked_run.run_id

        SweepDriver.reopen(manager, request(model_dir="elsewhere"), sweep)
        assert caplog.text == ""
        SweepDriver.reopen(manager, request(seed=7), sweep)

    assert "have changed: seed was 42, is 7; jobs that have not begun" in caplog.text

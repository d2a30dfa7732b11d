import stat
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tunetrail.sweeps import SweepNotStarted
from tunetrail.sweeps.callbacks import OwnSweeperCallback, PrivateLogsCallback


def config(folder: Path, sweeper: str = "tunetrail") -> Any:
    """What Hydra hands to its callbacks."""
    hydra = {
        "run": {"dir": str(folder / "run")},
        "sweep": {"dir": str(folder / "sweep")},
        "runtime": {"choices": {"hydra/sweeper": sweeper}},
    }
    return OmegaConf.create({"hydra": hydra})


def test_folders_of_logs_are_private(tmp_path: Path) -> None:
    PrivateLogsCallback().on_run_start(config(tmp_path))
    PrivateLogsCallback().on_multirun_start(config(tmp_path))
    for name in ("run", "sweep"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_only_our_sweeper_is_allowed(tmp_path: Path) -> None:
    OwnSweeperCallback().on_multirun_start(config(tmp_path))
    with pytest.raises(SweepNotStarted, match="hydra/sweeper must be tunetrail, got 'basic'"):
        OwnSweeperCallback().on_multirun_start(config(tmp_path, "basic"))

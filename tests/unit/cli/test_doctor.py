"""`tunetrail doctor` of a workplace in which nothing is wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tunetrail.config import TrackingConfig
from tunetrail.stores.tracking.tracker import Tracker


@pytest.mark.processes
def test_doctor_of_a_local_store_waits_for_no_library(
    workplace: Path, _tracking_template: Path
) -> None:
    shutil.copy(_tracking_template, workplace / "mlflow.db")
    tracker = Tracker(TrackingConfig(artifacts=str(workplace / "mlartifacts")))
    tracker.start_run("finished").finish("succeeded")
    code = (
        "import sys; from tunetrail.cli import main; main(['doctor']); "
        "print(*({'mlflow', 'torch', 'hydra'} & set(sys.modules)))"
    )

    # What dead processes of others have left on this machine doesn't count.
    environment = {**os.environ, "TMPDIR": str(workplace)}

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == ["nothing is wrong", ""]

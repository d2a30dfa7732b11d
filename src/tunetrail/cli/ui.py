"""`tunetrail ui`: MLflow's own server on the store of the runs."""

import os
import sys

from tunetrail.errors import UserError


def ui(uri: str, host: str, port: int) -> int:
    """Replace this process by `mlflow server`.

    One worker and no job runner are enough for one person's browser.

    Raises:
        UserError: The SQLite file of the store doesn't exist.
    """
    # MLflow would create the file and show empty pages.
    if uri.startswith("sqlite:///") and not os.path.exists(uri.removeprefix("sqlite:///")):
        raise UserError(
            f"--uri must name a store with runs, got {uri}: there is no such file. "
            "Train first, or start it in the folder in which you trained."
        )

    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    address = f"http://{host}:{port}"
    print(f"MLflow will answer on {address} in about ten seconds; Ctrl-C ends it", flush=True)

    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    # In place of this process: Ctrl-C reaches the server, and its exit code is ours.
    os.execve(sys.executable, command, environment)  # noqa: S606

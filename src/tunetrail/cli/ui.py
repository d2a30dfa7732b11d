"""`tunetrail ui`: MLflow's own server on the store of the runs."""

import os
import sys

from tunetrail.errors import UserError


def ui(uri: str, host: str, port: int) -> int:
    """Replace this process by `mlflow server`; one worker and no job runner, since one person looks at it."""
    if uri.startswith("sqlite:///") and not os.path.exists(uri.removeprefix("sqlite:///")):
        raise UserError(
            f"--uri must name a store with runs, got {uri}: there is no such file. "
            "Train first, or run it in the folder of the runs."
        )
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    print(
        f"MLflow comes up on http://{host}:{port} in about ten seconds; Ctrl-C ends it", flush=True
    )
    server = [
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    os.execve(sys.executable, [sys.executable, *server], environment)  # noqa: S606

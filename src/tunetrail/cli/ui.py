"""`tunetrail ui`: MLflow's own server on the store of the runs, opened on their experiment."""

import argparse
import os
import sys
from collections.abc import Sequence

from tunetrail.cli.addresses import check_address, server_address
from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import add_experiment, add_uri
from tunetrail.cli.terminal import say_loading
from tunetrail.errors import UserError

# Options of MLflow's web server: a line for each picture of a page helps nobody.
_QUIET = "--log-level warning"


def ui(arguments: Sequence[str]) -> int:
    """Replace this process by `mlflow server`.

    One worker and no job runner are enough for one person's browser.

    Raises:
        UserError: There is no such store or experiment, or the address can't be listened on.
    """
    options = _parse(arguments)
    check_address(options.host, options.port)
    say_loading("ui")
    # Imported only after parsing: --help doesn't wait for MLflow.
    from tunetrail.stores.runs.run_list import existing_experiment
    from tunetrail.stores.tracking.mlflow_pages import experiment_page
    from tunetrail.stores.tracking.tracker import shown_uri

    if options.uri.startswith("http"):
        raise UserError(
            f"--uri must be a database, got {shown_uri(options.uri)}, which is a server already. "
            "Open it in a browser."
        )
    # MLflow's server would create a missing file, and show empty pages.
    experiment_id = existing_experiment(options.uri, options.experiment).experiment_id
    page = experiment_page(server_address(options.host, options.port), experiment_id)
    line = f"MLflow answers in about ten seconds on {page} (Ctrl-C ends it)"
    show(lambda: {"page": page}, lambda: print(line, flush=True))

    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        # Of MLflow's own code: its users can't change it.
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", options.uri]
    command += ["--registry-store-uri", options.uri]
    command += ["--host", options.host, "--port", str(options.port), "--workers", "1"]
    command += ["--uvicorn-opts", _QUIET]
    # In place of this process: Ctrl-C reaches the server, and its exit code is ours.
    os.execve(sys.executable, command, environment)  # noqa: S606


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail ui",
        description=(
            "Open MLflow's pages with the runs and the registered models. The printed address is "
            "the experiment's."
        ),
    )

    add_uri(parser)
    add_experiment(parser, "MLflow experiment to open")

    # This machine only, unless asked for more: MLflow's server asks for no password.
    host_help = "address to listen on; 0.0.0.0 lets other machines in (default: %(default)s)"
    parser.add_argument("--host", default="127.0.0.1", help=host_help)
    parser.add_argument("--port", default=5000, type=int, help="port (default: %(default)s)")
    add_output_options(parser)

    return parser.parse_args(arguments)

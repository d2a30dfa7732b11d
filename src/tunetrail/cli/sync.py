"""`tunetrail sync`: deliver the metrics that MLflow didn't take while its server was away."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunetrail.cli.composed_run import NO_HYDRA_FILES, run_composed
from tunetrail.cli.output import show
from tunetrail.cli.terminal import say, say_loading
from tunetrail.config import TrainRequest
from tunetrail.errors import ConfigError, TrackingError
from tunetrail.reporting.readable import counted
from tunetrail.stores.spools import SPOOL

_HELP = """\
usage: tunetrail sync [output_dir=DIR] [tracking.uri=URI | tracking=server]

Delivers the metrics that MLflow didn't take while its server was away, in their order and without
storing a value twice. Trainings that are running deliver theirs themselves, and the next training
delivers what earlier ones have left: sync is for when no other training follows.

The metrics lie in DIR/spool, below the output_dir of the trainings (default: training_output). A
file is removed once everything in it was delivered.

  --json      print one JSON object on stdout, and text on stderr (docs/python.md)
  --quiet     print warnings and errors only, on stderr; and JSON with --json

Exit code: 0 if nothing is left to deliver; 1 if MLflow can't be reached or refuses something.

examples:
  tunetrail sync
  tunetrail sync tracking=server output_dir=/data/outputs"""


def sync(arguments: list[str]) -> int:
    """Run `tunetrail sync`; overrides may only say where the spools and the store are."""
    if {"-h", "--help"} & set(arguments):
        print(_HELP)
        return 0
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+~")
        if key != "output_dir" and key.partition(".")[0] != "tracking":
            raise ConfigError(
                f"sync takes output_dir and the keys of tracking, got {argument}. "
                "See `tunetrail sync --help`."
            )

    # The schema demands a session: any id will do.
    defaults = ["session_id=sync", *NO_HYDRA_FILES]
    run_composed(arguments, _sync, job_name="sync", defaults=defaults)
    return 0


def _sync(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
    folder = Path(request.output_dir) / SPOOL
    if not any(folder.glob("*.jsonl")):
        say(f"nothing to deliver: {folder} has no metrics")
        show(lambda: {"deliveries": []})
        return {}

    say_loading("sync")
    # Imported late: whoever has nothing to deliver doesn't wait for MLflow.
    from tunetrail.stores.tracking.metric_writer import deliver_spools
    from tunetrail.stores.tracking.tracker import existing_store, shown_uri

    tracker = existing_store(request.tracking.uri)
    refusals: list[str] = []
    deliveries: list[dict[str, Any]] = []
    for delivery in deliver_spools(tracker.client, tracker.config.uri, folder):
        deliveries.append({"file": str(delivery.path), "points": delivery.points})
        if delivery.is_running:
            say(f"{delivery.path.name}: left to its training, which is running")
            continue
        say(f"{delivery.path.name}: {counted(delivery.points, 'metric value')} delivered")
        if delivery.problem is not None:
            refusals.append(f"{delivery.path}: {delivery.problem}")
    show(lambda: {"deliveries": deliveries})
    if refusals:
        raise TrackingError(
            f"{counted(len(refusals), 'file')} of metrics undelivered, the first {refusals[0]}. "
            "Delete a file to give its metrics up; the store is "
            f"{shown_uri(tracker.config.uri)}."
        )
    return {}

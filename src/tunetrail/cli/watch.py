"""`tunetrail watch`: train whenever an application has logged enough, or has ended a session."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.cli.composed_run import NO_HYDRA_FILES, run_composed
from tunetrail.cli.conf_groups import groups_help
from tunetrail.cli.output import show
from tunetrail.cli.terminal import say_loading
from tunetrail.config import TrainRequest, checked_session_ids
from tunetrail.errors import ConfigError

_HELP = """\
usage: tunetrail watch [session_id=ID|[ID,ID]] [model_type=embedding|llm|all] [watch.min_rows=N]
                       [watch.on_end=BOOL] [watch.interval_seconds=S] [watch.once=BOOL]
                       [GROUP=OPTION ...] [KEY=VALUE ...]

Looks at the database again and again, and trains one model at a time, as `tunetrail train` would
with the same arguments, when

  - a session has watch.min_rows samples (default: 1000) of a model type that came after the last
    training on them, whoever started that and however it ended, or
  - an application has said that a session is over (`Session.end()`) and it has any new samples;
    watch.on_end=false waits for watch.min_rows anyway.

The gate decides on each candidate, so root only moves to a better version. Without session_id, all
sessions are watched, also those that come. A failed training is logged, and tried again with the
next samples. While somebody else trains on this machine with the same database, the watch waits.

What was trained is in the database: stop the watch (Ctrl-C, SIGTERM) and start it again whenever
you like. A training that was stopped with it, or killed, is resumed. Set $TUNETRAIL_HOOK_URL to be
told when root moves or a training fails (docs/applications.md).

  --json      print one JSON object on stdout at the end, and text on stderr (docs/python.md)
  --quiet     print warnings and errors only, on stderr; and JSON with --json

Exit code: 0 with watch.once=true when nothing is left to train; 130 after Ctrl-C, 143 after
SIGTERM; 2 for a mistake in the arguments, or while another watch of the database runs.

examples:
  tunetrail watch model_type=embedding embedding=minilm watch.min_rows=500
  tunetrail watch session_id=support-2026-11 watch.interval_seconds=300
  tunetrail watch watch.once=true   # from cron, for example
"""
_ALL = "all-sessions"


def watch(arguments: list[str]) -> int:
    """Run `tunetrail watch` with Hydra's arguments."""
    if {"-h", "--help"} & set(arguments):
        print("\n".join([_HELP, *groups_help()]))
        return 0
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(
            "watch takes one configuration, got -m. Sweep with `tunetrail train -m`, and watch "
            "with the values of the winner."
        )

    # The schema demands a session: without one, all are watched.
    run_composed(
        arguments, _watch, job_name="watch", defaults=[f"session_id={_ALL}", *NO_HYDRA_FILES]
    )
    return 0


def _watch(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
    if request.trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes must be 1 for watch, got {request.trainer.num_nodes}. Start "
            "trainings on several nodes with `tunetrail train`."
        )
    say_loading("watch")
    # Imported late: help and mistakes in the arguments don't wait for torch.
    from tunetrail.cli.results_table import print_results
    from tunetrail.node import ModelTrainingNode
    from tunetrail.pipeline.requests import summaries_of
    from tunetrail.stores.database.manager import DatabaseManager
    from tunetrail.watching import Watch

    trainings: list[dict[str, Any]] = []

    def note(node: ModelTrainingNode, results: Mapping[str, Any]) -> None:
        trainings.append(_as_json(results, node.report, node.page))
        print_results(results, request.tracking.uri, node.report, node.page)

    session_ids = checked_session_ids(request.session_id)
    with DatabaseManager(request.database.url) as database:
        watches_all = session_ids == (_ALL,)
        if not watches_all:
            summaries_of(database, session_ids)  # raises for an unknown one
        Watch(request, database, None if watches_all else session_ids, note).run()
    # A watch that a signal ends has no result.
    show(lambda: {"trainings": trainings})
    return {}


def _as_json(results: Mapping[str, Any], report: str | None, page: str | None) -> dict[str, Any]:
    """Return what a training came to, without the results of its steps."""
    decisions = {
        model_type: {
            "decision": deployment["decision"],
            "reason": deployment["reason"],
            "name": deployment["name"],
            "version": deployment["version"],
            "is_root": deployment["promote"],
            "run_id": deployment["mlflow_run_id"],
        }
        for model_type, deployment in results["results"]["steps"]["deployment"].items()
    }
    session_id = results["session_id"]
    return {"session_id": session_id, "families": decisions, "report": report, "page": page}

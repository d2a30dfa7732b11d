"""`tunetrail resume`: continue a run that failed, was stopped or was killed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunetrail.cli.composed_run import NO_HYDRA_FILES, run_composed
from tunetrail.cli.output import show
from tunetrail.cli.requirement import Requirement
from tunetrail.cli.run_arguments import read_run_arguments
from tunetrail.cli.terminal import say_loading
from tunetrail.cli.train import train
from tunetrail.config import TrainRequest, name_of_sessions
from tunetrail.errors import UserError
from tunetrail.plain_values import plain_moment
from tunetrail.reporting.readable import shown_moment

if TYPE_CHECKING:
    from tunetrail.stores.resumable_runs import ResumableRun

_NOTHING = (
    "no run can be resumed: every run of this database has succeeded, is running, or has lost its "
    "folder below output_dir."
)
# Sections and keys on which nothing that a run learns depends.
_CHANGEABLE = ("database", "tracking", "model_dir")
_FORCE, _LAST = "--force", "--last"
_SHOWN_CHARACTERS = 8


def resume(arguments: list[str]) -> int:
    """Run `tunetrail resume RUN_ID`; overrides may only say where the stores and models are."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0

    requirement, arguments = Requirement.taken_from(arguments)
    overrides, options, run_ids = read_run_arguments(
        "resume", arguments, options=(_FORCE, _LAST), changeable=_CHANGEABLE
    )
    runs = [*run_ids, *filter(_LAST.__eq__, options)]
    if len(runs) > 1:
        raise UserError(
            f"resume takes the id of one run or {_LAST}, got {', '.join(runs)}. "
            "`tunetrail resume` lists the runs that can be resumed."
        )

    sweep: list[str] = []

    def resume_one(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
        if not run_ids and _LAST not in options:
            return _list_resumable(request)
        # The request has a default for it, which isn't what the run began with.
        sets_model_dir = any(override.startswith("model_dir=") for override in overrides)
        model_dir = request.model_dir if sets_model_dir else None
        run_id = next(iter(run_ids), None)
        results = _resume_one(run_id, _FORCE in options, model_dir, request, sweep)
        if results:
            requirement.check(results)
        return results

    # The schema demands a session, but the run brings its own: any id will do.
    defaults = ["session_id=resumed", *NO_HYDRA_FILES]
    run_composed(overrides, resume_one, job_name="resume", defaults=defaults)
    # Its jobs are composed once more, so it is called as it was, and only now: Hydra isn't nested.
    if sweep:
        return train([*sweep, *overrides, *requirement.words])
    return requirement.exit_code()


def help_text() -> str:
    """Return what `tunetrail resume --help` prints."""
    return """\
usage: tunetrail resume RUN_ID [database.url=URL] [tracking.uri=URI] [model_dir=FOLDER] [--force]
       tunetrail resume --last
       tunetrail resume

Continues a run that failed, was stopped (Ctrl-C, SIGTERM) or was killed: in the same MLflow run,
with the configuration and the prepared rows that it began with. Finished steps are not repeated,
and the training continues from its last checkpoint.

RUN_ID is the run's id in MLflow, or the id of a run below it; its beginning is enough if no other
run's id begins like that. Without an id, the runs that can be resumed are listed. Only the stores
can be changed, also by their groups: tracking=server; and the folder of the exported models.

With the id of a sweep, its jobs that have not ended go on or begin, and the best one of all is
evaluated. Addresses of stores with a password have to be given again.

The folder output_dir/ID holds what is needed. It is removed when the run succeeds, or fails because
of its settings or rows; if you don't want to continue the run, delete it. Resume in the folder in
which the run was started, as its paths may be relative.

  --last    resume the newest run that can be resumed
  --force   treat a run of another host as dead, although that can't be checked from here
  --require promoted
            end with exit code 3 if a model isn't promoted
  --json    print one JSON object on stdout, and text on stderr (docs/python.md)
  --quiet   print warnings and errors only, on stderr; and JSON with --json

Exit code: 0; 2 for a run that can't be resumed, with the reason; otherwise as `tunetrail train`.

examples:
  tunetrail resume 0f8fad5b
  tunetrail resume 0f8fad5bd9cb469fa16570867728950e tracking.uri=sqlite:///runs/mlflow.db"""


def _resume_one(
    run_id: str | None,
    force: bool,
    model_dir: str | None,
    request: TrainRequest,
    sweep: list[str],
) -> Mapping[str, Any]:
    """Resume the run of an id, or the newest run if there is no id.

    Of a sweep, `sweep` receives how to go on with it instead.
    """
    say_loading("resume")
    from tunetrail.cli.results_table import show_results
    from tunetrail.node import ModelTrainingNode, NodeConfig
    from tunetrail.pipeline.ranks import follows_first_node
    from tunetrail.stores.database.manager import DatabaseManager
    from tunetrail.stores.resumable_runs import resumable_runs, whole_run_id
    from tunetrail.sweeps.resuming import sweep_arguments

    # The run's settings are in the stores, which belong to node 0: the environment has to do.
    if follows_first_node(request.trainer):
        return {}
    with DatabaseManager(request.database.url) as manager:
        if run_id is None:
            newest = resumable_runs(request.tracking, manager, most=1)
            if not newest:
                raise UserError(_NOTHING)
            run_id = newest[0].run_id
        run_id = whole_run_id(request.tracking, manager, run_id)
        sweep += sweep_arguments(request.tracking, manager, run_id, force=force) or []
        if sweep:
            return {}
        node = ModelTrainingNode(NodeConfig(settings=request), manager)
        results = node.resume(run_id, force=force, model_dir=model_dir)

    show_results(results, request.tracking.uri)
    return results


def _list_resumable(request: TrainRequest) -> Mapping[str, Any]:
    """Print the runs that can be resumed, the newest first."""
    say_loading("resume")
    from tunetrail.stores.database.manager import DatabaseManager
    from tunetrail.stores.resumable_runs import resumable_runs

    with DatabaseManager(request.database.url) as manager:
        runs = resumable_runs(request.tracking, manager)
    show(lambda: {"runs": [_as_json(run) for run in runs]}, lambda: _print_resumable(runs))
    return {}


def _as_json(run: "ResumableRun") -> dict[str, Any]:
    training = run.training
    return {
        "run_id": run.run_id,
        "started": plain_moment(training.created_at),
        "session_id": training.session_id,
        "model_type": training.model_type,
        "reason": training.reason,
    }


def _print_resumable(runs: Sequence["ResumableRun"]) -> None:
    from rich.console import Console

    from tunetrail.cli.terminal import new_table, printable

    if not runs:
        print(_NOTHING)
        return

    console = Console()
    table = new_table("run", "started", "session", "models", "reason")
    for column in table.columns[:-1]:
        column.no_wrap = True
    for run in runs:
        training = run.training
        table.add_row(
            run.run_id[:_SHOWN_CHARACTERS],
            shown_moment(training.created_at),
            printable(name_of_sessions(training.session_ids), console),
            training.model_type,
            printable(training.reason or "", console),
        )
    console.print(table)
    print("tunetrail resume RUN continues one of them, tunetrail resume --last the first.")

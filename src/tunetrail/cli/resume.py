"""`tunetrail resume`: a run that failed, was stopped or was killed goes on from where it was."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.cli.composition import NO_HYDRA_FILES, TrainRequest, run_composed
from tunetrail.errors import ConfigError, UserError

_CONNECTIONS = ("database", "tracking")
_FORCE = "--force"


def resume(arguments: list[str]) -> int:
    """Run `tunetrail resume RUN_ID` with overrides of where the stores are."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    overrides = [each for each in arguments if "=" in each]
    options = [each for each in arguments if each.startswith("-") and each not in overrides]
    run_ids = [each for each in arguments if each not in overrides and each not in options]
    for option in options:
        if option != _FORCE:
            raise UserError(
                f"resume has no option {option}; it has {_FORCE}. `tunetrail resume --help` tells more."
            )
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.partition(".")[0] not in _CONNECTIONS:
            raise ConfigError(
                f"a run is resumed with the configuration that it began with, got {override}. "
                "Only database and tracking, where the stores are, can be given."
            )
    if len(run_ids) != 1:
        raise UserError(
            f"resume takes the id of one run, got {', '.join(run_ids) or 'none'}. `tunetrail ui` shows it."
        )
    force = _FORCE in options

    def resume_one(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
        return _resume_one(run_ids[0], force, request)

    defaults = ["session_id=resumed", *NO_HYDRA_FILES]
    run_composed(overrides, resume_one, job_name="resume", defaults=defaults)
    return 0


def help_text() -> str:
    """Return what `tunetrail resume --help` prints."""
    return "\n".join(
        [
            "usage: tunetrail resume RUN_ID [database.url=URL] [tracking.uri=URI] [--force]",
            "",
            "Goes on with a run that failed, was stopped (Ctrl-C, SIGTERM) or was killed, in the same MLflow run and",
            "with the configuration that it began with. Finished steps are not done again, the rows are those that",
            "were prepared, and the training goes on from its last checkpoint.",
            "",
            "RUN_ID is the run's id in MLflow (`tunetrail ui`), or that of a run below it. Only the stores can be",
            "given anew, also as groups: tracking=server.",
            "",
            "What this needs lies in output_dir/ID of the model type's run until that has succeeded, or has failed by",
            "a mistake in its settings or rows; delete the folder to give the run up. Resume in the folder in which",
            "the run was started: its paths may be relative.",
            "",
            "  --force   take a run of another host, which can't be looked at from here, for dead",
            "",
            "Exit code: 0; 2 for a run that can't be resumed, with the reason; else as `tunetrail train`.",
            "",
            "examples:",
            "  tunetrail resume 0f8fad5bd9cb469fa16570867728950e",
            "  tunetrail resume 0f8fad5bd9cb469fa16570867728950e tracking.uri=sqlite:///runs/mlflow.db",
        ]
    )


def _resume_one(run_id: str, force: bool, request: TrainRequest) -> Mapping[str, Any]:
    from tunetrail.cli.report import print_results
    from tunetrail.node import ModelTrainingNode, NodeConfig
    from tunetrail.stores.database import DatabaseManager

    with DatabaseManager(request.database.url) as manager:
        results = ModelTrainingNode(NodeConfig(settings=request), manager).resume(
            run_id, force=force
        )
    print_results(results, request.tracking.uri)
    return results

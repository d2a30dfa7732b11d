"""`tunetrail plan`: what a training will take, before it is paid for."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.cli.composed_run import NO_HYDRA_FILES, run_composed
from tunetrail.cli.conf_groups import groups_help
from tunetrail.cli.key_help import asks_for_help
from tunetrail.cli.output import HELP as OUTPUT_HELP
from tunetrail.cli.output import show
from tunetrail.config import TrainRequest
from tunetrail.errors import ConfigError
from tunetrail.imports import importing

_HELP = """\
usage: tunetrail plan session_id=ID|[ID,ID] [model_type=embedding|llm|all]
                      [GROUP=OPTION ...] [KEY=VALUE ...]

Says in seconds what `tunetrail train` with the same arguments will take: rows by split, tokens,
steps, padding, the time of each stage, memory, disk, and what will be registered where.

The rows are prepared as for a training, and a few steps of the real model on real rows are timed.
Nothing is trained or recorded; what is prepared stays in the cache, where the training finds it.

"""
_EXAMPLES = """\
Exit code: 0, 2 for a mistake in the request, 1 for a failure.

examples:
  tunetrail plan session_id=s1 model_type=embedding
  tunetrail plan session_id=s1 model_type=llm llm.training.num_epochs=5 cross_validation=off
  tunetrail plan session_id=s1 --json | jq .seconds
"""


def plan(arguments: list[str]) -> int:
    """Run `tunetrail plan` with Hydra's arguments."""
    if asks_for_help(arguments, help_text()):
        return 0
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError("plan takes one configuration, got -m. Call it once for each.")

    # Importing torch and MLflow takes seconds, in which nothing else would be shown.
    if not any(argument.startswith("-") for argument in arguments):
        print("plan: loading the libraries ...", file=sys.stderr, flush=True)
    run_composed(arguments, _plan_one, job_name="plan", defaults=NO_HYDRA_FILES)
    return 0


def help_text() -> str:
    """Return what `tunetrail plan --help` prints."""
    return "\n".join([_HELP + "\n".join(OUTPUT_HELP), "", _EXAMPLES, *groups_help()])


def _plan_one(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
    with importing():
        from tunetrail.cli.plan_text import print_plan
        from tunetrail.node import ModelTrainingNode, NodeConfig
        from tunetrail.processes import seconds_of_process
        from tunetrail.stores.database.manager import DatabaseManager

    call = {"session_id": request.session_id, "model_type": request.model_type}
    with DatabaseManager(request.database.url) as manager:
        node = ModelTrainingNode(NodeConfig(settings=request), manager)
        # The libraries are imported by now, as they are when a training begins.
        run_plan = node.plan(call, start_seconds=seconds_of_process())
    show(run_plan.to_dict, lambda: print_plan(run_plan))
    return {}

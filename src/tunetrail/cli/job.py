"""`tunetrail job`: do one job of a sweep, as a launcher starts it. Not for people."""

import json
import os
import sys

from tunetrail.errors import UserError
from tunetrail.processes import end_with


def job(arguments: list[str]) -> int:
    """Do the job that a launcher has written to the standard input.

    See `sweeps.launchers.jobs.Job` for what it reads.

    Raises:
        UserError: Somebody else has called it.
    """
    try:
        received = json.load(sys.stdin)
    except ValueError:
        raise UserError(
            "job is called by the launchers of a sweep only. `tunetrail train` trains."
        ) from None
    # First of all: the sweep may have been killed in the meantime.
    end_with(received["parent"], received["driver"])
    # Imported late: until here, nothing could have noticed that.
    from hydra.core.utils import configure_log
    from omegaconf import OmegaConf

    from tunetrail.cli.composition import checked_request
    from tunetrail.cli.text_values import without_quotes
    from tunetrail.cli.train import train_one
    from tunetrail.verbosity import quieten

    log = OmegaConf.create(received["logging"])
    configure_log(log.job_logging, log.verbose)
    quieten()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    request = checked_request(OmegaConf.create(received["settings"]))
    train_one(request, list(map(without_quotes, received["overrides"])))
    return 0

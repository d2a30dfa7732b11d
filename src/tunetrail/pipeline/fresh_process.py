"""Compare a candidate with its registered version, as a fresh process loads and scores that.

Whoever loads root does it in another process than the one that has trained it. What only the
training's process knows, such as a changed library, shows before the version becomes root.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from tunetrail.deployment.gate import fresh_process_objection
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.errors import DeploymentError
from tunetrail.learning.devices import computing_device, machine_facts
from tunetrail.learning.memory_meter import collect_memory
from tunetrail.paths import private_file
from tunetrail.pipeline.families import is_installed
from tunetrail.pipeline.fresh_scores import OUTPUT, ScoringRequest, read_values
from tunetrail.pipeline.scoring import draw_by_content
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.scratch import scratch_folder

logger = logging.getLogger(__name__)

_MODULE = "tunetrail.pipeline.fresh_scores"
# Whatever another process lacks shows on any row, and a language model takes some tenths of a
# second for each.
_ROWS = 8
# For a few rows: it hangs.
_MOST_MINUTES = 30


def objection_of_fresh_process(
    context: StageContext, prepared: PreparedRows, fitted: FittedModel, version: ModelVersion
) -> str | None:
    """Return why a version must not be root by what a fresh process makes of it; None if it may.

    Args:
        context: The run.
        prepared: The rows, of whose test side a few are scored.
        fitted: The candidate that the version was written from.
        version: The registered version.

    Raises:
        DeploymentError: The process failed, so that there is nothing to compare.
    """
    family, settings = context.family, context.settings
    if not settings.gate.fresh_process:
        return None
    if not is_installed(family.name):
        logger.warning(
            "%s: gate.fresh_process is left out, since no installed package has the family and "
            "another process wouldn't find it",
            family.name,
        )
        return None

    request = _request(context, prepared, fitted)
    rows = len(request.rows)
    logger.info(
        "%s: a fresh process loads and scores %s (%d test rows)", family.name, version.uri, rows
    )
    expected = request.values(family, fitted.learner, fitted.model)
    # The other process needs what this one has freed, on a GPU as well.
    collect_memory(computing_device(settings.trainer))
    with context.registry.files(version) as files, scratch_folder() as folder:
        request.write(folder, files)
        _run(folder, version)
        values = read_values(folder)
    return fresh_process_objection(expected, values, version.uri, rows)


def _request(context: StageContext, prepared: PreparedRows, fitted: FittedModel) -> ScoringRequest:
    """Draw the rows, always the same of a session."""
    split, family = prepared.split, context.family
    is_scorable = family.scorable_mask(fitted.learner, [fitted.model], split.test)
    corpus = context.corpus_rows(split.train, split.validation)
    return ScoringRequest(
        family=family.name,
        shape=prepared.shape,
        settings=context.settings,
        rows=draw_by_content(split.test[is_scorable].reset_index(drop=True), _ROWS),
        corpus=draw_by_content(corpus, _ROWS),
        threads=machine_facts()["threads"],
    )


def _run(folder: Path, version: ModelVersion) -> None:
    """Start the process for a folder, and wait until it has written its values.

    Raises:
        DeploymentError: It failed, was killed, or hangs.
    """
    # It finds the modules that this process finds, and no others of the working folder (-P).
    path = os.pathsep.join(filter(None, sys.path))
    output = private_file(folder / OUTPUT)
    with output.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
            [sys.executable, "-P", "-m", _MODULE, str(folder), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
        )
    try:
        exit_code = process.wait(60 * _MOST_MINUTES)
    except subprocess.TimeoutExpired as error:
        raise _failure(version, f"it took more than {_MOST_MINUTES} minutes") from error
    finally:
        # It must not outlive this one, which may be asked to stop meanwhile.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()

    if exit_code < 0:
        raise _failure(version, f"it was killed by {signal.Signals(-exit_code).name}")
    if exit_code > 0:
        # Python's last line says what went wrong.
        lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise _failure(version, lines[-1] if lines else f"exit code {exit_code}")


def _failure(version: ModelVersion, reason: str) -> DeploymentError:
    name = f"{version.name}/{version.version}"
    return DeploymentError(
        f"{version.uri} must be scored in a fresh process before it becomes root "
        f"(gate.fresh_process), got no scores: {reason.rstrip('.')}. `tunetrail resume` tries "
        f"again; `tunetrail root promote {name} --force --reason TEXT` does without them."
    )

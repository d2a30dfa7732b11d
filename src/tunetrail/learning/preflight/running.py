"""Preflight: all checks of a training, run once its module, its batches and its device are there."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from tunetrail.config import TrainingConfig
from tunetrail.learning.embedding import preflight as embedding
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.language_model import preflight as language_model
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.preflight.findings import PreflightFinding, PreflightReport, Severity
from tunetrail.learning.preflight.machine import (
    check_disk,
    check_monitored,
    check_settings,
    check_worst_batch,
)

logger = logging.getLogger(__name__)

Check = Callable[[lightning.Trainer, Any], PreflightFinding]
"""Takes the trainer, whose module and batches are there, and the module."""

EMBEDDING_CHECKS: Sequence[Check] = (
    embedding.check_company,
    embedding.check_pairs,
    embedding.check_lengths,
)
LANGUAGE_MODEL_CHECKS: Sequence[Check] = (
    language_model.check_supervised,
    language_model.check_lengths,
    language_model.check_end_of_sequence,
)


class Preflight(lightning.Callback):
    """Checks a training before its first step; what keeps it from beginning is raised, the rest is logged.

    A training without validation (a fold) has its rows checked only, and warnings are told by the one that follows.

    Args:
        folder: Where checkpoints are going to be written.
        validate: Whether the training is validated.
        training: Its hyper-parameters.

    Attributes:
        report: What was found; None before.
    """

    def __init__(self, folder: Path, validate: bool, training: TrainingConfig) -> None:
        self.folder = folder
        self.validate = validate
        self.training = training
        self.report: PreflightReport | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Run the checks.

        Raises:
            ConfigError: A setting keeps the training from learning anything.
            SampleError: The rows do.
            TrainingError: The model or the machine does.
        """
        averages = self.training.averaging.kind != "none"
        machine = (
            (
                partial(check_settings, self.training),
                check_monitored,
                partial(check_worst_batch, self.training),
                partial(check_disk, self.folder, averages),
            )
            if self.validate
            else ()
        )
        self.report = preflight(trainer, pl_module, machine)
        warnings = self.report.of(Severity.WARNING)
        for finding in warnings:
            logger.log(
                logging.WARNING if self.validate else logging.DEBUG,
                "%s: %s",
                finding.name,
                finding.message,
            )
        self.report.raise_error()
        logger.info(
            "preflight: %d checks in %.1f s, %d warnings", *_counts(self.report, len(warnings))
        )


def preflight(
    trainer: lightning.Trainer, module: lightning.LightningModule, machine: Sequence[Check] = ()
) -> PreflightReport:
    """Run the checks for a module's kind, then those of the machine; an error is the last.

    None of them changes what the training draws or learns.
    """
    checks, packing, preview = _checks_of(module)
    started = time.monotonic()
    findings: list[PreflightFinding] = []
    for check in (*checks, *machine, *packing):
        findings.append(check(trainer, module))
        if findings[-1].severity is Severity.ERROR:
            break
    return PreflightReport(
        findings=findings,
        preview=preview(trainer, module),
        seconds=round(time.monotonic() - started, 3),
    )


def _checks_of(
    module: Any,
) -> tuple[Sequence[Check], Sequence[Check], Callable[[lightning.Trainer, Any], str]]:
    """Return the checks of the rows, that of packing, which needs memory, and the preview."""
    if isinstance(module, LanguageModelModule):
        return LANGUAGE_MODEL_CHECKS, (language_model.check_packing,), language_model.preview
    if isinstance(module, EmbeddingModule):
        return EMBEDDING_CHECKS, (embedding.check_packing,), embedding.preview
    return (), (), lambda trainer, module: ""


def _counts(report: PreflightReport, warnings: int) -> tuple[int, float, int]:
    return len(report.findings), report.seconds, warnings

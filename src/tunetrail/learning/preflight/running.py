"""Run all checks of a training as soon as its module, its batches and its device are there."""

import logging
import time
from collections.abc import Sequence
from functools import partial

from pytorch_lightning import Callback, LightningModule, Trainer

from tunetrail.config import TrainingConfig
from tunetrail.learning.preflight.checks import NO_FAMILY_CHECKS, Check, FamilyChecks
from tunetrail.learning.preflight.findings import PreflightFinding, PreflightReport, Severity
from tunetrail.learning.preflight.machine import (
    check_disk,
    check_monitored,
    check_patience,
    check_settings,
    check_worst_batch,
)
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.reporting.readable import counted

logger = logging.getLogger(__name__)


class Preflight(Callback):
    """Checks a training before its first step: raises errors, logs warnings.

    In a training without validation (a fold) only the rows are checked, and its warnings are logged
    as debug messages: the training of the whole run repeats them.

    Args:
        plan: Whether the training is validated, and where its checkpoints go.
        training: Its hyper-parameters.
        family: The checks of the model family.
        is_reduced: Whether batches go through the model in smaller mini-batches than configured.

    Attributes:
        report: What the checks found; None before they ran.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        training: TrainingConfig,
        family: FamilyChecks,
        *,
        is_reduced: bool = False,
    ) -> None:
        self.plan = plan
        self.training = training
        self.family = family
        self.is_reduced = is_reduced
        self.report: PreflightReport | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the checks.

        Raises:
            ConfigError: A setting keeps the training from learning anything.
            SampleError: The rows keep it from learning anything.
            TrainingError: The model or the machine isn't up to the training.
        """
        machine = self._machine_checks() if self.plan.validate else ()
        report = preflight(trainer, pl_module, self.family, machine)
        self.report = report

        warnings = report.of(Severity.WARNING)
        level = logging.WARNING if self.plan.validate else logging.DEBUG
        for finding in warnings:
            logger.log(level, "%s: %s", finding.name, finding.message)

        report.raise_error()
        # Without their warnings, a number of them would say nothing.
        level = logging.INFO if self.plan.validate else logging.DEBUG
        logger.log(
            level,
            "preflight: %s in %.1f s, %s",
            counted(len(report.findings), "check"),
            report.seconds,
            counted(len(warnings), "warning"),
        )

    def _machine_checks(self) -> Sequence[Check]:
        keeps_averages = self.training.averaging.kind != "none"
        return (
            partial(check_settings, self.training),
            partial(check_monitored, self.plan.monitor),
            partial(check_patience, self.training),
            partial(check_worst_batch, self.training, self.is_reduced),
            partial(check_disk, self.plan.folder, keeps_averages),
        )


def preflight(
    trainer: Trainer,
    module: LightningModule,
    family: FamilyChecks = NO_FAMILY_CHECKS,
    machine: Sequence[Check] = (),
) -> PreflightReport:
    """Run the checks of the rows, of the machine and of the model, up to the first error.

    None of them changes what the training draws or learns.
    """
    started = time.monotonic()

    findings: list[PreflightFinding] = []
    # Rows first, as they cost least; the model last, when its batches are known to fit.
    for check in (*family.rows, *machine, *family.model):
        findings.append(check(trainer, module))
        if findings[-1].severity is Severity.ERROR:
            break

    return PreflightReport(
        findings=findings,
        # After an error as well: the preview may show what is wrong with the rows.
        preview=family.preview(trainer, module),
        seconds=round(time.monotonic() - started, 3),
    )

"""A training in two processes: the model of one, its failures in a line, and nothing left running."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.packages import Install
from tests.unit.pipeline.jobs import (
    FIT_AND_TELL,
    SUBJECTS,
    rows_of,
    settings_of_two_ranks,
    weights_of,
    write_job,
)

from tunetrail.config import (
    HardNegativesConfig,
    Settings,
)
from tunetrail.config.trainer import TrainerConfig
from tunetrail.data.rows import records_of
from tunetrail.errors import BrokenModelError, ConfigError, TrainingError
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.jobs import run_fit_job
from tunetrail.pipeline.run_files import read_rows
from tunetrail.pipeline.trainer_checks import check_devices
from tunetrail.pipeline.worker import fit_on_ray

pytestmark = pytest.mark.processes

FAILURES = """
import torch
from pytorch_lightning import Callback

class FullMemory(Callback):
    # The second rank has no memory for step 2 unless batches are cut.
    def on_train_batch_start(self, trainer, module, batch, batch_index):
        if (trainer.global_rank, trainer.global_step) == (1, 2) and not module.mini_batch_size:
            raise torch.OutOfMemoryError

class BrokenGradient(Callback):
    # The second rank has no finite gradient in step 5 unless the rate is lower.
    def on_train_batch_start(self, trainer, module, batch, batch_index):
        rate = trainer.lr_scheduler_configs[0].scheduler.base_lrs[0]
        is_lower = rate < trainer.optimizers[0].param_groups[0]["initial_lr"]
        if (trainer.global_rank, trainer.global_step) == (1, 5) and not is_lower:
            weight = next(weight for weight in module.parameters() if weight.requires_grad)
            self.hook = weight.register_hook(lambda gradient: gradient * float("nan"))

    def on_exception(self, trainer, module, exception):
        if hasattr(self, "hook"):
            self.hook.remove()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of_two_ranks(tmp_path)


@dataclass(frozen=True)
class RunningJob:
    """A job that another process trains by two ranks."""

    process: subprocess.Popen[str]
    ranks: list[psutil.Process]

    @classmethod
    def after_step(cls, step: int, folder: Path) -> "RunningJob":
        """Start the job of a folder and return after one of its steps."""
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", FIT_AND_TELL, str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        reports = (json.loads(line) for line in process.stdout if line.startswith("["))
        assert any(reported_step >= step for reported_step, _ in reports)

        children = psutil.Process(process.pid).children(recursive=True)
        ranks = [child for child in children if "tunetrail.pipeline.worker" in child.cmdline()]
        assert len(ranks) == 2
        return cls(process, ranks)

    def assert_failed(self, message: str) -> None:
        """Wait for the end, and look for the message in the last line and for ranks that live."""
        # By itself, gloo would wait for half an hour.
        _, errors = self.process.communicate(timeout=240)
        assert self.process.returncode == 1
        last_line = errors.strip().splitlines()[-1]
        assert last_line.startswith(f"tunetrail.errors.TrainingError: {message}"), last_line
        self.assert_no_rank_lives()

    def assert_no_rank_lives(self) -> None:
        assert not any(rank.is_running() for rank in self.ranks)


@dataclass(frozen=True)
class TrainedByTwo:
    """A training by two ranks, with callbacks and a logger, and the same settings without these."""

    settings: Settings
    folder: Path
    result: dict[str, Any]
    reports: list[tuple[int, Mapping[str, float]]]


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory: pytest.TempPathFactory) -> TrainedByTwo:
    folder = tmp_path_factory.mktemp("ranks")
    settings = settings_of_two_ranks(folder)
    named = replace(
        settings.trainer,
        callbacks={
            "stats": {"_target_": "DeviceStatsMonitor"},
            "limit": {"_target_": "Timer", "duration": {"days": 9}},
        },
        logger={"curves": {"_target_": "CSVLogger"}},
    )
    job = write_job(folder / "two", replace(settings, trainer=named))
    reports: list[tuple[int, Mapping[str, float]]] = []
    result = run_fit_job(job, lambda metrics, step: reports.append((step, metrics)))
    return TrainedByTwo(settings, job, result, reports)


def test_two_ranks_train_the_model_of_one(trained_by_two: TrainedByTwo, tmp_path: Path) -> None:
    one, two = write_job(tmp_path / "one", trained_by_two.settings), trained_by_two.folder
    expected = run_fit_job(on_one_device(one))
    result, reports = trained_by_two.result, trained_by_two.reports

    assert result["steps"] == expected["steps"] == 8
    assert result["monitor"] == expected["monitor"] == "val/ndcg_at_10"
    assert result["best_step"] == expected["best_step"]
    for name in ("train/loss", "val/loss", "val/ndcg_at_10", "train/gradient_norm"):
        points = result["history"][name]
        assert [step for step, _ in points] == [step for step, _ in expected["history"][name]]
        values = [value for _, value in expected["history"][name]]
        assert [value for _, value in points] == pytest.approx(values, rel=1e-3)
    assert [step for step, metrics in reports if "train/loss" in metrics] == list(range(1, 9))
    before = weights_of(one / "model")
    for name, weight in weights_of(two / "model").items():
        assert float((weight - before[name]).abs().max()) < 2e-3
    assert not (two / "checkpoints").exists()


def on_one_device(folder: Path) -> Path:
    job = json.loads((folder / "job.json").read_text())
    job["settings"]["trainer"]["devices"] = 1
    (folder / "job.json").write_text(json.dumps(job))
    return folder


def test_two_ranks_mine_the_negatives_of_one(settings: Settings, tmp_path: Path) -> None:
    settings.feature_engineering.hard_negatives = HardNegativesConfig(
        enabled=True, margin=0.0, remine_every_epochs=1
    )
    one, two = write_job(tmp_path / "one", settings), write_job(tmp_path / "two", settings)

    run_fit_job(on_one_device(one))
    run_fit_job(two)

    # Of the last epoch, mined by the vectors of a model that has learnt for three.
    mined, expected = (read_rows(folder / "mined-3.parquet") for folder in (two, one))
    assert expected["negative"].notna().any()
    assert mined["negative"].tolist() == expected["negative"].tolist()


def test_all_ranks_train_with_the_numbers_found_for_them(
    settings: Settings, tmp_path: Path
) -> None:
    training = settings.embedding.training
    training.batch_size = training.learning_rate = "auto"
    training.batches.effective_size, training.schedule = 8, "constant"
    family = family_named("embedding")
    records = records_of(rows_of("embedding", SUBJECTS[:16]))
    values = family.learner(settings, "pair", None).find_auto_values(
        settings.embedding.model, records, training, 2
    )
    one, two = write_job(tmp_path / "one", settings), write_job(tmp_path / "two", settings)
    for folder in (one, two):
        job = json.loads((folder / "job.json").read_text())
        job["auto_values"] = values.to_dict()
        (folder / "job.json").write_text(json.dumps(job))

    expected, result = run_fit_job(on_one_device(one)), run_fit_job(two)

    assert values.batch is not None and values.rate is not None
    assert (values.batch.batch_size, values.batch.devices) == (8, 2)
    assert result["found"] == expected["found"] == values.to_dict()
    assert result["steps"] == expected["steps"] == 8
    losses = [loss for _, loss in expected["history"]["train/loss"]]
    assert [loss for _, loss in result["history"]["train/loss"]] == pytest.approx(losses, rel=1e-3)
    assert {rate for _, rate in result["history"]["train/learning_rate"]} == {values.rate.rate}


def test_named_callbacks_and_loggers_work_on_the_first_rank(trained_by_two: TrainedByTwo) -> None:
    reports = trained_by_two.reports
    name = "DeviceStatsMonitor.on_train_batch_end/cpu_percent"
    assert [step for step, metrics in reports if name in metrics] == list(range(8))
    (file,) = (trained_by_two.folder / "logs").rglob("metrics.csv")
    # A line for each report, below the names.
    assert len(file.read_text().splitlines()) == 1 + len(reports)


def test_a_callback_ends_the_training_of_all_ranks_after_the_same_step(
    settings: Settings, tmp_path: Path
) -> None:
    # One micro-batch of a step of two, then the time is over.
    settings.embedding.training.batches.accumulate = 2
    settings.trainer.callbacks = {"limit": {"_target_": "Timer", "duration": {"milliseconds": 1}}}

    result = run_fit_job(write_job(tmp_path / "fit", settings))

    assert result["steps"] == 1
    assert [step for step, _ in result["history"]["val/loss"]] == [1]


def test_ranks_go_on_together_after_a_failure_of_one(
    settings: Settings, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("FullMemory", "BrokenGradient")
    install(FAILURES, name="failures", callbacks={name: name for name in names})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    settings.trainer.callbacks = {name: {"_target_": name} for name in names}

    folder = write_job(tmp_path / "fit", settings)
    result = run_fit_job(folder)

    assert json.loads((folder / "recovery.json").read_text())["mini_batch_size"] == 2
    assert (result["steps"], result["rewinds"], result["skipped_rows"]) == (8, 1, [])
    steps = [step for step, _ in result["history"]["train/loss"]]
    assert steps == list(range(1, 9))


def test_the_error_of_a_rank_is_that_of_the_training(settings: Settings, tmp_path: Path) -> None:
    folder = write_job(tmp_path / "fit", settings)
    job = json.loads((folder / "job.json").read_text())
    job["start"] = str(tmp_path / "nowhere")
    (folder / "job.json").write_text(json.dumps(job))

    with pytest.raises(BrokenModelError, match=r"/nowhere can't be loaded"):
        run_fit_job(folder)


def test_an_error_of_a_library_names_the_rank(settings: Settings, tmp_path: Path) -> None:
    folder = write_job(tmp_path / "fit", settings)
    (folder / "checkpoints").write_text("a file where a folder has to be")

    with pytest.raises(TrainingError, match=r"^rank [01] failed: \w+: .*checkpoints"):
        run_fit_job(folder)


def test_a_killed_rank_ends_the_training(settings: Settings, tmp_path: Path) -> None:
    settings.embedding.training.num_epochs = 500
    job = RunningJob.after_step(3, write_job(tmp_path / "fit", settings))

    job.ranks[1].kill()

    job.assert_failed("rank 1 was killed by SIGKILL, and the other ranks were")


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_training(settings: Settings, tmp_path: Path) -> None:
    settings.embedding.training.num_epochs = 500
    # The ranks also wait so long for one another at the beginning.
    settings.trainer.exchange_timeout_minutes = 0.5
    job = RunningJob.after_step(3, write_job(tmp_path / "fit", settings))

    job.ranks[1].suspend()

    job.assert_failed("rank 1 took no part in an exchange for 0.5 minutes,")


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_continues_where_it_was(
    settings: Settings, tmp_path: Path, signal_number: signal.Signals
) -> None:
    training = settings.embedding.training
    training.batch_size, training.num_epochs = 2, 20
    whole, cut = write_job(tmp_path / "whole", settings), write_job(tmp_path / "cut", settings)
    expected = run_fit_job(whole)
    job = RunningJob.after_step(5, cut)

    job.process.send_signal(signal_number)
    job.process.communicate(timeout=60)

    assert not (cut / "result.json").exists()
    job.assert_no_rank_lives()
    assert (cut / "checkpoints" / "last.ckpt").exists()
    result = run_fit_job(cut)
    assert result["history"]["train/loss"] == expected["history"]["train/loss"]
    resumed, uninterrupted = weights_of(cut / "model"), weights_of(whole / "model")
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


def test_ranks_end_when_their_parent_is_killed(settings: Settings, tmp_path: Path) -> None:
    settings.embedding.training.num_epochs = 500
    folder = write_job(tmp_path / "fit", settings)
    job = RunningJob.after_step(3, folder)

    job.process.kill()

    _, alive = psutil.wait_procs(job.ranks, timeout=30)
    # The ranks have inherited the pipes.
    job.process.communicate(timeout=30)
    assert alive == []
    assert (folder / "checkpoints" / "last.ckpt").exists()


def test_metrics_that_a_killed_parent_left_are_passed_on_first(
    settings: Settings, tmp_path: Path
) -> None:
    folder = write_job(tmp_path / "fit", settings)
    reports: list[tuple[int, Mapping[str, float]]] = []

    def collect(metrics: Mapping[str, float], step: int) -> None:
        reports.append((step, metrics))

    left, passed_on = {"train/loss": 2.5}, {"train/loss": 3.0}
    lines = [json.dumps({"step": -step, "metrics": m}) for step, m in ((2, passed_on), (1, left))]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "passed-on.json").write_text(str(len(lines[0]) + 1))

    run_fit_job(folder, collect)

    assert reports[0] == (-1, left)
    assert [step for step, metrics in reports[1:] if "train/loss" in metrics] == list(range(1, 9))


def test_devices_that_are_not_there_are_refused(settings: Settings) -> None:
    settings.trainer = TrainerConfig(accelerator="cpu", devices=4096)
    with pytest.raises(ConfigError, match=r"^trainer\.devices must be at most the \d+ CPU cores"):
        check_devices(settings, [family_named("embedding")])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(settings: Settings) -> None:
    settings.trainer = TrainerConfig(accelerator="gpu")
    with pytest.raises(ConfigError, match=r"^trainer\.accelerator must be cpu or auto on this"):
        check_devices(settings, [family_named("embedding")])


def test_a_batch_with_fewer_rows_than_devices_is_refused(settings: Settings) -> None:
    settings.embedding.training.batch_size = 1
    message = r"^embedding\.training\.batch_size must be at least trainer\.devices=2"
    with pytest.raises(ConfigError, match=message):
        check_devices(settings, [family_named("embedding")])


def test_more_devices_than_a_local_ray_cluster_would_have_are_refused(settings: Settings) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    settings.trainer = TrainerConfig(accelerator="cpu", devices=4096, launcher="ray")
    with pytest.raises(ConfigError, match=r"^trainer\.devices must be at most the \d+ CPU cores"):
        check_devices(settings, [family_named("embedding")])


def test_a_machine_that_lacks_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    folder = tmp_path / "elsewhere"

    with pytest.raises(ConfigError, match=rf"^output_dir must be a folder .* got {folder}, which"):
        fit_on_ray({"folder": str(folder), "working_folder": str(tmp_path)})

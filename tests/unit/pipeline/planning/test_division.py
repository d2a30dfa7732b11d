import pytest

from tunetrail.config.trainer import TrainerConfig
from tunetrail.pipeline.planning import division as module
from tunetrail.pipeline.planning.division import Division, division_of


def test_one_device_trains_in_this_process() -> None:
    division = division_of(TrainerConfig(accelerator="cpu"))
    assert division == Division() and division.is_alone and division.share(33) == 33


def test_processes_on_a_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "rank_count", lambda trainer: 4)
    monkeypatch.setattr(module, "cpu_count", lambda: 2)

    division = division_of(TrainerConfig(accelerator="cpu", devices=4))

    assert (division.ranks, division.devices, division.is_alone) == (4, 1, False)
    # Four processes import on two cores.
    assert division.start_seconds == pytest.approx(2 * module._START_SECONDS)


def test_each_gpu_takes_its_share_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "rank_count", lambda trainer: 4)
    monkeypatch.setattr(module, "device_kind", lambda accelerator: "cuda")

    division = division_of(TrainerConfig(devices=4))

    assert (division.devices, division.share(32), division.share(33)) == (4, 8, 9)
    assert division.share(0) == 0

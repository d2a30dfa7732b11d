import logging

import pytest
import torch
from torch import nn

from tunetrail.learning.training.optimization import (
    configure_adamw,
    effective_warmup_steps,
    parameter_groups,
    resolve_precision,
)


def rates(schedule: str, warmup_steps: int, total_steps: int) -> list[float]:
    configured = configure_adamw(
        nn.Linear(2, 2),
        learning_rate=0.1,
        weight_decay=0.0,
        warmup_steps=warmup_steps,
        schedule=schedule,
        total_steps=total_steps,
    )
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    found = []
    for _ in range(total_steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("schedule", "end"), [("linear", 0.0), ("cosine", 0.0), ("constant", 0.1)])
def test_schedule_rises_to_the_learning_rate_and_ends_as_named(schedule: str, end: float) -> None:
    found = rates(schedule, warmup_steps=4, total_steps=20)
    assert found[:5] == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])
    assert found[-1] == pytest.approx(end, abs=1e-12)
    assert found[12] == pytest.approx(0.1 if schedule == "constant" else 0.05)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedule_without_warmup_begins_at_the_learning_rate(schedule: str) -> None:
    assert rates(schedule, warmup_steps=0, total_steps=5)[0] == 0.1


@pytest.mark.parametrize(
    ("asked", "total", "used"), [(0, 1, 0), (50, 100, 50), (100, 200, 100), (51, 100, 10), (100, 30, 3), (100, 3, 0)]
)
def test_warmup_is_shortened_for_a_short_training_and_says_so(
    asked: int, total: int, used: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tunetrail.learning.training.optimization"):
        assert effective_warmup_steps(asked, total) == used
    expected = [f"training.warmup_steps={asked} is more than half of the {total} training steps; {used} are used"]
    assert [record.getMessage() for record in caplog.records] == ([] if used == asked else expected)


def test_parameter_groups_decay_matrices_only_and_leave_out_frozen_ones() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    module[3].requires_grad_(False)
    decaying, plain = parameter_groups(module, 0.3)
    assert (decaying["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [id(each) for each in decaying["params"]] == [id(module[0].weight), id(module[1].weight)]
    assert [id(each) for each in plain["params"]] == [id(module[1].bias), id(module[2].weight), id(module[2].bias)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
@pytest.mark.parametrize("use_mixed_precision", [True, False])
def test_precision_on_a_cpu_is_float32(use_mixed_precision: bool) -> None:
    assert resolve_precision(use_mixed_precision) == "32-true"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a machine with a GPU")
def test_precision_on_a_gpu_is_mixed_where_asked_for() -> None:
    assert resolve_precision(True) in ("bf16-mixed", "16-mixed")
    assert resolve_precision(False) == "32-true"

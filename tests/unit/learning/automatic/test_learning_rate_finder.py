import copy
import math
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch

from tunetrail.config import TrainingConfig
from tunetrail.config.training import OptimizerConfig
from tunetrail.errors import ConfigError
from tunetrail.learning.automatic.learning_rate_finder import (
    WHOLE_MODEL,
    RangeTest,
    RangeTestResult,
    RateRange,
    has_diverged,
    smoothed,
    suggested_rate,
)
from tunetrail.learning.automatic.trial_run import run_trial
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fitting import optimization_settings

# Whole trainings.
pytestmark = pytest.mark.processes

PAIRS = [
    {"anchor": f"question {n} {'why ' * (n % 5)}", "positive": f"the answer is {n * 7}"}
    for n in range(64)
]
RATES = [float(rate) for rate in np.geomspace(WHOLE_MODEL.first, WHOLE_MODEL.last, 61)]


def module_and_data(
    path: str, **training: object
) -> tuple[EmbeddingModule, EmbeddingDataModule, TrainingConfig]:
    defaults = {"batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 0, "schedule": "constant"}
    config = TrainingConfig(**{**defaults, **training})
    module = EmbeddingModule(model=path, shape="pair", optimization=optimization_settings(config))
    data = EmbeddingDataModule(
        train=PAIRS, validation=[], shape="pair", batch_size=config.rows_per_batch
    )
    return module, data, config


def range_test(path: str, steps: int = 80, **training: object) -> RangeTest:
    module, data, config = module_and_data(path, **training)
    test = RangeTest(nominal=1e-3, tried=WHOLE_MODEL, steps=steps)
    run_trial(module, data, config, test, max_steps=steps)
    return test


def test_smoothing_is_corrected_for_its_beginning() -> None:
    assert smoothed([3.0] * 20) == pytest.approx([3.0] * 20)
    assert smoothed([1.0, 2.0])[1] == pytest.approx((0.09 * 1.0 + 0.1 * 2.0) / 0.19)


def test_a_loss_that_is_not_finite_has_diverged() -> None:
    assert has_diverged([1.0, math.nan])
    assert has_diverged([math.inf])
    assert not has_diverged([])


def test_a_loss_has_diverged_at_four_times_the_least_not_before() -> None:
    falling = [2.0 - 0.1 * number for number in range(15)]
    assert not has_diverged(falling)
    assert not has_diverged([*falling, 4.0])  # one step of noise
    assert has_diverged([*falling, *[20.0] * 5])
    assert not has_diverged(
        [1.0, *[0.01] * 30, *[0.05] * 20]
    )  # five times the least, and far below the start


def valley(center: float) -> list[tuple[float, float]]:
    """A loss that falls as a sigmoid, steepest at the center, and rises two decades later."""
    logs = np.log10(RATES) - math.log10(center)
    losses = 2.0 - 1.0 / (1.0 + np.exp(-4.0 * logs)) + np.exp(6.0 * (logs - 2.5))
    return [(rate, float(loss)) for rate, loss in zip(RATES, losses, strict=True)]


@pytest.mark.parametrize("center", [1e-5, 1e-4])
def test_the_rate_of_the_steepest_descent_is_suggested(center: float) -> None:
    assert suggested_rate(valley(center), WHOLE_MODEL) == pytest.approx(center, rel=0.2)


def test_a_tenth_of_the_least_loss_is_suggested_where_the_steepest_descent_is_near_it() -> None:
    logs = np.log10(RATES)
    losses = np.where(logs < -4.0, 1.0 + 0.01 * np.abs(logs + 4.0) ** 0.5, 1.0 + (logs + 4.0) * 3.0)
    curve = [(rate, float(loss)) for rate, loss in zip(RATES, losses, strict=True)]
    assert suggested_rate(curve, WHOLE_MODEL) == pytest.approx(1e-5, rel=0.2)


def test_a_suggestion_stays_within_its_bounds() -> None:
    narrow = RateRange(first=1e-7, last=0.1, lowest=1e-4, highest=2e-4)
    assert suggested_rate(valley(1e-6), narrow) == 1e-4
    assert suggested_rate(valley(1e-3), narrow) == 2e-4
    assert suggested_rate([], narrow) == 1e-4
    rising = [(rate, float(number)) for number, rate in enumerate(RATES)]
    assert suggested_rate(rising, narrow) == 1e-4


def test_what_was_found_becomes_plain_values_and_back() -> None:
    found = RangeTestResult(rate=1e-4, curve=((1e-7, 2.0), (1e-6, 1.5)))
    assert RangeTestResult.from_dict(found.to_dict()) == found


@pytest.fixture(scope="module")
def whole_test(tiny_embedding_model: str) -> RangeTest:
    return range_test(tiny_embedding_model)


def test_the_curve_begins_level_falls_and_rises(whole_test: RangeTest) -> None:
    test = whole_test
    found = test.result()
    rates, losses = np.array(found.curve).T
    assert losses[rates < 1e-5] == pytest.approx(
        losses[0], rel=0.01
    )  # the rows of the steps differ by far more
    assert np.ptp(test.initial_losses) > 0.05 * losses[0]
    assert losses.min() < 0.97 * losses[0]
    assert losses[-1] > losses.min()


def mean_loss(module: EmbeddingModule, data: EmbeddingDataModule) -> float:
    module.eval()
    with torch.no_grad():
        batches = [shared.batch for shared in data.train_dataloader()]
        losses = sum(float(module.measures_of(batch)["loss"]) for batch in batches)
    return losses / sum(batch.weight for batch in batches)


def trained_loss(path: str, rate: float) -> float:
    """Return the loss after 24 steps."""
    module, data, config = module_and_data(path, learning_rate=rate)
    run_trial(module, data, config, lightning.Callback(), max_steps=24)
    return mean_loss(module, data)


def test_the_suggested_rate_trains_better_than_a_tenth_of_it_and_does_not_diverge(
    tiny_embedding_model: str, whole_test: RangeTest
) -> None:
    rate = whole_test.result().rate
    module, data, _ = module_and_data(tiny_embedding_model)
    start, lower, suggested = (
        mean_loss(module, data),
        trained_loss(tiny_embedding_model, rate / 10.0),
        trained_loss(tiny_embedding_model, rate),
    )
    assert suggested < lower < start
    assert suggested < 0.9 * start


def test_a_test_that_diverges_ends_before_its_last_rate(tiny_embedding_model: str) -> None:
    high = RateRange(first=1e-3, last=1e6, lowest=1e-6, highest=1.0)
    module, data, config = module_and_data(
        tiny_embedding_model, optimizer=OptimizerConfig(name="sgd"), max_grad_norm=0
    )
    diverging = RangeTest(nominal=1e-3, tried=high, steps=40)
    run_trial(module, data, config, diverging, max_steps=40)
    assert len(diverging.losses) < 40
    assert high.lowest <= diverging.result().rate <= high.highest


def test_a_model_whose_loss_is_not_finite_needs_a_rate(tiny_embedding_model: str) -> None:
    module, data, config = module_and_data(tiny_embedding_model)
    with torch.no_grad():
        next(iter(module.parameters())).fill_(math.nan)
    with pytest.raises(
        ConfigError,
        match=r"training\.learning_rate must be a number .* loss of nan before any step",
    ):
        run_trial(module, data, config, RangeTest(nominal=1e-3, tried=WHOLE_MODEL), max_steps=80)


class Watched(EmbeddingModule):
    """Notes the learning rates of each optimizer step."""

    seen: list[list[float]]

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        self.seen = []
        configured["optimizer"].register_step_pre_hook(
            lambda optimizer, *arguments: self.seen.append(
                [group["lr"] for group in optimizer.param_groups]
            )
        )
        return configured


def test_each_step_has_its_rate_and_each_layer_its_share(tiny_embedding_model: str) -> None:
    _, data, config = module_and_data(
        tiny_embedding_model, optimizer=OptimizerConfig(layer_decay=0.5)
    )
    module = Watched(
        model=tiny_embedding_model, shape="pair", optimization=optimization_settings(config)
    )
    run_trial(
        module, data, config, RangeTest(nominal=1e-3, tried=WHOLE_MODEL, steps=4), max_steps=4
    )
    # BERT's pooler, which isn't trained, would have the whole rate.
    assert [max(rates) for rates in module.seen] == pytest.approx([5e-8, 5e-6, 5e-4, 0.05])
    # Two layers, then embeddings.
    assert [max(rates) / min(rates) for rates in module.seen] == pytest.approx([4.0] * 4)


def test_the_random_generators_are_as_before(tiny_embedding_model: str) -> None:
    torch.manual_seed(3)
    expected = (torch.rand(2), np.random.default_rng(0).random())
    torch.manual_seed(3)
    state = copy.deepcopy(np.random.get_state()[1])
    range_test(tiny_embedding_model, steps=4)
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.get_state()[1], state)

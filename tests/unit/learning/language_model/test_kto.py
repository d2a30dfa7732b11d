from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.learning.language_model.kto_by_trl import ROWS, SETTINGS, disturb

from tunetrail.config import AdapterConfig, KtoConfig, LanguageModelConfig, TrainingConfig
from tunetrail.errors import SampleError
from tunetrail.learning.language_model.data import JudgedAnswer, VerdictBatch
from tunetrail.learning.language_model.kto import (
    kto_loss,
    mismatched,
    on_right_side,
    previous_in_block,
    reference_point,
)
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.tokens.chat import IGNORED, tokenize_record
from tunetrail.learning.training.micro_batches import SharedBatch
from tunetrail.learning.training_plan import TrainingPlan

TRAINING = TrainingConfig(
    batch_size=6, num_epochs=6, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-2
)


def learner(kind: str = "lora") -> LanguageModelLearner:
    adapter = AdapterConfig(kind=kind, rank=4, alpha=8)
    return LanguageModelLearner(
        config=LanguageModelConfig(max_length=256, adapter=adapter, kto=KtoConfig(**SETTINGS)),
        seed=0,
    )


def batch_of(path: str) -> tuple[LanguageModelModule, VerdictBatch]:
    """The module with all its weights, and one batch of all rows as training makes it."""
    module, batches = learner("none")._build(path, load_tokenizer(path), ROWS, [], TRAINING)
    items = [item for item in batches.train if isinstance(item, JudgedAnswer)]
    return module, VerdictBatch(judged=tuple(items), rows=tuple(range(len(items))))


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


def test_kto_loss_follows_the_papers_formula() -> None:
    config = KtoConfig(**SETTINGS)
    log_ratios = np.array([2.0, -1.0, 0.5, 30.0, -400.0])
    accepted = np.array([True, True, False, False, True])
    mismatched_ratios = np.array([0.5, -0.25, 1.25])

    z0 = max(0.0, mismatched_ratios.mean())
    expected = []
    for ratio, is_accepted in zip(log_ratios, accepted, strict=True):
        direction = 1.0 if is_accepted else -1.0
        weight = config.desirable_weight if is_accepted else config.undesirable_weight
        value = weight / (1.0 + np.exp(-config.beta * direction * (ratio - z0)))
        expected.append(weight - value)

    point = reference_point(torch.tensor(mismatched_ratios))
    losses = kto_loss(torch.tensor(log_ratios), torch.tensor(accepted), point, config)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-6)


def test_reference_point_is_at_least_zero_and_has_no_gradient() -> None:
    ratios = torch.tensor([-3.0, 1.0], requires_grad=True)
    point = reference_point(ratios)
    assert float(point) == 0.0 and not point.requires_grad


def test_kto_loss_stays_finite_far_from_the_reference() -> None:
    ratios = torch.tensor([1e6, -1e6, 1e6, -1e6], requires_grad=True)
    losses = kto_loss(
        ratios, torch.tensor([True, True, False, False]), torch.tensor(0.0), KtoConfig()
    )
    losses.sum().backward()
    assert losses.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert ratios.grad is not None and ratios.grad.isfinite().all()


def test_rewards_are_right_if_they_have_the_sign_of_the_verdict() -> None:
    ratios = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0])
    accepted = torch.tensor([True, True, False, False, True])
    assert on_right_side(ratios, accepted).tolist() == [1.0, 0.0, 0.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("rows", "block", "expected"),
    [
        (6, 6, [5, 0, 1, 2, 3, 4]),
        (5, 2, [1, 0, 4, 2, 3]),
        (4, 1, [1, 0, 3, 2]),
        (1, 4, [0]),
        (0, 4, []),
    ],
)
def test_no_prompt_gets_its_own_answer_if_there_is_another(
    rows: int, block: int, expected: list[int]
) -> None:
    assert previous_in_block(rows, block) == expected


def test_mismatched_joins_the_prompt_of_one_with_the_answer_of_the_other(
    tiny_language_model: str,
) -> None:
    tokenizer = load_tokenizer(tiny_language_model)
    first, second = (tokenize_record(tokenizer, row, 256) for row in ROWS[:2])
    crossed = {**ROWS[0], "completion": ROWS[1]["completion"]}
    expected = tokenize_record(tokenizer, crossed, 256)

    found = mismatched(first, second, 256)

    assert (found.input_ids, found.labels) == (expected.input_ids, expected.labels)
    prompt_end = first.supervised_positions[0]
    cut = mismatched(first, second, prompt_end + 2)
    assert len(cut.input_ids) == prompt_end + 2 and cut.truncated
    assert cut.labels[:prompt_end] == [IGNORED] * prompt_end and cut.supervised_tokens == 2


@pytest.mark.parametrize(
    ("scale", "loss", "gradient_norm"),
    [(0.0, 0.51666665, 2.39820623), (0.01, 0.51887369, 2.41672397), (0.1, 0.66797048, 2.98883271)],
)
def test_loss_and_gradient_are_those_of_trl(
    tiny_language_model: str, scale: float, loss: float, gradient_norm: float
) -> None:
    """The values are printed by `python -m tests.unit.learning.language_model.kto_by_trl`."""
    module, batch = batch_of(tiny_language_model)
    module.eval()
    disturb(module.model, scale)

    found = module.loss_of(SharedBatch(batch)) / batch.weight
    torch.autograd.backward(found)

    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    assert float(found.detach()) == pytest.approx(loss, abs=1e-5)
    norm = float(torch.nn.utils.get_total_norm(gradients))
    assert norm == pytest.approx(gradient_norm, rel=1e-5, abs=1e-5)


def test_a_validation_has_the_loss_of_training_whatever_its_mini_batches(
    tiny_language_model: str,
) -> None:
    module, batch = batch_of(tiny_language_model)
    module.eval()
    disturb(module.model, 0.05)
    expected = float(module.loss_of(SharedBatch(batch)).detach())

    for module.mini_batch_size in (0, 1, 4):
        with torch.no_grad():
            sums = module.measures_of(batch)
        assert float(sums["loss"]) == pytest.approx(expected, abs=1e-5)
        assert float(sums["judged"]) == len(ROWS)
        accepted_bytes = [len(str(row["completion"])) for row in ROWS if row["accepted"]]
        assert float(sums["bytes"]) == sum(accepted_bytes)


def test_train_moves_accepted_answers_up_and_rejected_ones_down(
    tiny_language_model: str, tmp_path: Path
) -> None:
    logged: dict[str, list[float]] = {}

    def keep(metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            logged.setdefault(name, []).append(value)

    taught = learner()
    before = taught.load(tiny_language_model)
    plan = TrainingPlan(folder=tmp_path, on_metrics=keep)
    after, result = taught.train(tiny_language_model, ROWS, ROWS, TRAINING, plan)

    assert result.steps == 6
    gains = taught.likelihoods(before, ROWS, 4).nats - taught.likelihoods(after, ROWS, 4).nats
    accepted = np.array([row["accepted"] for row in ROWS])
    assert gains[accepted].mean() > gains[~accepted].mean() + 0.1
    accuracies = [
        value for name, values in logged.items() if "reward_accuracy" in name for value in values
    ]
    assert accuracies[-1] > 0.5


def test_the_weights_of_verdicts_and_of_rows_multiply_the_loss(tiny_language_model: str) -> None:
    module, batch = batch_of(tiny_language_model)
    module.eval()
    with torch.no_grad():
        losses = [
            float(module.measures_of(batch.part(slice(row, row + 1)))["loss"]) for row in (0, 1)
        ]
    # At the start every value is a half: the first row was rejected, the second accepted.
    expected = [SETTINGS["undesirable_weight"] / 2, SETTINGS["desirable_weight"] / 2]
    assert losses == pytest.approx(expected, abs=1e-5)


def test_a_length_that_cuts_off_every_answer_is_named(
    tiny_language_model: str, tmp_path: Path
) -> None:
    config = LanguageModelConfig(max_length=8)
    short = LanguageModelLearner(config=config, seed=0)
    records: list[dict[str, Any]] = list(ROWS)
    with pytest.raises(SampleError, match=r"llm\.max_length=8 cuts off the whole output"):
        short.train(
            tiny_language_model,
            records,
            [],
            TRAINING,
            TrainingPlan(folder=tmp_path, on_metrics=ignore, validate=False),
        )

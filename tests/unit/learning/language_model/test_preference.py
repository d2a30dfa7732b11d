import math

import pytest
import torch
from torch import Tensor

from tunetrail.config import PreferenceConfig
from tunetrail.learning.language_model.preference import (
    PairLogProbabilities,
    dpo_loss,
    implicit_rewards,
    ipo_loss,
    preference_loss,
)

# (policy chosen, policy rejected, reference chosen, reference rejected) of each pair
BETTER, WORSE, EQUAL = (
    (-10.0, -14.0, -12.0, -11.0),
    (-20.0, -8.0, -18.0, -9.0),
    (-5.0, -7.0, -5.0, -7.0),
)


def columns(*pairs: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = torch.tensor(
        pairs, dtype=torch.float64
    ).T
    return policy_chosen, policy_rejected, reference_chosen, reference_rejected


def pairs_of(*pairs: tuple[float, ...], tokens: tuple[int, int] = (4, 5)) -> PairLogProbabilities:
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = columns(*pairs)
    return PairLogProbabilities(
        policy_chosen=policy_chosen.requires_grad_(),
        policy_rejected=policy_rejected.requires_grad_(),
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        chosen_tokens=torch.full_like(reference_chosen, tokens[0]),
        rejected_tokens=torch.full_like(reference_chosen, tokens[1]),
    )


def test_dpo_loss_is_that_of_the_paper_by_hand() -> None:
    # margins in nats: (-10 + 12) - (-14 + 11) = 5, (-20 + 18) - (-8 + 9) = -3, and 0
    expected = [math.log1p(math.exp(-0.1 * margin)) for margin in (5.0, -3.0, 0.0)]
    assert dpo_loss(*columns(BETTER, WORSE, EQUAL), 0.1).tolist() == pytest.approx(
        expected, abs=1e-12
    )
    assert expected == pytest.approx([0.474077, 0.854355, math.log(2.0)], abs=1e-6)


def test_dpo_loss_is_minus_log_sigmoid_of_beta_times_the_difference_of_log_ratios() -> None:
    # the order in which TRL's DPOTrainer writes it: log-ratio of the policy less that of the
    # reference
    generator = torch.Generator().manual_seed(0)
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = 40.0 * torch.randn(
        4, 50, generator=generator, dtype=torch.float64
    )
    for beta in (0.01, 0.1, 1.0):
        logits = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)
        expected = -(1.0 / (1.0 + torch.exp(-beta * logits))).log()
        found = dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_dpo_gradient_pulls_most_where_the_pair_is_the_wrong_way_round() -> None:
    pairs = pairs_of(BETTER, WORSE, EQUAL)
    torch.autograd.backward(preference_loss(pairs, PreferenceConfig(beta=0.5)).sum())
    # eq. 8: beta * sigmoid(reward of the rejected - reward of the chosen), up for the chosen, down
    # for the rejected
    expected = [0.5 / (1.0 + math.exp(0.5 * margin)) for margin in (5.0, -3.0, 0.0)]
    assert pairs.policy_chosen.grad is not None and pairs.policy_rejected.grad is not None
    assert (-pairs.policy_chosen.grad).tolist() == pytest.approx(expected)
    assert pairs.policy_rejected.grad.tolist() == pytest.approx(expected)


def test_dpo_loss_stays_finite_far_from_the_reference() -> None:
    pairs = pairs_of((0.0, -1e5, -1e5, 0.0), (-1e5, 0.0, 0.0, -1e5))
    loss = preference_loss(pairs, PreferenceConfig())
    torch.autograd.backward(loss.sum())
    assert loss.tolist() == pytest.approx([0.0, 2e4])
    assert pairs.policy_chosen.grad is not None and pairs.policy_chosen.grad.isfinite().all()


def test_implicit_rewards_measure_what_was_learnt_beyond_the_reference() -> None:
    rewards = implicit_rewards(*columns(BETTER, WORSE, EQUAL), 0.5)
    assert rewards.chosen.tolist() == [1.0, -1.0, 0.0] and rewards.rejected.tolist() == [
        -1.5,
        0.5,
        0.0,
    ]
    assert rewards.margin.tolist() == [2.5, -1.5, 0.0]
    assert rewards.accuracy.tolist() == [1.0, 0.0, 0.5]


def test_ipo_loss_wants_a_margin_for_each_token_of_one_half_over_beta() -> None:
    # for each token: (-10 + 12) / 4 - (-14 + 11) / 5 = 1.1, against 1 / (2 * 0.5) = 1
    assert ipo_loss(pairs_of(BETTER), 0.5).tolist() == pytest.approx([0.01])
    assert ipo_loss(pairs_of(EQUAL), 0.5).tolist() == pytest.approx([1.0])
    assert preference_loss(
        pairs_of(BETTER), PreferenceConfig(beta=0.5, loss_type="ipo")
    ).tolist() == pytest.approx([0.01])


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_preference_loss_adds_a_share_of_the_chosen_answers_loss(loss_type: str) -> None:
    pairs = pairs_of(BETTER, WORSE)
    alone = preference_loss(pairs, PreferenceConfig(loss_type=loss_type))
    added = (
        preference_loss(pairs, PreferenceConfig(loss_type=loss_type, supervised_weight=2.0)) - alone
    )
    assert added.tolist() == pytest.approx([2.0 * 10.0 / 4.0, 2.0 * 20.0 / 4.0])

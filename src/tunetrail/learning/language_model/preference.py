"""Losses of preferences: from the log-probabilities of two answers to the loss of the pair."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tunetrail.config import PreferenceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLogProbabilities:
    """Log-probabilities of pairs of answers by the model in training (policy) and its reference.

    The reference is the model that the training started from. Log-probabilities are in nats, summed
    over the tokens of the answer: the negative of `LanguageForward.nats`.

    Attributes:
        policy_chosen: Log-probability of each chosen answer by the policy, [pairs].
        policy_rejected: Log-probability of each rejected answer by the policy, [pairs].
        reference_chosen: Log-probability of each chosen answer by the reference, [pairs]; without
            gradient.
        reference_rejected: Log-probability of each rejected answer by the reference, [pairs].
        chosen_tokens: Number of supervised tokens of each chosen answer, [pairs].
        rejected_tokens: Number of supervised tokens of each rejected answer, [pairs].
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ImplicitRewards:
    """beta * (log-probability by the policy - by the reference): Rafailov et al. 2023, section 5.

    Attributes:
        chosen: Reward of each chosen answer, [pairs].
        rejected: Reward of each rejected answer, [pairs].
    """

    chosen: Tensor
    rejected: Tensor

    @property
    def margin(self) -> Tensor:
        """Reward of the chosen answer minus that of the rejected answer, [pairs]."""
        return self.chosen - self.rejected

    @property
    def accuracy(self) -> Tensor:
        """1 if the chosen answer has the higher reward, 1/2 if equal, otherwise 0, [pairs]."""
        return (torch.sign(self.margin) + 1.0) / 2.0


def implicit_rewards(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> ImplicitRewards:
    """Return the implicit rewards of both answers; with the arguments of `dpo_loss`."""
    return ImplicitRewards(
        chosen=beta * (policy_chosen - reference_chosen),
        rejected=beta * (policy_rejected - reference_rejected),
    )


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Return -log sigmoid(margin of the implicit rewards), [pairs].

    This is direct preference optimisation (Rafailov et al. 2023, eq. 7); the loss is log 2 if
    policy and reference are equal.

    Args:
        policy_chosen: Log-probability of each chosen answer by the policy, in nats, [pairs].
        policy_rejected: Log-probability of each rejected answer by the policy, [pairs].
        reference_chosen: Log-probability of each chosen answer by the reference, [pairs].
        reference_rejected: Log-probability of each rejected answer by the reference, [pairs].
        beta: Weight of staying close to the reference, above 0.
    """
    rewards = implicit_rewards(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )
    # Unlike the logarithm of a sigmoid, `logsigmoid` stays finite for a large negative margin.
    return -logsigmoid(rewards.margin)


def ipo_loss(pairs: PairLogProbabilities, beta: float) -> Tensor:
    """Return (margin - 1 / (2 beta))^2, [pairs].

    This is identity preference optimisation (Azar et al. 2023, eq. 17). The margin is that of the
    log-probability ratios per token, as in the paper's experiments; otherwise the loss would grow
    with the square of an answer's length.
    """
    chosen = (pairs.policy_chosen - pairs.reference_chosen) / pairs.chosen_tokens
    rejected = (pairs.policy_rejected - pairs.reference_rejected) / pairs.rejected_tokens
    return (chosen - rejected - 1.0 / (2.0 * beta)).square()


def preference_loss(pairs: PairLogProbabilities, config: PreferenceConfig) -> Tensor:
    """Return the configured loss of each pair, [pairs].

    With a `supervised_weight`, the chosen answer's nats per token times that weight are added (Pang
    et al. 2024, Iterative Reasoning Preference Optimization, section 2).
    """
    if config.loss_type == "ipo":
        loss = ipo_loss(pairs, config.beta)
    else:
        loss = dpo_loss(
            pairs.policy_chosen,
            pairs.policy_rejected,
            pairs.reference_chosen,
            pairs.reference_rejected,
            config.beta,
        )
    if config.supervised_weight:
        # Nats are negative log-probabilities, hence the minus.
        loss = loss - config.supervised_weight * pairs.policy_chosen / pairs.chosen_tokens
    return loss

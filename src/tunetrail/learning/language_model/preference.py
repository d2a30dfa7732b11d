"""Losses of preferences: from the log-probabilities of two answers to what a pair costs. Knows no model, no tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tunetrail.config import PreferenceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLogProbabilities:
    """What the model in training and its reference make of pairs of answers.

    The reference is the model that the training started from. Log-probabilities are in nats, summed over the answer's
    tokens (those with a label): the negative of what `LanguageForward.nats` returns.

    Attributes:
        policy_chosen: Log-probability of each chosen answer by the model in training, [pairs].
        policy_rejected: That of each rejected answer, [pairs].
        reference_chosen: Log-probability of each chosen answer by the reference, [pairs]; without gradient.
        reference_rejected: That of each rejected answer, [pairs].
        chosen_tokens: Tokens with a label of each chosen answer, [pairs].
        rejected_tokens: Those of each rejected answer, [pairs].
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ImplicitRewards:
    """beta * (log-probability by the model in training - that by the reference): Rafailov et al. 2023, section 5.

    Attributes:
        chosen: Of each chosen answer, [pairs].
        rejected: Of each rejected answer, [pairs].
    """

    chosen: Tensor
    rejected: Tensor

    @property
    def margin(self) -> Tensor:
        """By how much the chosen answer's reward is above the rejected one's, [pairs]."""
        return self.chosen - self.rejected

    @property
    def accuracy(self) -> Tensor:
        """1 where the chosen answer's reward is above the rejected one's, 1/2 where they are equal, else 0, [pairs]."""
        return (torch.sign(self.margin) + 1.0) / 2.0


def implicit_rewards(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> ImplicitRewards:
    """Return the rewards that a model's training by preferences amounts to; arguments as in `dpo_loss`."""
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
    """Return -log sigmoid(margin of the implicit rewards): direct preference optimisation, Rafailov et al. 2023, eq. 7.

    Args:
        policy_chosen: Log-probability of each chosen answer by the model in training, in nats, [pairs].
        policy_rejected: That of each rejected answer, [pairs].
        reference_chosen: Log-probability of each chosen answer by the model that training started from, [pairs].
        reference_rejected: That of each rejected answer, [pairs].
        beta: Weight of staying near the reference, above 0.

    Returns:
        Loss of each pair, [pairs]; log 2 where model and reference are equal.
    """
    rewards = implicit_rewards(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )
    return -logsigmoid(rewards.margin)


def ipo_loss(pairs: PairLogProbabilities, beta: float) -> Tensor:
    """Return (margin - 1 / (2 beta))^2, [pairs]: identity preference optimisation, Azar et al. 2023, eq. 17.

    The margin is that of log-probability ratios for each token, as in the paper's experiments: without the division
    the loss would grow with the square of an answer's length.
    """
    chosen = (pairs.policy_chosen - pairs.reference_chosen) / pairs.chosen_tokens
    rejected = (pairs.policy_rejected - pairs.reference_rejected) / pairs.rejected_tokens
    return (chosen - rejected - 1.0 / (2.0 * beta)).square()


def preference_loss(pairs: PairLogProbabilities, config: PreferenceConfig) -> Tensor:
    """Return the configured loss of each pair, [pairs].

    With `supervised_weight`, so much of the chosen answer's nats for each token comes on top (Pang et al. 2024,
    Iterative Reasoning Preference Optimization, section 2).
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
        loss = loss - config.supervised_weight * pairs.policy_chosen / pairs.chosen_tokens
    return loss

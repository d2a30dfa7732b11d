"""KTO: the loss of single answers of which is known whether they were accepted or rejected.

Kahneman-Tversky optimisation: Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306. An answer's
log-ratio is its log-probability by the model in training minus the one by the model that training
started from, in nats, summed over the tokens of the answer.
"""

from itertools import pairwise

import torch
from torch import Tensor

from tunetrail.config import KtoConfig
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample


def reference_point(mismatched_log_ratios: Tensor) -> Tensor:
    """Return the estimate of the divergence from the start, in nats, without gradient (eq. 6).

    It is the mean log-ratio of answers after prompts that they don't belong to, and at least 0.
    """
    return mismatched_log_ratios.detach().mean().clamp(min=0.0)


def kto_loss(
    log_ratios: Tensor, accepted: Tensor, reference_point: Tensor, config: KtoConfig
) -> Tensor:
    """Return weight - value of each answer, [answers] (eq. 7 and 8).

    The value is the sigmoid of beta times the distance from the reference point, upwards for an
    accepted answer and downwards for a rejected one.

    Args:
        log_ratios: Log-ratio of each answer, [answers].
        accepted: Whether each answer was accepted, [answers].
        reference_point: The divergence that an answer is measured by, a scalar.
        config: beta, and the weights of accepted and of rejected answers.
    """
    direction = torch.where(accepted, 1.0, -1.0)
    weights = torch.where(accepted, config.desirable_weight, config.undesirable_weight)
    distances = config.beta * direction * (log_ratios - reference_point)
    # 1 - sigmoid(x) = sigmoid(-x), which doesn't cancel where sigmoid(x) is near 1.
    return weights * torch.sigmoid(-distances)


def on_right_side(log_ratios: Tensor, accepted: Tensor) -> Tensor:
    """Return 1 for an answer whose implied reward has the sign of its verdict, [answers].

    The reward is beta times the log-ratio; 1/2 for a reward of 0.
    """
    direction = torch.where(accepted, 1.0, -1.0)
    return (torch.sign(direction * log_ratios) + 1.0) / 2.0


def previous_in_block(rows: int, block: int) -> list[int]:
    """Return the row whose answer follows each row's prompt in the estimate of the divergence.

    It is the row before, within blocks of the size of a batch; the first row of a block gets the
    last one. A block of a single row, whose answer would be its own, joins the block before it.
    """
    starts = list(range(0, rows, max(block, 2)))
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()

    previous: list[int] = []
    for start, end in pairwise([*starts, rows]):
        previous += [end - 1, *range(start, end - 1)]
    return previous


def mismatched(
    prompt: TokenizedExample, answer: TokenizedExample, max_length: int
) -> TokenizedExample:
    """Return the prompt of one example with the answer of another, cut at `max_length` tokens.

    Both examples need a supervised token: the answer begins at the first one.
    """
    prompt_end = prompt.supervised_positions[0]
    answer_start = answer.supervised_positions[0]
    input_ids = prompt.input_ids[:prompt_end] + answer.input_ids[answer_start:]
    labels = [IGNORED] * prompt_end + answer.labels[answer_start:]

    return TokenizedExample(
        input_ids=input_ids[:max_length],
        labels=labels[:max_length],
        # Nothing is learnt from it, and no metric divides by its bytes.
        supervised_bytes=0,
        truncated=len(input_ids) > max_length,
    )

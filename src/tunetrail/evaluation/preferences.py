"""Scores of preferences: whether a model finds the answers that were chosen likelier than the rejected ones.

Takes two sets of likelihood scores; knows no model, no rows and no tensors.
"""

import numpy as np

from tunetrail.evaluation.scores import Scores

_TIE = 1e-6
"""In nats for each token: what float32 leaves uncertain."""


def preference_scores(chosen: Scores, rejected: Scores) -> Scores:
    """Score a language model by the answers that it prefers.

    `preference_accuracy` (primary) is the share of examples whose chosen answer has the higher log-likelihood for each
    token (with a label), ties counting half; `preference_margin` is the mean difference of the two in nats. These are
    rewards without a reference, as in SimPO (Meng et al. 2024, https://arxiv.org/abs/2405.14734, section 2.2): any two
    models can be compared by them, while implicit rewards only say how far one has come from the other. `bits_per_byte`
    of the chosen answers shows what a gain costs.

    Args:
        chosen: `language_scores` of the chosen answers.
        rejected: Those of the rejected answers to the same prompts.

    Raises:
        ValueError: There are not as many of both.
    """
    if chosen.examples != rejected.examples:
        raise ValueError(
            f"examples must be as many chosen as rejected, got {chosen.examples} and {rejected.examples}."
        )
    loss, other = (
        each.per_example["nats"] / each.per_example["tokens"] for each in (chosen, rejected)
    )
    margin = other - loss
    accuracy = np.where(np.abs(margin) <= _TIE, 0.5, (margin > 0.0).astype(np.float64))
    return Scores(
        metric="preference_accuracy",
        higher_is_better=True,
        metrics={
            "preference_accuracy": float(accuracy.mean()),
            "preference_margin": float(margin.mean()),
            "bits_per_byte": chosen.metrics["bits_per_byte"],
        },
        per_example={"preference_accuracy": accuracy, "preference_margin": margin},
    )

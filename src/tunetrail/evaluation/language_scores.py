"""Scores of language models: likelihood, preferred answers and verdicts."""

import math

import numpy as np

from tunetrail.errors import SampleError
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.scores import Scores, check_equal, check_finite, scores_from

# Difference in nats per token below which float32 leaves open which answer is likelier.
_TIE = 1e-6


def language_scores(
    nats: Array,
    tokens: Array,
    bytes: Array,
    text_nats: Array | None = None,
    hits: Array | None = None,
) -> Scores:
    """Score a language model by the likelihood that it gives to held-out texts; lower is better.

    `bits_per_byte` (primary) = sum of nats / (ln 2 * sum of UTF-8 bytes), as in The Pile (Gao et
    al., 2020): unlike `loss` (nats per token) and `perplexity` = exp(loss), it can be compared
    across tokenizers. The end-of-sequence token counts in it with its nats but has no bytes, so a
    part of a gain may be that the model has learnt to stop; `bits_per_byte_text` leaves it out.
    `token_accuracy` is the share of scored tokens that the model finds likeliest, given the true
    text before them.

    Args:
        nats: Sum of the negative log-likelihoods of each example's scored tokens, [examples].
        tokens: Number of scored tokens of each example, [examples].
        bytes: Number of UTF-8 bytes that these tokens spell, [examples].
        text_nats: The part of `nats` of the tokens that spell text, [examples]; without it, there
            is no `bits_per_byte_text`.
        hits: Number of scored tokens that the model finds likeliest, [examples]; without it, there
            is no `token_accuracy`.

    Raises:
        ValueError: Lengths differ, there is no example, or one has no tokens or no bytes.
        TrainingError: A likelihood is not finite.
    """
    columns = {"nats": nats, "tokens": tokens, "bytes": bytes}
    columns |= {} if text_nats is None else {"text_nats": text_nats}
    columns |= {} if hits is None else {"hits": hits}
    per_example = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}

    for name in ("tokens", "bytes"):
        counts = per_example[name]
        check_equal(f"length of {name}", len(counts), len(per_example["nats"]))
        if len(counts) == 0 or not (counts > 0).all():
            raise ValueError(
                f"{name} must be above 0 for each of one or more examples, got "
                f"{counts.tolist()[:5]}."
            )
    check_finite(per_example["nats"], "nats")

    # Each text's own ratio tells on which texts a model is better; the metric sums first.
    per_example["bits_per_byte"] = per_example["nats"] / (math.log(2.0) * per_example["bytes"])
    further = ["loss", "perplexity"]
    if text_nats is not None:
        check_equal("length of text_nats", len(text_nats), len(per_example["nats"]))
        text_bits = per_example["text_nats"] / math.log(2.0)
        per_example["bits_per_byte_text"] = text_bits / per_example["bytes"]
        further.insert(0, "bits_per_byte_text")
    if hits is not None:
        check_equal("length of hits", len(hits), len(per_example["nats"]))
        per_example["token_accuracy"] = per_example["hits"] / per_example["tokens"]
        further.append("token_accuracy")
    return scores_from(per_example, "bits_per_byte", *further)


def preference_scores(chosen: Scores, rejected: Scores) -> Scores:
    """Score a language model by the answers that it prefers.

    `preference_accuracy` (primary) is the share of examples whose chosen answer has the higher
    log-likelihood per token, ties counting half; `preference_margin` is the mean difference of the
    two in nats. These are rewards without a reference, as in SimPO (Meng et al. 2024,
    https://arxiv.org/abs/2405.14734, section 2.2): any two models can be compared by them, while
    implicit rewards only say how far one has come from the other. `bits_per_byte` of the chosen
    answers shows what a gain costs.

    Args:
        chosen: `language_scores` of the chosen answers.
        rejected: `language_scores` of the rejected answers to the same prompts.

    Raises:
        ValueError: There are more chosen answers than rejected ones, or fewer.
    """
    if chosen.examples != rejected.examples:
        raise ValueError(
            "examples must be as many chosen as rejected, "
            f"got {chosen.examples} and {rejected.examples}."
        )

    chosen_loss = chosen.per_example["nats"] / chosen.per_example["tokens"]
    rejected_loss = rejected.per_example["nats"] / rejected.per_example["tokens"]
    # Per token, or the shorter answer would always be likelier.
    margin = rejected_loss - chosen_loss
    accuracy = np.where(np.abs(margin) <= _TIE, 0.5, (margin > 0.0).astype(np.float64))

    per_example = {"preference_accuracy": accuracy, "preference_margin": margin}
    # The chosen answers' own columns give `bits_per_byte`.
    per_example |= chosen.per_example
    return scores_from(per_example, "preference_accuracy", "preference_margin", "bits_per_byte")


def verdict_scores(answers: Scores, accepted: Array) -> Scores:
    """Score a language model on answers that are known to have been accepted or rejected.

    `bits_per_byte` (primary) is that of the accepted answers; lower is better. It can be compared
    between any two models. `with_reward_accuracy` adds the metrics that need both of them.

    Args:
        answers: `language_scores` of all answers.
        accepted: Whether each answer was accepted, [examples].

    Raises:
        ValueError: There are more answers than verdicts, or fewer.
        SampleError: No answer was accepted.
    """
    check_equal("length of accepted", len(accepted), answers.examples)
    if not accepted.any():
        raise SampleError(
            "accepted must be true in at least one of the rows to score, got "
            f"{len(accepted)} rejected ones. Add rows with accepted answers."
        )

    log_likelihoods = -answers.per_example["nats"]
    per_example = {name: accepted * column for name, column in answers.per_example.items()}
    per_example |= {"log_likelihood": log_likelihoods, "accepted": accepted.astype(np.float64)}
    return scores_from(per_example, "bits_per_byte")


def with_reward_accuracy(after: Scores, before: Scores) -> tuple[Scores, Scores]:
    """Return two `verdict_scores` of the same answers with `reward_accuracy`; others unchanged.

    It is the share of answers on the right side of the implied reward (Ethayarajh et al. 2024,
    https://arxiv.org/abs/2402.01306): accepted answers have become likelier than they are by the
    model before, rejected ones less likely. Ties count half, so the model before has 1/2.
    """
    if "accepted" not in after.per_example:
        return after, before

    reward = after.per_example["log_likelihood"] - before.per_example["log_likelihood"]
    towards_verdict = np.where(after.per_example["accepted"] == 1.0, reward, -reward)
    is_right = np.where(
        np.abs(towards_verdict) <= _TIE, 0.5, (towards_verdict > 0.0).astype(np.float64)
    )
    undecided = np.full(before.examples, 0.5)
    return (
        after.extended({"reward_accuracy": is_right}, "reward_accuracy"),
        before.extended({"reward_accuracy": undecided}, "reward_accuracy"),
    )

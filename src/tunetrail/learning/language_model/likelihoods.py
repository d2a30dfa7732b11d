"""Likelihoods of records: how likely a language model finds their texts."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track

from tunetrail.learning.devices import placed_on
from tunetrail.learning.language_model.forward import LanguageForward, build_forward, concatenating
from tunetrail.learning.language_model.learnable import supervised_examples
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.out_of_memory import compute_batches
from tunetrail.learning.tokens.chat import TokenizedExample, example_lengths, supervised_counts
from tunetrail.learning.training.batching import length_batches
from tunetrail.reporting.progress import progress_console

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Likelihoods:
    """Likelihoods of records.

    Attributes:
        nats: Negative log-likelihood of each record's supervised tokens, [records].
        tokens: Number of supervised tokens, [records].
        bytes: Number of UTF-8 bytes of the supervised text, [records].
        text_nats: The part of `nats` of the tokens that spell text, without the end of a turn or of
            the document, [records].
        hits: Number of supervised tokens that the model finds likeliest, given the true text before
            them, [records].
        unshared_bytes: Number of bytes that a compared model's tokenizer doesn't read, and which
            are therefore not scored, [records].
        token_nats: Negative log-likelihood of each supervised token, float32 [tokens] of each
            record.
    """

    nats: NDArray
    tokens: NDArray
    bytes: NDArray
    text_nats: NDArray
    hits: NDArray
    unshared_bytes: NDArray
    token_nats: list[NDArray]

    def part(self, records: slice) -> "Likelihoods":
        """Return the likelihoods of some of the records."""
        return Likelihoods(
            nats=self.nats[records],
            tokens=self.tokens[records],
            bytes=self.bytes[records],
            text_nats=self.text_nats[records],
            hits=self.hits[records],
            unshared_bytes=self.unshared_bytes[records],
            token_nats=self.token_nats[records],
        )


def example_likelihoods(
    model: LanguageModel,
    examples: Sequence[TokenizedExample],
    batch_size: int,
    device: torch.device,
) -> Likelihoods:
    """Return the likelihoods of examples; one without a supervised token has zeros."""
    # Without a supervised token there is nothing to compute: those examples keep their zeros.
    rows, supervised = supervised_examples(examples)
    scores = np.zeros((len(examples), 3))
    token_nats: list[NDArray] = [np.zeros(0, dtype=np.float32)] * len(examples)
    special_ids = model.tokenizer.all_special_ids
    with placed_on(device, model.model):
        forward = build_forward(model.model, int(model.tokenizer.pad_token_id))
        with concatenating(model.model) if forward.padding_free else nullcontext():
            scores[rows], nats_of_rows = token_scores(
                forward, supervised, batch_size, "Scoring", special_ids
            )
    for row, nats in zip(rows, nats_of_rows, strict=True):
        token_nats[row] = nats

    return Likelihoods(
        nats=scores[:, 0],
        tokens=np.array(supervised_counts(examples)),
        bytes=np.array([example.supervised_bytes for example in examples]),
        text_nats=scores[:, 1],
        hits=scores[:, 2],
        unshared_bytes=np.array([example.unshared_bytes for example in examples]),
        token_nats=token_nats,
    )


def token_scores(
    forward: LanguageForward,
    examples: Sequence[TokenizedExample],
    batch_size: int,
    title: str,
    special_ids: Sequence[int] = (),
) -> tuple[NDArray, list[NDArray]]:
    """Return the sums of `LanguageForward.token_scores`, float64 [examples, 3].

    In addition, the nats of each example's supervised tokens, float32 [tokens].
    """

    def score(rows: NDArray) -> tuple[NDArray, list[NDArray]]:
        batch = [examples[row] for row in rows]
        sums, nats = forward.token_scores(batch, special_ids)
        # One copy from the device for all examples.
        split = torch.split(torch.cat(nats).float().cpu(), list(map(len, nats)))
        return sums.double().cpu().numpy(), [tokens.numpy() for tokens in split]

    scores = np.zeros((len(examples), 3))
    token_nats: list[NDArray] = [np.zeros(0, dtype=np.float32)] * len(examples)
    batches = length_batches(example_lengths(examples), batch_size)
    progress = track(batches, title, console=progress_console(), transient=True)
    with torch.inference_mode():
        for rows, (sums, nats) in compute_batches(progress, score):
            scores[rows] = sums
            for row, tokens in zip(rows, nats, strict=True):
                token_nats[row] = tokens
    return scores, token_nats

"""Puts examples through a causal language model, concatenated if the model allows it.

The head is applied only to the tokens that are learned. One example never sees another: attention
stays within a segment, and positions begin again in each.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from tunetrail.learning.devices import to_device
from tunetrail.learning.evaluation_mode import evaluating
from tunetrail.learning.language_model.head import (
    scored_tokens,
    supervised_loss,
    supervised_nats,
)
from tunetrail.learning.language_model.neftune import EmbeddingNoise
from tunetrail.learning.padding_free.attention import segment_attention_of
from tunetrail.learning.padding_free.segments import concatenate
from tunetrail.learning.tokens.chat import (
    IGNORED,
    TokenizedExample,
    example_lengths,
    supervised_counts,
)

logger = logging.getLogger(__name__)

# Relative; far above the rounding of float32, far below what a token too many changes.
_TOLERANCE = 1e-4
# Products of weights in 4 bits are rounded to 8 binary digits, layer after layer.
_TOLERANCE_QUANTISED = 5e-2
# What third-party code may raise when it gets an attention or keywords that it doesn't expect.
_ERRORS_OF_UNSUITABLE_MODELS = (
    NotImplementedError,
    TypeError,
    ValueError,
    RuntimeError,
    KeyError,
    AttributeError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    """The supervised tokens of a batch.

    Attributes:
        hidden: Hidden states from which a token is predicted, [supervised tokens, dimensions].
        targets: Ids of these tokens, [supervised tokens].
        examples: Index of the example of each token, [supervised tokens].
    """

    hidden: Tensor
    targets: Tensor
    examples: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageForward:
    """Puts examples through one model.

    Attributes:
        model: The model, or the model within its adapters.
        pad_token_id: Fills up shorter rows if examples are padded.
        padding_free: Whether examples are concatenated; the model then has to attend within
            segments.
        noise: Noise on the embeddings in training.
    """

    model: PreTrainedModel | PeftModel
    pad_token_id: int
    padding_free: bool
    noise: EmbeddingNoise | None = None

    def loss(self, examples: Sequence[TokenizedExample], weights: Sequence[float]) -> Tensor:
        """Return the sum of the supervised tokens' nats, each times the weight of its example."""
        example_weights = to_device(torch.tensor(weights, dtype=torch.float32), self.model.device)
        if not self.padding_free:
            return (self._padded_nats(examples) * example_weights).sum()

        tokens, head = self._supervised(examples), head_of(self.model)
        token_weights = example_weights.to(tokens.hidden.device)[tokens.examples]
        return supervised_loss(tokens.hidden, tokens.targets, token_weights, head.weight, head.bias)

    def nats(self, examples: Sequence[TokenizedExample]) -> Tensor:
        """Return each example's negative log-likelihood in nats, float32 [examples]."""
        if not self.padding_free:
            return self._padded_nats(examples)
        tokens, head = self._supervised(examples), head_of(self.model)
        nats = supervised_nats(tokens.hidden, tokens.targets, head.weight, head.bias)
        # `tokens.examples` has the caller's order, though the row's is longest first.
        return nats.new_zeros(len(examples)).index_add(0, tokens.examples, nats)

    def token_scores(
        self, examples: Sequence[TokenizedExample], special_ids: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return three sums over each example's supervised tokens, and the nats of each of them.

        Both are without gradients.

        Args:
            examples: The examples.
            special_ids: Ids of the tokens that spell no text, such as the end of a turn.

        Returns:
            float32 [examples, 3]: the nats, the nats of the tokens that spell text, and the number
            of tokens that are the likeliest ones; and for each example float32 [tokens], in the
            order of its text.
        """
        special = torch.tensor(special_ids, dtype=torch.int64)
        if not self.padding_free:
            with self._noise_over(example_lengths(examples)):
                logits = _supervised_logits(self.model, self._padded_batch(examples))
            nats, hits = logits.nats(), logits.hits()
            is_text = ~torch.isin(logits.targets, to_device(special, nats.device))
            sums = torch.stack([nats, nats * is_text, hits], dim=2).sum(dim=1)
            is_supervised = logits.targets != IGNORED
            return sums, [row[mask] for row, mask in zip(nats, is_supervised, strict=True)]

        tokens, head = self._supervised(examples), head_of(self.model)
        nats, hits = scored_tokens(tokens.hidden, tokens.targets, head.weight, head.bias)
        is_text = ~torch.isin(tokens.targets, to_device(special, nats.device))
        columns = torch.stack([nats, nats * is_text, hits.to(nats.dtype)], dim=1)
        sums = nats.new_zeros(len(examples), 3).index_add(0, tokens.examples, columns)
        # Stable, so that the tokens of an example stay in the order of its text.
        by_example = nats[tokens.examples.argsort(stable=True)]
        return sums, list(torch.split(by_example, supervised_counts(examples)))

    def computed(self, examples: Sequence[TokenizedExample]) -> int:
        """Return the number of tokens that go through the model, padding included."""
        lengths = example_lengths(examples)
        return sum(lengths) if self.padding_free else max(lengths) * len(lengths)

    def _supervised(self, examples: Sequence[TokenizedExample]) -> Supervised:
        device = self.model.device
        tokens = concatenate([example.input_ids for example in examples], device)
        lengths = tokens.segments.lengths
        ordered_labels = [examples[index].labels for index in tokens.order.tolist()]
        labels = torch.tensor(list(chain.from_iterable(ordered_labels)))

        # A segment's first label is never learned, so no segment predicts the next one's beginning.
        targets = torch.cat([labels[1:], labels.new_full((1,), IGNORED)])
        positions = (targets != IGNORED).nonzero().flatten()
        example_of_token = tokens.order.repeat_interleave(torch.tensor(lengths))[positions]

        with self._noise_over(lengths):
            # Without the head: it is applied to the supervised tokens only, which are far fewer.
            output = decoder_of(self.model)(**tokens.features(), use_cache=False)
        return Supervised(
            hidden=output.last_hidden_state[0][to_device(positions, device)],
            targets=to_device(targets[positions], device),
            examples=to_device(example_of_token, device),
        )

    def _padded_nats(self, examples: Sequence[TokenizedExample]) -> Tensor:
        with self._noise_over(example_lengths(examples)):
            return padded_nats(self.model, self._padded_batch(examples)).sum(dim=1)

    def _padded_batch(self, examples: Sequence[TokenizedExample]) -> dict[str, Tensor]:
        batch = padded(examples, self.pad_token_id)
        return {name: to_device(tensor, self.model.device) for name, tensor in batch.items()}

    def _noise_over(self, lengths: Sequence[int]) -> AbstractContextManager[None]:
        return self.noise.over(lengths) if self.noise else nullcontext()


def padded(examples: Sequence[TokenizedExample], pad_token_id: int) -> dict[str, Tensor]:
    """Return `input_ids`, `attention_mask` and `labels`, each [batch, tokens], right-padded."""
    # On the right: positions then begin at 0, and no causal token sees the padding after it.
    ids = [torch.tensor(example.input_ids) for example in examples]
    labels = [torch.tensor(example.labels) for example in examples]
    ones = list(map(torch.ones_like, ids))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence(ones, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def padded_nats(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the negative log-likelihood of each token in nats; 0 for tokens that aren't learned.

    The logits are the model's own, at the positions where any row of the batch has a label.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        batch: `input_ids`, `attention_mask` and `labels`, each [batch, tokens].

    Returns:
        Tensor [batch, positions]; its sum over positions is each row's negative log-likelihood.
    """
    return _supervised_logits(model, batch).nats()


@dataclass(frozen=True, kw_only=True, slots=True)
class _SupervisedLogits:
    """The logits of the supervised tokens of a padded batch.

    Attributes:
        logits: In float32, [supervised tokens, vocabulary], row by row.
        targets: Ids of the tokens, `IGNORED` for those that aren't supervised, [batch, positions].
    """

    logits: Tensor
    targets: Tensor

    def nats(self) -> Tensor:
        """Return the nats of each token, [batch, positions]."""
        targets = self.targets[self.targets != IGNORED]
        target_logits = self.logits.gather(1, targets[:, None]).squeeze(1)
        # logsumexp - logit is two digits more exact in float32 than torch's cross_entropy.
        return self._by_position(self.logits.logsumexp(dim=-1) - target_logits)

    def hits(self) -> Tensor:
        """Return 1 for each token that is the likeliest one, float32 [batch, positions]."""
        targets = self.targets[self.targets != IGNORED]
        return self._by_position((self.logits.argmax(dim=1) == targets).float())

    def _by_position(self, values: Tensor) -> Tensor:
        zeros = torch.zeros(self.targets.shape, device=values.device)
        # `masked_scatter` fills row by row, the order in which the mask took the logits out.
        return zeros.masked_scatter(self.targets != IGNORED, values)


def _supervised_logits(model: Any, batch: dict[str, Tensor]) -> _SupervisedLogits:
    # Each token is predicted at the position before it.
    targets = batch["labels"][:, 1:]
    # `logits_to_keep` takes one list for all rows: every position that some row needs.
    positions = (targets != IGNORED).any(dim=0).nonzero().flatten()
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        logits_to_keep=positions,
        use_cache=False,
    ).logits

    targets = targets[:, positions]
    return _SupervisedLogits(logits=logits[targets != IGNORED].float(), targets=targets)


def causal_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the model without PEFT's wrapper; the adapters stay in its layers."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def decoder_of(model: PreTrainedModel | PeftModel) -> nn.Module:
    """Return the module of a causal language model that gives hidden states."""
    return causal_model(model).get_decoder()  # type: ignore[no-any-return, no-untyped-call]


def head_of(model: PreTrainedModel | PeftModel) -> Any:
    """Return the linear layer from hidden states to logits."""
    return causal_model(model).get_output_embeddings()  # type: ignore[no-untyped-call]


@contextmanager
def concatenating(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Make the model take concatenated examples, and padded ones again afterwards."""
    with segment_attention_of(causal_model(model)):
        yield


def why_padded(model: PreTrainedModel | PeftModel) -> str | None:
    """Return why a model needs padded batches; None if it gives the same loss without padding.

    A few tokens go through the model in both ways. Its mode and the random generators stay.
    """
    causal = causal_model(model)
    if not causal.is_backend_compatible():  # type: ignore[no-untyped-call]
        return "its attention can't be exchanged"
    # Some configurations name a window and switch it off; those without a switch always use it.
    window = getattr(causal.config, "sliding_window", None)
    if window and getattr(causal.config, "use_sliding_window", True):
        return f"its layers see {window} tokens only"

    examples = probe_examples(causal.config.get_text_config().vocab_size)
    with_padding = LanguageForward(model=model, pad_token_id=0, padding_free=False)
    without_padding = LanguageForward(model=model, pad_token_id=0, padding_free=True)
    try:
        with evaluating(model), torch.inference_mode():
            expected = with_padding.nats(examples)
            with concatenating(model):
                nats = without_padding.nats(examples)
    except _ERRORS_OF_UNSUITABLE_MODELS as error:
        return f"{type(error).__name__}: {error}"

    difference = float(((expected - nats) / expected).abs().max())
    # A difference of NaN isn't within the tolerance either: such a model gets padding.
    is_quantised = bool(getattr(causal, "is_quantized", False))
    tolerance = _TOLERANCE_QUANTISED if is_quantised else _TOLERANCE
    return None if difference <= tolerance else f"its loss would differ by {difference:.1e}"


def probe_examples(vocabulary: int) -> list[TokenizedExample]:
    """Return short examples of different lengths."""
    examples = []
    # Three lengths make three blocks of attention, and other tokens tell the examples apart.
    for start in (1, 2, 5):
        ids = [token % vocabulary for token in range(start, start + 3 + start)]
        labels = [IGNORED, *ids[1:]]
        examples.append(
            TokenizedExample(input_ids=ids, labels=labels, supervised_bytes=0, truncated=False)
        )
    return examples


def build_forward(
    model: PreTrainedModel | PeftModel,
    pad_token_id: int,
    *,
    padding_free: bool = True,
    noise_alpha: float = 0.0,
) -> LanguageForward:
    """Return the model's forward pass, without padding if the settings and the model allow it.

    Args:
        model: The model, or the model within its adapters.
        pad_token_id: Fills up shorter rows if examples are padded.
        padding_free: Whether to avoid padding; if the model needs it, a warning says why.
        noise_alpha: Size of NEFTune's noise on the embeddings in training; 0: off.
    """
    needs_padding = why_padded(model) if padding_free else None
    if needs_padding:
        logger.warning("examples are padded, as the model needs padding (%s)", needs_padding)

    return LanguageForward(
        model=model,
        pad_token_id=pad_token_id,
        padding_free=padding_free and needs_padding is None,
        noise=EmbeddingNoise(model, noise_alpha) if noise_alpha else None,
    )

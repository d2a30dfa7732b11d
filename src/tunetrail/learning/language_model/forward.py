"""Examples through a causal language model, concatenated where it can: hidden states, then the head at what is learnt.

One sequence never sees another: attention stays within a segment and positions begin anew in each.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from tunetrail.learning.evaluation_mode import evaluating
from tunetrail.learning.language_model.head import supervised_loss, supervised_nats
from tunetrail.learning.language_model.neftune import EmbeddingNoise
from tunetrail.learning.padding_free.attention import segment_attention_of
from tunetrail.learning.padding_free.segments import concatenate
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    """What a batch teaches, as tensors.

    Attributes:
        hidden: Hidden states from which a token is predicted, [supervised tokens, dimensions].
        targets: Ids of these tokens.
        examples: Number of each one's example.
    """

    hidden: Tensor
    targets: Tensor
    examples: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageForward:
    """Puts examples through one model.

    Attributes:
        model: The model, or the model within its adapters.
        pad_token_id: Fills up shorter rows where examples are padded.
        padding_free: Whether they are concatenated; the model has to attend within segments then.
        noise: Noise on the embeddings in training.
    """

    model: PreTrainedModel | PeftModel
    pad_token_id: int
    padding_free: bool
    noise: EmbeddingNoise | None = None

    def loss(self, examples: Sequence[TokenizedExample], weights: Sequence[float]) -> Tensor:
        """Return the sum over supervised tokens of their nats, each times the weight of its example."""
        if not self.padding_free:
            return (
                self._padded_nats(examples) * torch.tensor(weights, device=self.model.device)
            ).sum()
        found, head = self._supervised(examples), head_of(self.model)
        each = torch.tensor(weights, dtype=torch.float32, device=found.hidden.device)[
            found.examples
        ]
        return supervised_loss(found.hidden, found.targets, each, head.weight, head.bias)

    def nats(self, examples: Sequence[TokenizedExample]) -> Tensor:
        """Return each example's negative log-likelihood in nats, float32 [examples]."""
        if not self.padding_free:
            return self._padded_nats(examples)
        found, head = self._supervised(examples), head_of(self.model)
        nats = supervised_nats(found.hidden, found.targets, head.weight, head.bias)
        return nats.new_zeros(len(examples)).index_add(0, found.examples, nats)

    def computed(self, examples: Sequence[TokenizedExample]) -> int:
        """Return the tokens that go through the model for these examples, padding included."""
        lengths = [len(example.input_ids) for example in examples]
        return sum(lengths) if self.padding_free else max(lengths) * len(lengths)

    def _supervised(self, examples: Sequence[TokenizedExample]) -> Supervised:
        device = self.model.device
        tokens = concatenate([example.input_ids for example in examples], device)
        labels = torch.tensor(
            [label for number in tokens.order.tolist() for label in examples[number].labels]
        )
        # a segment's first label is never learnt, so no segment predicts the beginning of the next
        targets = torch.cat([labels[1:], labels.new_full((1,), IGNORED)])
        positions = (targets != IGNORED).nonzero().flatten()
        owners = tokens.order.repeat_interleave(torch.tensor(tokens.segments.lengths))[positions]
        with self._noise_over(tokens.segments.lengths):
            states = decoder_of(self.model)(**tokens.features(), use_cache=False).last_hidden_state[
                0
            ]
        return Supervised(
            hidden=states[positions.to(device)],
            targets=targets[positions].to(device),
            examples=owners.to(device),
        )

    def _padded_nats(self, examples: Sequence[TokenizedExample]) -> Tensor:
        batch = {
            name: value.to(self.model.device)
            for name, value in padded(examples, self.pad_token_id).items()
        }
        with self._noise_over([len(example.input_ids) for example in examples]):
            return padded_nats(self.model, batch).sum(dim=1)

    def _noise_over(self, lengths: Sequence[int]) -> AbstractContextManager[None]:
        return self.noise.over(lengths) if self.noise else nullcontext()


def padded(examples: Sequence[TokenizedExample], pad_token_id: int) -> dict[str, Tensor]:
    """Return `input_ids`, `attention_mask` and `labels`, each [batch, tokens], padded on the right."""
    ids = [torch.tensor(example.input_ids) for example in examples]
    labels = [torch.tensor(example.labels) for example in examples]
    ones = [torch.ones_like(each) for each in ids]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence(ones, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def padded_nats(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the negative log-likelihood, in nats, of each token; 0 where nothing is learnt.

    Logits are the model's own, computed only at the positions where some row of the batch has a label.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        batch: `input_ids`, `attention_mask` and `labels`, each [batch, tokens].

    Returns:
        Tensor [batch, positions]; its sum over positions is each row's negative log-likelihood.
    """
    targets = batch["labels"][:, 1:]
    positions = (targets != IGNORED).any(dim=0).nonzero().flatten()
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        logits_to_keep=positions,
        use_cache=False,
    ).logits
    targets = targets[:, positions]
    supervised = targets != IGNORED
    chosen = logits[supervised].float()
    # logsumexp - logit: two digits more exact in float32 than torch's cross_entropy
    nats = chosen.logsumexp(dim=-1) - chosen.gather(1, targets[supervised][:, None]).squeeze(1)
    return torch.zeros(targets.shape, device=nats.device).masked_scatter(supervised, nats)


def causal_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the model without the object that holds its adapters; the adapters stay in its layers."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def decoder_of(model: PreTrainedModel | PeftModel) -> nn.Module:
    """Return the part of a causal language model that gives hidden states."""
    return causal_model(model).get_decoder()  # type: ignore[no-any-return, no-untyped-call]


def head_of(model: PreTrainedModel | PeftModel) -> Any:
    """Return the linear layer from hidden states to logits."""
    return causal_model(model).get_output_embeddings()  # type: ignore[no-untyped-call]


@contextmanager
def concatenating(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Let the model take concatenated examples; afterwards it takes padded ones, as before."""
    with segment_attention_of(causal_model(model)):
        yield


def why_padded(model: PreTrainedModel | PeftModel) -> str | None:
    """Return why a model needs padded batches, None where it gives the same loss without padding.

    Found by trying: a few tokens go through both ways. Leaves the model's mode and random generators as they were.
    """
    causal = causal_model(model)
    if not causal.is_backend_compatible():  # type: ignore[no-untyped-call]
        return "its attention can't be exchanged"
    window = getattr(causal.config, "sliding_window", None)
    if window and getattr(causal.config, "use_sliding_window", True):
        return f"its layers see {window} tokens only"
    vocabulary = causal.config.get_text_config().vocab_size
    examples = [
        TokenizedExample(
            input_ids=ids, labels=[IGNORED, *ids[1:]], supervised_bytes=0, truncated=False
        )
        for ids in (
            [number % vocabulary for number in range(start, start + 3 + start)]
            for start in (1, 2, 5)
        )
    ]
    try:
        with evaluating(model), torch.inference_mode():
            expected = LanguageForward(model=model, pad_token_id=0, padding_free=False).nats(
                examples
            )
            with concatenating(model):
                found = LanguageForward(model=model, pad_token_id=0, padding_free=True).nats(
                    examples
                )
    except (
        NotImplementedError,
        TypeError,
        ValueError,
        RuntimeError,
        KeyError,
        AttributeError,
    ) as error:
        return f"{type(error).__name__}: {error}"
    difference = float(((expected - found) / expected).abs().max())
    return None if difference <= _TOLERANCE else f"its loss would differ by {difference:.1e}"


def build_forward(
    model: PreTrainedModel | PeftModel,
    pad_token_id: int,
    *,
    padding_free: bool = True,
    noise_alpha: float = 0.0,
) -> LanguageForward:
    """Return the way without padding, or with it where it isn't wanted or the model needs it, which is logged.

    `noise_alpha` above 0 adds noise of that size to the embeddings in training (NEFTune).
    """
    reason = why_padded(model) if padding_free else "training.batches.padding_free is false"
    if padding_free and reason:
        logger.warning("examples are padded: the model can't do without (%s)", reason)
    noise = EmbeddingNoise(model, noise_alpha) if noise_alpha else None
    return LanguageForward(
        model=model, pad_token_id=pad_token_id, padding_free=reason is None, noise=noise
    )

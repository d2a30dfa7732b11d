"""Checks of a language model's training: what it learns, that it learns to stop, and that packing changes nothing."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from transformers import PreTrainedTokenizerBase

from tunetrail.errors import ConfigError, SampleError, TrainingError
from tunetrail.learning.evaluation_mode import evaluating
from tunetrail.learning.language_model.data import PreferencePair
from tunetrail.learning.language_model.forward import causal_model
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.preflight.checks import FamilyChecks, sampled, share
from tunetrail.learning.preflight.findings import PreflightFinding, broken_model, error, ok, warning
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample

LOW_SHARE = 0.01
"""Share of supervised tokens below which nearly all of the work teaches nothing."""
TRUNCATED_SHARE = 0.1
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 5e-2
_COMPARED = 3
_PREVIEWED, _PREVIEW_CHARACTERS = 2, 2000


def check_supervised(trainer: lightning.Trainer, module: LanguageModelModule) -> PreflightFinding:
    """Count the tokens that are learnt."""
    name = "supervised tokens"
    examples = sampled(_examples(trainer))
    learnt = sum(example.supervised_tokens for example in examples)
    tokens = sum(len(example.input_ids) for example in examples)
    empty = trainer.datamodule.left_out  # type: ignore[attr-defined]
    message = f"{share(learnt, max(tokens, 1))} of the tokens are learnt"
    if not learnt:
        return error(
            name,
            "No token of the rows is learnt. Raise llm.max_length, or look at the rows.",
            SampleError,
        )
    if empty:
        message += f"; {empty} rows are left out: their output is empty or beyond llm.max_length"
    if learnt < LOW_SHARE * tokens or empty:
        return warning(name, f"{message}.")
    return ok(name, message)


def check_end_of_sequence(
    trainer: lightning.Trainer, module: LanguageModelModule
) -> PreflightFinding:
    """Look whether what is learnt ends with a token at which the model stops; a cut-off end doesn't count."""
    name = "end of sequence"
    ends = _end_tokens(module)
    last = [token for example in sampled(_examples(trainer)) for token in _last_tokens(example)]
    without = sum(token not in ends for token in last)
    if not last:
        return warning(
            name, "Every row is cut off at llm.max_length, so no end is learnt. Raise it."
        )
    if without:
        return warning(
            name,
            f"{share(without, len(last))} of what is learnt doesn't end with a token at which the model stops "
            f"({_named(module, ends)}), so it may not learn to stop. Look at the model's chat template.",
        )
    return ok(name, f"the end is learnt ({_named(module, ends)})")


def check_lengths(trainer: lightning.Trainer, module: LanguageModelModule) -> PreflightFinding:
    """Compare the rows' lengths with the positions that the model has, and count those that are cut off."""
    name = "lengths"
    examples = _examples(trainer)
    longest = max((len(example.input_ids) for example in examples), default=0)
    positions = getattr(
        causal_model(module.model).config.get_text_config(), "max_position_embeddings", None
    )
    if positions and longest > positions:
        longer = sum(len(example.input_ids) > positions for example in examples)
        return error(
            name,
            f"llm.max_length must be at most the model's {positions} positions: {longer} of {len(examples)} rows are "
            f"longer, up to {longest} tokens. Lower it.",
            ConfigError,
        )
    cut = sum(example.truncated for example in examples)
    message = f"up to {longest} tokens; {share(cut, max(len(examples), 1))} of the rows are cut off at llm.max_length"
    return (
        warning(name, f"{message}.") if cut > TRUNCATED_SHARE * len(examples) else ok(name, message)
    )


def check_packing(trainer: lightning.Trainer, module: LanguageModelModule) -> PreflightFinding:
    """Compare the loss of some examples that go through the model together with that of each by itself."""
    name = "packing"
    examples = sorted(sampled(_examples(trainer), 100), key=lambda example: len(example.input_ids))
    compared = [example for example in examples if example.supervised_tokens][:_COMPARED]
    with evaluating(module), isolate_rng(), torch.no_grad():
        together = module.forward_pass.nats(compared)
        alone = torch.cat([module.forward_pass.nats([example]) for example in compared])
    if not bool(alone.isfinite().all()):
        return broken_model(name)
    difference = float(((together - alone).abs() / alone.abs().clamp(min=1.0)).max())
    exact = all(each.dtype == torch.float32 for each in module.parameters())
    if not difference <= (_TOLERANCE if exact else _HALF_TOLERANCE):
        return error(
            name,
            f"Examples that go through the model together have another loss than one by one, by {difference:.1e}: they "
            "see each other. Set training.batches.padding_free=false.",
            TrainingError,
        )
    return ok(
        name,
        f"{len(compared)} examples have the same loss together as one by one, to {difference:.1e}",
    )


def preview(trainer: lightning.Trainer, module: LanguageModelModule) -> str:
    """Return the first training examples as the model reads them; what is learnt stands in [[ ]]."""
    tokenizer = _tokenizer(module)
    items = trainer.datamodule.train[:_PREVIEWED]  # type: ignore[attr-defined]
    parts = []
    for number, item in enumerate(items):
        for title, example in _titled(item):
            learnt = f"{example.supervised_tokens} of {len(example.input_ids)} tokens are learnt"
            parts.append(
                f"Example {number}{title} ({learnt}):\n{_shortened(marked(tokenizer, example))}"
            )
    return "\n\n".join(["What is learnt stands in [[ ]].", *parts])


def marked(tokenizer: PreTrainedTokenizerBase, example: TokenizedExample) -> str:
    """Return an example's text, with what is learnt of it in double brackets."""
    labels = [IGNORED, *example.labels[1:]]  # a first token is never predicted
    text = ""
    for learnt, pairs in groupby(
        zip(example.input_ids, labels, strict=True), lambda pair: pair[1] != IGNORED
    ):
        part = tokenizer.decode([token for token, _ in pairs])
        text += f"[[{part}]]" if learnt else str(part)
    return text


def _examples(trainer: Any) -> Sequence[TokenizedExample]:
    """Return the training examples; of preferences, both answers."""
    return [example for item in trainer.datamodule.train for _, example in _titled(item)]


def _titled(item: Any) -> Iterator[tuple[str, TokenizedExample]]:
    if isinstance(item, PreferencePair):
        yield ", chosen", item.chosen
        yield ", rejected", item.rejected
    else:
        yield "", item


@lru_cache(maxsize=1)
def _tokenizer_at(path: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(path)


def _tokenizer(module: LanguageModelModule) -> PreTrainedTokenizerBase:
    return _tokenizer_at(module.hparams["model"])


def _end_tokens(module: LanguageModelModule) -> set[int]:
    """Return the ids at which the model stops: its own, and its tokenizer's."""
    settings = getattr(causal_model(module.model), "generation_config", None)
    own = getattr(settings, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return {int(token) for token in (*listed, _tokenizer(module).eos_token_id) if token is not None}


def _named(module: LanguageModelModule, tokens: set[int]) -> str:
    return ", ".join(_tokenizer(module).convert_ids_to_tokens(sorted(tokens)))


def _last_tokens(example: TokenizedExample) -> list[int]:
    """Return the last token of each stretch that is learnt, but for one that is cut off."""
    labels = np.array([*example.labels, IGNORED])
    ends = np.flatnonzero((labels[:-1] != IGNORED) & (labels[1:] == IGNORED))
    if example.truncated:
        ends = ends[ends < len(example.labels) - 1]
    return [int(label) for label in labels[ends]]


def _shortened(text: str) -> str:
    if len(text) <= _PREVIEW_CHARACTERS:
        return text
    half = _PREVIEW_CHARACTERS // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


LANGUAGE_MODEL_CHECKS = FamilyChecks(
    rows=(check_supervised, check_lengths, check_end_of_sequence),
    model=(check_packing,),
    preview=preview,
)

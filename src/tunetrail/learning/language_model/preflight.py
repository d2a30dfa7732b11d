"""Check a language model's training: what it learns, that it learns to stop, and its packing."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from transformers import PreTrainedTokenizerBase

from tunetrail.errors import ConfigError, SampleError, TrainingError
from tunetrail.learning.evaluation_mode import undisturbed
from tunetrail.learning.language_model.data import JudgedAnswer, PreferencePair
from tunetrail.learning.language_model.forward import causal_model
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.preflight.checks import FamilyChecks, is_exact, sampled, share
from tunetrail.learning.preflight.findings import PreflightFinding, broken_model, error, ok, warning
from tunetrail.learning.tokens.chat import (
    IGNORED,
    TokenizedExample,
    example_lengths,
    supervised_counts,
)
from tunetrail.learning.tokens.rendering import answer_end
from tunetrail.reporting.readable import counted

LOW_SHARE = 0.01
"""Share of supervised tokens below which nearly all of the work teaches nothing."""
TRUNCATED_SHARE = 0.1
"""Share of rows that are cut off above which a warning is given."""
# In float32, and in half precision, where bfloat16 rounds every operation to 8 bits.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 5e-2
# A model that mixes examples up does so with any; few of them keep the check short.
_COMPARED = 3
_PREVIEWED, _PREVIEW_CHARACTERS = 2, 2000


def check_supervised(trainer: Trainer, module: LanguageModelModule) -> PreflightFinding:
    """Count the tokens from which the model learns."""
    name = "supervised tokens"
    examples = sampled(_examples(trainer))
    learnt = sum(supervised_counts(examples))
    if not learnt:
        return error(
            name,
            "No token of the rows is learnt. Raise llm.max_length, or look at the rows.",
            SampleError,
        )

    tokens = sum(example_lengths(examples))
    message = f"{share(learnt, tokens)} of the tokens are learnt"
    left_out = trainer.datamodule.left_out  # type: ignore[attr-defined]
    if left_out:
        message += f"; left out: {counted(left_out, 'row')} whose output is empty or too long"
    if left_out or learnt < LOW_SHARE * tokens:
        return warning(name, f"{message}.")
    return ok(name, message)


def check_end_of_sequence(trainer: Trainer, module: LanguageModelModule) -> PreflightFinding:
    """Check that what is learnt ends with a token at which the model stops.

    An end that is cut off doesn't count.
    """
    name = "end of sequence"
    last_tokens: list[int] = []
    for example in sampled(_examples(trainer)):
        last_tokens += _last_tokens(example)
    if not last_tokens:
        return warning(
            name, "Every row is cut off at llm.max_length, so no end is learnt. Raise it."
        )

    end_tokens = _end_tokens(module)
    # The saved model will stop at the template's own end as well.
    template_end = answer_end(_tokenizer(module))
    is_added = template_end is not None and template_end not in _ends_of_model(module)
    end_tokens |= set() if template_end is None else {template_end}
    names = ", ".join(_tokenizer(module).convert_ids_to_tokens(sorted(end_tokens)))
    endless = sum(token not in end_tokens for token in last_tokens)
    if endless:
        return warning(
            name,
            f"{share(endless, len(last_tokens))} of what is learnt doesn't end with a token at "
            f"which the model stops ({names}), so it may not learn to stop. Look at the model's "
            "chat template.",
        )
    addition = "; generation_config.json of the trained model is to name it" if is_added else ""
    return ok(name, f"the end is learnt ({names}){addition}")


def check_lengths(trainer: Trainer, module: LanguageModelModule) -> PreflightFinding:
    """Compare the rows' lengths with the model's positions, and count the rows that are cut off."""
    name = "lengths"
    examples = _examples(trainer)
    lengths = example_lengths(examples)
    longest = max(lengths, default=0)

    config = causal_model(module.model).config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions and longest > positions:
        longer = sum(length > positions for length in lengths)
        return error(
            name,
            f"llm.max_length must be at most the model's {positions} positions: {longer} of "
            f"{len(examples)} rows are longer, up to {longest} tokens. Lower it.",
            ConfigError,
        )

    cut = sum(example.truncated for example in examples)
    message = (
        f"up to {longest} tokens; {share(cut, max(len(examples), 1))} of the rows are cut off at "
        "llm.max_length"
    )
    too_many = cut > TRUNCATED_SHARE * len(examples)
    return warning(name, f"{message}.") if too_many else ok(name, message)


def check_packing(trainer: Trainer, module: LanguageModelModule) -> PreflightFinding:
    """Compare the loss of examples computed together with the loss of the same examples alone."""
    name = "packing"
    # The shortest examples take the least time and memory.
    examples = sorted(sampled(_examples(trainer), 100), key=lambda example: len(example.input_ids))
    compared = [example for example in examples if example.supervised_tokens][:_COMPARED]
    with undisturbed(module), torch.no_grad():
        together = module.nats(compared)
        alone = torch.cat([module.nats([example]) for example in compared])

    if not bool(alone.isfinite().all()):
        return broken_model(name)

    # Relative to at least one nat: what is known by heart has nats near 0 and no useful ratio.
    difference = float(((together - alone).abs() / alone.abs().clamp(min=1.0)).max())
    # Written so that a difference of NaN is an error.
    if not difference <= (_TOLERANCE if is_exact(module) else _HALF_TOLERANCE):
        return error(
            name,
            "Examples that go through the model together differ in their loss from one by one, by "
            f"{difference:.1e}: they see each other. Set training.batches.padding_free=false.",
            TrainingError,
        )
    return ok(
        name,
        f"{len(compared)} examples have the same loss in one batch as alone "
        f"(relative difference {difference:.1e})",
    )


def preview(trainer: Trainer, module: LanguageModelModule) -> str:
    """Return the first training examples as the model reads them, what is learnt in [[ ]]."""
    tokenizer = _tokenizer(module)
    blocks = ["What is learnt stands in [[ ]]."]
    for index, item in enumerate(trainer.datamodule.train[:_PREVIEWED]):  # type: ignore[attr-defined]
        for title, example in _titled(item).items():
            learnt = f"{example.supervised_tokens} of {len(example.input_ids)} tokens are learnt"
            text = _shorten(marked(tokenizer, example))
            blocks.append(f"Example {index}{title} ({learnt}):\n{text}")
    return "\n\n".join(blocks)


def marked(tokenizer: PreTrainedTokenizerBase, example: TokenizedExample) -> str:
    """Return an example's text with what is learnt of it in double brackets."""
    # A first token is never predicted.
    labels = [IGNORED, *example.labels[1:]]
    tokens = zip(example.input_ids, labels, strict=True)

    text = ""
    for is_learnt, stretch in groupby(tokens, lambda token: token[1] != IGNORED):
        # A stretch at once, as a character may take several tokens.
        stretch_text = tokenizer.decode([token_id for token_id, _ in stretch])
        text += f"[[{stretch_text}]]" if is_learnt else str(stretch_text)
    return text


def _examples(trainer: Any) -> Sequence[TokenizedExample]:
    """Return the training examples; of preferences, both answers."""
    examples: list[TokenizedExample] = []
    for item in trainer.datamodule.train:
        examples += _titled(item).values()
    return examples


def _titled(item: Any) -> dict[str, TokenizedExample]:
    """Return the examples of a training item by their titles in the preview."""
    if isinstance(item, PreferencePair):
        return {", chosen": item.chosen, ", rejected": item.rejected}
    if isinstance(item, JudgedAnswer):
        return {", accepted" if item.accepted else ", rejected": item.answer}
    return {"": item}


# The module holds no tokenizer, and the checks and the preview of a training share this one.
@lru_cache(maxsize=1)
def _tokenizer_at(path: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(path)


def _tokenizer(module: LanguageModelModule) -> PreTrainedTokenizerBase:
    return _tokenizer_at(module.hparams["model"])


def _end_tokens(module: LanguageModelModule) -> set[int]:
    """Return the ids at which the model stops: its own, and its tokenizer's."""
    eos = _tokenizer(module).eos_token_id
    return _ends_of_model(module) | (set() if eos is None else {int(eos)})


def _ends_of_model(module: LanguageModelModule) -> set[int]:
    """Return the ids at which `generate` stops."""
    settings = getattr(causal_model(module.model), "generation_config", None)
    # Models name one id, several, or none.
    of_model = getattr(settings, "eos_token_id", None)
    ids = of_model if isinstance(of_model, list) else [of_model]
    return {int(token_id) for token_id in ids if token_id is not None}


def _last_tokens(example: TokenizedExample) -> list[int]:
    """Return the last token of each stretch that is learnt, except for one that is cut off."""
    # A label that isn't learnt closes a stretch at the very end.
    labels = np.array([*example.labels, IGNORED])
    is_learnt = labels != IGNORED
    # A stretch ends where the next token isn't learnt.
    ends = np.flatnonzero(is_learnt[:-1] & ~is_learnt[1:])
    if example.truncated:
        ends = ends[ends < len(example.labels) - 1]

    tokens: list[int] = labels[ends].tolist()
    return tokens


def _shorten(text: str) -> str:
    if len(text) <= _PREVIEW_CHARACTERS:
        return text

    # Both ends are worth seeing: the template's opening, and whether the end is learnt.
    half = _PREVIEW_CHARACTERS // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


LANGUAGE_MODEL_CHECKS = FamilyChecks(
    rows=(check_supervised, check_lengths, check_end_of_sequence),
    model=(check_packing,),
    preview=preview,
)

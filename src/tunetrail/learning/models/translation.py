"""Translation: texts there and back through two sequence-to-sequence models. Knows not what the copies are for."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tunetrail.errors import ConfigError, ModelError
from tunetrail.learning.models.catalog import LANGUAGE_MODELS, resolve_model

SHOWN_FROM = 200
"""Sentences from which translating shows a progress bar."""

_BATCH = 32
_BEAMS = 4
_LONGEST = 512
_BREAK = re.compile(r"(\n+|(?<=[.!?]) +)")
"""Between sentences, for which such models are made: line breaks, or spaces behind the end of a sentence."""


@dataclass(frozen=True, kw_only=True)
class TranslationModel:
    """A sequence-to-sequence model that translates one language into another, with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def longest(self) -> int:
        """The most tokens that the model reads or writes."""
        known = getattr(self.model.config, "max_position_embeddings", None) or _LONGEST
        return int(min(known, self.tokenizer.model_max_length, _LONGEST))


def load_translation_model(name: str) -> TranslationModel:
    """Load a model for one direction, from safetensors only and without remote code.

    Args:
        name: The path of a folder, or a hub id `owner/name`.

    Raises:
        ConfigError: The name is neither.
        ModelError: The model isn't there, or is no sequence-to-sequence model.
    """
    if not (name and Path(name).expanduser().is_dir()) and (
        name.count("/") != 1 or name.startswith((".", "/", "~"))
    ):
        raise ConfigError(
            f"augmentation.translation_models must be local folders or hub ids owner/name, got {name!r}. "
            "Name a model such as Helsinki-NLP/opus-mt-en-de."
        )
    path = resolve_model(name, LANGUAGE_MODELS).path
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        model = AutoModelForSeq2SeqLM.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        )
    except (
        ImportError,
        OSError,
        ValueError,
    ) as error:  # a missing tokenizer library, missing files, another kind
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"augmentation.translation_models must be sequence-to-sequence models, got {name!r} ({reason}). "
            "Name one with safetensors; some tokenizers need `pip install sentencepiece`."
        ) from error
    return TranslationModel(model=model.eval(), tokenizer=tokenizer)


@dataclass(frozen=True, kw_only=True)
class Translator:
    """Translates texts there and back, sentence by sentence, with beam search.

    White space between and around sentences stays. A sentence that is too long for one of the models, or whose
    translation doesn't come to an end, stays as it is. What was translated once is kept, so that the folds of a
    cross-validation don't do it again.
    """

    there: TranslationModel
    back: TranslationModel
    _translated: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def back_translated(self, texts: Sequence[str]) -> list[str]:
        """Return each text as it comes back, in the order of the texts."""
        pieces = [_BREAK.split(text.encode(errors="replace").decode()) for text in texts]
        sentences = (piece.strip() for each in pieces for piece in each[::2])
        new = list(
            dict.fromkeys(each for each in sentences if each and each not in self._translated)
        )
        foreign = translated(self.there, new)
        returned = iter(translated(self.back, [each for each in foreign if each is not None]))
        for sentence, abroad in zip(new, foreign, strict=True):
            self._translated[sentence] = (
                next(returned) if abroad is not None else None
            ) or sentence
        return ["".join(self._returned(piece) for piece in each) for each in pieces]

    def _returned(self, piece: str) -> str:
        sentence = piece.strip()
        before, _, after = piece.partition(sentence) if sentence else (piece, "", "")
        return before + self._translated.get(sentence, "") + after


def translated(translator: TranslationModel, sentences: Sequence[str]) -> list[str | None]:
    """Return the translations; None for a sentence with more tokens than the model reads, or whose end isn't reached.

    Args:
        translator: The model.
        sentences: Of the model's source language.
    """
    model, tokenizer = translator.model, translator.tokenizer
    found: list[str | None] = [None] * len(sentences)
    encoded = tokenizer(list(sentences), verbose=False)["input_ids"] if sentences else []
    fitting = [number for number, ids in enumerate(encoded) if len(ids) <= translator.longest]
    order = sorted(fitting, key=lambda number: -len(encoded[number]))
    hidden = len(order) < SHOWN_FROM
    starts = range(0, len(order), _BATCH)
    for start in track(
        starts, "Translating", console=Console(stderr=True), transient=True, disable=hidden
    ):
        numbers = order[start : start + _BATCH]
        batch = tokenizer.pad(
            {"input_ids": [encoded[number] for number in numbers]}, return_tensors="pt"
        )
        settings = copy.deepcopy(model.generation_config)
        settings.num_beams, settings.do_sample, settings.max_length = _BEAMS, False, None
        # twice the length is more than any translation needs: a model gone astray repeats itself without end
        settings.max_new_tokens = min(translator.longest - 1, 2 * batch["input_ids"].shape[1] + 16)
        with torch.inference_mode():
            written = model.generate(
                input_ids=batch["input_ids"].to(model.device),
                attention_mask=batch["attention_mask"].to(model.device),
                generation_config=settings,
            )
        ended = (written[:, 1:] == settings.eos_token_id).any(dim=1).tolist()
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        for number, text, is_ended in zip(numbers, texts, ended, strict=True):
            found[number] = text.strip() if is_ended else None
    return found

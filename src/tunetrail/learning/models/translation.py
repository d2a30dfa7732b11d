"""Back-translation: texts there and back through two sequence-to-sequence models."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tunetrail.errors import ConfigError, ModelError, first_line
from tunetrail.learning.devices import CPU, placed_on
from tunetrail.learning.models.catalog import LANGUAGE_MODELS, resolve_model
from tunetrail.reporting.progress import progress_console

SHOWN_FROM = 200
"""Sentences from which translating shows a progress bar."""

_BATCH = 32
_BEAMS = 4
_LONGEST = 512
# Breaks between sentences: line breaks, or spaces after the end of one.
_BREAK = re.compile(r"(\n+|(?<=[.!?]) +)")


@dataclass(frozen=True, kw_only=True)
class TranslationModel:
    """A sequence-to-sequence model for one direction, with its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def longest(self) -> int:
        """Maximum number of tokens that the model reads or writes."""
        known = getattr(self.model.config, "max_position_embeddings", None) or _LONGEST
        return int(min(known, self.tokenizer.model_max_length, _LONGEST))


def load_translation_model(name: str) -> TranslationModel:
    """Load a model for one direction, from safetensors only and without remote code.

    Args:
        name: The path of a folder, or a hub id `owner/name`.

    Raises:
        ConfigError: The name is neither.
        ModelError: The model isn't there, or isn't a sequence-to-sequence model.
    """
    is_folder = bool(name) and Path(name).expanduser().is_dir()
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not is_folder and not is_hub_id:
        raise ConfigError(
            "augmentation.translation_models must be local folders or hub ids owner/name, "
            f"got {name!r}. Name a model such as Helsinki-NLP/opus-mt-en-de."
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
    # A tokenizer library or files are missing, or it is another kind of model.
    except (ImportError, OSError, ValueError) as error:
        raise ModelError(
            "augmentation.translation_models must be sequence-to-sequence models, "
            f"got {name!r} ({first_line(error)}). "
            "Name one with safetensors; some tokenizers need `pip install sentencepiece`."
        ) from error
    return TranslationModel(model=model.eval(), tokenizer=tokenizer)


@dataclass(frozen=True, kw_only=True)
class Translator:
    """Translates texts there and back, sentence by sentence, with beam search.

    White space between and around sentences stays. A sentence that is too long for one of the
    models, or whose translation has no end, stays as it is. Translations are remembered, so that
    the folds of a cross-validation don't translate again.

    Attributes:
        there: The model of the first direction.
        back: The model of the way back.
        device: The device that the models compute on, one after the other.
    """

    there: TranslationModel
    back: TranslationModel
    device: torch.device = CPU
    _translated: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def back_translated(self, texts: Sequence[str]) -> list[str]:
        """Return each text as it comes back, in the order of the texts."""
        # Split by a group, so sentences (even positions) and breaks (odd ones) alternate.
        split_texts = [_BREAK.split(text.encode(errors="replace").decode()) for text in texts]
        new_sentences: dict[str, None] = {}
        for sentences_and_breaks in split_texts:
            for sentence in map(str.strip, sentences_and_breaks[::2]):
                if sentence and sentence not in self._translated:
                    new_sentences[sentence] = None

        self._translated.update(self._translate(list(new_sentences)))
        return ["".join(map(self._replace, segments)) for segments in split_texts]

    def _translate(self, sentences: Sequence[str]) -> dict[str, str]:
        """Return each sentence's translation back, or the sentence if one of the models fails."""
        with placed_on(self.device, self.there.model):
            abroad = translated(self.there, sentences)
        translatable = [text for text in abroad if text is not None]
        # Sentences without a translation don't go back, so these are fewer than `abroad`.
        with placed_on(self.device, self.back.model):
            returned = iter(translated(self.back, translatable))

        translations = {}
        for sentence, foreign in zip(sentences, abroad, strict=True):
            back = None if foreign is None else next(returned)
            translations[sentence] = back or sentence
        return translations

    def _replace(self, segment: str) -> str:
        """Return a sentence's translation with the white space around the sentence."""
        sentence = segment.strip()
        before, _, after = segment.partition(sentence) if sentence else (segment, "", "")
        return before + self._translated.get(sentence, "") + after


def translated(translator: TranslationModel, sentences: Sequence[str]) -> list[str | None]:
    """Return the translations of sentences.

    A translation is None if its sentence has more tokens than the model reads, or if its end isn't
    reached.

    Args:
        translator: The model.
        sentences: Sentences of the model's source language.
    """
    model, tokenizer = translator.model, translator.tokenizer
    translations: list[str | None] = [None] * len(sentences)
    token_ids = tokenizer(list(sentences), verbose=False)["input_ids"] if sentences else []
    fitting = [index for index, ids in enumerate(token_ids) if len(ids) <= translator.longest]
    order = sorted(fitting, key=lambda index: -len(token_ids[index]))

    console, is_short = progress_console(), len(order) < SHOWN_FROM
    starts = range(0, len(order), _BATCH)
    for start in track(starts, "Translating", console=console, transient=True, disable=is_short):
        indices = order[start : start + _BATCH]
        inputs = {"input_ids": [token_ids[index] for index in indices]}
        batch = tokenizer.pad(inputs, return_tensors="pt")

        # Twice the length is more than a translation needs; a model gone astray never ends.
        settings = copy.deepcopy(model.generation_config)
        settings.num_beams, settings.do_sample, settings.max_length = _BEAMS, False, None
        settings.max_new_tokens = min(translator.longest - 1, 2 * batch["input_ids"].shape[1] + 16)
        with torch.inference_mode():
            written = model.generate(
                input_ids=batch["input_ids"].to(model.device),
                attention_mask=batch["attention_mask"].to(model.device),
                generation_config=settings,
            )

        # Without the first token: some models, such as BART, begin with the token of the end.
        has_ended = (written[:, 1:] == settings.eos_token_id).any(dim=1).tolist()
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        for index, text, is_complete in zip(indices, texts, has_ended, strict=True):
            translations[index] = text.strip() if is_complete else None
    return translations

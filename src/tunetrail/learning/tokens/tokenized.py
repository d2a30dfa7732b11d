"""Tokens kept from run to run: what a sweep over learning rates would tokenise again and again. Trains nothing."""

import hashlib
import importlib.metadata
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from tunetrail.cache import ResultCache
from tunetrail.learning.tokens.chat import (
    TokenizedExample,
    completions_of,
    tokenize_record,
    weight_of,
)

Arrays = Mapping[str, npt.NDArray[Any]]

_FORMAT = 1
"""Of the files, and of how records become tokens and labels: raised when either changes."""
_BLOCK = 256
"""Items that are kept together: one more at the end makes one block anew."""
_MADE_HERE = ("input_ids", "attention_mask", "token_type_ids")


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return SHA-256 (hex) of all that decides how a fast tokenizer turns text into tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = json.loads(backend.to_str()) if backend is not None else {"slow": repr(tokenizer)}
    # what the last call left behind
    rules = {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
    made_by = [
        importlib.metadata.version(name) for name in ("tunetrail", "tokenizers", "transformers")
    ]
    parts = [_FORMAT, made_by, rules, tokenizer.chat_template, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def kept_examples(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Mapping[str, Any]],
    max_length: int,
    cache: ResultCache | None,
) -> list[TokenizedExample]:
    """Return each record tokenised for a language model, from the cache where it is there."""

    def make(numbers: range) -> Arrays:
        examples = [tokenize_record(tokenizer, records[number], max_length) for number in numbers]
        return {
            "input_ids": _flat(example.input_ids for example in examples),
            "labels": _flat(example.labels for example in examples),
            "lengths": np.array([len(example.input_ids) for example in examples], dtype=np.int64),
            "supervised_bytes": np.array(
                [example.supervised_bytes for example in examples], dtype=np.int64
            ),
            "truncated": np.array([example.truncated for example in examples], dtype=bool),
        }

    if cache is None:
        return [tokenize_record(tokenizer, record, max_length) for record in records]
    contents = [
        json.dumps([record.get(name) for name in ("input", "output", "messages", "text")])
        for record in records
    ]
    found: list[TokenizedExample] = []
    for arrays in _blocks(
        cache, f"examples:{tokenizer_identity(tokenizer)}:{max_length}", contents, make
    ):
        ends = np.cumsum(arrays["lengths"])
        for end, length, size, cut in zip(
            ends, arrays["lengths"], arrays["supervised_bytes"], arrays["truncated"], strict=True
        ):
            weight = weight_of(records[len(found)])  # not kept: other weights need no other tokens
            found.append(
                TokenizedExample(
                    input_ids=arrays["input_ids"][end - length : end].tolist(),
                    labels=arrays["labels"][end - length : end].tolist(),
                    supervised_bytes=int(size),
                    truncated=bool(cut),
                    weight=weight,
                )
            )
    return found


def kept_preferences(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Mapping[str, Any]],
    max_length: int,
    cache: ResultCache | None,
) -> list[tuple[TokenizedExample, TokenizedExample]]:
    """Return the chosen and the rejected answer of each preference, tokenised, from the cache where they are there."""
    pairs = [completions_of(record) for record in records]
    sides = ([pair[side] for pair in pairs] for side in (0, 1))
    chosen, rejected = (kept_examples(tokenizer, side, max_length, cache) for side in sides)
    return list(zip(chosen, rejected, strict=True))


class TokenizedTexts:
    """Stands in for a model's `preprocess`: the same features, but every text is tokenised once.

    Args:
        model: The embedding model.
        cache: Where tokens are kept from run to run; without it, only in memory.
    """

    def __init__(self, model: SentenceTransformer, cache: ResultCache | None = None) -> None:
        self._preprocess = model.preprocess
        self._tokenizer = model.tokenizer
        self._cache = cache
        self._identity = f"texts:{tokenizer_identity(model.tokenizer)}:{model.max_seq_length}"
        self._ids: dict[tuple[str, str], npt.NDArray[np.int64]] = {}
        self._constants: dict[str, dict[str, Any]] = {}

    def keep(self, texts: Sequence[str], prompt: str = "") -> None:
        """Tokenise texts that will be asked for behind this prompt."""
        new = [text for text in dict.fromkeys(texts) if (prompt, text) not in self._ids]

        def make(numbers: range) -> Arrays:
            rows = self._rows_of([new[number] for number in numbers], prompt)
            return {
                "ids": _flat(rows),
                "lengths": np.array([len(row) for row in rows], dtype=np.int64),
            }

        blocks = (
            [make(range(len(new)))]
            if self._cache is None and new
            else _blocks(self._cache, f"{self._identity}:{prompt}", new, make)
            if self._cache
            else ()
        )
        place = iter(new)
        for arrays in blocks:
            for ids in np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1]):
                self._ids[prompt, next(place)] = ids

    def ids(self, texts: Sequence[str], prompt: str = "") -> list[npt.NDArray[np.int64]]:
        """Return each text's tokens behind the prompt, cut where the model's length ends; new texts aren't kept."""
        new = [text for text in texts if (prompt, text) not in self._ids]
        found = dict(zip(new, self._rows_of(new, prompt), strict=True))
        return [found[text] if text in found else self._ids[prompt, text] for text in texts]

    def count(self, text: str, prompt: str = "") -> int:
        """Return the number of a text's tokens behind the prompt."""
        known = self._ids.get((prompt, text))
        return len(self._rows_of([text], prompt)[0] if known is None else known)

    def __call__(self, texts: list[str], prompt: str | None = None) -> dict[str, Any]:
        """Return the model's features of the texts, padded to the longest of them."""
        named = prompt or ""
        if self.constants(named) is None:
            return self._preprocess(texts, prompt=prompt) if prompt else self._preprocess(texts)
        self.keep(texts, named)
        padded = self._tokenizer.pad(
            {"input_ids": [self._ids[named, text] for text in texts]},
            padding=True,
            return_tensors="pt",
        )
        features: dict[str, Any] = {**self._constants[named], **padded}
        if "token_type_ids" in self._tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        return features

    def constants(self, prompt: str) -> dict[str, Any] | None:
        """Return the features that are the same for all texts, None for a model with others than these and tokens."""
        if prompt not in self._constants:
            features = self._features(["a", "a b"], prompt)
            others = {name: value for name, value in features.items() if name not in _MADE_HERE}
            types = features.get("token_type_ids")
            if any(isinstance(value, torch.Tensor) and value.ndim for value in others.values()) or (
                types is not None and bool(types.any())
            ):
                return None
            self._constants[prompt] = others
        return self._constants[prompt]

    def _features(self, texts: list[str], prompt: str) -> dict[str, Any]:
        return self._preprocess(texts, prompt=prompt) if prompt else self._preprocess(texts)

    def _rows_of(self, texts: list[str], prompt: str) -> list[npt.NDArray[np.int64]]:
        rows: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(texts), _BLOCK):
            features = self._features(texts[start : start + _BLOCK], prompt)
            ids, mask = (
                features["input_ids"].numpy(),
                features["attention_mask"].numpy().astype(bool),
            )
            rows.extend(row[wanted] for row, wanted in zip(ids, mask, strict=True))
        return rows


def _flat(rows: "Iterator[Any] | Sequence[Any]") -> npt.NDArray[np.int64]:
    listed = [np.asarray(row, dtype=np.int64) for row in rows]
    return np.concatenate(listed) if listed else np.zeros(0, dtype=np.int64)


def _blocks(
    cache: ResultCache, identity: str, contents: Sequence[str], make: Callable[[range], Arrays]
) -> Iterator[Arrays]:
    for start in range(0, len(contents), _BLOCK):
        numbers = range(start, min(start + _BLOCK, len(contents)))
        file = cache.place(identity, *(contents[number] for number in numbers)) / "tokens.npz"
        kept = _read(file)
        if kept is not None:
            yield kept
            continue
        arrays = make(numbers)
        with cache.writing(file) as unfinished:
            np.savez(unfinished, **arrays)  # type: ignore[arg-type]
        yield arrays


def _read(file: Path) -> Arrays | None:
    """Return what a file holds, None where it isn't there or is broken."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None

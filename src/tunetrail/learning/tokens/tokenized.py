"""Cached tokens: the jobs of a sweep tokenise each text once between them."""

import importlib.metadata
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from tunetrail.cache import ResultCache
from tunetrail.config.language_model import KEEP
from tunetrail.errors import SampleError
from tunetrail.fingerprints import value_fingerprint
from tunetrail.learning.tokens.chat import (
    TokenizedExample,
    completions_of,
    example_lengths,
    tokenize_record,
    unlearnable_example,
    weight_of,
)

Arrays = Mapping[str, npt.NDArray[Any]]

# Version of the files and of the tokenising; raise it if either changes.
_FORMAT = 3
# Items that are cached together, so that a new item rebuilds one block.
_BLOCK = 256
_TOKEN_FEATURES = ("input_ids", "attention_mask", "token_type_ids")


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 (hex) of everything that decides how a tokenizer splits text.

    It is read each time, because any part of a tokenizer may be exchanged. That takes 4 ms for
    30,000 tokens.
    """
    packages = ("tunetrail", "tokenizers", "transformers")
    # Another release may split the same text by the same rules differently.
    versions = list(map(importlib.metadata.version, packages))
    # A template may write any special token, and a text is cut at one of its sides.
    settings = [
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        tokenizer.split_special_tokens,
        tokenizer.truncation_side,
    ]
    return value_fingerprint([_FORMAT, versions, _rules(tokenizer), settings])


def _rules(tokenizer: PreTrainedTokenizerBase) -> str | list[Any]:
    """Return the vocabulary of a tokenizer, and its rules as far as they can be read."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [repr(tokenizer), tokenizer.get_vocab()]

    # How the last call padded and cut stands before the tokens, and is no rule.
    rules: str = backend.to_str()
    return rules[max(rules.find('"added_tokens":'), 0) :]


def tokenize_examples(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Mapping[str, Any]],
    max_length: int,
    cache: ResultCache | None,
    thoughts: str = KEEP,
) -> list[TokenizedExample]:
    """Return each record tokenised for a language model, from the cache if it is there.

    The example of a record that the chat template has no form for has no tokens.
    """

    def tokenize(rows: range) -> list[TokenizedExample]:
        chosen = records[rows.start : rows.stop]
        return [_try_record(tokenizer, record, max_length, thoughts) for record in chosen]

    if cache is None:
        return tokenize(range(len(records)))

    # The number changes with the arrays of a cache file.
    identity = f"examples:2:{tokenizer_identity(tokenizer)}:{max_length}:{thoughts}"
    contents = list(map(_content_key, records))
    blocks = _cached_blocks(cache, identity, contents, lambda rows: _to_arrays(tokenize(rows)))

    # Weights aren't cached, because other weights need no other tokens.
    cached = chain.from_iterable(map(_from_arrays, blocks))
    examples = []
    for example, record in zip(cached, records, strict=True):
        examples.append(replace(example, weight=weight_of(record)))
    return examples


def _try_record(
    tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any], max_length: int, thoughts: str
) -> TokenizedExample:
    try:
        return tokenize_record(tokenizer, record, max_length, thoughts)
    except SampleError:
        # One row must not end a run; `LanguageModelLearner.check` says how many there are and why.
        return replace(unlearnable_example(), weight=weight_of(record))


def _content_key(record: Mapping[str, Any]) -> str:
    contents = list(map(record.get, ("input", "output", "messages", "text", "tools")))
    if record.get("completion") is not None:
        contents += [record.get("prompt"), record["completion"]]
    # Absent from most records, whose keys stay as they were.
    if record.get("prompt_messages") is not None:
        contents.append(record["prompt_messages"])
    return json.dumps(contents)


def _to_arrays(examples: Sequence[TokenizedExample]) -> Arrays:
    """Return examples as flat arrays, for a cache file."""
    return {
        "input_ids": _concatenate([example.input_ids for example in examples]),
        "labels": _concatenate([example.labels for example in examples]),
        "lengths": np.array(example_lengths(examples), dtype=np.int64),
        "supervised_bytes": np.array([example.supervised_bytes for example in examples], np.int64),
        "truncated": np.array([example.truncated for example in examples], dtype=bool),
        "context_answers": np.array([example.context_answers for example in examples], np.int64),
    }


def _from_arrays(arrays: Arrays) -> Iterator[TokenizedExample]:
    """Yield the examples of a cache file."""
    # `np.split` takes the inner borders only; the last end isn't one.
    ends = np.cumsum(arrays["lengths"])[:-1]
    columns = (
        np.split(arrays["input_ids"], ends),
        np.split(arrays["labels"], ends),
        arrays["supervised_bytes"].tolist(),
        arrays["truncated"].tolist(),
        arrays["context_answers"].tolist(),
    )

    for input_ids, labels, supervised_bytes, truncated, context in zip(*columns, strict=True):
        yield TokenizedExample(
            input_ids=input_ids.tolist(),
            labels=labels.tolist(),
            supervised_bytes=supervised_bytes,
            truncated=truncated,
            context_answers=context,
        )


def tokenize_preferences(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Mapping[str, Any]],
    max_length: int,
    cache: ResultCache | None,
    thoughts: str = KEEP,
) -> list[tuple[TokenizedExample, TokenizedExample]]:
    """Return both answers of each preference tokenised, the chosen one first."""
    completions = list(map(completions_of, records))
    chosen = list(map(itemgetter(0), completions))
    rejected = list(map(itemgetter(1), completions))

    chosen_examples = tokenize_examples(tokenizer, chosen, max_length, cache, thoughts)
    rejected_examples = tokenize_examples(tokenizer, rejected, max_length, cache, thoughts)
    return list(zip(chosen_examples, rejected_examples, strict=True))


class TokenizedTexts:
    """Replaces a model's `preprocess`: the same features, but every text is tokenised once.

    Args:
        model: The embedding model.
        cache: Where tokens are cached between runs; without it, they are cached only in memory.
    """

    def __init__(self, model: SentenceTransformer, cache: ResultCache | None = None) -> None:
        self._preprocess = model.preprocess
        self._tokenizer = model.tokenizer
        self._cache = cache
        # How it calls its tokenizer, such as without special tokens.
        transformer: Any = model[0]
        settings = value_fingerprint(transformer.get_config_dict())
        tokenizer = tokenizer_identity(model.tokenizer)
        self._identity = f"texts:{tokenizer}:{settings}:{model.max_seq_length}"
        self._ids: dict[tuple[str, str], npt.NDArray[np.int64]] = {}
        self._constants: dict[str, dict[str, Any]] = {}

    def keep(self, texts: Sequence[str], prompt: str = "") -> None:
        """Tokenise texts with the prompt before them, and remember their tokens."""
        new_texts = self._new_texts(texts, prompt)
        if self._cache is None:
            token_ids = self._tokenize(new_texts, prompt)
        else:
            token_ids = self._tokenize_cached(self._cache, new_texts, prompt)

        for text, ids in zip(new_texts, token_ids, strict=True):
            self._ids[prompt, text] = ids

    def _tokenize_cached(
        self, cache: ResultCache, texts: list[str], prompt: str
    ) -> list[npt.NDArray[np.int64]]:
        def tokenize(rows: range) -> Arrays:
            token_ids = self._tokenize(texts[rows.start : rows.stop], prompt)
            lengths = np.array(list(map(len, token_ids)), dtype=np.int64)
            return {"ids": _concatenate(token_ids), "lengths": lengths}

        token_ids: list[npt.NDArray[np.int64]] = []
        for arrays in _cached_blocks(cache, f"{self._identity}:{prompt}", texts, tokenize):
            token_ids += np.split(arrays["ids"], np.cumsum(arrays["lengths"])[:-1])
        return token_ids

    def ids(self, texts: Sequence[str], prompt: str = "") -> list[npt.NDArray[np.int64]]:
        """Return each text's tokens with the prompt before them, cut at the model's length.

        The tokens of new texts aren't remembered.
        """
        new_texts = self._new_texts(texts, prompt)
        new_ids = dict(zip(new_texts, self._tokenize(new_texts, prompt), strict=True))

        token_ids: list[npt.NDArray[np.int64]] = []
        for text in texts:
            remembered = self._ids.get((prompt, text))
            token_ids.append(new_ids[text] if remembered is None else remembered)
        return token_ids

    def _new_texts(self, texts: Sequence[str], prompt: str) -> list[str]:
        """Return the texts, each once, whose tokens aren't remembered."""
        return [text for text in dict.fromkeys(texts) if (prompt, text) not in self._ids]

    def count(self, text: str, prompt: str = "") -> int:
        """Return the number of a text's tokens with the prompt before it."""
        return len(self.ids([text], prompt)[0])

    def __call__(self, texts: list[str], prompt: str | None = None) -> dict[str, Any]:
        """Return the model's features of the texts, padded to the longest of them."""
        prompt = prompt or ""
        constants = self.constants(prompt)
        if constants is None:
            return self._features(texts, prompt)

        self.keep(texts, prompt)
        token_ids = {"input_ids": self.ids(texts, prompt)}
        padded = self._tokenizer.pad(token_ids, padding=True, return_tensors="pt")
        features: dict[str, Any] = {**constants, **padded}
        if "token_type_ids" in self._tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        return features

    def constants(self, prompt: str) -> dict[str, Any] | None:
        """Return the features that are the same for all texts.

        None if the model has features that depend on the text and aren't tokens.
        """
        if prompt in self._constants:
            return self._constants[prompt]

        # Two texts of different lengths: what belongs to a text comes with a row for each of them.
        features = self._features(["a", "a b"], prompt)
        # Token types that aren't all 0 tell two texts apart, which ids alone don't.
        token_types = features.get("token_type_ids")
        if token_types is not None and bool(token_types.any()):
            return None
        constants = {}
        for name, value in features.items():
            if name in _TOKEN_FEATURES:
                continue
            # A plain number, such as the prompt's length, holds for all texts; rows don't.
            if isinstance(value, torch.Tensor) and value.ndim:
                return None
            constants[name] = value
        self._constants[prompt] = constants
        return constants

    def _features(self, texts: list[str], prompt: str) -> dict[str, Any]:
        return self._preprocess(texts, prompt=prompt) if prompt else self._preprocess(texts)

    def _tokenize(self, texts: list[str], prompt: str) -> list[npt.NDArray[np.int64]]:
        token_ids: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(texts), _BLOCK):
            features = self._features(texts[start : start + _BLOCK], prompt)
            # Through the model's own features, so that its special tokens and its cut are in them.
            padded = features["input_ids"].numpy()
            is_token = features["attention_mask"].numpy().astype(bool)
            token_ids += [row[mask] for row, mask in zip(padded, is_token, strict=True)]
        return token_ids


def _concatenate(sequences: Sequence[Sequence[int] | npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    # `np.concatenate` refuses an empty list.
    nothing = np.zeros(0, dtype=np.int64)
    return np.concatenate([nothing, *sequences]).astype(np.int64, copy=False)


def _cached_blocks(
    cache: ResultCache,
    identity: str,
    contents: Sequence[str],
    compute: Callable[[range], Arrays],
) -> Iterator[Arrays]:
    """Yield the arrays of each block of contents, from the cache or computed and written to it."""
    files, blocks = [], []
    for start in range(0, len(contents), _BLOCK):
        rows = range(start, min(start + _BLOCK, len(contents)))
        files.append(cache.place(identity, *contents[rows.start : rows.stop]) / "tokens.npz")
        blocks.append(rows)

    if not all(map(Path.exists, files)):
        with cache.computing("the tokens", *map(str, files)):
            for file, rows in zip(files, blocks, strict=True):
                if not file.exists():
                    _write_arrays(cache, file, compute(rows))

    for file, rows in zip(files, blocks, strict=True):
        arrays = _read_arrays(file)
        if arrays is None:
            # Broken, or removed by somebody in the meantime.
            arrays = compute(rows)
            _write_arrays(cache, file, arrays)
        yield arrays


def _write_arrays(cache: ResultCache, file: Path, arrays: Arrays) -> None:
    with cache.writing(file) as unfinished:
        np.savez(unfinished, **arrays)  # type: ignore[arg-type]


def _read_arrays(file: Path) -> Arrays | None:
    """Return the arrays of a file; None if it isn't there or is broken."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None

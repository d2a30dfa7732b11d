"""Token counters: how many tokens a text or a row is for one model. Small enough to be handed to another process.

Only the tokenizer's file is read, never the weights.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tunetrail.errors import ModelError, SampleError
from tunetrail.learning.tokens.prompts import DOCUMENT, QUERY, role_of
from tunetrail.samples import SampleKind, shapes_of_kind

Counts = npt.NDArray[np.int64]

_NO_LIMIT = 1 << 31
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)


@dataclass(frozen=True, kw_only=True)
class EmbeddingTokenCounter:
    """Counts as an embedding model of the folder `path` does; a row counts as its longest text with its prompt."""

    path: str
    max_length: int
    query_prompt: str = ""
    document_prompt: str = ""

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the tokenizer's files, the length and the prompts."""
        prompts = [self.query_prompt, self.document_prompt]
        return f"embedding:{_identity(self.path)}:{self.max_length}:{prompts}"

    def of_texts(self, texts: Sequence[str]) -> Counts:
        """Return the tokens of each text, special ones included, [texts]."""
        encoded = _fast_tokenizer(self.path).encode_batch_fast(list(texts))
        return np.array([len(each) for each in encoded], dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> Counts:
        """Return the tokens of the longest text of each row, [records]."""
        prompts = {QUERY: self.query_prompt, DOCUMENT: self.document_prompt}
        columns = {name for shape in shapes_of_kind(SampleKind.EMBEDDING) for name in shape.texts}
        texts = [
            [
                prompts[role_of(name)] + value
                for name, value in record.items()
                if name in columns and value
            ]
            for record in records
        ]
        counts = self.of_texts([text for row in texts for text in row])
        longest, start = np.zeros(len(records), dtype=np.int64), 0
        for number, row in enumerate(texts):
            longest[number] = counts[start : start + len(row)].max(initial=0)
            start += len(row)
        return longest


@dataclass(frozen=True, kw_only=True)
class LanguageModelTokenCounter:
    """Counts as a language model of the folder `path` does, its chat template included."""

    path: str
    max_length: int

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the tokenizer's files, and the length."""
        return f"llm:{_identity(self.path)}:{self.max_length}"

    def of_texts(self, texts: Sequence[str]) -> Counts:
        """Return the tokens of each text, without special ones, [texts]."""
        encoded = _fast_tokenizer(self.path).encode_batch_fast(
            list(texts), add_special_tokens=False
        )
        return np.array([len(each) for each in encoded], dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> Counts:
        """Return the tokens of each row as it is trained on, [records]; of a preference, with the longer answer."""
        from tunetrail.learning.tokens.chat import completions_of, is_preference

        return np.array(
            [
                max(
                    map(
                        self._of_example,
                        completions_of(record) if is_preference(record) else (record,),
                    )
                )
                for record in records
            ],
            dtype=np.int64,
        )

    def _of_example(self, record: Mapping[str, Any]) -> int:
        from tunetrail.learning.tokens.chat import tokenize_record

        try:
            return len(tokenize_record(_chat_tokenizer(self.path), record, _NO_LIMIT).input_ids)
        except (
            SampleError,
            jinja2.TemplateError,
        ):  # training says so; here the texts alone are counted
            turns = record.get("messages") or []
            texts = [turn["content"] for turn in turns] or [
                str(record.get("input")),
                str(record.get("output")),
            ]
            return int(self.of_texts(texts).sum())


@functools.lru_cache(maxsize=4)
def _fast_tokenizer(path: str) -> Tokenizer:
    file = _tokenizer_folder(path) / "tokenizer.json"
    if not file.is_file():
        raise ModelError(
            f"model folder {path} must hold tokenizer.json. Save the model with a fast tokenizer."
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@functools.lru_cache(maxsize=4)
def _chat_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def _tokenizer_folder(path: str) -> Path:
    """Return the folder of the tokenizer: of sentence-transformers folders it may be one of a module."""
    found = sorted(
        Path(path).rglob("tokenizer.json"), key=lambda file: (len(file.parts), str(file))
    )
    return found[0].parent if found else Path(path)


@functools.lru_cache(maxsize=4)
def _identity(path: str) -> str:
    folder = _tokenizer_folder(path)
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()

"""Token counters: the number of tokens of a text or a row for one model.

They are small enough to be handed to another process, and read only the tokenizer's file.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tunetrail.config.language_model import KEEP
from tunetrail.errors import ModelError, SampleError
from tunetrail.fingerprints import files_fingerprint
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
    """Counts tokens as the embedding model in the folder `path` does.

    The count of a row is that of its longest text with its prompt.
    """

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
        """Return the number of tokens of each text, special tokens included, [texts]."""
        # The fast form leaves out the tokens' offsets, which a count doesn't need.
        encodings = fast_tokenizer(self.path).encode_batch_fast(list(texts))
        return np.array(list(map(len, encodings)), dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> Counts:
        """Return the number of tokens of the longest text of each row, [records]."""
        prompts = {QUERY: self.query_prompt, DOCUMENT: self.document_prompt}
        # A record may have any shape of the family: whatever text it has is counted.
        columns: set[str] = set()
        for shape in shapes_of_kind(SampleKind.EMBEDDING):
            columns.update(shape.texts)

        texts, row_of_text = [], []
        for row, record in enumerate(records):
            for column in columns.intersection(record):
                if record[column]:
                    texts.append(prompts[role_of(column)] + record[column])
                    row_of_text.append(row)

        longest = np.zeros(len(records), dtype=np.int64)
        # Unbuffered, unlike an assignment by index: a row appears once for each of its texts.
        np.maximum.at(longest, np.array(row_of_text, dtype=np.int64), self.of_texts(texts))
        return longest


@dataclass(frozen=True, kw_only=True)
class LanguageModelTokenCounter:
    """Counts tokens as the language model in the folder `path` does, with its chat template."""

    path: str
    max_length: int
    thoughts: str = KEEP

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the tokenizer's files, the length, and what becomes of thoughts."""
        return f"llm:{_identity(self.path)}:{self.max_length}:{self.thoughts}:2"

    def of_texts(self, texts: Sequence[str]) -> Counts:
        """Return the number of tokens of each text, without special tokens, [texts]."""
        tokenizer = fast_tokenizer(self.path)
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.array(list(map(len, encodings)), dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> Counts:
        """Return the number of tokens of each row as it is trained on, [records].

        The count of a preference is that of the longer answer with the prompt.
        """
        return self.measured(records)[0]

    def measured(self, records: Sequence[dict[str, Any]]) -> tuple[Counts, list[str]]:
        """Return the counts, and why nothing can be learnt from each row ("" if it can be).

        A row that the model's chat template has no form for counts by its texts.
        """
        # Imported late: a process that counts for an embedding model does without transformers.
        from tunetrail.learning.tokens.chat import completions_of, is_preference

        counts, problems = [], []
        for record in records:
            examples = completions_of(record) if is_preference(record) else (record,)
            measured = list(map(self._measure, examples))
            counts.append(max(count for count, _ in measured))
            problems.append(next(filter(None, (problem for _, problem in measured)), ""))
        return np.array(counts, dtype=np.int64), problems

    def _measure(self, record: Mapping[str, Any]) -> tuple[int, str]:
        from tunetrail.learning.tokens.chat import tokenize_record

        try:
            tokenizer = _chat_tokenizer(self.path)
            example = tokenize_record(tokenizer, record, _NO_LIMIT, self.thoughts)
            return len(example.input_ids), ""
        except SampleError as error:
            texts = [turn["content"] for turn in record.get("messages") or []]
            texts = texts or [str(record.get("input")), str(record.get("output"))]
            return int(self.of_texts(texts).sum()), str(error)


@functools.lru_cache(maxsize=4)
def fast_tokenizer(path: str, most_tokens: int | None = None) -> Tokenizer:
    """Return the tokenizer of a model folder, without transformers.

    Args:
        path: The folder.
        most_tokens: Where it cuts texts, special tokens included; None for nowhere.

    Raises:
        ModelError: The folder has no fast tokenizer.
    """
    file = _tokenizer_folder(path) / "tokenizer.json"
    if not file.is_file():
        raise ModelError(
            f"model folder {path} must hold tokenizer.json. Save the model with a fast tokenizer."
        )
    tokenizer = Tokenizer.from_file(str(file))
    # A saved tokenizer still has the limits of its last call, which would cap the counts.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if most_tokens is not None:
        tokenizer.enable_truncation(most_tokens)
    return tokenizer


@functools.lru_cache(maxsize=4)
def _chat_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    # Imported here: they import torch, and a worker that counts words needs none.
    from tunetrail.learning.load_errors import naming_broken_model
    from tunetrail.learning.tokens.templates import prepare_template

    with naming_broken_model(path):
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    prepare_template(tokenizer, path)
    return tokenizer


def _tokenizer_folder(path: str) -> Path:
    """Return the folder of the tokenizer, which may be a module of sentence-transformers."""
    files = Path(path).rglob("tokenizer.json")
    # The shallowest folder; names decide between equals, so that the identity is always the same.
    nearest = min(files, key=lambda file: (len(file.parts), str(file)), default=None)
    return Path(path) if nearest is None else nearest.parent


@functools.lru_cache(maxsize=4)
def _identity(path: str) -> str:
    folder = _tokenizer_folder(path)
    files = map(folder.joinpath, _TOKENIZER_FILES)
    return files_fingerprint(filter(Path.is_file, files), folder)

"""Prompts: which text an embedding model reads before queries and before documents.

Their names are sentence-transformers' own, `query` and `document`: the names that its
`encode_query` and `encode_document` look for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunetrail.config import EmbeddingConfig
from tunetrail.samples import is_document

QUERY = "query"
DOCUMENT = "document"

_MODEL_CONFIG = "config_sentence_transformers.json"


def role_of(column: str) -> str:
    """Return whose prompt goes before a column's texts: a pair's positives are documents.

    A shape whose texts are compared with one another takes one prompt for all, the query's, as E5's
    authors have it (Wang et al. 2022, https://arxiv.org/abs/2212.03533: `query: ` on both sides of
    symmetric tasks).
    """
    return DOCUMENT if is_document(column) else QUERY


def configured_prompts(config: EmbeddingConfig) -> dict[str, str]:
    """Return the prompts by name, in the form that a sentence-transformers model keeps."""
    return {QUERY: config.query_prompt, DOCUMENT: config.document_prompt}


def prompts_of_folder(path: str) -> dict[str, str]:
    """Return the prompts, by name, that a model folder comes with, except empty ones."""
    try:
        config = json.loads((Path(path) / _MODEL_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # no such file, or a broken one: loading the model will say so

    prompts = config.get("prompts") if isinstance(config, Mapping) else None
    if not isinstance(prompts, Mapping):
        return {}
    return {name: text for name, text in prompts.items() if isinstance(text, str) and text}


def prompt_of(model: Any, role: str) -> str:
    """Return what a model reads before queries or documents, as its `encode_*` choose it."""
    # The names that sentence-transformers tries, in its order.
    names = ("query",) if role == QUERY else ("document", "passage", "corpus")
    chosen = next((name for name in names if name in model.prompts), model.default_prompt_name)
    return str(model.prompts.get(chosen) or "") if chosen else ""

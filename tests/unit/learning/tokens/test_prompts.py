import json
from pathlib import Path

import pytest

from tunetrail.config import EmbeddingConfig
from tunetrail.learning.tokens.prompts import configured_prompts, prompts_of_folder, role_of
from tunetrail.samples import SampleKind, shapes_of_kind


def test_role_of_makes_documents_of_what_answers_an_anchor_only() -> None:
    columns = {column for shape in shapes_of_kind(SampleKind.EMBEDDING) for column in shape.columns}

    assert {column for column in columns if role_of(column) == "document"} == {
        "positive",
        "negative",
    }
    assert {role_of(column) for column in columns} == {"query", "document"}


def test_configured_prompts_have_the_names_that_sentence_transformers_looks_for() -> None:
    config = EmbeddingConfig(query_prompt="query: ", document_prompt="passage: ")
    assert configured_prompts(config) == {"query": "query: ", "document": "passage: "}


def test_prompts_of_folder_leaves_out_empty_ones(tmp_path: Path) -> None:
    written = {
        "prompts": {"query": "Ask: ", "document": "", "s2s": None},
        "default_prompt_name": None,
    }
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(written))

    assert prompts_of_folder(str(tmp_path)) == {"query": "Ask: "}


@pytest.mark.parametrize("written", [None, "{", "[]", '{"prompts": 3}', "{}"])
def test_prompts_of_folder_of_a_folder_that_names_none(tmp_path: Path, written: str | None) -> None:
    if written is not None:
        (tmp_path / "config_sentence_transformers.json").write_text(written)
    assert prompts_of_folder(str(tmp_path)) == {}

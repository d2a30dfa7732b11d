"""Tiny models of each family, written once."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from tests.families import embedding_folder, language_folder

Folder = Callable[..., str]


def _written_once(root: Path, write: Callable[..., str]) -> Folder:
    @cache
    def written(family: str, **settings: Any) -> str:
        folder = root / str(len(list(root.iterdir())))
        folder.mkdir()
        return write(folder, family, **settings)

    return written


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Takes a family of `ENCODERS` and settings, returns the folder of an embedding model."""
    return _written_once(tmp_path_factory.mktemp("encoders"), embedding_folder)


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Takes a family of `DECODERS` and settings, returns the folder of a language model."""
    return _written_once(tmp_path_factory.mktemp("decoders"), language_folder)


@pytest.fixture
def replace_segment_attention() -> Iterator[Callable[[Any], None]]:
    """Takes an attention function that stands in for segment attention until the test ends."""
    from transformers import AttentionInterface

    from tunetrail.learning.padding_free.attention import SEGMENT_ATTENTION, segment_attention

    yield partial(AttentionInterface.register, SEGMENT_ATTENTION)
    AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)

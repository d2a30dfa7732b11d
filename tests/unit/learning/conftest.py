"""Tiny models of each family, written once."""

from collections.abc import Callable
from functools import cache
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

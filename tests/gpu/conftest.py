"""What the tests of a GPU share: the card itself, and a reason to skip without one.

`make test-gpu` sets TUNETRAIL_REQUIRE_GPU, so that a machine without a GPU fails instead of skipping
everything.
"""

import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.families import embedding_folder, language_folder

if TYPE_CHECKING:
    import torch


@pytest.fixture(autouse=True)
def card() -> "Iterator[torch.device]":
    """The GPU, with no memory of an earlier test on it."""
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("TUNETRAIL_REQUIRE_GPU"):
            pytest.fail("torch finds no GPU on this machine")
        pytest.skip("needs a GPU")

    yield torch.device("cuda", torch.cuda.current_device())

    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def bfloat16() -> None:
    """Skips a card that only emulates bfloat16, which is older than Ampere."""
    import torch

    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("needs a GPU with bfloat16")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Takes a family of `ENCODERS` and settings, returns the folder of an embedding model."""
    return _folders(tmp_path_factory, embedding_folder)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Takes a family of `DECODERS` and settings, returns the folder of a language model."""
    return _folders(tmp_path_factory, language_folder)


def _folders(
    tmp_path_factory: pytest.TempPathFactory, write: Callable[..., str]
) -> Callable[..., str]:
    def written(family: str, **settings: object) -> str:
        return partial(write, tmp_path_factory.mktemp(family), family)(**settings)

    return written

"""The quick reader gives the vectors of the whole model, in either precision."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tunetrail.config import Settings
from tunetrail.errors import BrokenModelError, ConfigError
from tunetrail.learning.devices import thread_count
from tunetrail.learning.embedding import quick_reader as quick
from tunetrail.learning.embedding.quick_reader import QuickReader, quick_reader
from tunetrail.learning.embedding.reader import EmbeddingReader

TEXTS = [
    "one two three",
    "a",
    "",
    "the longest of all of these texts, which is cut off somewhere " * 20,
    "été, 東京 and 🙂",
    "one two three",
]


def settings_of(precision: str = "float32", **embedding: Any) -> Settings:
    settings = Settings()
    settings.preparation.vector_precision = precision
    settings.trainer.accelerator = "cpu"
    for name, value in embedding.items():
        setattr(settings.embedding, name, value)
    return settings


def reader_of(settings: Settings, path: str) -> QuickReader:
    reader = quick_reader(settings, path)
    assert reader is not None
    return reader


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(
    "embedding",
    [{}, {"query_prompt": "query: "}, {"max_length": 16}, {"max_length": 100_000}],
    ids=["plain", "prompt", "short", "long"],
)
def test_vectors_in_float32_are_those_of_the_whole_model(
    encoder_folder: Callable[..., str], pooling: str, embedding: dict[str, Any]
) -> None:
    path = encoder_folder("bert", pooling=pooling)
    settings = settings_of(**embedding)
    whole_reader = EmbeddingReader(config=settings.embedding, trainer=settings.trainer)
    expected = whole_reader.vectors(whole_reader.load(path), TEXTS)

    reader = reader_of(settings, path)
    vectors = reader.vectors(reader.load(path), TEXTS)

    np.testing.assert_allclose(vectors, expected, atol=2e-6)
    assert reader.identity == ""


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_vectors_do_not_depend_on_the_threads(
    encoder_folder: Callable[..., str], threads: int
) -> None:
    path = encoder_folder("bert")
    reader = reader_of(settings_of(), path)
    model = reader.load(path)
    texts = [f"{text} {number}" for number in range(20) for text in TEXTS]

    with thread_count(1):
        expected = reader.vectors(model, texts)
    with thread_count(threads):
        vectors = reader.vectors(model, texts)

    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_vectors_of_integers_are_near_and_depend_on_no_other_text(
    encoder_folder: Callable[..., str],
) -> None:
    path = encoder_folder("bert")
    exact_reader, reader = reader_of(settings_of(), path), reader_of(settings_of("int8"), path)
    model = reader.load(path)

    exact = exact_reader.vectors(exact_reader.load(path), TEXTS)
    vectors = reader.vectors(model, TEXTS)

    assert ((vectors * exact).sum(axis=1) > 0.99).all() and not np.allclose(vectors, exact)
    alone = np.concatenate([reader.vectors(model, [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, vectors, atol=1e-5)
    # They are never taken for others.
    assert reader.identity == ":int8"


def test_weights_that_were_saved_with_a_head_are_read(
    encoder_folder: Callable[..., str], tmp_path: Path
) -> None:
    path = encoder_folder("bert")
    copy = Path(shutil.copytree(path, tmp_path / "model"))
    weights = load_file(copy / "model.safetensors")
    renamed = {f"bert.{name}": tensor for name, tensor in weights.items()}
    save_file(renamed, copy / "model.safetensors")
    reader, renamed_reader = reader_of(settings_of(), path), reader_of(settings_of(), str(copy))

    vectors = reader.vectors(reader.load(path), TEXTS)
    of_renamed = renamed_reader.vectors(renamed_reader.load(str(copy)), TEXTS)

    np.testing.assert_array_equal(vectors, of_renamed)


def test_a_model_without_some_weights_is_named(
    encoder_folder: Callable[..., str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(encoder_folder("bert"), tmp_path / "model"))
    weights = load_file(copy / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, copy / "model.safetensors")

    with pytest.raises(BrokenModelError, match=r"model can't be loaded: .*layer\.1\.output"):
        reader_of(settings_of(), str(copy)).load(str(copy))


@pytest.mark.parametrize(
    ("precision", "accelerator", "has_gpu", "expected"),
    [
        ("float32", "auto", False, "float32"),
        ("float32", "auto", True, None),
        ("float32", "cpu", True, "float32"),
        ("float32", "gpu", True, None),
        ("int8", "auto", True, "int8"),
    ],
)
def test_quick_reader_is_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    tiny_embedding_model: str,
    precision: str,
    accelerator: str,
    has_gpu: bool,
    expected: str | None,
) -> None:
    monkeypatch.setattr(quick, "may_have_gpu", lambda: has_gpu)
    settings = settings_of(precision)
    settings.trainer.accelerator = accelerator

    reader = quick_reader(settings, tiny_embedding_model)

    assert (reader.precision if reader else None) == expected


def test_quick_reader_takes_no_other_architecture(encoder_folder: Callable[..., str]) -> None:
    path = encoder_folder("mpnet")

    assert quick_reader(settings_of("float32"), path) is None
    with pytest.raises(ConfigError, match=r"preparation\.vector_precision must be float32"):
        quick_reader(settings_of("int8"), path)


@pytest.mark.processes
def test_quick_vectors_need_torch_and_nothing_above_it(tiny_embedding_model: str) -> None:
    code = (
        "import sys; from tunetrail.config import Settings; "
        "from tunetrail.learning.embedding.quick_reader import quick_reader; "
        "settings = Settings(); settings.trainer.accelerator = 'cpu'; path = sys.argv[1]; "
        "reader = quick_reader(settings, path); reader.vectors(reader.load(path), ['a text']); "
        "above = {'transformers', 'sentence_transformers', 'torch._dynamo', 'peft', 'scipy'}; "
        "print(*({'torch', *above} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, tiny_embedding_model]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "torch\n"

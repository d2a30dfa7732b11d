import os
from pathlib import Path

import pytest

from tunetrail.errors import ModelError
from tunetrail.learning.models.gguf import convert_gguf, remove_conversion, unused_conversions


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNETRAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is no model",
        b"GGUF",
        b"GGUF\x03\x00\x00\x00" + b"\xff" * 64,
        b"GGUF\x03\x00\x00\x00" + bytes(64),
    ],
    ids=["empty", "text", "magic only", "hostile counts", "zeros"],
)
def test_convert_refuses_a_broken_file_and_leaves_nothing(
    cache: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)

    for _ in range(2):  # the second call doesn't take what the first left for a model
        with pytest.raises(ModelError, match=r"GGUF file .*broken\.gguf could not be converted"):
            convert_gguf(file)

    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".lock"]
    assert [path.name for path in (cache / "models").iterdir() if path.is_dir()] == []


def test_convert_names_a_missing_file(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.gguf could not be converted"):
        convert_gguf(tmp_path / "gone.gguf")


def test_convert_names_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("TUNETRAIL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"could not be converted to .*file"):
        convert_gguf(tmp_path / "model.gguf")


def test_converted_models_that_nothing_uses_can_be_removed(cache: Path) -> None:
    models = cache / "models"
    for name in ("old-0123456789abcdef", "new-0123456789abcdef", ".converting-x", "mine"):
        (models / name).mkdir(parents=True)
    for name in ("old-0123456789abcdef", ".converting-x", "mine"):
        os.utime(models / name, (0, 0))
    old, new = models / "old-0123456789abcdef", models / "new-0123456789abcdef"

    assert unused_conversions(models, 0) == [old]
    remove_conversion(old, 0)
    remove_conversion(new, 0)

    assert sorted(path.name for path in models.iterdir() if path.is_dir()) == [
        ".converting-x",
        "mine",
        "new-0123456789abcdef",
    ]

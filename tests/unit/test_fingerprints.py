"""Fingerprints: equal for equal inputs, different for different ones."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tunetrail.fingerprints import (
    files_fingerprint,
    model_fingerprint,
    value_fingerprint,
    weights_fingerprint,
)


def test_model_fingerprint_knows_other_weights_of_one_kind(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    original = Path(tiny_embedding_model)
    copy = Path(shutil.copytree(original, tmp_path / "copy"))
    assert model_fingerprint(copy) == model_fingerprint(original)

    (file,) = copy.rglob("*.safetensors")
    weights = {name: value + 1.0 for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})

    assert model_fingerprint(copy) != model_fingerprint(original)
    by_shape = model_fingerprint(copy, contents=False)
    assert by_shape == model_fingerprint(original, contents=False)


def test_value_fingerprint_knows_the_order_of_a_list_but_of_no_mapping() -> None:
    records = [{"anchor": f"question {n}", "positive": f"answer {n}"} for n in range(16)]
    reordered = [dict(reversed(record.items())) for record in records]

    assert value_fingerprint(records) == value_fingerprint(reordered)
    assert value_fingerprint(records) != value_fingerprint(records[::-1])


def test_files_fingerprint_knows_names_and_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("text")
    before = files_fingerprint([first], tmp_path)
    first.rename(second)
    renamed = files_fingerprint([second], tmp_path)
    second.write_text("other text")

    assert len({before, renamed, files_fingerprint([second], tmp_path)}) == 3


def test_weights_fingerprint_is_of_the_values_and_not_of_the_files(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    folders = {name: tmp_path / name for name in ("whole", "shards", "moved", "reshaped", "other")}
    for folder in folders.values():
        folder.mkdir()
    save_file(weights, folders["whole"] / "model.safetensors", {"format": "pt"})
    for name, values in weights.items():
        save_file({name: values}, folders["shards"] / f"{name}.safetensors")
    (folders["moved"] / "1_Dense").mkdir()
    save_file(weights, folders["moved"] / "1_Dense/model.safetensors")
    reshaped = {**weights, "a": weights["a"].reshape(3, 2)}
    save_file(reshaped, folders["reshaped"] / "model.safetensors")
    save_file({**weights, "b": weights["b"] + 1.0}, folders["other"] / "model.safetensors")

    fingerprints = {name: weights_fingerprint(folder) for name, folder in folders.items()}

    assert fingerprints["whole"] == fingerprints["shards"]
    assert len(set(fingerprints.values())) == 4

"""A base model in half precision is trained in float32: small steps would get lost in its weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.families import embedding_folder, language_folder
from tests.unit.pipeline.jobs import weights_of, write_job

from tunetrail.config import (
    AdapterConfig,
    EmbeddingConfig,
    LanguageModelConfig,
    PreparationConfig,
    Settings,
    TrainingConfig,
)
from tunetrail.pipeline.jobs import run_fit_job

TRAINING = TrainingConfig(batch_size=4, learning_rate=2e-5, warmup_steps=1, max_steps=8)


def as_type(folder: str, target: Path, dtype: torch.dtype, *, stored_as: torch.dtype) -> str:
    """Write the model with its weights rounded to a type, and return the folder."""
    shutil.copytree(folder, target)
    (file,) = target.rglob("*.safetensors")
    rounded = {name: weight.to(dtype) for name, weight in load_file(file).items()}
    stored = {name: weight.to(stored_as) for name, weight in rounded.items()}
    save_file(stored, file, metadata={"format": "pt"})

    name = str(stored_as).removeprefix("torch.")
    config = file.with_name("config.json")
    text = config.read_text().replace('"dtype": "float32"', f'"dtype": "{name}"')
    assert f'"dtype": "{name}"' in text
    config.write_text(text)
    return str(target)


def trained(folder: Path, model_type: str, base: str) -> tuple[str, dict[str, torch.Tensor]]:
    settings = Settings(
        preparation=PreparationConfig(cache_gigabytes=0.0),
        embedding=EmbeddingConfig(model=base, max_length=64, training=TRAINING),
        llm=LanguageModelConfig(
            model=base, max_length=128, training=TRAINING, adapter=AdapterConfig(kind="none")
        ),
    )
    result = run_fit_job(write_job(folder, settings, model_type))
    return result["precision"], weights_of(folder / "model")


@pytest.mark.parametrize(
    ("model_type", "dtype"),
    [
        ("embedding", torch.bfloat16),
        ("embedding", torch.float16),
        ("llm", torch.bfloat16),
        ("llm", torch.float16),
    ],
)
def test_a_base_in_half_precision_learns_what_the_same_base_in_float32_learns(
    tmp_path: Path, model_type: str, dtype: torch.dtype
) -> None:
    write = embedding_folder if model_type == "embedding" else language_folder
    family = "bert" if model_type == "embedding" else "llama"
    base = write(tmp_path / "base", family)
    half = as_type(base, tmp_path / "half-base", dtype, stored_as=dtype)
    whole = as_type(base, tmp_path / "whole-base", dtype, stored_as=torch.float32)

    precision, from_half = trained(tmp_path / "half", model_type, half)
    expected_precision, from_whole = trained(tmp_path / "whole", model_type, whole)

    assert precision == expected_precision == "32-true"
    before = weights_of(whole)
    for name, weight in from_whole.items():
        assert from_half[name].dtype == torch.float32
        assert torch.equal(from_half[name], weight), name
    # In bfloat16, a step of 2e-5 would change only the smallest weights.
    matrices = [name for name in before if "layer" in name and before[name].ndim == 2]
    changed = [float((from_half[name] != before[name]).float().mean()) for name in matrices]
    assert matrices and min(changed) > 0.95

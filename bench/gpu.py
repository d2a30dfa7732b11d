"""Trainings on a GPU against the peers on the same card: tokens per second, MFU and memory.

`python -m bench --only gpu --device cuda` measures; with `--device cpu`, toy models go the same way
through the same code, which shows that it runs and measures nothing.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.engine.card import data_sheet_peak
from bench.engine.comparing import compared
from bench.engine.figures import Targets
from bench.engine.overhead import toy_model
from bench.engine.rows import training_rows
from bench.engine.tasks import Task
from bench.fresh import GPU, Arm, require
from bench.results import Options, Result
from bench.sft import PACKED, PADDED, TRL_FUNCTION
from bench.stsb import PEER, PEER_FUNCTION
from tunetrail.errors import ConfigError
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, LANGUAGE_MODELS, resolve_model

_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{{ eos_token }}{% endfor %}"
)
_CASES: Mapping[str, Mapping[str, Any]] = {
    "pairs": {"rows": 4096, "batch_size": 256, "max_length": 256, "learning_rate": 2e-5},
    "sft": {"rows": 512, "batch_size": 32, "max_length": 1024, "learning_rate": 2e-5},
    "lora": {"rows": 512, "batch_size": 32, "max_length": 1024, "learning_rate": 2e-4},
}
"""Sizes that keep a large card busy; `rows` counts the rows to train on."""
_TOY = {"rows": 16, "batch_size": 4}
_TOY_LENGTHS = {"pairs": 128, "sft": 2048, "lora": 2048}
"""A toy reads bytes, and an answer comes after a question of some hundreds."""
_HELD_OUT = 32


def run(options: Options) -> list[Result]:
    """Train MiniLM on pairs, and SmolLM2 with all weights and with adapters, by both sides.

    Raises:
        ConfigError: The device is `cuda` and there is no GPU, or a package of the peers is missing.
    """
    require("datasets", "accelerate", "trl")
    on_card = options.device == "cuda"
    if on_card and not torch.cuda.is_available():
        raise ConfigError(
            "--device must be cpu on this machine, got 'cuda': torch finds no GPU. Run it on a "
            "machine with one, or try its code with --device cpu (make bench-gpu DEVICE=cpu)."
        )

    before = os.environ.get(GPU)
    # Of several cards, the first one that this process may use.
    os.environ[GPU] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if on_card else ""
    try:
        with tempfile.TemporaryDirectory(prefix="bench-toys-") as folder:
            models = _models() if on_card else _toys(Path(folder))
            return [_measure(case, models, options) for case in _CASES]
    finally:
        os.environ.pop(GPU)
        if before is not None:
            os.environ[GPU] = before


def _measure(case: str, models: Mapping[str, str], options: Options) -> Result:
    """Return the figures of one case on the device."""
    on_card = options.device == "cuda"
    toy = {**_TOY, "max_length": _TOY_LENGTHS[case]}
    sizes = {**_CASES[case], **({} if on_card else toy)}
    is_embedding = case == "pairs"
    rows = training_rows(
        "pair" if is_embedding else "completion",
        options,
        rows=sizes.pop("rows"),
        batch_size=sizes["batch_size"],
        held_out=_HELD_OUT,
    )

    common = {"train": "", "held_out": "", "rows": 0, "epochs": 3, **sizes}
    if is_embedding:
        loss = "multiple_negatives_ranking"
        task = Task(model=models["embedding"], shape="pair", loss=loss, **common)
        peers = [Arm(name=PEER, function=PEER_FUNCTION)]
    else:
        adapter = "lora" if case == "lora" else "none"
        task = Task(model=models["llm"], shape="completion", adapter=adapter, **common)
        peers = [Arm(name=PADDED, function=TRL_FUNCTION)]
    if case == "sft":
        peers.append(Arm(name=PACKED, function=TRL_FUNCTION, arguments={"packing": True}))

    result = compared(
        f"gpu {case}" if on_card else f"gpu {case}, toy on a CPU",
        task,
        rows,
        f"bench.engine.{'embedding' if is_embedding else 'language'}",
        peers,
        # No target before somebody has measured.
        Targets(ratio={}),
        speed="tokens_per_second",
        unit="tokens/s",
        rounds=options.rounds,
    )
    return replace(result, details={**result.details, **_card()}) if on_card else result


def _card() -> dict[str, Any]:
    """Return what the figures hold for: the card, its driver's CUDA, and where its peak is from."""
    name = torch.cuda.get_device_name()
    source = "measured" if data_sheet_peak(name) is None else "data sheet"
    return {"card": name, "cuda": torch.version.cuda, "peak": source}


def _models() -> dict[str, str]:
    return {
        "embedding": resolve_model("minilm", EMBEDDING_MODELS).path,
        "llm": resolve_model("smollm2-135m", LANGUAGE_MODELS).path,
    }


def _toys(folder: Path) -> dict[str, str]:
    """Write models of two layers that read bytes; return their folders."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    embedding = toy_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert", local_files_only=True)
    tokenizer.chat_template, tokenizer.eos_token = _TEMPLATE, "<unk>"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    return {"embedding": embedding, "llm": str(folder / "llm")}

"""Tiny random models of every family that is trained here, as folders; nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tunetrail.learning.training.micro_batches import SharedBatch

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_GROUPED = {
    **_SIZES,
    "num_key_value_heads": 2,
    "attention_dropout": 0.0,
    "max_position_embeddings": 128,
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**_SIZES, **_NO_DROPOUT, "max_position_embeddings": 128}),
    "roberta": ("Roberta", {**_SIZES, **_NO_DROPOUT, "max_position_embeddings": 130}),
    "xlm-roberta": ("XLMRoberta", {**_SIZES, **_NO_DROPOUT, "max_position_embeddings": 130}),
    "mpnet": ("MPNet", {**_SIZES, **_NO_DROPOUT, "max_position_embeddings": 130}),
    "distilbert": (
        "DistilBert",
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
    ),
    "modernbert": (
        "ModernBert",
        {**_SIZES, "local_attention": 128, "max_position_embeddings": 128},
    ),
    "modernbert-local": (
        "ModernBert",
        {**_SIZES, "local_attention": 8, "max_position_embeddings": 128},
    ),
    "qwen2": ("Qwen2", _GROUPED),
    "llama": ("Llama", _GROUPED),
}
"""Name of the family to the beginning of its class names and the settings of a tiny one."""
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", {**_GROUPED, "tie_word_embeddings": False}),
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


def byte_tokenizer(*, wraps: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes; those that wrap put a token before and behind each text, as encoders' do."""
    special = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
    ]  # RoBERTa counts its positions from the padding token's number
    alphabet = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if wraps:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)


def embedding_folder(
    folder: Path,
    family: str,
    *,
    pooling: str | tuple[str, ...] = "mean",
    include_prompt: bool = True,
    **settings: Any,
) -> str:
    """Write a sentence-transformers model of a family; `settings` go to its transformers configuration."""
    begin, sizes = ENCODERS[family]
    tokenizer = byte_tokenizer(wraps=family not in ("qwen2", "llama"))
    model = _random_model(begin, f"{begin}Model", {**sizes, **settings}, tokenizer)
    model.save_pretrained(folder / "transformer")
    tokenizer.save_pretrained(folder / "transformer")
    modules = [
        Transformer(str(folder / "transformer")),
        Pooling(32, pooling, include_prompt=include_prompt),
    ]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(
        str(folder / "model"), create_model_card=False
    )
    return str(folder / "model")


def language_folder(folder: Path, family: str, **settings: Any) -> str:
    """Write a causal language model of a family."""
    name, sizes = DECODERS[family]
    begin = name.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    tokenizer = byte_tokenizer(wraps=False)
    _random_model(begin, name, {**sizes, **settings}, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _random_model(
    begin: str, name: str, settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{begin}Config")(
        vocab_size=len(tokenizer), pad_token_id=1, bos_token_id=0, eos_token_id=2, **settings
    )
    model = getattr(transformers, name)(config)
    with torch.no_grad():  # freshly initialised weights are so small that attention hardly matters
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model


def gradients(
    module: Any, *micro_batches: Any, scale: float = 1.0
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the summed loss of micro-batches and its gradient times `scale`."""
    module.train()
    module.zero_grad()
    loss = 0.0
    for micro_batch in micro_batches:
        summed = module.loss_of(SharedBatch(micro_batch))
        (summed * scale).backward()
        loss += float(summed.detach())
    found = {
        name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None
    }
    assert found
    return loss, found


def assert_close(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-4
) -> None:
    """Compare gradients, each relative to its largest number; what is tiny beside all the others is rounding."""
    assert found.keys() == expected.keys()
    largest = max(float(each.abs().max()) for each in expected.values())
    assert largest > 0.0
    for name, each in expected.items():
        scale = max(float(each.abs().max()), 1e-2 * largest)
        difference = float((found[name] - each).abs().max())
        assert difference <= tolerance * scale, f"{name}: {difference / scale:.1e}"

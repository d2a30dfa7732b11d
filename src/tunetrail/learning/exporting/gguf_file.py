"""GGUF: a language model in the form of llama.cpp, by gguf's own writer and names of tensors."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tunetrail.errors import UserError
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.tokens.rendering import answer_end

NDArray = np.ndarray[Any, np.dtype[Any]]

PRECISIONS = ("f32", "f16")
"""How weights are stored: in 4 or 2 bytes each."""
# llama.cpp's architecture of each kind of model that is written.
_ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2"}
# How the tokenizers of Qwen 2 and Llama 3 split a text, in their own files' words. llama.cpp has
# the splitting as code, which is called by a name.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_SPLIT = _QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufModel:
    """A language model, and what llama.cpp has to know of it.

    Attributes:
        model: The model.
        architecture: Name of the member of `gguf.MODEL_ARCH`.
        splitting: llama.cpp's name for how the tokenizer splits a text before it merges.
    """

    model: LanguageModel
    architecture: str
    splitting: str


def checked_model(model: LanguageModel) -> GgufModel:
    """Return what is written of a model.

    Raises:
        UserError: llama.cpp's form of the model isn't known here; the message names the part.
    """
    config = model.model.config
    if config.model_type not in _ARCHITECTURES:
        raise UserError(
            f"--to gguf needs a model of the kind {', '.join(_ARCHITECTURES)}, got "
            f"{config.model_type}. Export it with --to merged."
        )

    rope = _rope(config)
    if rope.get("rope_type", "default") != "default":
        raise UserError(
            f"--to gguf needs a model with rope_type=default, got {rope['rope_type']}. Export it "
            "with --to merged."
        )
    if getattr(config, "use_sliding_window", False):
        raise UserError(
            "--to gguf needs a model whose attention sees all tokens, got one with a sliding "
            "window. Export it with --to merged."
        )
    return GgufModel(
        model=model,
        architecture=_ARCHITECTURES[config.model_type],
        splitting=_splitting(_tokenizer_json(model)),
    )


def write_gguf(described: GgufModel, file: Path, name: str, precision: str) -> None:
    """Write a language model with its tokenizer and chat template as one GGUF file.

    Args:
        described: The model.
        file: The file.
        name: Its name in the file.
        precision: One of `PRECISIONS`; vectors, such as the norms', stay in float32.
    """
    import gguf

    architecture = gguf.MODEL_ARCH[described.architecture]
    writer = gguf.GGUFWriter(str(file), gguf.MODEL_ARCH_NAMES[architecture])
    try:
        _add_model(writer, described.model.model.config, name, precision)
        _add_tokenizer(writer, described)
        for tensor_name, weight, kind in _tensors(described, architecture, precision):
            writer.add_tensor(tensor_name, weight, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def read_gguf(file: Path, tokenizer: Any) -> LanguageModel:
    """Return the model of a GGUF file, de-quantised to float32, with a given tokenizer.

    transformers reads it through gguf's reader, and turns the tensors back by code of its own.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    return LanguageModel(model=model.eval(), tokenizer=tokenizer)


def round_weights(model: LanguageModel, precision: str) -> None:
    """Round a model's weights to what a file of a precision holds of them."""
    if precision == "f32":
        return
    with torch.no_grad():
        for weight in model.model.parameters():
            # Vectors, such as a norm's, stay in float32 in every file.
            if weight.ndim > 1:
                weight.copy_(weight.half())


def vocabulary_of_gguf(file: Path) -> list[str]:
    """Return the tokens that gguf's reader finds in a file."""
    import gguf

    field = gguf.GGUFReader(str(file)).fields["tokenizer.ggml.tokens"]
    return list(field.contents())


def tokens_by_id(model: LanguageModel) -> list[str]:
    """Return the text of each token id that the model has a row for."""
    # Embeddings are often padded to a round number of rows, and llama.cpp wants a name for each.
    tokens = {token_id: token for token, token_id in model.tokenizer.get_vocab().items()}
    rows = model.model.config.vocab_size
    return [tokens.get(token_id, f"[PAD{token_id}]") for token_id in range(rows)]


def _add_model(writer: Any, config: Any, name: str, precision: str) -> None:
    """Write the sizes of a model and their precision to the header of a GGUF file."""
    import gguf

    heads = config.num_attention_heads
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(_head_width(config))
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
    }
    writer.add_file_type(file_types[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _merge_as_text(merge: str | Sequence[str]) -> str:
    # Older tokenizers write `a b`, newer ones the list of both.
    return merge if isinstance(merge, str) else " ".join(merge)


def _add_tokenizer(writer: Any, described: GgufModel) -> None:
    """Write the tokenizer and the chat template to the header of a GGUF file."""
    model, tokenizer = described.model, described.model.tokenizer
    added = tokenizer.added_tokens_decoder
    known = set(tokenizer.get_vocab().values())
    merges = _tokenizer_json(model)["model"]["merges"]

    # llama.cpp's name for merging bytes (BPE), whichever model does it.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(described.splitting)
    writer.add_token_list(tokens_by_id(model))
    writer.add_token_types(
        [_token_type(token_id, added, known) for token_id in range(model.model.config.vocab_size)]
    )
    writer.add_token_merges(list(map(_merge_as_text, merges)))

    # Whether the tokenizer puts the token that begins a sequence before each text.
    begins = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(begins == [tokenizer.bos_token_id])
    # Only SentencePiece's tokenizers put a space before a text.
    writer.add_add_space_prefix(False)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.eos_token_id is not None:
        writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    # Where the chat template ends an answer, if that isn't the end of the sequence.
    end = answer_end(tokenizer)
    if end is not None and end != tokenizer.eos_token_id:
        writer.add_eot_token_id(end)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _token_type(token_id: int, added: Mapping[int, Any], known: set[int]) -> int:
    import gguf

    # llama.cpp finds added tokens in a text before it splits it, and never prints control tokens.
    if token_id in added:
        is_special = added[token_id].special
        return int(gguf.TokenType.CONTROL if is_special else gguf.TokenType.USER_DEFINED)
    return int(gguf.TokenType.NORMAL if token_id in known else gguf.TokenType.UNUSED)


def _tensors(
    described: GgufModel, architecture: Any, precision: str
) -> Iterator[tuple[str, NDArray, Any]]:
    """Yield the name, the stored bytes and the type of each tensor."""
    import gguf

    network: Any = described.model.model
    config = network.config
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    kinds = {
        "f32": gguf.GGMLQuantizationType.F32,
        "f16": gguf.GGMLQuantizationType.F16,
    }
    for own_name, tensor in network.state_dict().items():
        # A tied output layer is the embedding, and llama.cpp takes that for both.
        if own_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(own_name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(
                f"--to gguf needs a name in GGUF for each weight, got {own_name} without one. "
                "Export the model with --to merged."
            )

        weight = tensor.float().cpu().numpy()
        if described.architecture == "LLAMA":
            weight = _in_llama_order(own_name, weight, config)
        # As llama.cpp's own converter does: rounding vectors would save next to nothing.
        kind = kinds[precision if weight.ndim > 1 else "f32"]
        yield name, gguf.quantize(np.ascontiguousarray(weight), kind), kind


def _in_llama_order(name: str, weight: NDArray, config: Any) -> NDArray:
    """Reorder the rows of a query or key for llama.cpp; return other weights as they are."""
    heads = config.num_attention_heads
    if ".k_proj." in name:
        heads = getattr(config, "num_key_value_heads", None) or heads
    elif ".q_proj." not in name:
        return weight
    # transformers rotates dimension i with i + width / 2, llama.cpp's LLAMA i with i + 1.
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _head_width(config: Any) -> int:
    width = getattr(config, "head_dim", None)
    return int(width or config.hidden_size // config.num_attention_heads)


def _rope(config: Any) -> Mapping[str, Any]:
    parameters: Mapping[str, Any] = config.rope_parameters
    return parameters


def _tokenizer_json(model: LanguageModel) -> Mapping[str, Any]:
    """Return the tokenizer's description, as its file has it."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    described = {} if backend is None else json.loads(backend.to_str())
    if described.get("model", {}).get("type") != "BPE" or not _splitters(described):
        raise UserError(
            "--to gguf needs a tokenizer that merges bytes (BPE), got another kind. Export the "
            "model with --to merged."
        )
    return described


def _splitters(described: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the steps that split a text, the last of which is the one into bytes."""
    step = described["pre_tokenizer"] or {}
    steps = step["pretokenizers"] if step.get("type") == "Sequence" else [step]
    return steps if steps[-1].get("type") == "ByteLevel" else []


def _splitting(described: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for how a tokenizer splits a text.

    Raises:
        UserError: No name is known for it.
    """
    *steps, bytes_step = _splitters(described)
    kinds = [step["type"] for step in steps]

    if not kinds and bytes_step.get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits"] and steps[0]["individual_digits"] and bytes_step.get("use_regex", True):
        return "smollm"
    if kinds == ["Split"] and not bytes_step.get("use_regex", True):
        pattern = steps[0]["pattern"].get("Regex")
        names = {_QWEN_SPLIT: "qwen2", _LLAMA3_SPLIT: "llama-bpe"}
        if pattern in names:
            return names[pattern]
    raise UserError(
        "--to gguf needs a tokenizer that splits texts in a way that llama.cpp knows, got "
        f"{' and '.join(kinds) or 'no splitting'}. Export the model with --to merged."
    )

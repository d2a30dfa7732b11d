"""Folders of sentence-transformers whose model is BERT, described without importing torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WEIGHTS = "model.safetensors"
_POOLINGS = ("mean", "cls")
# Classes of modules that change nothing but the length of vectors, which are scaled to 1 anyway.
_ALLOWED_AFTER_POOLING = {"Normalize"}


@dataclass(frozen=True, kw_only=True, slots=True)
class BertFolder:
    """A folder with a BERT model of sentence-transformers.

    Attributes:
        weights: The file of the weights.
        heads: Number of attention heads.
        epsilon: What the layer norms add to a variance.
        positions: Longest text in tokens.
        filler: Token that stands for a text without tokens.
        pooling: What becomes a text's vector: the `mean` of its tokens', or the first one (`cls`).
    """

    weights: Path
    heads: int
    epsilon: float
    positions: int
    filler: int
    pooling: str


def bert_folder(path: str) -> BertFolder | None:
    """Return the description of a model folder; None if its model isn't BERT, or has more to it.

    The folder of a model that is broken has none either: loading the model says what is wrong.
    """
    try:
        return _described(Path(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _described(path: Path) -> BertFolder | None:
    modules = _json(path / "modules.json")
    classes = [module["type"].rpartition(".")[2] for module in modules]
    if classes[:2] != ["Transformer", "Pooling"] or set(classes[2:]) - _ALLOWED_AFTER_POOLING:
        return None

    transformer = path / modules[0]["path"]
    config = _json(transformer / "config.json")
    pooling = _pooling(_json(path / modules[1]["path"] / "config.json"))
    lower_case = _json(transformer / "sentence_bert_config.json").get("do_lower_case", False)
    weights = transformer / _WEIGHTS
    if not _is_plain_bert(config) or pooling is None or lower_case or not weights.is_file():
        return None

    return BertFolder(
        weights=weights,
        heads=int(config["num_attention_heads"]),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        positions=int(config["max_position_embeddings"]),
        filler=int(config.get("pad_token_id") or 0),
        pooling=pooling,
    )


def _is_plain_bert(config: Mapping[str, Any]) -> bool:
    return (
        config["model_type"] == "bert"
        and config.get("hidden_act", "gelu") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
    )


def _pooling(config: Mapping[str, Any]) -> str | None:
    """Return the only pooling of a module, in the notation of new folders or of old ones."""
    chosen = config.get("pooling_mode")
    if chosen is None:
        is_on = [name for name in config if name.startswith("pooling_mode_") and config[name]]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        chosen = names.get(is_on[0]) if len(is_on) == 1 else None
    # A prompt that is left out of the mean takes more than this.
    return chosen if chosen in _POOLINGS and config.get("include_prompt", True) else None


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))

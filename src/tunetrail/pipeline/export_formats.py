"""Formats of an export: one function each, which writes a version and compares it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunetrail.deployment.flavors import EmbeddingFlavor, Flavor, LanguageModelFlavor
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.deployment.version_files import copy_model
from tunetrail.errors import DeploymentError, ModelError, UserError
from tunetrail.learning.exporting import gguf_file, onnx_graph, openvino_model
from tunetrail.learning.exporting.adapter import read_adapter, write_adapter
from tunetrail.learning.exporting.agreement import (
    MOST_DIFFERENCE,
    PROBES,
    Agreement,
    compare_logits,
    compare_vectors,
)
from tunetrail.learning.models.catalog import LANGUAGE_MODELS, resolve_model

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """A version to export.

    Attributes:
        flavor: How its family reads and compares models.
        model: The model, as the flavor loads it.
        files: A private copy of its files, compared with those that were registered.
        version: The version.
        precision: How a GGUF file stores weights.
    """

    flavor: Flavor
    model: Any
    files: Path
    version: ModelVersion
    precision: str

    def outputs(self) -> Any:
        """Return what the model computes for the probes."""
        return self.flavor.outputs(self.model, PROBES)


def to_merged(original: Original, folder: Path) -> Agreement:
    """Write the registered files as one plain folder, adapters merged."""
    copy_model(original.files, folder, original.version.uri)
    try:
        written = original.flavor.load(str(folder))
    except (ModelError, OSError, RuntimeError, ValueError) as error:
        raise DeploymentError(f"the exported model can't be loaded: {error}") from error
    outputs = original.flavor.outputs(written, PROBES)
    if isinstance(original.flavor, EmbeddingFlavor):
        return compare_vectors(outputs, original.outputs(), "merged")
    return compare_logits(outputs, original.outputs(), "merged")


def to_onnx(original: Original, folder: Path) -> Agreement:
    """Write tokenizer and configuration, and the weights as an ONNX graph."""
    # The graph is made of the very model, which is changed for it.
    expected = original.outputs()
    _copy_without_weights(original, folder)
    graph = folder / onnx_graph.GRAPH
    onnx_graph.write_onnx(original.model, graph)
    vectors = onnx_graph.vectors_of_onnx(graph, original.model, PROBES)
    return compare_vectors(vectors, expected, "ONNX")


def to_openvino(original: Original, folder: Path) -> Agreement:
    """Write tokenizer and configuration, and the weights as an OpenVINO model."""
    expected = original.outputs()
    _copy_without_weights(original, folder)
    # OpenVINO reads graphs; this one is needed no longer.
    graph, file = folder / onnx_graph.GRAPH, folder / openvino_model.MODEL
    onnx_graph.write_onnx(original.model, graph)
    openvino_model.write_openvino(graph, file)
    shutil.rmtree(graph.parent)
    vectors = openvino_model.vectors_of_openvino(file, original.model, PROBES)
    return compare_vectors(vectors, expected, "OpenVINO")


def to_gguf(original: Original, folder: Path) -> Agreement:
    """Write model, tokenizer and chat template as one GGUF file.

    The file must give the logits of the model with its weights rounded as in the file.
    """
    described = gguf_file.checked_model(original.model)
    file = folder / f"{original.version.name}-{original.version.version}.gguf"
    gguf_file.write_gguf(described, file, file.stem, original.precision)

    if gguf_file.vocabulary_of_gguf(file) != gguf_file.tokens_by_id(original.model):
        raise DeploymentError(
            "the GGUF file must have the tokenizer's tokens, got others: this tokenizer can't be "
            "written as GGUF. Export the model with --to merged."
        )
    written = gguf_file.read_gguf(file, original.model.tokenizer)
    outputs, expected = original.flavor.outputs(written, PROBES), original.outputs()
    # What rounding to halves changes grows with the logits, which reach tens; the file itself has
    # to be as exact as any other.
    scale = 1.0 if original.precision == "f32" else float(np.abs(expected).max())
    agreement = compare_logits(outputs, expected, "GGUF", most=MOST_DIFFERENCE * scale)
    gguf_file.round_weights(original.model, original.precision)
    compare_logits(outputs, original.outputs(), "GGUF")
    return agreement


def to_adapter(original: Original, folder: Path) -> Agreement:
    """Write what was learnt since the base model as a LoRA adapter of PEFT."""
    base_name = original.version.base_model
    if base_name is None:
        raise UserError(
            f"{original.version.uri} must name its base model to be exported as an adapter. "
            "Export it with --to merged."
        )
    flavor = original.flavor
    base_folder = resolve_model(base_name, LANGUAGE_MODELS).path
    write_adapter(original.model, flavor.load(base_folder), base_name, folder)
    original.model.tokenizer.save_pretrained(str(folder))

    written = read_adapter(folder, flavor.load(base_folder))
    outputs = flavor.outputs(written, PROBES)
    return compare_logits(outputs, original.outputs(), "adapted")


FORMATS: Mapping[type, Mapping[str, Callable[[Original, Path], Agreement]]] = {
    EmbeddingFlavor: {"onnx": to_onnx, "openvino": to_openvino, "merged": to_merged},
    LanguageModelFlavor: {"gguf": to_gguf, "merged": to_merged, "adapter": to_adapter},
}
"""By the flavor of a family, what its versions are exported to."""


def _copy_without_weights(original: Original, folder: Path) -> None:
    copy_model(original.files, folder, original.version.uri)
    for pattern in _WEIGHTS:
        for file in folder.rglob(pattern):
            file.unlink()

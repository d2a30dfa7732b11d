"""OpenVINO: an embedding model's graph in Intel's form."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from tunetrail.learning.exporting.onnx_graph import OUTPUTS, tokens_of

NDArray = np.ndarray[Any, np.dtype[Any]]

MODEL = Path("openvino") / "openvino_model.xml"
"""Where sentence-transformers keeps the model within a folder; the weights are next to it."""


def write_openvino(onnx_file: Path, file: Path) -> None:
    """Write an ONNX graph as an OpenVINO model, its weights in float32."""
    openvino = _import_openvino()
    file.parent.mkdir(parents=True, exist_ok=True)
    model = openvino.Core().read_model(str(onnx_file))
    openvino.save_model(model, str(file), compress_to_fp16=False)


def vectors_of_openvino(file: Path, model: SentenceTransformer, texts: Sequence[str]) -> NDArray:
    """Return the vectors [texts, dimensions] that OpenVINO computes on the CPU."""
    openvino = _import_openvino()
    # By default, it computes in half precision where the processor has instructions for it.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(file), "CPU", options)
    return np.asarray(compiled(tokens_of(model, texts))[OUTPUTS[1]])


def _import_openvino() -> Any:
    # At its import, OpenVINO would send an event to its makers, unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino

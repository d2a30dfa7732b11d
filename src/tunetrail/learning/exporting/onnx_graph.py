"""ONNX: an embedding model as one graph, from token ids to vectors, by torch's exporter."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from tunetrail.errors import DeploymentError, one_line
from tunetrail.learning.cpu_layers.linear import restore_linear

NDArray = np.ndarray[Any, np.dtype[Any]]

GRAPH = Path("onnx") / "model.onnx"
"""Where sentence-transformers keeps the graph within the folder of a model."""
OUTPUTS = ("last_hidden_state", "sentence_embedding")
# Bytes of weights from which on they go to a file of their own: a graph has at most 2 GiB.
_ONE_FILE = 2**30


class _Graph(nn.Module):
    """The modules of an embedding model, with tensors for arguments."""

    def __init__(self, model: SentenceTransformer, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        features: dict[str, Any] = dict(zip(self.names, tensors, strict=True))
        for module in self.model:
            features = module(features)
        return features["token_embeddings"], features["sentence_embedding"]


def write_onnx(model: SentenceTransformer, file: Path) -> None:
    """Write an embedding model as an ONNX graph; the model can't be trained further.

    Its inputs are the tokenizer's, int64 [texts, tokens]; its outputs are `last_hidden_state`
    [texts, tokens, width] and `sentence_embedding` [texts, dimensions].

    Raises:
        DeploymentError: torch's exporter can't follow the model.
    """
    features = tokens_of(model, ["a", "a text of a few more tokens"])
    names = list(features)
    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    # Products of our own have conditions on the number of rows, which no graph can follow.
    restore_linear(model)
    graph = _Graph(model, names).eval()

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                tuple(torch.from_numpy(features[name]) for name in names),
                dynamo=True,
                input_names=names,
                output_names=list(OUTPUTS),
                dynamic_shapes=((axes,) * len(names),),
                verbose=False,
            )
            assert program is not None
            program.save(str(file), external_data=weights > _ONE_FILE)
    # The exporter raises what it stumbles over, often in hundreds of lines.
    except Exception as error:
        reason = one_line(error)[:300]
        raise DeploymentError(
            f"the model can't be written as an ONNX graph: {reason}. Export it with --to merged."
        ) from error


def vectors_of_onnx(file: Path, model: SentenceTransformer, texts: Sequence[str]) -> NDArray:
    """Return the vectors [texts, dimensions] that onnxruntime computes with a graph."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (vectors,) = session.run([OUTPUTS[1]], tokens_of(model, texts))
    return np.asarray(vectors)


def tokens_of(model: SentenceTransformer, texts: Sequence[str]) -> dict[str, NDArray]:
    """Return the tokenizer's features of texts, int64 [texts, tokens]."""
    encoded = model.tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=model.max_seq_length,
        return_tensors="np",
    )
    return {name: np.asarray(feature, dtype=np.int64) for name, feature in encoded.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out remarks of torch's exporter, which nobody can act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

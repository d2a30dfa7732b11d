"""Flavors: how the models of each family are written as MLflow models, read back and compared."""

import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import mlflow.sentence_transformers
import mlflow.transformers
import numpy as np
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from tunetrail.learning.language_model.learner import LanguageModel, last_logits

NDArray = np.ndarray[Any, np.dtype[Any]]


def pinned(*packages: str) -> list[str]:
    """Return `package==version` as installed, without local labels such as `+cpu`."""
    versions = map(importlib.metadata.version, packages)
    # Package indexes don't serve local versions, so a pin to one could not be installed.
    public_versions = [version.partition("+")[0] for version in versions]
    return [
        f"{package}=={version}" for package, version in zip(packages, public_versions, strict=True)
    ]


class Flavor(Protocol):
    """How the registry writes, reads and compares the models of a family."""

    def save(self, model: Any, folder: Path, metadata: Model) -> None:
        """Write the model with signature and requirements as an MLflow model."""

    def load(self, uri: str) -> Any:
        """Load a model from `models:/…` onto the CPU."""

    def outputs(self, model: Any, probes: Sequence[str]) -> NDArray:
        """Return numbers that are the same for equal models."""


class EmbeddingFlavor:
    """mlflow.sentence_transformers."""

    def save(self, model: Any, folder: Path, metadata: Model) -> None:
        """Write the model; its signature maps strings to float32 vectors [-1, dimensions]."""
        dimensions = int(model.get_embedding_dimension())
        signature = ModelSignature(
            inputs=Schema([ColSpec(DataType.string)]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dimensions))]),
        )
        requirements = pinned("mlflow", "sentence-transformers", "transformers", "torch")

        mlflow.sentence_transformers.save_model(
            model,
            str(folder),
            mlflow_model=metadata,
            signature=signature,
            pip_requirements=requirements,
        )

    def load(self, uri: str) -> Any:
        """Load the sentence-transformers model."""
        with tempfile.TemporaryDirectory(prefix="tunetrail-") as folder:
            return mlflow.sentence_transformers.load_model(uri, dst_path=folder).cpu().eval()

    def outputs(self, model: Any, probes: Sequence[str]) -> NDArray:
        """Return the vectors of the probes."""
        return np.asarray(model.encode(list(probes), show_progress_bar=False), dtype=np.float64)


class LanguageModelFlavor:
    """mlflow.transformers, task text-generation; adapters have been merged before."""

    def save(self, model: LanguageModel, folder: Path, metadata: Model) -> None:
        """Write model and tokenizer; the signature maps strings to strings."""
        text = Schema([ColSpec(DataType.string)])
        # Callers of the loaded model can set only parameters that the signature names.
        parameters = ParamSchema(
            [
                ParamSpec("max_new_tokens", DataType.integer, 128),
                ParamSpec("do_sample", DataType.boolean, False),
                ParamSpec("temperature", DataType.float, 1.0),
            ]
        )

        mlflow.transformers.save_model(
            {"model": model.model, "tokenizer": model.tokenizer},
            str(folder),
            task="text-generation",
            mlflow_model=metadata,
            signature=ModelSignature(inputs=text, outputs=text, params=parameters),
            pip_requirements=pinned("mlflow", "transformers", "torch"),
        )

    def load(self, uri: str) -> LanguageModel:
        """Load model and tokenizer."""
        with tempfile.TemporaryDirectory(prefix="tunetrail-") as folder:
            components = mlflow.transformers.load_model(
                uri, dst_path=folder, return_type="components"
            )
        model = components["model"].cpu().eval()
        return LanguageModel(model=model, tokenizer=components["tokenizer"])

    def outputs(self, model: LanguageModel, probes: Sequence[str]) -> NDArray:
        """Return the logits after each probe's last token."""
        return last_logits(model, probes)

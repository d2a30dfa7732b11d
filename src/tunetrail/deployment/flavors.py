"""Flavors: how the models of each family are written as MLflow models, read back and compared.

MLflow's loaders serve everybody else. They take the folder's word for which classes to import, so
what comes from a store is read here, by the loaders that base models go through.

MLflow and the loaders are imported when a model is written or read: families name their flavor, and
preparing rows needs families.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tunetrail.learning.models.folders import check_model_folder

if TYPE_CHECKING:
    from mlflow.models import Model

    from tunetrail.learning.language_model.model import LanguageModel

NDArray = np.ndarray[Any, np.dtype[Any]]

# Where MLflow's flavors put the files within the folder of a model.
_EMBEDDING_FILES = "model.sentence_transformer"
_LANGUAGE_MODEL_FILES, _TOKENIZER_FILES = "model", "components/tokenizer"


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

    def save(self, model: Any, folder: Path, metadata: "Model") -> None:
        """Write the model with signature and requirements as an MLflow model."""

    def load(self, folder: str) -> Any:
        """Load a model onto the CPU from the folder that `save` wrote, or from an exported one.

        Its files were compared with those that were registered. Raises `ModelError` if loading it
        would run code or open files elsewhere.
        """

    def weights(self, model: Any) -> Mapping[str, NDArray]:
        """Return all weights by name, which have to survive saving and loading exactly."""

    def outputs(self, model: Any, probes: Sequence[str]) -> NDArray:
        """Return what the model computes for the probes, [probes, ...]."""


class EmbeddingFlavor:
    """mlflow.sentence_transformers."""

    def save(self, model: Any, folder: Path, metadata: "Model") -> None:
        """Write the model; its signature maps strings to float32 vectors [-1, dimensions]."""
        import mlflow.sentence_transformers
        from mlflow.models.signature import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema, TensorSpec

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
            # The version gets a card of tunetrail's own.
            create_model_card=False,
        )

    def load(self, folder: str) -> Any:
        """Load the sentence-transformers model."""
        from tunetrail.learning.embedding.reader import load_embedding_model

        path = check_model_folder(_subfolder(folder, _EMBEDDING_FILES))
        return load_embedding_model(str(path)).eval()

    def weights(self, model: Any) -> Mapping[str, NDArray]:
        """Return the weights and buffers of all modules."""
        return _weights(model)

    def outputs(self, model: Any, probes: Sequence[str]) -> NDArray:
        """Return the vectors of the probes."""
        return np.asarray(model.encode(list(probes), show_progress_bar=False), dtype=np.float64)


class LanguageModelFlavor:
    """mlflow.transformers; adapters have been merged before."""

    def save(self, model: "LanguageModel", folder: Path, metadata: "Model") -> None:
        """Write model and tokenizer.

        Served by MLflow, the model takes `messages` and answers as OpenAI's chat completions do. It
        writes the likeliest tokens, by which it was evaluated; MLflow's pipeline would sample.
        """
        import mlflow.transformers

        mlflow.transformers.save_model(
            {"model": model.model, "tokenizer": model.tokenizer},
            str(folder),
            task="llm/v1/chat",
            model_config={"do_sample": False},
            mlflow_model=metadata,
            pip_requirements=pinned("mlflow", "transformers", "torch"),
        )

    def load(self, folder: str) -> "LanguageModel":
        """Load model and tokenizer."""
        from tunetrail.learning.language_model.model import LanguageModel
        from tunetrail.learning.language_model.module import load_language_model, load_tokenizer

        path = check_model_folder(_subfolder(folder, _LANGUAGE_MODEL_FILES))
        tokenizer = load_tokenizer(str(_subfolder(folder, _TOKENIZER_FILES)))
        model = load_language_model(str(path)).eval()  # type: ignore[no-untyped-call]
        return LanguageModel(model=model, tokenizer=tokenizer)

    def weights(self, model: "LanguageModel") -> Mapping[str, NDArray]:
        """Return the weights and buffers of the model."""
        return _weights(model.model)

    def outputs(self, model: "LanguageModel", probes: Sequence[str]) -> NDArray:
        """Return the logits after each probe's last token."""
        from tunetrail.learning.language_model.model import last_logits

        return last_logits(model, probes)


def _subfolder(folder: str, name: str) -> Path:
    """Return a subfolder of an MLflow model; an exported model is one folder without any."""
    subfolder = Path(folder) / name
    return subfolder if subfolder.is_dir() else Path(folder)


def _weights(model: Any) -> dict[str, NDArray]:
    """Return the weights and buffers of a torch module by name, without copying them."""
    return {name: weight.cpu().numpy() for name, weight in model.state_dict().items()}

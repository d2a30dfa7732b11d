"""EmbeddingModule: a sentence-transformers model that Lightning trains."""

from typing import Any

import pytorch_lightning as lightning
from sentence_transformers import SentenceTransformer
from torch import Tensor

from tunetrail.learning.embedding.losses import build_embedding_loss
from tunetrail.learning.training.optimization import configure_adamw


def load_embedding_model(path: str, max_length: int | None = None) -> SentenceTransformer:
    """Load a local sentence-transformers folder onto the CPU, from safetensors only and without remote code."""
    model = SentenceTransformer(
        path, device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
    )
    if max_length is not None:
        config = getattr(getattr(model[0], "auto_model", None), "config", None)
        longest = getattr(config, "max_position_embeddings", None) or max_length
        model.max_seq_length = min(max_length, longest)
    return model


class EmbeddingModule(lightning.LightningModule):
    """Trains an embedding model on batches of one sample shape.

    Hyper-parameters are plain Python values, so checkpoints load with `weights_only=True`.

    Args:
        model: Folder of the model that training starts from.
        shape: Name of the samples' shape.
        loss: A loss that fits the shape, or `auto`.
        max_length: Longest text in tokens.
        mini_batch_size: Above 0: the cached contrastive loss, in pieces of this size.
        learning_rate: Peak of the schedule.
        weight_decay: Of the matrices; biases and norms never decay.
        warmup_steps: Steps of linear warm-up.
        schedule: `linear`, `cosine` or `constant` after the warm-up.
    """

    def __init__(
        self,
        *,
        model: str,
        shape: str,
        loss: str = "auto",
        max_length: int = 128,
        mini_batch_size: int = 0,
        learning_rate: float = 2e-5,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: str = "linear",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = load_embedding_model(model, max_length)
        # in a tuple, or the loss's own reference to the model would put every weight into the state dict twice
        self._loss = (build_embedding_loss(self.model, shape, loss, mini_batch_size),)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Return the loss of one batch."""
        loss = self._loss[0](batch["features"], batch["target"])
        self.log("train/loss", loss, batch_size=batch["rows"])
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Log the loss of one validation batch, weighted by its rows."""
        loss = self._loss[0](batch["features"], batch["target"])
        self.log("val/loss", loss, batch_size=batch["rows"], on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW and the schedule over the trainer's estimated steps."""
        return configure_adamw(
            self,
            learning_rate=self.hparams["learning_rate"],
            weight_decay=self.hparams["weight_decay"],
            warmup_steps=self.hparams["warmup_steps"],
            schedule=self.hparams["schedule"],
            total_steps=int(self.trainer.estimated_stepping_batches),
        )

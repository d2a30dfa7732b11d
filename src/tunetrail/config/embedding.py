"""The embedding model, its prompts, its loss and its training."""

from dataclasses import dataclass, field

from tunetrail.config.checks import check, check_choice
from tunetrail.config.model_types import check_start
from tunetrail.config.training import TrainingConfig

EMBEDDING_LOSSES = {
    "pair": ("multiple_negatives_ranking",),
    "score": ("cosent", "angle", "cosine_similarity"),
    "label": ("supervised_contrastive",),
    "vector": ("mse", "cosine"),
    "text": ("simcse",),
}
"""Losses by sample shape; the first of each is what `loss: auto` takes."""


@dataclass(kw_only=True)
class EmbeddingConfig:
    """The embedding model, its loss and its training.

    `shape` chooses the samples when a session holds several shapes. `start_from: root` goes on from the root version if
    it was made from the same base model. With `mini_batch_size` above 0, contrastive batches go through the model in
    pieces of that size (the cached loss).

    `query_prompt` goes before anchors and before the texts of all shapes but pairs, `document_prompt` before positives
    and negatives; their tokens count towards `max_length`, and the trained model keeps them under the names `query` and
    `document`. An empty one is none, even where the base model comes with its own.
    """

    model: str = "minilm"
    max_length: int = 128
    query_prompt: str = ""
    document_prompt: str = ""
    shape: str | None = None
    loss: str = "auto"
    mini_batch_size: int = 0
    start_from: str = "root"
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check(self.max_length >= 4, "embedding.max_length", "at least 4 tokens", self.max_length)
        for name in ("query_prompt", "document_prompt"):
            prompt = getattr(self, name)
            check(
                isinstance(prompt, str) and prompt.encode(errors="ignore").decode() == prompt,
                f"embedding.{name}",
                "a text of valid Unicode",
                prompt,
            )
        if self.shape is not None:
            check_choice("embedding.shape", self.shape, tuple(EMBEDDING_LOSSES))
        every_loss = tuple(loss for losses in EMBEDDING_LOSSES.values() for loss in losses)
        check_choice("embedding.loss", self.loss, ("auto", *every_loss))
        if self.shape is not None and self.loss != "auto":
            check_choice(f"embedding.loss for {self.shape} samples", self.loss, EMBEDDING_LOSSES[self.shape])
        check(self.mini_batch_size >= 0, "embedding.mini_batch_size", "at least 0 (0: off)", self.mini_batch_size)
        check_start("embedding", self.start_from)

"""Training embedding models: tunetrail's learner and sentence-transformers' own trainer, each in a fresh process."""

from pathlib import Path
from typing import Any

import torch

from bench.engine.card import clock_of, device, has_bfloat16, machine_peak, peak_memory
from bench.engine.clock import StepClock
from bench.engine.flops import size_of, training_flops
from bench.engine.rows import load_rows
from bench.engine.tasks import MAX_GRAD_NORM, WEIGHT_DECAY, Measured, Task, timed, tracked_run
from tunetrail.learning.training_plan import TrainingPlan

COLUMNS = {"score": ("sentence1", "sentence2"), "pair": ("anchor", "positive")}
_LOSS_ROWS = 32
"""Held-out rows among which a contrastive loss looks for the right one."""


def train_with_tunetrail(*, task: dict[str, Any], folder: str, keep: str = "") -> dict[str, Any]:
    """Train as `tunetrail train` does, metrics going to MLflow; return `Measured.to_dict()`.

    Args:
        task: `Task.to_dict()`.
        folder: For checkpoints and the MLflow store.
        keep: Folder that the trained model is saved into, empty for none.
    """
    from tunetrail.config import EmbeddingConfig
    from tunetrail.learning.embedding.learner import EmbeddingLearner

    given, rows = Task(**task), load_rows(task["train"])
    config = EmbeddingConfig(
        max_length=given.max_length,
        loss=given.loss,
        mini_batch_size=given.mini_batch_size,
        training=given.training(),
    )
    learner = EmbeddingLearner(config=config, shape=given.shape, seed=given.seed)
    run, peak = tracked_run(Path(folder)), machine_peak()
    with clock_of(given) as clock:
        model, result = learner.train(
            given.model,
            rows,
            [],
            config.training,
            TrainingPlan(folder=Path(folder), on_metrics=run.log_metrics, validate=False),
        )
    return _measured(given, model, clock, peak, list(result.history["train/loss"]), keep)


def train_with_sentence_transformers(
    *, task: dict[str, Any], folder: str, keep: str = ""
) -> dict[str, Any]:
    """Train with SentenceTransformerTrainer, with its defaults except for the task's own values; as above."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    given, rows = Task(**task), load_rows(task["train"])
    model = SentenceTransformer(given.model, device=device(), local_files_only=True)
    model.max_seq_length = given.max_length
    columns = (*COLUMNS[given.shape], *(["score"] if given.shape == "score" else []))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        num_train_epochs=given.epochs,
        per_device_train_batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=given.warmup_steps,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        logging_steps=given.logging_steps,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        use_cpu=device() == "cpu",
        bf16=has_bfloat16(),
        seed=given.seed,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(
            {column: [row[column] for row in rows] for column in columns}
        ),
        loss=_peer_loss(model, given.loss),
    )
    peak = machine_peak()
    with clock_of(given) as clock:
        trainer.train()
    losses = [
        (entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry
    ]
    return _measured(given, model, clock, peak, losses, keep)


def held_out_before(*, task: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return the loss of the untrained model on the held-out rows."""
    from sentence_transformers import SentenceTransformer

    given = Task(**task)
    model = SentenceTransformer(given.model, device=device(), local_files_only=True)
    model.max_seq_length = given.max_length
    return {"held_out_loss": _held_out_loss(model, given)}


def _measured(
    task: Task,
    model: Any,
    clock: StepClock,
    peak: float,
    losses: list[tuple[int, float]],
    keep: str,
) -> dict[str, Any]:
    memory, window = peak_memory(), timed(clock, task.epochs)
    peak = max(peak, machine_peak())
    if clock.steps != task.steps:
        raise ValueError(f"both sides must take {task.steps} steps, got {clock.steps}.")
    lengths = token_lengths(
        model.tokenizer, load_rows(task.train), COLUMNS[task.shape], task.max_length
    )
    if keep:
        model.save_pretrained(keep, create_model_card=False)
    epochs = task.epochs - 1
    return Measured(
        rows=task.rows * epochs,
        tokens=sum(lengths) * epochs,
        supervised=0,
        flops=training_flops(size_of(model), lengths) * epochs,
        window=window,
        peak_flops=peak,
        memory=memory,
        losses=losses,
        held_out_loss=_held_out_loss(model, task),
    ).to_dict()


def token_lengths(
    tokenizer: Any, rows: list[dict[str, Any]], columns: tuple[str, ...], max_length: int
) -> list[int]:
    """Return the tokens of each text, at most `max_length`."""
    texts = [row[column] for row in rows for column in columns]
    return [
        len(ids) for ids in tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    ]


def _peer_loss(model: Any, name: str) -> Any:
    from sentence_transformers.sentence_transformer.losses import (
        CoSENTLoss,
        CosineSimilarityLoss,
        MultipleNegativesRankingLoss,
    )

    losses = {
        "cosent": CoSENTLoss,
        "cosine_similarity": CosineSimilarityLoss,
        "multiple_negatives_ranking": MultipleNegativesRankingLoss,
    }
    return losses[name](model)


def _held_out_loss(model: Any, task: Task) -> float:
    """Return the mean of sentence-transformers' own loss over batches of the held-out rows, dropout off."""
    rows, loss = load_rows(task.held_out), _peer_loss(model, task.loss)
    vectors = [
        model.encode([row[column] for row in rows], convert_to_tensor=True, show_progress_bar=False)
        for column in COLUMNS[task.shape]
    ]
    scores = [row.get("score", 0.0) for row in rows]
    targets = torch.tensor(scores, device=vectors[0].device)
    values = []
    for start in range(0, len(rows), _LOSS_ROWS):
        part = slice(start, start + _LOSS_ROWS)
        values.append(
            float(
                loss.compute_loss_from_embeddings([each[part] for each in vectors], targets[part])
            )
        )
    return sum(values) / len(values)

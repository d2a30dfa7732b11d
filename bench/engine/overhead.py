"""A toy model trained through the ordinary path and by a bare loop of torch, each in a fresh process."""

from pathlib import Path
from typing import Any

import torch

from bench.engine.clock import StepClock
from bench.engine.rows import load_rows
from bench.engine.tasks import Task, timed, tracked_run
from tunetrail.config import EmbeddingConfig
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fitting import optimization_settings
from tunetrail.learning.training.optimization import configure_optimizer
from tunetrail.learning.training_plan import TrainingPlan

_DIMENSIONS, _LAYERS, _HEADS = 32, 2, 2


def train_through_lightning(*, task: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train the toy as `tunetrail train` does, metrics going to MLflow at the default interval; return ms per step.

    Args:
        task: `Task.to_dict()`; its model is made here.
        folder: For the model, checkpoints and the MLflow store.
    """
    given, model = Task(**task), toy_model(Path(folder) / "toy")
    training = given.training()
    training.logging_steps = type(training)().logging_steps
    learner = EmbeddingLearner(
        config=EmbeddingConfig(max_length=given.max_length, training=training),
        shape=given.shape,
        seed=given.seed,
    )
    run = tracked_run(Path(folder))
    with StepClock(counts_tokens=False) as clock:
        learner.train(
            model,
            load_rows(given.train),
            [],
            training,
            TrainingPlan(folder=Path(folder), on_metrics=run.log_metrics, validate=False),
        )
    return _per_step(clock, given)


def train_in_a_bare_loop(*, task: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train the same module on the same batches by the same optimizer, with nothing around them; as above."""
    given, model = Task(**task), toy_model(Path(folder) / "toy")
    training = given.training()
    module = EmbeddingModule(
        model=model,
        shape=given.shape,
        max_length=given.max_length,
        optimization=optimization_settings(training),
    )
    data = EmbeddingDataModule(
        train=load_rows(given.train),
        validation=[],
        shape=given.shape,
        batch_size=given.batch_size,
        batches=training.batches,
        seed=given.seed,
    )
    configured = configure_optimizer(
        module, **optimization_settings(training), total_steps=given.steps
    )
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.train()
    loader = data.train_dataloader()
    with StepClock(counts_tokens=False) as clock:
        for epoch in range(given.epochs):
            loader.batches.set_epoch(epoch)
            for batch in loader:
                loss = module.loss_of(batch) / batch.window_weight
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return _per_step(clock, given)


def toy_model(folder: Path) -> str:
    """Write a sentence-transformers model of two layers with 32 dimensions that reads bytes; return its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **special)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=_DIMENSIONS,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        intermediate_size=2 * _DIMENSIONS,
        pad_token_id=fast.pad_token_id,
    )
    BertModel(config).save_pretrained(folder / "bert")
    fast.save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(_DIMENSIONS, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(
        str(folder / "embedding"), create_model_card=False
    )
    return str(folder / "embedding")


def _per_step(clock: StepClock, task: Task) -> dict[str, Any]:
    if clock.steps != task.steps:
        raise ValueError(f"both sides must take {task.steps} steps, got {clock.steps}.")
    window = timed(clock, task.epochs)
    return {"milliseconds": 1000.0 * window.seconds / window.steps}

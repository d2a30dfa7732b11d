"""Fine-tuning language models: tunetrail's learner and TRL's SFTTrainer, each in a fresh process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.engine.card import clock_of, device, has_bfloat16, machine_peak, peak_memory
from bench.engine.clock import StepClock
from bench.engine.flops import ModelSize, size_of, training_flops
from bench.engine.rows import load_rows
from bench.engine.tasks import (
    MAX_GRAD_NORM,
    WEIGHT_DECAY,
    Measured,
    Task,
    timed,
    tracked_run,
    warmup_of,
)
from tunetrail.config import AdapterConfig, LanguageModelConfig
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer
from tunetrail.learning.tokens.chat import IGNORED, tokenize_record
from tunetrail.learning.training_plan import TrainingPlan

_LOSS_ROWS = 4


def train_with_tunetrail(*, task: dict[str, Any], folder: str, keep: str = "") -> dict[str, Any]:
    """Train as `tunetrail train` does, metrics going to MLflow; return `Measured.to_dict()`.

    Args:
        task: `Task.to_dict()`.
        folder: For checkpoints and the MLflow store.
        keep: Folder that the trained model is saved into, empty for none.
    """
    given, rows = Task(**task), load_rows(task["train"])
    learner = _learner(given)
    run, peak = tracked_run(Path(folder)), machine_peak()
    with clock_of(given) as clock:
        model, result = learner.train(
            given.model,
            rows,
            [],
            learner.config.training,
            TrainingPlan(folder=Path(folder), on_metrics=run.log_metrics, validate=False),
        )
    memory = peak_memory()
    if clock.steps != given.steps:
        raise ValueError(f"tunetrail must take {given.steps} steps, got {clock.steps}.")
    examples = [tokenize_record(model.tokenizer, row, given.max_length) for row in rows]
    lengths = [len(example.input_ids) for example in examples]
    supervised = sum(label != IGNORED for example in examples for label in example.labels[1:])
    losses = list(result.history["train/loss"])
    size = _size(given)
    return _measured(given, model, clock, peak, memory, losses, lengths, supervised, size, keep)


def train_with_trl(
    *,
    task: dict[str, Any],
    folder: str,
    packing: bool = False,
    checkpointing: bool = False,
    keep: str = "",
) -> dict[str, Any]:
    """Train with SFTTrainer on prompts and completions, loss on the completions; as above.

    Args:
        task: `Task.to_dict()`.
        folder: For the trainer.
        packing: Rows packed into blocks of `max_length` tokens, as many blocks per step as hold
            about a batch's rows.
        checkpointing: Gradient checkpointing, on by default there; tunetrail's default and the
            comparison's is off.
        keep: Folder that the trained model is saved into, empty for none.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTTrainer

    given, rows = Task(**task), load_rows(task["train"])
    tokenizer = load_tokenizer(given.model)
    model = AutoModelForCausalLM.from_pretrained(
        given.model, local_files_only=True, dtype=torch.float32
    )
    trainer = SFTTrainer(
        model=model,
        args=_trl_arguments(
            given, folder, packing, checkpointing, _blocks_per_step(given, tokenizer, rows)
        ),
        train_dataset=Dataset.from_list([_prompt_and_completion(row) for row in rows]),
        processing_class=tokenizer,
        peft_config=_lora(given),
    )
    seen = trainer.train_dataset
    lengths = (
        [length for each in seen["seq_lengths"] for length in each]
        if packing
        else list(map(len, seen["labels"]))
    )
    supervised = sum(label != IGNORED for labels in seen["labels"] for label in labels)
    size, peak = size_of(trainer.model), machine_peak()
    with clock_of(given) as clock:
        trainer.train()
    memory = peak_memory()
    losses = [
        (entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry
    ]
    trained = trainer.model.merge_and_unload() if given.adapter == "lora" else trainer.model
    trained.save_pretrained(
        f"{folder}/trained"
    )  # the trainer has put a forward of its own into the model
    tokenizer.save_pretrained(f"{folder}/trained")
    loaded = _learner(given).load(f"{folder}/trained")
    return _measured(given, loaded, clock, peak, memory, losses, lengths, supervised, size, keep)


def held_out_before(*, task: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return the loss of the untrained model on the held-out rows."""
    given = Task(**task)
    return {"held_out_loss": _held_out_loss(_learner(given).load(given.model), given)}


def _trl_arguments(task: Task, folder: str, packing: bool, checkpointing: bool, blocks: int) -> Any:
    from trl import SFTConfig

    batch_size = blocks if packing else task.batch_size
    return SFTConfig(
        output_dir=folder,
        num_train_epochs=task.epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=task.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=warmup_of(task.steps),
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        logging_steps=task.logging_steps,
        max_length=task.max_length,
        completion_only_loss=True,
        packing=packing,
        gradient_checkpointing=checkpointing,
        bf16=has_bfloat16(),
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        use_cpu=device() == "cpu",
        seed=task.seed,
    )


def _blocks_per_step(task: Task, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> int:
    tokens = sum(len(tokenize_record(tokenizer, row, task.max_length).input_ids) for row in rows)
    return max(1, round(tokens / len(rows) * task.batch_size / task.max_length))


def _prompt_and_completion(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["input"]}],
        "completion": [{"role": "assistant", "content": row["output"]}],
    }


def _lora(task: Task) -> Any:
    from peft import LoraConfig

    if task.adapter != "lora":
        return None
    own = AdapterConfig()
    return LoraConfig(
        r=own.rank,
        lora_alpha=own.alpha,
        lora_dropout=own.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _learner(task: Task) -> LanguageModelLearner:
    config = LanguageModelConfig(
        max_length=task.max_length,
        adapter=AdapterConfig(kind=task.adapter),
        training=task.training(),
    )
    return LanguageModelLearner(config=config, seed=task.seed)


def _size(task: Task) -> ModelSize:
    """Return the size of what is trained; the model that the learner returns has its adapters merged already."""
    from peft import get_peft_model

    model, lora = load_language_model(task.model), _lora(task)
    return size_of(model if lora is None else get_peft_model(model, lora))


def _measured(
    task: Task,
    model: LanguageModel,
    clock: StepClock,
    peak: float,
    memory: int,
    losses: list[tuple[int, float]],
    lengths: list[int],
    supervised: int,
    size: ModelSize,
    keep: str,
) -> dict[str, Any]:
    if keep:
        _learner(task).save(model, Path(keep))
    epochs = task.epochs - 1
    return Measured(
        rows=task.rows * epochs,
        tokens=sum(lengths) * epochs,
        supervised=supervised * epochs,
        flops=training_flops(size, lengths, supervised) * epochs,
        window=timed(clock, task.epochs),
        peak_flops=max(peak, machine_peak()),
        memory=memory,
        losses=losses,
        held_out_loss=_held_out_loss(model, task),
    ).to_dict()


def _held_out_loss(model: LanguageModel, task: Task) -> float:
    """Return the nats per supervised token of the held-out rows, dropout off."""
    found = _learner(task).likelihoods(model, load_rows(task.held_out), _LOSS_ROWS)
    return float(found.nats.sum() / found.tokens.sum())

"""Our modules and data with a Trainer that somebody else has configured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision

from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.tokens.chat import tokenize_record

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

PAIRS = [
    {"anchor": f"question {row} {'why ' * (row % 5)}", "positive": f"the answer is {row * 7}"}
    for row in range(26)
]


def run(module: Any, data: Any, folder: Path, **settings: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        gradient_clip_val=0.5,
        accumulate_grad_batches=4,
        callbacks=[
            EarlyStopping("val/loss"),
            ModelCheckpoint(folder / "checkpoints", monitor="val/loss", filename="best"),
            LearningRateMonitor(),
        ],
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    module.train()
    trainer.fit(module, datamodule=data)
    return trainer


def embedding_training(path: str) -> tuple[EmbeddingModule, EmbeddingDataModule]:
    module = EmbeddingModule(model=path, shape="pair", optimization={"learning_rate": 1e-3})
    data = EmbeddingDataModule(train=PAIRS, validation=PAIRS[:8], shape="pair", batch_size=4)
    return module, data


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_embedding_model_trains_with_any_trainer(
    encoder_folder: Callable[..., str], tmp_path: Path, precision: str
) -> None:
    module, data = embedding_training(encoder_folder("bert"))
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}

    trainer = run(module, data, tmp_path, precision=precision)

    # Seven micro-batches are two windows: of four, and of three.
    assert trainer.global_step == 4
    assert {"train/loss", "train/gradient_norm", "val/loss"} <= set(trainer.callback_metrics)
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()
    changed = [
        name for name, weight in module.named_parameters() if not torch.equal(weight, before[name])
    ]
    trained = [name for name, weight in module.named_parameters() if weight.requires_grad]
    assert changed == trained


@pytest.mark.parametrize(("precision", "fused"), [("bf16-mixed", True), ("16-mixed", False)])
def test_only_an_optimizer_that_scales_no_gradients_is_fused(
    encoder_folder: Callable[..., str], tmp_path: Path, precision: Any, fused: bool
) -> None:
    module, data = embedding_training(encoder_folder("bert"))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if precision == "16-mixed" else None
    plugin = MixedPrecision(precision, "cpu", scaler=scaler)

    trainer = run(module, data, tmp_path, plugins=[plugin], gradient_clip_algorithm="value")

    assert trainer.global_step == 4
    assert bool(trainer.optimizers[0].defaults["fused"]) == fused
    assert all(bool(torch.isfinite(weight).all()) for weight in module.parameters())


def test_a_language_model_trains_with_any_trainer(
    decoder_folder: Callable[..., str], tmp_path: Path
) -> None:
    path = decoder_folder("llama")
    tokenizer = load_tokenizer(path)
    examples = [
        tokenize_record(tokenizer, {"input": f"say {row}", "output": "a" * row}, 64)
        for row in range(1, 19)
    ]
    module = LanguageModelModule(model=path, optimization={"learning_rate": 1e-3})
    data = LanguageModelDataModule(train=examples, validation=examples[:4], batch_size=2)

    trainer = run(module, data, tmp_path)

    assert trainer.global_step == 6
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_a_checkpoint_of_another_trainer_resumes(
    encoder_folder: Callable[..., str], tmp_path: Path
) -> None:
    path = encoder_folder("bert")
    module, data = embedding_training(path)
    run(module, data, tmp_path)
    best = tmp_path / "checkpoints" / "best.ckpt"

    resumed, data = embedding_training(path)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        accumulate_grad_batches=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(resumed.train(), datamodule=data, ckpt_path=best, weights_only=True)

    assert trainer.global_step == 6

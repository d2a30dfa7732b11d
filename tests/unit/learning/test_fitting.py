import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tunetrail.config import TrainingConfig
from tunetrail.config.training import BatchesConfig, CheckpointsConfig
from tunetrail.errors import TrainingError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.starting_weights import load_weights
from tunetrail.learning.step_counts import budgeted
from tunetrail.learning.training.micro_batches import SharedBatch
from tunetrail.learning.training_plan import TrainingPlan

PAIRS = [
    {"anchor": f"question {n} {'why ' * (n % 5)}", "positive": f"the answer is {n * 7}"}
    for n in range(24)
]
SAME = [{"sentence1": f"text {n}", "sentence2": f"other {n}", "score": 1.0} for n in range(16)]
OPPOSITE = [record | {"score": -1.0} for record in SAME]
"""Whoever learns SAME gets worse on OPPOSITE with every step."""


class Watched(EmbeddingModule):
    """Notes the mode of every training step and the gradient's norm at every optimizer step."""

    def __init__(self, **hparams: Any) -> None:
        super().__init__(**hparams)
        self.dropout_active: list[bool] = []
        self.norms: list[float] = []

    def training_step(self, batch: SharedBatch, batch_idx: int) -> dict[str, Any]:
        dropouts = [each for each in self.model.modules() if isinstance(each, torch.nn.Dropout)]
        self.dropout_active.append(
            self.training and len(dropouts) > 0 and all(each.training for each in dropouts)
        )
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        configured["optimizer"].register_step_post_hook(
            lambda *arguments: self.norms.append(self._norm())
        )
        return configured

    def _norm(self) -> float:
        gradients = [
            parameter.grad.norm() for parameter in self.parameters() if parameter.grad is not None
        ]
        return float(torch.stack(gradients).norm())


def pair_data(
    module: EmbeddingModule, records: Any = PAIRS, validation: Any = PAIRS
) -> EmbeddingDataModule:
    return EmbeddingDataModule(
        train=records,
        validation=validation,
        shape=module.hparams["shape"],
        batch_size=4,
        loss=module.losses[module.hparams["shape"]],
    )


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


def fitted(
    path: str,
    folder: Path,
    *,
    seed: int = 0,
    shape: str = "pair",
    records: Any = PAIRS,
    validation: Any = PAIRS,
    on_metrics: Any = ignore,
    validate: bool = True,
    learning_rate: float = 1e-3,
    loss: str = "auto",
    **training: Any,
) -> tuple[Watched, FitResult]:
    config = TrainingConfig(
        **(
            {
                "num_epochs": 2,
                "warmup_steps": 0,
                "learning_rate": learning_rate,
                "validations_per_epoch": 1,
            }
            | training
        )
    )
    module = Watched(
        model=path,
        shape=shape,
        loss=loss,
        optimization=optimization_settings(config),
        seed=seed,
    )
    data = pair_data(module, records, validation)
    result = fit(
        module,
        data,
        config,
        TrainingPlan(folder=folder, on_metrics=on_metrics, validate=validate),
        seed=seed,
    )
    return module, result


def opposed(path: str, folder: Path, **training: Any) -> tuple[Watched, FitResult]:
    return fitted(
        path,
        folder,
        shape="score",
        loss="cosine_similarity",
        records=SAME,
        validation=OPPOSITE,
        schedule="constant",
        **training,
    )


def validation_loss(module: EmbeddingModule, records: Any) -> float:
    module.eval()
    total = 0.0
    with torch.no_grad():
        for shared in pair_data(module, validation=records).val_dataloader():
            total += float(module.measures_of(shared.batch)["loss"])
    return total / len(records)


def test_fit_trains_with_dropout(tiny_embedding_model: str, tmp_path: Path) -> None:
    module, _ = fitted(tiny_embedding_model, tmp_path)
    assert module.dropout_active == [True] * 12  # after a validation, too


def test_fit_takes_no_part_in_an_allocation_of_slurm(
    tiny_embedding_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script with `#SBATCH --ntasks=8` has these variables, which Lightning refuses."""
    variables = {"JOB_ID": "7", "JOB_NAME": "train.sh", "NNODES": "2", "NTASKS": "8"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)

    _, result = fitted(tiny_embedding_model, tmp_path, max_steps=1)

    assert result.steps == 1


def test_fit_lowers_the_loss_and_reports_it(tiny_embedding_model: str, tmp_path: Path) -> None:
    received: list[tuple[int, dict[str, float]]] = []
    module, result = fitted(
        tiny_embedding_model,
        tmp_path,
        num_epochs=3,
        logging_steps=4,
        on_metrics=lambda metrics, step: received.append((step, dict(metrics))),
    )
    losses = [loss for _, loss in result.history["val/loss"]]
    assert losses[-1] < losses[0]
    assert (result.steps, result.epochs, result.precision, result.stopped_early) == (
        18,
        3,
        "32-true",
        False,
    )
    assert [step for step, _ in result.history["train/loss"]] == [1, 4, 8, 12, 16]
    assert [step for step, _ in result.history["val/loss"]] == [6, 12, 18]
    assert [step for step, metrics in received if "val/loss" in metrics] == [6, 12, 18]
    assert json.loads(json.dumps(result.to_dict()))["history"]["val/loss"] == [
        [step, loss] for step, loss in result.history["val/loss"]
    ]
    assert result.seconds > 0
    assert math.isfinite(validation_loss(module, PAIRS))


def test_fit_loads_the_weights_of_the_best_validation_back(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    module, result = opposed(tiny_embedding_model, tmp_path, num_epochs=3)
    losses = [loss for _, loss in result.history["val/loss"]]
    assert losses[0] == min(losses) < losses[-1]
    assert result.best_validation_loss == losses[0]
    assert validation_loss(module, OPPOSITE) == pytest.approx(losses[0], abs=1e-5)
    best, last = (
        torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "last")
    )
    state = module.state_dict()
    assert all(torch.equal(state[name], best[name]) for name in state)
    assert any(not torch.equal(last[name], best[name]) for name in state)
    load_weights(module, tmp_path / "checkpoints" / "last.ckpt")
    assert validation_loss(module, OPPOSITE) == pytest.approx(losses[-1], abs=1e-5)


@pytest.mark.parametrize(("patience", "steps"), [(1, 8), (2, 12), (0, 16)])
def test_fit_stops_early_when_validation_gets_worse(
    tiny_embedding_model: str, tmp_path: Path, patience: int, steps: int
) -> None:
    _, result = opposed(
        tiny_embedding_model, tmp_path, num_epochs=4, early_stopping_patience=patience
    )
    assert (result.steps, result.stopped_early) == (steps, patience > 0)


SCORES = [record | {"score": float(n % 2)} for n, record in enumerate(SAME)]
LABELS = [{"text": f"text {n}", "label": f"kind {n % 3}"} for n in range(16)]
VECTORS = [{"text": f"text {n}", "embedding": [float(n % 3)] * 32} for n in range(16)]


@pytest.mark.parametrize(
    ("shape", "loss", "records"),
    [
        ("pair", "auto", PAIRS[:16]),
        ("score", "cosent", SCORES),
        ("score", "angle", SCORES),
        ("label", "auto", LABELS),
    ],
)
def test_one_validation_row_neither_stops_nor_chooses(
    tiny_embedding_model: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    shape: str,
    loss: str,
    records: Any,
) -> None:
    """Compared with no other row, its loss says nothing, so it can't get better."""
    module, result = fitted(
        tiny_embedding_model,
        tmp_path,
        shape=shape,
        loss=loss,
        records=records,
        validation=records[:1],
        num_epochs=4,
        early_stopping_patience=1,
    )

    assert (result.steps, result.stopped_early) == (16, False)
    assert result.best_validation_loss is None
    checkpoints = tmp_path / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["last.ckpt"]
    last = torch.load(checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weight, last[name]) for name, weight in module.state_dict().items())
    (message,) = [text for text in caplog.messages if text.startswith("validation: ")]
    assert "neither chooses the weights nor stops the training" in message


@pytest.mark.parametrize(
    ("shape", "loss", "records", "rows"),
    [
        ("pair", "auto", PAIRS[:16], 2),
        ("vector", "auto", VECTORS, 1),
        ("score", "cosine_similarity", SCORES, 1),
    ],
)
def test_as_few_validation_rows_as_can_be_compared_choose(
    tiny_embedding_model: str, tmp_path: Path, shape: str, loss: str, records: Any, rows: int
) -> None:
    _, result = fitted(
        tiny_embedding_model,
        tmp_path,
        shape=shape,
        loss=loss,
        records=records,
        validation=records[:rows],
    )

    assert result.best_validation_loss == min(loss for _, loss in result.history["val/loss"])
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_validation_loss_of_the_same_weights_does_not_depend_on_the_batch_size(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    losses = []
    for batch_size in (4, 12):
        module = EmbeddingModule(model=tiny_embedding_model, shape="pair", seed=0)
        data = EmbeddingDataModule(
            train=PAIRS, validation=PAIRS, shape="pair", batch_size=batch_size
        )
        training = TrainingConfig(max_steps=1, warmup_steps=0)
        module.optimization = {**optimization_settings(training), "learning_rate": 1e-30}
        plan = TrainingPlan(folder=tmp_path / str(batch_size), on_metrics=ignore)
        losses.append(fit(module, data, training, plan, seed=0).best_validation_loss)
        # All 24 rows are compared with one another, as many at once as the training has.
        assert module.rows_at_once == batch_size

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_last_step_is_validated_if_validations_do_not_divide_an_epoch(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    _, result = fitted(tiny_embedding_model, tmp_path, validations_per_epoch=4)
    _, uneven = fitted(
        tiny_embedding_model, tmp_path / "uneven", records=PAIRS[:20], validations_per_epoch=2
    )

    assert [step for step, _ in result.history["val/loss"]] == list(range(1, 13))
    assert [step for step, _ in uneven.history["val/loss"]] == [2, 4, 7, 9, 10]


def test_fit_says_that_it_stopped_early_within_the_first_epoch(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    _, result = opposed(
        tiny_embedding_model, tmp_path, early_stopping_patience=1, validations_per_epoch=4
    )
    assert (result.steps, result.epochs, result.stopped_early) == (2, 1, True)


def test_fit_validates_several_times_per_epoch(tiny_embedding_model: str, tmp_path: Path) -> None:
    _, result = fitted(tiny_embedding_model, tmp_path, num_epochs=1, validations_per_epoch=3)
    assert [step for step, _ in result.history["val/loss"]] == [2, 4, 6]
    _, result = fitted(
        tiny_embedding_model, tmp_path, num_epochs=1, validations_per_epoch=100
    )  # more than batches
    assert [step for step, _ in result.history["val/loss"]] == [1, 2, 3, 4, 5, 6]


def test_fit_leaves_the_last_checkpoint_that_was_due_when_training_breaks_off(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    def sink(metrics: Mapping[str, float], step: int) -> None:
        if step == 3:
            raise RuntimeError("the store is gone")

    with pytest.raises(RuntimeError, match="the store is gone"):
        fitted(
            tiny_embedding_model,
            tmp_path,
            logging_steps=1,
            on_metrics=sink,
            checkpoints=CheckpointsConfig(every_steps=2),
        )
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2


def test_fit_starts_afresh_beside_an_older_checkpoint(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    first, _ = fitted(tiny_embedding_model, tmp_path)
    second, result = fitted(tiny_embedding_model, tmp_path)
    assert result.steps == 12
    assert all(
        torch.equal(one, other)
        for one, other in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]


def test_fit_clips_the_gradient(tiny_embedding_model: str, tmp_path: Path) -> None:
    free, _ = fitted(tiny_embedding_model, tmp_path, max_grad_norm=0.0, max_steps=4, validate=False)
    clipped, _ = fitted(
        tiny_embedding_model, tmp_path, max_grad_norm=0.01, max_steps=4, validate=False
    )
    assert min(free.norms) > 0.1
    assert clipped.norms == pytest.approx([0.01] * 4, rel=1e-3)


def test_fit_stops_at_a_loss_that_is_not_finite(tiny_embedding_model: str, tmp_path: Path) -> None:
    records = [{"text": f"text {n}", "embedding": [math.nan] * 32} for n in range(8)]
    message = (
        r"train/loss must be finite, got nan at step 0\. Lower training\.learning_rate, or lengthen"
    )
    with pytest.raises(TrainingError, match=message) as caught:
        fitted(tiny_embedding_model, tmp_path, shape="vector", records=records, validation=records)
    assert caught.value.exit_code == 1


def test_fit_without_validation_leaves_no_checkpoint(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    module, result = fitted(tiny_embedding_model, tmp_path, validation=[], validate=False)
    assert list(tmp_path.rglob("*")) == []
    assert (result.steps, result.best_validation_loss, result.stopped_early) == (12, None, False)
    assert "val/loss" not in result.history
    assert module.dropout_active == [True] * 12


@pytest.mark.parametrize(
    ("max_steps", "epochs", "validate"),
    [(1, 1, True), (6, 1, True), (8, 2, True), (1, 1, False), (8, 2, False)],
)
def test_fit_takes_exactly_max_steps(
    tiny_embedding_model: str, tmp_path: Path, max_steps: int, epochs: int, validate: bool
) -> None:
    _, result = fitted(
        tiny_embedding_model, tmp_path, max_steps=max_steps, num_epochs=1, validate=validate
    )
    assert (result.steps, result.epochs) == (max_steps, epochs)
    if validate:
        assert (
            result.history["val/loss"][-1][0] == max_steps
        )  # the last weights have had their validation


def test_fit_with_one_seed_gives_identical_weights(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)  # what was drawn before doesn't matter
        module, _ = fitted(tiny_embedding_model, tmp_path, seed=seed, max_steps=4, validate=False)
        weights.append(
            torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
        )
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(
        weights[0], weights[2]
    )  # the rows' order is the data's seed: dropout alone differs


@pytest.mark.parametrize(
    ("training", "budget", "steps", "warmup"),
    [
        ({"num_epochs": 2, "warmup_steps": 10}, 0.5, 11, 5),
        ({"num_epochs": 2, "warmup_steps": 10}, 0.01, 1, 0),
        ({"max_steps": 10, "warmup_steps": 100}, 0.2, 2, 1),
    ],
)
def test_budgeted_shortens_steps_and_warmup(
    training: dict[str, Any], budget: float, steps: int, warmup: int
) -> None:
    shortened = budgeted(TrainingConfig(**training), steps_per_epoch=11, budget=budget)
    assert (shortened.max_steps, shortened.warmup_steps) == (steps, warmup)


def test_a_share_of_the_steps_is_taken_also_where_tokens_make_the_batches(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = TrainingConfig(
        batch_size=2,
        num_epochs=4,
        warmup_steps=6,
        learning_rate=1e-3,
        batches=BatchesConfig(tokens=120),
    )
    module = EmbeddingModule(
        model=tiny_embedding_model, shape="pair", optimization=optimization_settings(training)
    )
    data = EmbeddingDataModule(
        train=PAIRS,
        validation=[],
        shape="pair",
        batch_size=2,
        batches=training.batches,
        lengths=lambda record: 20,
    )
    batches = len(data.train_dataloader())
    assert batches == 4  # of 6 rows each
    result = fit(
        module,
        data,
        training,
        TrainingPlan(folder=tmp_path, on_metrics=ignore, validate=False, budget=0.5),
        seed=0,
    )
    assert (result.steps, module.optimization["warmup_steps"]) == (4 * batches // 2, 3)

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tunetrail.learning.training.averaging import WeightAveraging, averaging_callback

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*exists and is not empty",
    "ignore:.*the `mode` of",
)
STEPS_PER_EPOCH = 4


class Network(lightning.LightningModule):
    """Has a frozen part, tied weights and whole-number buffers; its checkpoints lack the frozen part."""

    def __init__(self, dtype: torch.dtype = torch.float32, fail_in_validation: int = -1) -> None:
        super().__init__()
        self.strict_loading = False
        torch.manual_seed(0)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.register_buffer("ids", torch.arange(12))
        self.to(dtype)
        self.fail_in_validation = fail_in_validation
        self.stepped: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def weights(self) -> dict[str, Tensor]:
        return {
            name: each.detach().clone()
            for name, each in self.named_parameters()
            if each.requires_grad
        }

    def loss(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.first.weight.dtype)
        return (self.tied(torch.tanh(self.first(self.frozen(batch)))) - 1).square().mean()

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        return self.loss(batch)

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        super().optimizer_step(*arguments, **keywords)
        self.stepped.append(self.weights())

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        if len(self.validated) == self.fail_in_validation:
            raise RuntimeError("killed")
        if batch_index == 0:
            self.validated.append(self.weights())
        self.log("val/loss", self.loss(batch).float())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            name: value for name, value in state.items() if "frozen" not in name
        }


def fit(
    module: Network,
    callback: lightning.Callback | None,
    folder: Path,
    epochs: int = 3,
    resume: Path | None = None,
    accumulate: int = 1,
) -> Network:
    torch.manual_seed(1)
    data: Any = DataLoader(torch.randn(2 * STEPS_PER_EPOCH, 4), batch_size=2)  # type: ignore[arg-type]
    best = ModelCheckpoint(
        folder, filename="best", monitor="val/loss", enable_version_counter=False
    )
    each = ModelCheckpoint(
        folder,
        filename="epoch-{epoch}",
        auto_insert_metric_name=False,
        save_top_k=-1,
        save_on_exception=True,
    )
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        callbacks=[best, each, *([callback] if callback else [])],
    )
    trainer.fit(module, data, data, ckpt_path=str(resume) if resume else None)
    return module


def callback_of(kind: str, start: float = 0.5, epochs: int = 3) -> WeightAveraging:
    found = averaging_callback(kind, 0.6, start, epochs * STEPS_PER_EPOCH)
    assert found is not None
    return found


def average_of(kind: str, stepped: list[dict[str, Tensor]], first: int = 6) -> dict[str, Tensor]:
    """Return the average in its closed form."""
    if kind == "swa":
        return {
            name: torch.stack([each[name] for each in stepped[first:]]).mean(dim=0)
            for name in stepped[0]
        }
    average = dict(stepped[0])
    for updates, weights in enumerate(stepped[1:], start=1):
        kept = min(0.6, (1 + updates) / (10 + updates))
        average = {name: kept * average[name] + (1 - kept) * weights[name] for name in average}
    return average


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], exact: bool = False
) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], **({"rtol": 0, "atol": 0} if exact else {})
        )


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_training_ends_with_the_average_and_the_optimizer_never_sees_it(
    kind: str, tmp_path: Path
) -> None:
    plain = fit(Network(), None, tmp_path / "plain")
    module = fit(Network(), callback_of(kind), tmp_path / "averaged")
    assert len(module.stepped) == 12
    for found, expected in zip(module.stepped, plain.stepped, strict=True):
        assert_close(found, expected, exact=True)
    assert_close(module.weights(), average_of(kind, plain.stepped))
    assert not torch.equal(module.weights()["first.weight"], plain.weights()["first.weight"])
    assert torch.equal(module.ids, torch.arange(12))  # type: ignore[arg-type]
    assert torch.equal(module.frozen.weight, plain.frozen.weight)


def test_validation_sees_the_average_and_before_it_begins_the_current_weights(
    tmp_path: Path,
) -> None:
    module = fit(Network(), callback_of("swa"), tmp_path)
    sanity, first, second, third = module.validated
    assert_close(sanity, Network().weights(), exact=True)
    assert_close(first, module.stepped[3], exact=True)
    assert_close(second, average_of("swa", module.stepped[:8]))
    assert_close(third, average_of("swa", module.stepped))


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_checkpoints_hold_what_was_validated_under_all_names_of_tied_weights(
    kind: str, tmp_path: Path
) -> None:
    module = fit(Network(), callback_of(kind), tmp_path)
    for epoch in range(3):
        checkpoint = torch.load(tmp_path / f"epoch-{epoch}.ckpt", weights_only=True)
        state = checkpoint["state_dict"]
        assert state.keys() == {"first.weight", "first.bias", "tied.weight", "tied.bias", "ids"}
        assert torch.equal(state["tied.weight"], state["first.weight"])
        assert_close(
            {name: state[name] for name in module.weights()},
            module.validated[epoch + 1],
            exact=True,
        )
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    other = Network()
    other.load_state_dict(best, strict=False)
    torch.manual_seed(1)
    losses = [float(other.loss(batch).detach()) for batch in torch.randn(8, 4).split(2)]
    score = torch.load(tmp_path / "epoch-2.ckpt", weights_only=True)["callbacks"]
    recorded = next(
        state["best_model_score"] for state in score.values() if state.get("monitor") == "val/loss"
    )
    assert sum(losses) / 4 == pytest.approx(float(recorded), rel=1e-5)


@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_training_ends_with_the_same_bits(
    kind: str, epoch: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    whole = fit(Network(dtype), callback_of(kind), tmp_path)
    callback = callback_of(kind)
    resumed = fit(Network(dtype), callback, tmp_path, resume=tmp_path / f"epoch-{epoch}.ckpt")
    assert len(resumed.stepped) == 12 - 4 * (epoch + 1)
    assert_close(resumed.stepped[-1], whole.stepped[-1], exact=True)
    assert_close(resumed.weights(), whole.weights(), exact=True)
    assert callback.updates == (12 if kind == "ema" else 6)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_a_stop_within_a_validation_saves_each_set_of_weights_as_itself(
    kind: str, tmp_path: Path
) -> None:
    whole = fit(Network(), callback_of(kind), tmp_path / "whole")
    stopped = Network(
        fail_in_validation=4
    )  # after the first batch of the last; the sanity check is one, too
    with pytest.raises(RuntimeError, match="killed"):
        fit(stopped, callback_of(kind), tmp_path / "stopped")
    assert_close(stopped.weights(), whole.stepped[-1], exact=True)
    checkpoint = torch.load(tmp_path / "stopped" / "epoch-2.ckpt", weights_only=True)
    assert_close(checkpoint["averaging"]["current"], whole.stepped[-1], exact=True)
    assert_close(checkpoint["averaging"]["averages"], whole.weights(), exact=True)


def test_averages_of_bfloat16_weights_are_float32(tmp_path: Path) -> None:
    module = fit(Network(torch.bfloat16), averaging_callback("ema", 0.999, 0.5, 12), tmp_path)
    checkpoint = torch.load(tmp_path / "epoch-2.ckpt", weights_only=True)
    assert {value.dtype for value in checkpoint["averaging"]["averages"].values()} == {
        torch.float32
    }
    assert (
        checkpoint["state_dict"]["first.weight"].dtype
        == module.first.weight.dtype
        == torch.bfloat16
    )


def test_a_micro_batch_after_which_the_optimizer_takes_no_step_is_not_averaged(
    tmp_path: Path,
) -> None:
    callback = callback_of("ema")

    module = fit(Network(), callback, tmp_path, accumulate=2)

    assert (len(module.stepped), callback.updates) == (6, 6)
    assert_close(module.weights(), average_of("ema", module.stepped))


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.99, 11), (1.0, 11)])
def test_swa_takes_the_steps_after_its_start_and_at_least_the_last(
    start: float, first: int, tmp_path: Path
) -> None:
    module = fit(Network(), callback_of("swa", start), tmp_path)
    assert_close(module.weights(), average_of("swa", module.stepped, first))


def test_a_training_that_ends_before_the_average_keeps_its_weights(tmp_path: Path) -> None:
    module = fit(Network(), callback_of("swa", 0.9, epochs=10), tmp_path)
    assert_close(module.weights(), module.stepped[-1], exact=True)
    assert "averaging" not in torch.load(tmp_path / "epoch-2.ckpt", weights_only=True)


def test_no_averaging_needs_no_callback() -> None:
    assert averaging_callback("none", 0.999, 0.75, 10) is None

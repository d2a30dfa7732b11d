import logging
import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import AutoModelForCausalLM

from tunetrail.config.training import OPTIMIZERS, SCHEDULES
from tunetrail.errors import ConfigError
from tunetrail.learning.training.optimization import (
    configure_optimizer,
    effective_warmup_steps,
    parameter_groups,
)


def rates(schedule: str, total_steps: int, **options: Any) -> list[float]:
    configured = configure_optimizer(
        nn.Linear(2, 2), learning_rate=0.1, schedule=schedule, total_steps=total_steps, **options
    )
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    found = []
    for _ in range(total_steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


CLOSED_FORMS = {
    "linear": lambda step: (20 - step) / 16,
    "cosine": lambda step: (1 + math.cos(math.pi * (step - 4) / 16)) / 2,
    "constant": lambda step: 1.0,
    "inverse_sqrt": lambda step: math.sqrt(4 / step),
    "wsd": lambda step: 1.0 if step <= 15 else 1.0 - math.sqrt((step - 15) / 5),
}


def test_every_schedule_has_its_closed_form_here() -> None:
    assert set(CLOSED_FORMS) == set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_rises_to_the_learning_rate_and_goes_on_as_named(schedule: str) -> None:
    found = rates(schedule, 20, warmup_steps=4, decay_ratio=0.25)
    assert found[:5] == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])
    assert found[4:] == pytest.approx(
        [0.1 * CLOSED_FORMS[schedule](step) for step in range(4, 21)], abs=1e-12
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule_without_warmup_begins_at_the_learning_rate(schedule: str) -> None:
    assert rates(schedule, 5)[0] == 0.1


def test_inverse_square_root_without_warmup_falls_slowly() -> None:
    assert rates("inverse_sqrt", 30)[30] == pytest.approx(0.1 * math.sqrt(10_000 / 10_030))


@pytest.mark.parametrize(("ratio", "peak"), [(0.25, 5), (0.7, 14), (0.01, 0)])
def test_warmup_ratio_takes_the_place_of_the_steps(ratio: float, peak: int) -> None:
    found = rates("constant", 20, warmup_steps=3, warmup_ratio=ratio)
    assert [found.index(0.1), found[-1]] == [peak, 0.1]


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize("total", [7, 15, 30, 101])
def test_wsd_with_shares_that_fill_the_training_never_jumps(
    ratio: float, total: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = rates("wsd", total, warmup_ratio=ratio, decay_ratio=1 - ratio)
    peak = found.index(max(found))
    assert max(found) == 0.1
    assert found[: peak + 1] == sorted(found[: peak + 1]) and found[peak:] == sorted(
        found[peak:], reverse=True
    )
    assert caplog.records == []


def test_wsd_shortens_its_decay_where_the_warmup_leaves_no_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = rates("wsd", 20, warmup_steps=10, decay_ratio=0.8)
    assert found[10:] == pytest.approx(
        [0.1 * (1 - math.sqrt(step / 10)) for step in range(11)], abs=1e-12
    )
    assert [record.getMessage() for record in caplog.records] == [
        "a warm-up of 10 steps and training.decay_ratio=0.8 don't fit into 20 training steps; "
        "the learning rate decays over the last 10 steps only"
    ]


@pytest.mark.parametrize(
    ("asked", "total", "used"),
    [(0, 1, 0), (50, 100, 50), (100, 200, 100), (51, 100, 10), (100, 30, 3), (100, 3, 0)],
)
def test_warmup_is_shortened_for_a_short_training_and_says_so(
    asked: int, total: int, used: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tunetrail.learning.training.optimization"):
        assert effective_warmup_steps(asked, total) == used
    expected = [
        f"training.warmup_steps={asked} is more than half of the {total} training steps; {used} are used"
    ]
    assert [record.getMessage() for record in caplog.records] == ([] if used == asked else expected)


def test_parameter_groups_decay_matrices_only_and_leave_out_frozen_ones() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    module[3].requires_grad_(False)
    decaying, plain = parameter_groups(module, 0.3)
    assert (decaying["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [id(each) for each in decaying["params"]] == [id(module[0].weight), id(module[1].weight)]
    assert [id(each) for each in plain["params"]] == [
        id(module[1].bias),
        id(module[2].weight),
        id(module[2].bias),
    ]


def rate_by_name(module: nn.Module) -> dict[str, float]:
    """Return each trainable parameter's rate at a learning rate of 1 and a layer decay of 0.5."""
    optimizer = configure_optimizer(
        module,
        learning_rate=1.0,
        schedule="constant",
        total_steps=4,
        optimizer={"layer_decay": 0.5},
        weight_decay=0.3,
    )["optimizer"]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim >= 2 else 0.0)
            found[names[id(parameter)]] = group["lr"]
    assert found.keys() == {
        name for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    return found


def test_layer_decay_lowers_the_rate_of_an_embedding_model_layer_by_layer(
    tiny_embedding_model: str,
) -> None:
    found = rate_by_name(
        nn.ModuleDict({"model": SentenceTransformer(tiny_embedding_model, device="cpu")})
    )
    expected = {".embeddings.": 0.125, ".layer.0.": 0.25, ".layer.1.": 0.5, ".pooler.": 1.0}
    for name, rate in found.items():
        assert [rate] == [value for part, value in expected.items() if part in name], name
    assert set(found.values()) == set(expected.values())


def test_layer_decay_lowers_the_rate_of_a_language_model_layer_by_layer(
    tiny_language_model: str,
) -> None:
    found = rate_by_name(AutoModelForCausalLM.from_pretrained(tiny_language_model))
    assert found["model.embed_tokens.weight"] == 0.125  # tied to the head
    assert found["model.layers.0.mlp.up_proj.weight"] == 0.25
    assert found["model.layers.1.input_layernorm.weight"] == 0.5
    assert found["model.norm.weight"] == 1.0


def test_layer_decay_finds_the_layers_of_adapters(tiny_language_model: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_language_model)
    found = rate_by_name(get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")))
    assert found
    assert all(
        "lora" in name and rate == (0.25 if ".layers.0." in name else 0.5)
        for name, rate in found.items()
    )


def test_layer_decay_survives_the_schedule() -> None:
    module = nn.ModuleDict(
        {"embed": nn.Embedding(3, 2), "layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])}
    )
    configured = configure_optimizer(
        module, learning_rate=1.0, total_steps=10, optimizer={"layer_decay": 0.5}, schedule="linear"
    )
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0625, 0.125, 0.125, 0.25, 0.25]


def test_layer_decay_without_layers_says_so() -> None:
    with pytest.raises(
        ConfigError, match=r"training\.optimizer\.layer_decay must be 1 \(off\) .*Linear has none"
    ):
        configure_optimizer(
            nn.Linear(2, 2), learning_rate=0.1, total_steps=3, optimizer={"layer_decay": 0.9}
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamv"}, r"training\.optimizer\.name"),
        ({"beta2": 1.0}, r"training\.optimizer\.beta2"),
    ],
)
def test_impossible_settings_name_their_field(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure_optimizer(nn.Linear(2, 2), learning_rate=0.1, total_steps=3, optimizer=settings)


def trained(
    name: str, dtype: torch.dtype = torch.float32, steps: int = 30, **options: Any
) -> tuple[Any, list[float]]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    inputs = torch.randn(32, 4, dtype=dtype)
    targets = inputs[:, :1] - inputs[:, 1:2]
    optimizer = configure_optimizer(
        module,
        learning_rate=0.02,
        weight_decay=0.01,
        schedule="constant",
        total_steps=steps,
        optimizer={"name": name},
        **options,
    )["optimizer"]
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (module(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return (module, optimizer), losses


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_optimizer_lowers_a_loss(name: str, dtype: torch.dtype) -> None:
    (_, optimizer), losses = trained(name, dtype)
    assert losses[-1] < 0.8 * losses[0]
    assert type(optimizer).__name__.lower() == name
    assert bool(optimizer.defaults.get("fused")) == name.startswith("adam")


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_fused_and_plain_steps_are_the_same(name: str) -> None:
    (fused, _), _ = trained(name)
    (plain, optimizer), _ = trained(name, fused=False)
    assert not optimizer.defaults["fused"]
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_settings_reach_the_optimizer() -> None:
    settings = {"name": "adamw", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}
    module = nn.Linear(2, 2)
    adamw = configure_optimizer(module, learning_rate=0.1, total_steps=3, optimizer=settings)[
        "optimizer"
    ]
    assert (adamw.defaults["betas"], adamw.defaults["eps"]) == ((0.8, 0.95), 1e-6)
    settings = {"name": "sgd", "momentum": 0.5}
    sgd = configure_optimizer(module, learning_rate=0.1, total_steps=3, optimizer=settings)[
        "optimizer"
    ]
    assert sgd.defaults["momentum"] == 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizers_state_survives_a_checkpoint(name: str, tmp_path: Any) -> None:
    (module, optimizer), _ = trained(name, steps=3)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = configure_optimizer(
        module, learning_rate=0.02, total_steps=3, optimizer={"name": name}
    )["optimizer"]
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for key, value in optimizer.state_dict()["state"].items():
        assert all(
            torch.equal(
                torch.as_tensor(value[part]),
                torch.as_tensor(other.state_dict()["state"][key][part]),
            )
            for part in value
            if value[part] is not None
        )

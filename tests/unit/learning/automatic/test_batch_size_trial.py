import copy

import pytest
import torch

from tunetrail.config import TrainingConfig
from tunetrail.config.training import AveragingConfig, OptimizerConfig
from tunetrail.errors import ConfigError
from tunetrail.learning.automatic.batch_size_finder import BatchSizeResult
from tunetrail.learning.automatic.batch_size_trial import (
    BatchSizeTrial,
    state_bytes,
    usable_bytes,
)
from tunetrail.learning.automatic.trial_run import run_trial
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fitting import optimization_settings
from tunetrail.learning.training.micro_batches import SharedBatch

# Whole trainings.
pytestmark = pytest.mark.processes

PAIRS = [
    {"anchor": f"question {n} {'why ' * (n % 5)}", "positive": f"the answer is {n * 7}"}
    for n in range(24)
]
SCORES = [{"sentence1": f"text {n}", "sentence2": f"other {n}", "score": n / 24} for n in range(24)]
TRAINING = TrainingConfig(batch_size=1, learning_rate=1e-3, warmup_steps=0)


class Narrow(EmbeddingModule):
    """Has room for so many rows at once."""

    room = 2

    def loss_of(self, batch: SharedBatch) -> torch.Tensor:
        if (self.mini_batch_size or len(batch.share.rows)) > self.room:
            torch.empty(2**50)
        return super().loss_of(batch)


def searched(
    module: EmbeddingModule,
    *,
    in_mini_batches: bool,
    limit_bytes: int | None = None,
    rows: int = 8,
    devices: int = 1,
) -> BatchSizeResult | None:
    records = PAIRS if module.hparams["shape"] == "pair" else SCORES
    data = EmbeddingDataModule(
        train=records, validation=[], shape=module.hparams["shape"], batch_size=1
    )
    trial = BatchSizeTrial(
        training=TRAINING,
        rows=rows,
        in_mini_batches=in_mini_batches,
        devices=devices,
        limit_bytes=limit_bytes,
    )
    run_trial(module, data, TRAINING, trial, max_steps=1)
    return trial.result


def built(
    path: str, shape: str = "pair", kind: type[EmbeddingModule] = EmbeddingModule
) -> EmbeddingModule:
    loss = "cosine_similarity" if shape == "score" else "auto"
    return kind(model=path, shape=shape, loss=loss, optimization=optimization_settings(TRAINING))


@pytest.mark.parametrize(("shape", "in_mini_batches"), [("pair", True), ("score", False)])
def test_the_step_keeps_its_rows_and_no_weight_changes(
    tiny_embedding_model: str, shape: str, in_mini_batches: bool
) -> None:
    module = built(tiny_embedding_model, shape)
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = searched(module, in_mini_batches=in_mini_batches)
    assert torch.equal(torch.rand(3), expected)
    assert found is not None
    assert found.batch_size * found.accumulate == 8
    assert in_mini_batches or found.mini_batch_size == 0
    assert all(
        each.fits and each.tokens_per_second > 0.0 and each.memory_bytes > 0
        for each in found.measured
    )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.mini_batch_size == 0


@pytest.mark.parametrize(("shape", "in_mini_batches"), [("pair", True), ("score", False)])
def test_the_search_ends_where_torch_has_no_memory(
    tiny_embedding_model: str, shape: str, in_mini_batches: bool
) -> None:
    found = searched(built(tiny_embedding_model, shape, Narrow), in_mini_batches=in_mini_batches)
    assert found is not None
    assert (found.measured[-1].rows, found.measured[-1].fits) == (4, False)
    assert (found.mini_batch_size if in_mini_batches else found.batch_size) in (1, 2)
    assert found.batch_size * found.accumulate == 8


def test_an_error_that_is_not_of_memory_is_not_hidden(tiny_embedding_model: str) -> None:
    class Broken(EmbeddingModule):
        def loss_of(self, batch: SharedBatch) -> torch.Tensor:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        searched(built(tiny_embedding_model, kind=Broken), in_mini_batches=True)


def test_no_memory_to_spare_is_a_clear_error(tiny_embedding_model: str) -> None:
    with pytest.raises(
        ConfigError, match=r"training\.batch_size must leave room for one row"
    ) as caught:
        searched(built(tiny_embedding_model), in_mini_batches=True, limit_bytes=100_000)
    assert caught.value.exit_code == 2


def test_a_step_has_no_more_rows_than_there_are(tiny_embedding_model: str) -> None:
    found = searched(built(tiny_embedding_model, "score"), in_mini_batches=False, rows=10_000)
    assert found is not None
    assert found.batch_size * found.accumulate == 24


def test_the_state_of_the_optimizer_is_counted(tiny_embedding_model: str) -> None:
    module = built(tiny_embedding_model)
    # BERT's pooler isn't trained.
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    assert state_bytes(module, TRAINING) == (4 * trained, 8 * trained)
    plain = TrainingConfig(
        optimizer=OptimizerConfig(name="sgd"), averaging=AveragingConfig(kind="ema")
    )
    assert state_bytes(module, plain) == (4 * trained, 8 * trained)
    next(iter(module.parameters())).requires_grad_(False)
    assert state_bytes(module, TRAINING)[0] < 4 * trained


def test_devices_share_the_rows_of_a_step(tiny_embedding_model: str) -> None:
    class Seen(EmbeddingModule):
        most = 0

        def loss_of(self, batch: SharedBatch) -> torch.Tensor:
            self.most = max(self.most, len(batch.share.rows))
            return super().loss_of(batch)

    module = built(tiny_embedding_model, kind=Seen)
    found = searched(module, in_mini_batches=True, devices=3)
    assert found is not None
    assert (found.batch_size, found.accumulate, found.devices) == (8, 1, 3)
    # The largest share of a step of eight rows.
    assert isinstance(module, Seen) and module.most == 3


def test_ranks_on_cpus_share_the_memory_of_the_machine(tiny_embedding_model: str) -> None:
    module = built(tiny_embedding_model)
    weights = sum(4 * weight.numel() for weight in module.parameters())
    cpu = torch.device("cpu")
    one, four = (usable_bytes(module, cpu, devices) for devices in (1, 4))
    # The memory that other processes hold changes in between.
    assert four == pytest.approx(one / 4 - weights, rel=0.2)
    assert usable_bytes(module, cpu, 10**12) == 0


def test_gradients_that_ranks_send_count_twice(tiny_embedding_model: str) -> None:
    gradients, state = state_bytes(built(tiny_embedding_model), TRAINING)
    limit = gradients + state + gradients // 2
    module = built(tiny_embedding_model)
    assert searched(module, in_mini_batches=False, limit_bytes=10**12) is not None
    with pytest.raises(ConfigError, match=r"training\.batch_size must leave room for one row"):
        searched(module, in_mini_batches=False, limit_bytes=limit, devices=2)

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunetrail.config import AdapterConfig, LanguageModelConfig, TrainingConfig
from tunetrail.errors import SampleError
from tunetrail.learning.embedding.refreshing import Refresh
from tunetrail.learning.language_model.learner import LanguageModel, LanguageModelLearner, last_logits

RECORDS: list[dict[str, Any]] = [
    {"input": f"What is {n} + {n}?", "output": f"It is {2 * n}." + " Really." * (n % 3)} for n in range(8)
]
TRAINING = TrainingConfig(batch_size=4, num_epochs=2, warmup_steps=0, learning_rate=1e-2)


def learner(max_length: int = 256, seed: int = 0, kind: str = "lora") -> LanguageModelLearner:
    config = LanguageModelConfig(max_length=max_length, adapter=AdapterConfig(kind=kind, rank=4, alpha=8))
    return LanguageModelLearner(config=config, seed=seed)


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


@pytest.fixture
def model(tiny_language_model: str) -> LanguageModel:
    return learner().load(tiny_language_model)


@pytest.mark.parametrize(
    ("max_length", "records", "cut"),
    [(8, RECORDS, "8 of 8"), (40, [*RECORDS[:2], *({"input": "x" * 99, "output": "y"} for _ in range(3))], "3 of 5")],
)
def test_check_refuses_a_length_that_cuts_off_most_outputs(
    tiny_language_model: str, max_length: int, records: list[dict[str, Any]], cut: str
) -> None:
    with pytest.raises(
        SampleError, match=rf"llm\.max_length={max_length} cuts off .* of {cut} rows\. Raise it"
    ) as caught:
        learner(max_length).check(tiny_language_model, records)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("records", [RECORDS, [{"text": "A story."}], []])
def test_check_passes_what_can_be_learnt(tiny_language_model: str, records: list[dict[str, Any]]) -> None:
    learner().check(tiny_language_model, records)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_likelihoods_do_not_depend_on_the_batch_size_or_order(model: LanguageModel, batch_size: int) -> None:
    expected = learner().likelihoods(model, RECORDS, 1)
    found = learner().likelihoods(model, RECORDS, batch_size)
    np.testing.assert_allclose(found.nats, expected.nats, atol=1e-4)
    turned = learner().likelihoods(model, RECORDS[::-1], batch_size)
    np.testing.assert_allclose(turned.nats[::-1], expected.nats, atol=1e-4)
    assert found.tokens.tolist() == [len(record["output"]) + 1 for record in RECORDS]  # bytes are tokens; and the end
    assert found.bytes.tolist() == [len(record["output"].encode()) for record in RECORDS]
    assert found.nats / found.tokens == pytest.approx(np.log(len(model.tokenizer)), rel=0.1)  # it knows nothing yet


def test_likelihoods_count_nothing_for_a_row_cut_off_before_its_output(model: LanguageModel) -> None:
    records = [RECORDS[0], {"input": "x" * 500, "output": "y"}, RECORDS[1]]
    found = learner().likelihoods(model, records, 2)
    assert (found.nats[1], found.tokens[1], found.bytes[1]) == (0.0, 0, 0)
    assert found.nats[0] > 0 < found.nats[2]
    assert learner().scorable(model, records) == [True, False, True]
    nothing = learner().likelihoods(model, records[1:2], 2)
    assert (nothing.nats.tolist(), nothing.tokens.tolist()) == ([0.0], [0])
    assert learner().likelihoods(model, [], 2).nats.shape == (0,)


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_train_raises_the_likelihood_and_keeps_it_through_a_folder(
    tiny_language_model: str, model: LanguageModel, tmp_path: Path, kind: str
) -> None:
    taught = learner(kind=kind)
    records = [*RECORDS, {"input": "x" * 500, "output": "never seen"}]  # left out of training: nothing of it is left
    trained, result = taught.train(
        tiny_language_model, records, records, TRAINING, folder=tmp_path / "fit", on_metrics=ignore
    )
    assert (result.steps, trained.model.training) == (4, False)
    assert not any("lora" in name for name in trained.model.state_dict())
    before, after = (taught.likelihoods(each, RECORDS, 4).nats for each in (model, trained))
    assert after.sum() < 0.95 * before.sum()
    taught.save(trained, tmp_path / "saved")
    reloaded = taught.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(taught.likelihoods(reloaded, RECORDS, 4).nats, after, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_train_with_one_seed_gives_identical_models(tiny_language_model: str, tmp_path: Path, kind: str) -> None:
    found = []
    for number, seed in enumerate((5, 5, 6)):
        torch.manual_seed(number)  # what was drawn before doesn't matter
        trained, _ = learner(seed=seed, kind=kind).train(
            tiny_language_model, RECORDS, [], TRAINING, folder=tmp_path, on_metrics=ignore, validate=False
        )
        found.append(torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_last_logits_are_those_behind_the_last_token(model: LanguageModel) -> None:
    found = last_logits(model, ["abc", "", "é"])
    assert (found.shape, found.dtype) == ((3, len(model.tokenizer)), np.float64)
    ids = model.tokenizer("abc", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        np.testing.assert_allclose(found[0], model.model(ids).logits[0, -1].numpy(), atol=1e-5)


def test_train_refuses_to_refresh_its_records(tiny_language_model: str, tmp_path: Path) -> None:
    refresh = Refresh(every_epochs=1, records=lambda encode, epoch: RECORDS)
    with pytest.raises(ValueError, match="refresh must be None for a language model"):
        learner().train(tiny_language_model, RECORDS, [], TRAINING, folder=tmp_path, on_metrics=ignore, refresh=refresh)

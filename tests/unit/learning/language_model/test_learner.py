from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunetrail.config import AdapterConfig, LanguageModelConfig, TrainingConfig
from tunetrail.errors import SampleError
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.language_model.model import LanguageModel, last_logits
from tunetrail.learning.tokens.chat import IGNORED, tokenize_record
from tunetrail.learning.training.records import Refresh
from tunetrail.learning.training_plan import TrainingPlan

RECORDS: list[dict[str, Any]] = [
    {"input": f"What is {n} + {n}?", "output": f"It is {2 * n}." + " Really." * (n % 3)}
    for n in range(8)
]
PREFERENCES: list[dict[str, Any]] = [
    {
        "prompt": f"What is {n} + {n}?",
        "chosen": f"It is {2 * n}.",
        "rejected": "No idea." + " None." * (n % 3),
    }
    for n in range(8)
]
TRAINING = TrainingConfig(
    batch_size=4, num_epochs=2, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-2
)


def learner(max_length: int = 256, seed: int = 0, kind: str = "lora") -> LanguageModelLearner:
    config = LanguageModelConfig(
        max_length=max_length, adapter=AdapterConfig(kind=kind, rank=4, alpha=8)
    )
    return LanguageModelLearner(config=config, seed=seed)


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


@pytest.fixture
def model(tiny_language_model: str) -> LanguageModel:
    return learner().load(tiny_language_model)


@pytest.mark.parametrize(
    ("max_length", "records", "cut"),
    [
        (8, RECORDS, "8 of 8"),
        (40, [*RECORDS[:2], *({"input": "x" * 99, "output": "y"} for _ in range(3))], "3 of 5"),
        (8, PREFERENCES, "8 of 8"),
        (50, [{"prompt": "x", "chosen": "y" * 99 + "a", "rejected": "y" * 99 + "b"}], "1 of 1"),
    ],
)
def test_check_refuses_a_length_that_cuts_off_most_outputs(
    tiny_language_model: str, max_length: int, records: list[dict[str, Any]], cut: str
) -> None:
    with pytest.raises(
        SampleError, match=rf"llm\.max_length={max_length} cuts off .* of {cut} rows\. Raise it"
    ) as caught:
        learner(max_length).check(tiny_language_model, records, learner().load)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("records", [RECORDS, PREFERENCES, [{"text": "A story."}], []])
def test_check_passes_what_can_be_learnt(
    tiny_language_model: str, records: list[dict[str, Any]]
) -> None:
    learner().check(tiny_language_model, records, learner().load)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_likelihoods_do_not_depend_on_the_batch_size_or_order(
    model: LanguageModel, batch_size: int
) -> None:
    expected = learner().likelihoods(model, RECORDS, 1)
    found = learner().likelihoods(model, RECORDS, batch_size)
    np.testing.assert_allclose(found.nats, expected.nats, atol=1e-4)
    turned = learner().likelihoods(model, RECORDS[::-1], batch_size)
    np.testing.assert_allclose(turned.nats[::-1], expected.nats, atol=1e-4)
    assert found.tokens.tolist() == [
        len(record["output"]) + 1 for record in RECORDS
    ]  # bytes are tokens; and the end
    assert found.bytes.tolist() == [len(record["output"].encode()) for record in RECORDS]
    assert found.nats / found.tokens == pytest.approx(
        np.log(len(model.tokenizer)), rel=0.1
    )  # it knows nothing yet


@pytest.mark.parametrize("padding_free", [True, False])
def test_likelihoods_of_the_text_are_those_without_the_end_token(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, padding_free: bool
) -> None:
    if not padding_free:
        monkeypatch.setattr(
            "tunetrail.learning.language_model.forward.why_padded", lambda model: "a test pads"
        )
    chat = {
        "messages": [
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "Bye."},
            {"role": "assistant", "content": "See you soon."},
        ]
    }
    records = [*RECORDS[:3], chat, {"text": "A story of its own."}]

    likelihoods = learner().likelihoods(model, records, 3)

    # transformers alone, token by token: the end tokens have no text.
    for row, record in enumerate(records):
        example = tokenize_record(model.tokenizer, record, 256)
        with torch.inference_mode():
            logits = model.model(torch.tensor([example.input_ids])).logits[0, :-1].double()
        nats = -logits.log_softmax(dim=-1)
        text = [
            float(nats[position, label])
            for position, label in enumerate(example.labels[1:])
            if label not in (IGNORED, model.tokenizer.eos_token_id)
        ]
        assert likelihoods.text_nats[row] == pytest.approx(sum(text), rel=1e-5)
    assert (likelihoods.text_nats < likelihoods.nats).all()


def test_likelihoods_count_nothing_for_a_row_cut_off_before_its_output(
    model: LanguageModel,
) -> None:
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
    records = [
        *RECORDS,
        {"input": "x" * 500, "output": "never seen"},
    ]  # left out of training: nothing of it is left
    trained, result = taught.train(
        tiny_language_model,
        records,
        records,
        TRAINING,
        TrainingPlan(folder=tmp_path / "fit", on_metrics=ignore),
    )
    assert (result.steps, trained.model.training) == (4, False)
    assert not any("lora" in name for name in trained.model.state_dict())
    before, after = (taught.likelihoods(each, RECORDS, 4).nats for each in (model, trained))
    assert after.sum() < 0.95 * before.sum()
    taught.save(trained, tmp_path / "saved")
    reloaded = taught.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(taught.likelihoods(reloaded, RECORDS, 4).nats, after, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_train_with_one_seed_gives_identical_models(
    tiny_language_model: str, tmp_path: Path, kind: str
) -> None:
    found = []
    for number, seed in enumerate((5, 5, 6)):
        torch.manual_seed(number)  # what was drawn before doesn't matter
        trained, _ = learner(seed=seed, kind=kind).train(
            tiny_language_model,
            RECORDS,
            [],
            TRAINING,
            TrainingPlan(folder=tmp_path, on_metrics=ignore, validate=False),
        )
        found.append(
            torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()])
        )
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
        learner().train(
            tiny_language_model,
            RECORDS,
            [],
            TRAINING,
            TrainingPlan(folder=tmp_path, on_metrics=ignore, refresh=refresh),
        )


def test_scorable_wants_text_behind_the_labels(model: LanguageModel) -> None:
    documents = [{"text": "x"}, {"text": "xy"}]  # of the first one only the end could be predicted
    assert learner().scorable(model, documents) == [False, True]
    cut_alike = {"prompt": "x", "chosen": "y" * 99 + "a", "rejected": "y" * 99 + "b"}
    assert learner(100).scorable(model, [PREFERENCES[0], cut_alike]) == [True, False]
    assert learner(8).scorable(model, [PREFERENCES[0]]) == [False]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_preference_likelihoods_are_those_of_the_answers_given_their_prompt(
    model: LanguageModel, batch_size: int
) -> None:
    found = learner().preference_likelihoods(model, PREFERENCES, batch_size)
    for side, answer in zip(found, ("chosen", "rejected"), strict=True):
        records = [{"input": record["prompt"], "output": record[answer]} for record in PREFERENCES]
        expected = learner().likelihoods(model, records, 1)
        np.testing.assert_allclose(side.nats, expected.nats, atol=1e-4)
        assert (
            side.tokens.tolist() == expected.tokens.tolist()
            and side.bytes.tolist() == expected.bytes.tolist()
        )
    chosen, rejected = learner().preference_likelihoods(model, [], 2)
    assert chosen.nats.shape == rejected.nats.shape == (0,)


def test_train_on_preferences_learns_to_prefer_and_starts_at_log_2(
    tiny_language_model: str, model: LanguageModel, tmp_path: Path
) -> None:
    logged: list[float] = []

    def keep(metrics: Mapping[str, float], step: int) -> None:
        logged.extend(value for name, value in metrics.items() if name.endswith("train/loss"))

    training = TrainingConfig(
        batch_size=8,
        num_epochs=6,
        warmup_steps=0,
        validations_per_epoch=1,
        learning_rate=1e-2,
        logging_steps=1,
    )
    taught = learner()
    trained, result = taught.train(
        tiny_language_model,
        PREFERENCES,
        PREFERENCES,
        training,
        TrainingPlan(folder=tmp_path, on_metrics=keep),
    )
    assert result.steps == 6
    assert logged[0] == pytest.approx(
        np.log(2.0), abs=1e-3
    )  # model and reference are equal, but for dropout
    margins = []
    for each in (model, trained):
        chosen, rejected = taught.preference_likelihoods(each, PREFERENCES, 8)
        margins.append(rejected.nats / rejected.tokens - chosen.nats / chosen.tokens)
    assert (margins[1] > margins[0] + 0.05).all()


def test_train_weighs_preferences(tiny_language_model: str, tmp_path: Path) -> None:
    swapped = [
        {**record, "chosen": record["rejected"], "rejected": record["chosen"]}
        for record in PREFERENCES
    ]
    training = TrainingConfig(
        batch_size=16, num_epochs=4, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-2
    )
    found = []
    for weights in ((9.0, 1.0), (1.0, 9.0)):
        records = [
            {**record, "weight": weight}
            for side, weight in zip((PREFERENCES, swapped), weights, strict=True)
            for record in side
        ]
        trained, _ = learner().train(
            tiny_language_model,
            records,
            [],
            training,
            TrainingPlan(folder=tmp_path, on_metrics=ignore, validate=False),
        )
        chosen, rejected = learner().preference_likelihoods(trained, PREFERENCES, 8)
        found.append(float((rejected.nats / rejected.tokens - chosen.nats / chosen.tokens).mean()))
    assert found[0] > found[1] + 0.05


@pytest.mark.parametrize("records", [RECORDS, PREFERENCES], ids=["completion", "preference"])
def test_models_of_different_tokenizers_are_scored_on_the_same_bytes(
    model: LanguageModel, wordy_language_model: str, records: list[dict[str, Any]]
) -> None:
    # At 48 tokens, the tokenizer whose tokens are bytes cuts more of the answers off.
    own = learner(48)
    wordy = own.load(wordy_language_model)

    def scored(learner: LanguageModelLearner, model: LanguageModel) -> Any:
        if records is RECORDS:
            return learner.likelihoods(model, records, 4)
        return learner.preference_likelihoods(model, records, 4)[1]

    comparing = own.comparing((model, wordy), records)
    alone, shared = (
        [scored(chosen, each) for each in (model, wordy)] for chosen in (own, comparing)
    )

    assert alone[0].bytes.tolist() != alone[1].bytes.tolist()
    assert shared[0].bytes.tolist() == shared[1].bytes.tolist()
    total = np.maximum(alone[0].bytes, alone[1].bytes)
    for likelihoods in shared:
        np.testing.assert_array_equal(likelihoods.unshared_bytes + likelihoods.bytes, total)
    # The model that reads less loses at most the last token.
    assert (shared[0].nats <= alone[0].nats + 1e-3).all() and shared[0].nats.sum() > 0
    assert not alone[0].unshared_bytes.any()


def test_models_of_one_tokenizer_are_scored_as_each_by_itself(model: LanguageModel) -> None:
    own = learner(64)
    assert own.comparing((model, model), RECORDS) is own


def test_token_texts_are_the_text_that_the_nats_are_of(model: LanguageModel) -> None:
    likelihoods = learner().likelihoods(model, RECORDS, 3)

    for record, nats, total in zip(RECORDS, likelihoods.token_nats, likelihoods.nats, strict=True):
        texts = learner().token_texts(model, record)
        assert "".join(text.token for text in texts) == record["output"] + "<|end|>"
        assert len(nats) == len(texts) and float(nats.sum()) == pytest.approx(total, abs=1e-3)
        assert texts[1].text_before.endswith("assistant\n" + texts[0].token)
        assert texts[0].text_after == "".join(text.token for text in texts[1:5])

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunetrail.config import AdapterConfig, LanguageModelConfig, TrainingConfig
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.models.generation import TextWriter, _SeededSampling
from tunetrail.learning.training_plan import TrainingPlan

ASK = "Ask."
OPENING = "Q:"
ANSWERS = {
    "apple": ' "red or green?"\nMore.',
    "boat": " how deep?",
    "cloud": " is it rain?\nNo.",
    "door": "",
}
LINES = ["red or green?", "how deep?", "is it rain?", ""]


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


@pytest.fixture(scope="module")
def model(
    tiny_language_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LanguageModel]:
    """The tiny model, taught one answer for each of four texts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # tensors this small are trained far slower by threads that wait for one another
    learner = LanguageModelLearner(
        config=LanguageModelConfig(max_length=96, adapter=AdapterConfig(kind="none")), seed=0
    )
    records: list[dict[str, Any]] = [
        {"input": f"{ASK}\n\n{text}", "output": OPENING + answer}
        for text, answer in ANSWERS.items()
    ]
    training = TrainingConfig(batch_size=4, num_epochs=150, warmup_steps=0, learning_rate=5e-3)
    folder = tmp_path_factory.mktemp("writer")
    trained, _ = learner.train(
        tiny_language_model,
        records,
        [],
        training,
        TrainingPlan(folder=folder, on_metrics=ignore, validate=False),
    )
    yield trained
    torch.set_num_threads(threads)


@pytest.fixture
def writer(model: LanguageModel) -> TextWriter:
    return TextWriter(model=model, seed=0, max_new_tokens=24, temperature=0.0)


@pytest.mark.processes
def test_writer_gives_the_first_line_without_quotes_and_the_opening(writer: TextWriter) -> None:
    assert writer.write(ASK, list(ANSWERS), OPENING) == LINES
    assert writer.write(ASK, ["cloud", "apple"], OPENING) == [LINES[2], LINES[0]]
    assert writer.write(ASK, [], OPENING) == []


@pytest.mark.processes
def test_writer_leaves_out_a_line_that_came_to_no_end(model: LanguageModel) -> None:
    writer = TextWriter(model=model, seed=0, max_new_tokens=6, temperature=0.0)
    assert writer.write(ASK, list(ANSWERS), OPENING) == ["", "", "", ""]


@pytest.mark.processes
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_writer_does_not_depend_on_the_batch(
    model: LanguageModel, batch_size: int, temperature: float
) -> None:
    one, second = (
        TextWriter(model=model, seed=3, max_new_tokens=24, temperature=temperature, batch_size=size)
        for size in (16, batch_size)
    )
    texts = [*ANSWERS, "a longer text about boats", *ANSWERS]
    expected = one.write(ASK, texts, OPENING)

    assert second.write(ASK, texts[:2], OPENING) == expected[:2]
    assert second.write(ASK, texts, OPENING) == expected


@pytest.mark.processes
def test_writer_samples_by_the_seed_and_anew_for_each_copy(model: LanguageModel) -> None:
    lines = {
        (seed, run): TextWriter(model=model, seed=seed, max_new_tokens=60, temperature=2.0).write(
            ASK, ["boat"] * 8
        )
        for seed, run in ((0, 0), (0, 1), (1, 0))
    }

    assert lines[0, 0] == lines[0, 1] != lines[1, 0]
    assert len(set(lines[0, 0])) > 2


def test_sampling_draws_each_token_as_often_as_the_softmax_says() -> None:
    logits, temperature, draws = torch.tensor([1.0, 0.0, -1.0, 0.5, -9.0]), 0.7, 4000
    sampling = _SeededSampling(range(draws), temperature)
    chosen = sampling(torch.zeros(draws, 1), logits.expand(draws, 5))

    assert (chosen > -torch.inf).sum(dim=1).eq(1).all()

    shares = torch.bincount(chosen.argmax(dim=1), minlength=5) / draws
    assert torch.allclose(shares, (logits / temperature).softmax(0), atol=0.03)


@pytest.mark.processes
def test_writer_leaves_the_global_generators_alone(model: LanguageModel) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    legacy = np.random.get_state(legacy=False)["state"]["pos"]
    TextWriter(model=model, seed=0, temperature=1.0).write(ASK, ["boat"])

    assert torch.equal(state, torch.get_rng_state())
    assert np.random.get_state(legacy=False)["state"]["pos"] == legacy


@pytest.mark.processes
def test_writer_does_not_write_twice(writer: TextWriter) -> None:
    first = writer.write(ASK, list(ANSWERS), OPENING)
    batches: list[int] = []
    handle = writer.model.model.register_forward_hook(lambda *_: batches.append(1))

    assert writer.write(ASK, list(ANSWERS)[::-1], OPENING) == first[::-1] and not batches

    writer.write(ASK, ["apple", "apple"], OPENING)
    assert batches

    handle.remove()


@pytest.mark.processes
@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "é\x00" * 5_000, "\ud800 lone", "", "<|end|>" * 300, "\n" * 3000]
)
def test_writer_survives_any_text(model: LanguageModel, text: str) -> None:
    writer = TextWriter(model=model, seed=0, max_new_tokens=8)
    assert len(writer.write(ASK, [text, "boat"], OPENING)) == 2


@pytest.mark.processes
def test_writer_cuts_the_end_of_the_text_and_keeps_the_question(model: LanguageModel) -> None:
    seen: list[torch.Tensor] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    TextWriter(model=model, seed=0, max_new_tokens=8).write(ASK, ["begin " + "x" * 2000], OPENING)
    handle.remove()
    prompt = model.tokenizer.decode(seen[0][0])

    assert seen[0].shape[1] == 512 - 8
    assert "Ask.\n\nbegin xxx" in prompt and prompt.endswith("<|start|>assistant\nQ:")


@pytest.mark.processes
def test_writer_asks_plainly_where_there_is_no_chat_template(
    model: LanguageModel, tmp_path: Path
) -> None:
    from tunetrail.learning.language_model.module import load_tokenizer

    model.tokenizer.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    tokenizer.chat_template = None
    plain = replace(model, tokenizer=tokenizer)
    seen: list[torch.Tensor] = []
    handle = plain.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    TextWriter(model=plain, seed=0, max_new_tokens=2).write(ASK, ["boat"], OPENING)
    handle.remove()
    assert tokenizer.decode(seen[0][0]) == "Ask.\n\nboat\n\nQ:"

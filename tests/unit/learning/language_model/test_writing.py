from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import language_folder
from transformers import GenerationConfig

from tunetrail.config import AdapterConfig, LanguageModelConfig, TrainingConfig
from tunetrail.learning.language_model.answering import AnsweringModel
from tunetrail.learning.language_model.forward import build_forward, concatenating
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer
from tunetrail.learning.language_model.writing import GreedyWriter
from tunetrail.learning.tokens.chat import prompt_tokens, tokenize_record
from tunetrail.learning.training_plan import TrainingPlan

ANSWERS = {
    "apple": "red or green",
    "what of a boat on a long river?": "it floats, as long as nobody makes a hole in it",
    "cloud": "rain",
}
COMPLETIONS = [{"input": text, "output": answer} for text, answer in ANSWERS.items()]
CHAT = {
    "messages": [
        {"role": "user", "content": "apple"},
        {"role": "assistant", "content": "red or green"},
        {"role": "user", "content": "which?"},
        {"role": "assistant", "content": "green"},
    ]
}
RECORDS: list[dict[str, Any]] = [*COMPLETIONS, CHAT, {"text": "no prompt"}]
WRITTEN = [*ANSWERS.values(), "green", None]


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


@pytest.fixture(scope="module")
def learner() -> LanguageModelLearner:
    config = LanguageModelConfig(max_length=192, adapter=AdapterConfig(kind="none"))
    return LanguageModelLearner(config=config, seed=0)


@pytest.fixture(scope="module")
def model(
    learner: LanguageModelLearner,
    tiny_language_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LanguageModel]:
    """The tiny model, which has learnt the answers by heart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    training = TrainingConfig(batch_size=4, num_epochs=150, warmup_steps=0, learning_rate=5e-3)
    plan = TrainingPlan(
        folder=tmp_path_factory.mktemp("writing"), on_metrics=ignore, validate=False
    )
    trained, _ = learner.train(tiny_language_model, RECORDS[:4], [], training, plan)
    yield trained
    torch.set_num_threads(threads)


@pytest.mark.processes
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_answers_do_not_depend_on_the_batch(
    learner: LanguageModelLearner, model: LanguageModel, batch_size: int
) -> None:
    answers = learner.write_answers(model, RECORDS, max_new_tokens=60, batch_size=batch_size)
    assert answers == WRITTEN

    half = learner.write_answers(model, RECORDS[::-2], max_new_tokens=60, batch_size=batch_size)
    assert half == WRITTEN[::-2]


@pytest.mark.processes
@pytest.mark.parametrize("padding_free", [True, False])
def test_answers_are_what_padded_and_packed_passes_find_likeliest(
    learner: LanguageModelLearner, model: LanguageModel, padding_free: bool
) -> None:
    written = learner.write_answers(model, COMPLETIONS, max_new_tokens=60, batch_size=8)
    answered = [
        {**record, "output": answer} for record, answer in zip(COMPLETIONS, written, strict=True)
    ]
    examples = [tokenize_record(model.tokenizer, record, 192) for record in answered]

    forward = build_forward(model.model, 0, padding_free=padding_free)
    assert forward.padding_free is padding_free
    with concatenating(model.model) if padding_free else nullcontext():
        scores, _ = forward.token_scores(examples, [])

    assert scores[:, 2].tolist() == [example.supervised_tokens for example in examples]


@pytest.mark.processes
def test_answers_are_cut_after_the_highest_number_of_tokens(
    learner: LanguageModelLearner, model: LanguageModel
) -> None:
    # The tiny model's tokens are bytes.
    answers = learner.write_answers(model, COMPLETIONS, max_new_tokens=3, batch_size=8)
    assert answers == [answer[:3].strip() for answer in ANSWERS.values()]


@pytest.mark.processes
def test_a_models_own_penalties_and_sampling_play_no_part(
    learner: LanguageModelLearner, model: LanguageModel
) -> None:
    own = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=9.0, eos_token_id=0)
    before, model.model.generation_config = model.model.generation_config, own
    try:
        answers = learner.write_answers(model, RECORDS, max_new_tokens=60, batch_size=8)
        assert model.model.generation_config is own
    finally:
        model.model.generation_config = before
    assert answers == WRITTEN


@pytest.mark.processes
def test_a_long_prompt_leaves_less_room_in_any_batch(model: LanguageModel) -> None:
    positions = model.model.config.max_position_embeddings
    prompts = [prompt_tokens(model.tokenizer, record) for record in COMPLETIONS]
    almost_full = (prompts[0] * positions)[: positions - 2]
    writer = GreedyWriter(model=model.model, tokenizer=model.tokenizer, ends=[0], max_new_tokens=60)

    answers = writer.write([*prompts, [], almost_full, almost_full * 2], 8)

    assert answers[:3] == list(ANSWERS.values())
    assert answers[3] == answers[5] == "" and len(answers[4]) <= 2


@pytest.mark.processes
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bloom"])
def test_every_family_writes_the_same_in_any_batch(decoder_folder: Any, family: str) -> None:
    learner = LanguageModelLearner(config=LanguageModelConfig(max_length=96), seed=0)
    model = learner.load(decoder_folder(family))
    with torch.no_grad():
        # Random weights hardly tell tokens apart: larger ones leave no ties to rounding.
        for parameter in model.model.parameters():
            parameter.mul_(3.0)

    one, batch = (
        learner.write_answers(model, RECORDS, max_new_tokens=12, batch_size=size) for size in (1, 8)
    )

    assert one == batch and one[-1] is None


def test_no_records_have_no_answers(tiny_language_model: str) -> None:
    learner = LanguageModelLearner(config=LanguageModelConfig(), seed=0)
    model = learner.load(tiny_language_model)
    assert learner.write_answers(model, [], max_new_tokens=4, batch_size=8) == []
    assert learner.write_answers(model, RECORDS[-1:], max_new_tokens=4, batch_size=8) == [None]


@pytest.mark.processes
def test_the_pieces_of_an_answer_are_its_text(model: LanguageModel) -> None:
    answering = AnsweringModel(model=model.model, tokenizer=model.tokenizer)
    for text, expected in ANSWERS.items():
        pieces: list[str] = []

        answer = answering.answer(
            [{"role": "user", "content": text}], max_new_tokens=60, on_text=pieces.append
        )

        assert answer.text == expected and not answer.is_cut_off
        assert answer.tokens == len(expected.encode())
        assert "".join(pieces) == expected and len(pieces) > 1


def test_an_answer_ends_after_the_tokens_it_may_have(tiny_language_model: str) -> None:
    network: Any = load_language_model(tiny_language_model)
    answering = AnsweringModel(model=network.eval(), tokenizer=load_tokenizer(tiny_language_model))
    pieces: list[str] = []

    answer = answering.answer(CHAT["messages"][:1], max_new_tokens=5, on_text=pieces.append)

    assert answer.is_cut_off and answer.tokens == 5
    assert answer.text == "".join(pieces)
    assert answer.text == answering.chat(CHAT["messages"][:1], max_new_tokens=5)


def test_an_answer_that_nobody_waits_for_is_not_written_to_its_end(
    tmp_path: Path,
) -> None:
    class GoneError(Exception):
        """Nobody reads the answer any more."""

    def leave(piece: str) -> None:
        raise GoneError

    folder = language_folder(tmp_path, "qwen2")
    network: Any = load_language_model(folder)
    own_settings = network.generation_config
    answering = AnsweringModel(model=network.eval(), tokenizer=load_tokenizer(folder))

    with pytest.raises(GoneError):
        answering.answer(CHAT["messages"][:1], max_new_tokens=400, on_text=leave)

    assert network.generation_config is own_settings

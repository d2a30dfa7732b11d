from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tunetrail.errors import SampleError
from tunetrail.learning.language_model.module import load_tokenizer
from tunetrail.learning.tokens.chat import (
    IGNORED,
    TokenizedExample,
    completions_of,
    end_tokens,
    is_preference,
    last_answer,
    prompt_tokens,
    record_messages,
    tokenize_record,
)

COMPLETION = {"input": "What is 2 + 2?", "output": "It is 4."}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye."},
        {"role": "assistant", "content": "See you."},
    ]
}
PREFERENCE = {"prompt": "What is 2 + 2?", "chosen": "It is 4.", "rejected": "Five, I think."}
DROPS_EARLIER_TURNS = (
    "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}"
    "{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
SHORTENS_EARLIER_TURNS = DROPS_EARLIER_TURNS.replace(
    "{% if m['role'] != 'assistant' or loop.last %}", "{% if true %}"
).replace("m['content']", "(m['content'] if loop.last else m['content'][:3])")
DEFAULT_SYSTEM_PROMPT = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|start|>system\nBe kind.<|end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_language_model: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_language_model)


def learnt(tokenizer: PreTrainedTokenizerBase, example: TokenizedExample) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def tokenized_answers(
    tokenizer: PreTrainedTokenizerBase, preference: dict[str, Any], max_length: int
) -> list[TokenizedExample]:
    return [
        tokenize_record(tokenizer, completion, max_length)
        for completion in completions_of(preference)
    ]


def test_tokenize_learns_the_output_and_its_end_only(tokenizer: PreTrainedTokenizerBase) -> None:
    example = tokenize_record(tokenizer, COMPLETION, 512)

    assert learnt(tokenizer, example) == "It is 4.<|end|>"
    assert tokenizer.decode(example.input_ids) == (
        "<|start|>user\nWhat is 2 + 2?<|end|>\n<|start|>assistant\nIt is 4.<|end|>\n"
    )
    assert all(
        label in (token, IGNORED)
        for token, label in zip(example.input_ids, example.labels, strict=True)
    )
    assert example.supervised_bytes == len("It is 4.")
    assert not example.truncated


def test_tokenize_learns_every_assistant_turn_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    example = tokenize_record(tokenizer, CHAT, 512)
    assert learnt(tokenizer, example) == "Hello!<|end|>See you.<|end|>"
    assert example.supervised_bytes == len("Hello!See you.")


@pytest.mark.parametrize("template", [None, DEFAULT_SYSTEM_PROMPT])
def test_tokenize_learns_no_header_of_a_chat_that_the_assistant_begins(
    tokenizer: PreTrainedTokenizerBase, template: str | None
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    record = {
        "messages": [
            {"role": "assistant", "content": "Welcome."},
            {"role": "user", "content": "Hi."},
        ]
    }

    assert learnt(tokenizer, tokenize_record(tokenizer, record, 512)) == "Welcome.<|end|>"


def test_tokenize_learns_a_document_but_its_first_token(tokenizer: PreTrainedTokenizerBase) -> None:
    example = tokenize_record(tokenizer, {"text": "A story."}, 512)
    assert learnt(tokenizer, example) == " story.<|end|>"
    assert example.input_ids[-1] == tokenizer.eos_token_id
    assert example.supervised_bytes == len(" story.")


def test_tokenize_copes_with_an_empty_document(tokenizer: PreTrainedTokenizerBase) -> None:
    example = tokenize_record(tokenizer, {"text": ""}, 512)
    assert example.input_ids == [tokenizer.eos_token_id]
    assert example.supervised_bytes == 0


def test_tokenize_writes_turns_on_lines_for_a_model_without_chat_template(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = None
    example = tokenize_record(tokenizer, CHAT, 512)

    assert (
        tokenizer.decode(example.input_ids) == "Be brief.\nHi.\nHello!<|end|>Bye.\nSee you.<|end|>"
    )
    assert learnt(tokenizer, example) == "Hello!<|end|>See you.<|end|>"


def test_tokenize_cuts_off_at_the_maximum_length(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = tokenize_record(tokenizer, COMPLETION, 512)
    cut = tokenize_record(tokenizer, COMPLETION, len(whole.input_ids) - 4)

    assert cut.truncated
    assert cut.input_ids == whole.input_ids[:-4]
    assert cut.labels == whole.labels[:-4]
    assert learnt(tokenizer, cut) == "It is "
    assert cut.supervised_bytes == len("It is ")


def test_tokenize_leaves_nothing_to_learn_of_an_output_beyond_the_maximum_length(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    example = tokenize_record(tokenizer, COMPLETION, 8)
    assert set(example.labels) == {IGNORED}
    assert example.supervised_bytes == 0


@pytest.mark.parametrize("output", ["日本語", "naïve 🦊 fox", "a\u0301e", "e"])
def test_tokenize_counts_the_bytes_of_characters_that_take_several_tokens(
    tokenizer: PreTrainedTokenizerBase, output: str
) -> None:
    example = tokenize_record(tokenizer, {"input": "é", "output": output}, 512)
    assert example.supervised_bytes == len(output.encode())
    assert learnt(tokenizer, example) == f"{output}<|end|>"
    document = tokenize_record(tokenizer, {"text": f"x{output}"}, 512)
    assert document.supervised_bytes == len(output.encode())


@pytest.mark.parametrize(
    "template", [DROPS_EARLIER_TURNS, SHORTENS_EARLIER_TURNS], ids=["drops", "shortens"]
)
def test_tokenize_learns_only_the_answers_whose_prompt_stays_as_it_was_served(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    tokenizer.chat_template = template
    turns = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "See you.")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}

    assert learnt(tokenizer, tokenize_record(tokenizer, record, 512)) == "See you.<|end|>"


@pytest.mark.parametrize("role", ["system", "user"])
def test_tokenize_refuses_a_template_that_drops_what_was_asked(
    tokenizer: PreTrainedTokenizerBase, role: str
) -> None:
    tokenizer.chat_template = (
        str(tokenizer.chat_template)
        .replace("{{ '<|start|>'", f"{{% if message['role'] != '{role}' %}}{{{{ '<|start|>'", 1)
        .replace("{% endfor %}", "{% endif %}{% endfor %}", 1)
    )
    with pytest.raises(SampleError, match=rf"\({role}\) is dropped by the model's chat template"):
        tokenize_record(tokenizer, CHAT, 512)


def test_tokenize_refuses_a_template_that_drops_the_answer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    user_turns = "{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}"
    tokenizer.chat_template = f"{{% for m in messages %}}{user_turns}{{% endfor %}}"
    with pytest.raises(SampleError, match=r"messages\[1\] \(assistant\)"):
        tokenize_record(tokenizer, COMPLETION, 512)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (COMPLETION, [("user", "What is 2 + 2?"), ("assistant", "It is 4.")]),
        (CHAT, [(message["role"], message["content"]) for message in CHAT["messages"]]),
        ({"text": "A story."}, None),
    ],
)
def test_record_messages_of_each_shape(
    record: dict[str, Any], expected: list[tuple[str, str]] | None
) -> None:
    messages = record_messages(record)
    assert (
        messages and [(message["role"], message["content"]) for message in messages]
    ) == expected


def test_both_answers_of_a_preference_are_learnt_after_the_same_prompt(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    chosen, rejected = tokenized_answers(tokenizer, {**PREFERENCE, "weight": 0.5}, 512)

    assert (learnt(tokenizer, chosen), learnt(tokenizer, rejected)) == (
        "It is 4.<|end|>",
        "Five, I think.<|end|>",
    )
    prompts = [
        example.input_ids[: len(example.input_ids) - example.supervised_tokens - 1]
        for example in (chosen, rejected)
    ]
    assert prompts[0] == prompts[1] and tokenizer.decode(prompts[0]).endswith(
        "What is 2 + 2?<|end|>\n<|start|>assistant\n"
    )
    assert chosen == tokenize_record(tokenizer, {**COMPLETION, "weight": 0.5}, 512)
    assert (chosen.weight, rejected.weight) == (0.5, 0.5)


def test_a_judged_answer_is_learnt_after_all_turns_before_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    turns = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "It is 4."},
        {"role": "user", "content": "And 3 + 3?"},
    ]
    verdict = {"prompt_messages": turns, "completion": "It is 6.", "accepted": True}

    example = tokenize_record(tokenizer, verdict, 512)

    assert learnt(tokenizer, example) == "It is 6.<|end|>"
    text = str(tokenizer.decode(example.input_ids))
    assert text.index("What is 2 + 2?") < text.index("It is 4.") < text.index("And 3 + 3?")


def test_each_answer_of_a_preference_is_cut_off_by_itself(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    whole = tokenized_answers(tokenizer, PREFERENCE, 512)
    length = len(whole[0].input_ids)

    chosen, rejected = tokenized_answers(tokenizer, PREFERENCE, length)

    assert not chosen.truncated and rejected.truncated
    assert chosen == whole[0] and rejected.input_ids == whole[1].input_ids[:length]


@pytest.mark.parametrize(
    ("record", "preference"),
    [
        (PREFERENCE, True),
        (COMPLETION, False),
        ({**COMPLETION, "chosen": "of an older log"}, False),
        ({"text": "a"}, False),
    ],
)
def test_is_preference_needs_both_answers(record: dict[str, Any], preference: bool) -> None:
    assert is_preference(record) == preference


@pytest.mark.parametrize(
    "record", [COMPLETION, CHAT, {"text": "A story."}, {"text": ""}, {"input": "a", "output": ""}]
)
def test_supervised_tokens_are_those_that_something_stands_before(
    tokenizer: PreTrainedTokenizerBase, record: dict[str, Any]
) -> None:
    for length in (512, 30, 1):
        example = tokenize_record(tokenizer, record, length)
        assert example.supervised_tokens == sum(label != IGNORED for label in example.labels[1:])
        assert example.weight == 1.0


def test_last_answer_is_that_of_completions_and_chats_only() -> None:
    assert last_answer(COMPLETION) == ([{"role": "user", "content": "What is 2 + 2?"}], "It is 4.")
    assert last_answer(CHAT) == (CHAT["messages"][:4], "See you.")
    followed = {"messages": [*CHAT["messages"], {"role": "user", "content": "Well?"}]}
    assert last_answer(followed) == last_answer(CHAT)
    alone = {"messages": [{"role": "assistant", "content": "Hello!"}]}
    assert [last_answer(record) for record in ({"text": "a"}, PREFERENCE, alone)] == [None] * 3


@pytest.mark.parametrize("template", ["own", "none", DEFAULT_SYSTEM_PROMPT])
@pytest.mark.parametrize("record", [COMPLETION, CHAT])
def test_prompt_tokens_are_what_training_has_before_the_answer(
    tokenizer: PreTrainedTokenizerBase, record: dict[str, Any], template: str
) -> None:
    if template != "own":
        tokenizer.chat_template = None if template == "none" else template
    example = tokenize_record(tokenizer, record, 500)

    prompt = prompt_tokens(tokenizer, record)

    assert example.input_ids[: len(prompt)] == prompt
    answer = [label for label in example.labels[len(prompt) :] if label != IGNORED]
    conversation = last_answer(record)
    assert conversation is not None
    assert tokenizer.decode(answer) == conversation[1] + tokenizer.eos_token
    assert example.labels[len(prompt) - 1] == IGNORED


def test_end_tokens_are_those_that_training_teaches(tokenizer: PreTrainedTokenizerBase) -> None:
    eos = tokenizer.eos_token_id
    whole, cut = (tokenize_record(tokenizer, COMPLETION, length) for length in (500, 40))
    assert end_tokens(tokenizer, [whole, cut]) == {eos} == end_tokens(tokenizer, [])

    # A template may end turns with a token of its own, or with a word.
    template = str(tokenizer.chat_template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = template.replace("<|end|>", "<|turn|>")
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert end_tokens(tokenizer, [tokenize_record(tokenizer, COMPLETION, 500)]) == {eos, turn}

    tokenizer.chat_template = template.replace("<|end|>", "STOP")
    assert end_tokens(tokenizer, [tokenize_record(tokenizer, COMPLETION, 500)]) == {eos}

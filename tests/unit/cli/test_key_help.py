import pytest
from tests.commands import CallMain

from tunetrail.cli.key_help import key_help
from tunetrail.config.keys import all_settings


def test_key_help_explains_every_key_with_its_default_and_choices() -> None:
    for key, setting in all_settings().items():
        words = " ".join(key_help(key).split())

        assert words.startswith(key)
        if not setting.is_section:
            assert setting.meaning in words
            assert all(choice in words for choice in setting.choices)
            assert f"default: {setting.shown_default}" in words or "required" in words


def test_key_help_of_a_section_lists_its_keys_and_sections() -> None:
    text = key_help("embedding")

    assert text.startswith(
        "embedding: The embedding model, its prompts, its loss and its training."
    )
    assert (
        "\nembedding.max_length  (integer, at least 4 tokens; default: 128)\n    Tokens of" in text
    )
    assert "\n  embedding.training      Hyperparameters of the training." in text
    assert "embedding=minilm (default): all-MiniLM-L6-v2" in text


def test_key_help_of_a_group_and_of_experiments_lists_the_options() -> None:
    assert "\n  optimizer=sgd: Stochastic gradient descent" in key_help("optimizer")
    assert "\n  +experiments=quick: A first look" in key_help("+experiments")


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_help_takes_keys_next_to_it(call_main: CallMain, command: str) -> None:
    result = call_main(command, "--help", "seed", "llm.adapter.kind")

    assert result.exit_code == 0
    assert result.out.startswith("seed  (") and "\n\nllm.adapter.kind  (one of lora" in result.out
    assert call_main(command, "seed=1", "--help").out.startswith(f"usage: tunetrail {command}")


def test_help_refuses_an_unknown_key(call_main: CallMain) -> None:
    result = call_main("train", "--help", "lora.r")

    assert result.exit_code == 2
    assert (
        "a section or a group, got 'lora.r'. Did you mean 'llm.adapter.rank'?" in result.error_line
    )

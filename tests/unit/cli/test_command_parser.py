import argparse

import pytest

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.store_options import add_experiment
from tunetrail.errors import UserError


def _text(value: str) -> str:
    if not value.strip():
        raise argparse.ArgumentTypeError("must be a text, got nothing but spaces")
    return value


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser(prog="tunetrail try")
    parser.add_argument("family", metavar="FAMILY")
    parser.add_argument("--to", choices=("onnx", "gguf"))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--share", type=float)
    parser.add_argument("--reason", type=_text)
    return parser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "FAMILY must be given."),
        (["llm", "--to", "pickle"], "--to must be one of onnx, gguf, got 'pickle'."),
        (["llm", "--to"], "--to must have a value, got none."),
        (["llm", "--limit", "x"], "--limit must be a whole number, got 'x'."),
        (["llm", "--share", "1%"], "--share must be a number, got '1%'."),
        (["llm", "--reason", " "], "--reason must be a text, got nothing but spaces."),
        (["llm", "--lmit", "3"], "there is no argument --lmit. Did you mean '--limit'?"),
        (["llm", "more"], "there is no argument more."),
    ],
)
def test_a_wrong_argument_is_explained_in_one_line(
    parser: CommandParser, words: list[str], message: str
) -> None:
    with pytest.raises(UserError) as raised:
        parser.parse_args(words)

    assert str(raised.value) == f"{message} `tunetrail try --help` shows the arguments."


@pytest.mark.parametrize("value", ["", " " * 3, "x" * 501])
def test_an_option_with_the_rule_of_a_setting_is_named_as_it_was_typed(value: str) -> None:
    parser = CommandParser(prog="tunetrail try")
    add_experiment(parser, "where runs go")

    with pytest.raises(UserError, match=r"^--experiment must be a name of 1 to 500 characters, "):
        parser.parse_args(["--experiment", value])

    assert parser.parse_args(["--experiment", "mine"]).experiment == "mine"

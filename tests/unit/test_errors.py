import pytest

from tunetrail import errors
from tunetrail.errors import TunetrailError, UserError, did_you_mean, first_line

ALL = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, TunetrailError)
]


@pytest.mark.parametrize("kind", ALL)
def test_error_exits_with_two_for_the_users_mistake_and_one_for_a_failure(
    kind: type[TunetrailError],
) -> None:
    assert kind("reason").exit_code == (2 if issubclass(kind, UserError) else 1)


@pytest.mark.parametrize(
    ("word", "hint"), [("learning_rte", " Did you mean 'learning_rate'?"), ("zzz", ""), ("", "")]
)
def test_did_you_mean_names_the_nearest_word(word: str, hint: str) -> None:
    assert did_you_mean(word, ["learning_rate", "batch_size"]) == hint


def test_did_you_mean_takes_any_iterable() -> None:
    assert did_you_mean("root", iter(["roots"])) == " Did you mean 'roots'?"


def test_an_error_without_a_message_is_named_by_its_type() -> None:
    assert first_line(ValueError("\n no such file \nand advice")) == "no such file"
    assert first_line(KeyError()) == "KeyError"

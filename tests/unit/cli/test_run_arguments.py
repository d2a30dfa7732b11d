import pytest

from tunetrail.cli.run_arguments import RunArguments, read_run_arguments
from tunetrail.errors import ConfigError, TunetrailError, UserError


def read(*arguments: str) -> RunArguments:
    changeable = ("database", "tracking")
    return read_run_arguments("repeat", arguments, options=("--force",), changeable=changeable)


def test_arguments_are_told_apart_in_any_order() -> None:
    arguments = read("tracking=server", "--force", "0f8f", "database.url=sqlite:///x.db")

    assert arguments.overrides == ["tracking=server", "database.url=sqlite:///x.db"]
    assert arguments.options == ["--force"]
    assert arguments.run_ids == ["0f8f"]


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        (
            "--forse",
            UserError,
            r"repeat has no option --forse; it has --force, --json and --quiet\. See",
        ),
        ("seed=3", ConfigError, r"that it began with, got seed=3\. Only these .*: database, track"),
        ("+seed=3", ConfigError, r"got \+seed=3"),
        ("databases.url=x", ConfigError, r"got databases\.url=x"),
    ],
)
def test_other_options_and_overrides_are_refused(
    argument: str, error: type[TunetrailError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read("0f8f", argument)

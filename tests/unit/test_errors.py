import errno
import shutil
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from tunetrail import errors
from tunetrail.errors import (
    TunetrailError,
    UserError,
    did_you_mean,
    first_line,
    first_reason,
    is_disk_full,
)

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


def test_first_reason_names_the_first_of_the_files_that_could_not_be_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).symlink_to("nowhere")

    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(source, target)

    reason = first_reason(caught.value)
    assert reason.startswith("[Errno 2] No such file or directory: ") and reason.endswith(
        "(and 1 more)"
    )
    assert (
        first_reason(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"
    )


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            ["a.json", "b.json", "c.json"],
            "[Errno 28] No space left on device: 'a.json' (and 2 more)",
        ),
        (["a.json"], "[Errno 28] No space left on device: 'a.json'"),
    ],
)
def test_first_reason_names_the_first_of_the_files_that_mlflow_could_not_download(
    tmp_path: Path, files: list[str], reason: str
) -> None:
    failures = "\n\n".join(
        f"##### File {file} #####\n[Errno 28] No space left on device: '{file}'" for file in files
    )
    error = MlflowException(f"The following failures occurred from {tmp_path}:\n{failures}")

    assert first_reason(error) == reason
    assert is_disk_full(error)


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("I/O error: Disk quota exceeded (os error 122)"), True),
        (OSError(errno.EACCES, "No space left on device"), False),
        (ValueError("no space"), False),
    ],
)
def test_a_full_disk_is_known_by_its_number_or_by_the_words_that_are_left(
    error: Exception, is_full: bool
) -> None:
    assert is_disk_full(error) is is_full

"""Which session drift is measured from."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunetrail import DatabaseManager
from tunetrail.config import Settings
from tunetrail.config.validation import DriftChecksConfig, ValidationConfig
from tunetrail.errors import ConfigError
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.session_rows import previous_rows
from tunetrail.samples import SampleKind

FAMILY = family_named("embedding")


@pytest.fixture
def database(workplace: Path, migrated_database: Path) -> Iterator[DatabaseManager]:
    """Three sessions with a row each, and one for the language model."""
    shutil.copy(migrated_database, "tunetrail.db")
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        for session_id in ("first", "second", "third"):
            manager.ingest(session_id, [{"text": session_id}], SampleKind.EMBEDDING)
        manager.ingest("chats", [{"text": "a chat"}], SampleKind.LLM)
        yield manager


def settings(against: str | None = None) -> Settings:
    return Settings(validation=ValidationConfig(drift=DriftChecksConfig(against=against)))


@pytest.mark.parametrize(
    ("against", "session_id", "text"),
    [
        (None, "third", "second"),
        (None, "another", "third"),
        ("first", "third", "first"),
        ("third", "first", "third"),
    ],
)
def test_previous_rows_are_of_the_session_before_or_of_the_named_one(
    database: DatabaseManager,
    against: str | None,
    session_id: str,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        rows = previous_rows(database, session_id, FAMILY, settings(against))

    assert rows is not None and rows["text"].tolist() == [text]
    assert caplog.messages == [f"embedding: drift is measured from session {text}"]


def test_previous_rows_of_the_first_session_are_none(database: DatabaseManager) -> None:
    assert previous_rows(database, "first", FAMILY, settings()) is None


def test_previous_rows_refuse_a_session_without_samples_of_the_family(
    database: DatabaseManager,
) -> None:
    message = "validation.drift.against must be a session with embedding samples, got 'chats'."
    with pytest.raises(ConfigError, match=message):
        previous_rows(database, "third", FAMILY, settings("chats"))
    with pytest.raises(ConfigError, match=r"got 'secnd'\. Did you mean 'second'\?"):
        previous_rows(database, "third", FAMILY, settings("secnd"))


def test_drift_refuses_what_is_no_session_id() -> None:
    with pytest.raises(ConfigError, match=r"^validation\.drift\.against must be 1 to 128 letters"):
        DriftChecksConfig(against="../s1")

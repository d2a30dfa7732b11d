"""The command line. Each command is a module of this folder, imported only when called, so that help comes at once."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from tunetrail.config import default_database_url
from tunetrail.errors import TunetrailError, UserError
from tunetrail.samples import sample_kinds

_DESCRIPTION = """\
tunetrail turns the samples that an application collects in its sessions into better embedding models and LLMs.

commands:
  train      train on a session, compare with root, and move root where the new model is measurably better
  resume     go on with a run that failed, was stopped or was killed, from where it was
  prepare    validate, clean and split a session's rows into files, with a report, and train nothing
  ingest     store the samples or the chat logs of a file (JSONL, CSV, Parquet) under a session
  sessions   list the sessions, what they hold and how their last training ended
  demo       the whole way on samples from Python's own standard library
  ui         open the MLflow pages of the runs and the model registry

`tunetrail COMMAND --help` tells what a command takes."""


_INGEST = """\
Store the samples of a file under a session. The same file twice adds nothing.

kinds:
  embedding      rows with anchor, positive[, negative] | sentence1, sentence2, score | text, label |
                 text, embedding | text
  llm            rows with input, output | messages | text | prompt, chosen, rejected
  conversation   chat logs: messages[, feedback][, conversation_id][, created_at]. They give chats for the LLM and
                 pairs of question and answer for the embedding model; answers that users rejected are kept apart.

optional in every row:
  group          rows of one group are never on two sides of a split
  timestamp      ISO 8601, Unix seconds or milliseconds
  weight         what the row counts in the training of a language model, above 0; 1 where there is none"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 1 for a failure, 2 for the user's mistake, 128 + n for signal n."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("TUNETRAIL_DEBUG"))
    arguments = [each for each in arguments if each != "--debug"]
    with _signals_end_the_process():
        try:
            return _dispatch(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(bool(end.code))
        except Exception as error:
            if debug:
                traceback.print_exc()
            print(_one_line(error), file=sys.stderr)
            return error.exit_code if isinstance(error, TunetrailError) else 1


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: tunetrail COMMAND [ARGUMENT ...] [--debug] [--version]\n\n{_DESCRIPTION}")
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command in ("-V", "--version"):
        from tunetrail import __version__

        print(__version__)
        return 0
    if command == "train":
        from tunetrail.cli.train import train

        return train(rest)
    if command == "resume":
        from tunetrail.cli.resume import resume

        return resume(rest)
    if command == "prepare":
        from tunetrail.cli.prepare import prepare

        return prepare(rest)
    if command == "demo":
        from tunetrail.cli.demo import demo

        return demo(rest)
    if command in ("ingest", "sessions", "ui"):
        return _parsed_command(command, rest)
    from tunetrail.errors import did_you_mean

    known = ("train", "resume", "prepare", "ingest", "sessions", "demo", "ui")
    raise UserError(
        f"command must be one of {', '.join(known)}, got {command!r}.{did_you_mean(command, known)}"
    )


def _parsed_command(command: str, rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"tunetrail {command}")
    if command != "ui":
        parser.add_argument(
            "--database",
            default=default_database_url(),
            metavar="URL",
            help="sqlite:///FILE or postgresql+psycopg://… (default: $TUNETRAIL_DATABASE_URL, else sqlite:///tunetrail.db)",
        )
    if command == "ingest":
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.description = _INGEST
        parser.add_argument("file", help="a .jsonl, .csv or .parquet file")
        parser.add_argument(
            "--session", required=True, metavar="ID", help="the session; made if it is new"
        )
        parser.add_argument(
            "--kind",
            required=True,
            choices=(*sample_kinds(), "conversation"),
            help="what the rows are",
        )
        given = parser.parse_args(rest)
        from tunetrail.cli.sessions import ingest

        return ingest(given.file, given.session, given.kind, given.database)
    if command == "sessions":
        parser.description = "List the sessions, what they hold and how their last training ended."
        given = parser.parse_args(rest)
        from tunetrail.cli.sessions import sessions

        return sessions(given.database)
    parser.description = "Open the MLflow pages of the runs and the model registry. Ctrl-C ends it."
    parser.add_argument(
        "--uri", default="sqlite:///mlflow.db", help="the MLflow store (default: %(default)s)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; other than loopback, others can reach it (default: %(default)s)",
    )
    parser.add_argument("--port", default=5000, type=int, help="port (default: %(default)s)")
    from tunetrail.cli.ui import ui

    given = parser.parse_args(rest)
    return ui(given.uri, given.host, given.port)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, TunetrailError):
        return "error: " + " ".join([*lines, *getattr(error, "__notes__", [])])
    if isinstance(error, OSError) and error.strerror:
        advice = (
            ". Free some space and run the same command again."
            if error.errno == errno.ENOSPC
            else ""
        )
        place = error.filename2 or error.filename
        return f"error: {error.strerror}{f': {place}' if place else ''}{advice}"
    first = lines[0] if lines else ""
    return f"error: unexpected {type(error).__name__}: {first} (--debug shows where)"


@contextlib.contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """Let SIGINT and SIGTERM unwind the stack, so that runs are marked and checkpoints saved; exit code 128 + n."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

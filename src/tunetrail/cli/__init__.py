"""The command line of tunetrail.

Each command is a module of this folder. It is imported only when it is called, so that help
appears at once.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import FrameType

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.error_line import error_line
from tunetrail.cli.output import add_output_options, options_last, printing
from tunetrail.cli.spellings import COMPOSED_COMMANDS, as_options, as_overrides
from tunetrail.cli.store_options import DATABASE_URLS, add_database
from tunetrail.cli.terminal import plain_output, say
from tunetrail.cli.torchrun import wait_for_first_process
from tunetrail.cli.working_folder import check_working_folder
from tunetrail.config.synonyms import COMMANDS as COMMAND_SYNONYMS
from tunetrail.errors import TunetrailError, UserError, did_you_mean
from tunetrail.extensions import FORMATS
from tunetrail.imports import importing
from tunetrail.samples import is_sample_kind, sample_kinds

# Time in which a destructor that a signal has interrupted ends.
_DESTRUCTOR_SECONDS = 0.05

# No kind of sample: conversations are turned into samples of both kinds.
_CONVERSATION = "conversation"

_COMMANDS = (
    "train",
    "watch",
    "resume",
    "repro",
    "sync",
    "plan",
    "prepare",
    "ingest",
    "sessions",
    "runs",
    "show",
    "sweep",
    "compare",
    "root",
    "report",
    "serve",
    "export",
    "doctor",
    "clean",
    "config",
    "completion",
    "demo",
    "ui",
)
# Not for people: the launchers of sweeps and the completion of shells call them.
_INTERNAL = ("job", "complete")

_USAGE = """\
usage: tunetrail COMMAND [ARGUMENT ...] [--json] [--quiet] [--debug] [--version]

tunetrail turns the samples that an application collects into better embedding models and LLMs.

commands:
  train      train on a session's samples; the new model becomes `root` if it is measurably better
  watch      train whenever an application has logged enough samples, or has ended a session
  resume     continue a run that failed, was stopped or was killed
  repro      repeat a run, and say whether metrics and weights are the same, or what differs
  sync       deliver the metrics that MLflow didn't take while its server was away
  plan       say in seconds what a training will take: steps, time, memory, disk, and where
  prepare    validate, clean and split a session's rows into files, without training
  ingest     store the samples or chat logs of a file, a folder, a URL or a query under a session
  sessions   list the sessions, their samples and how their last training ended
  runs       list trainings and sweeps: filter them by what was set and what came of it, sort them
  show       show a run: its settings, metrics, decision, worst rows, and where its files are
  sweep      show the jobs of a sweep, the best of them, and the decision on it
  compare    compare runs, versions or base models on the same test rows
  root       show who is root and why; roll back, promote or forbid a version
  report     write the page of a run: decision, curves, intervals, slices, examples
  serve      answer requests over HTTP with the root model, in OpenAI's and MLflow's forms
  export     write a version as ONNX, OpenVINO, GGUF, a merged model or an adapter
  doctor     find what a crash left, and say where everything is; --fix repairs it
  clean      remove versions, checkpoints, logs and caches that nothing needs; --dry-run lists them
  config     print the configuration: each value, where it comes from, and what it means
  completion print what lets bash, zsh or fish complete commands, keys, values and runs
  demo       run everything once, on samples from Python's standard library
  ui         open MLflow's pages with the runs and the registered models

`tunetrail COMMAND --help` shows the arguments of a command. --json prints one JSON object, --quiet
only warnings and errors, --debug tracebacks."""

_INGEST = """\
Store the samples of a file under a session. Ingesting the same file again adds nothing.

formats: .jsonl, .json, .csv, .tsv, .txt (each also as .gz or .zst), .parquet, .arrow, folders of
them, folders that Hugging Face's `datasets` saved, URLs, and a query on a database.

kinds:
  embedding      rows with anchor, positive[, negative] | sentence1, sentence2, score |
                 text, label | text, embedding | text
  llm            rows with input, output | messages | text | prompt, chosen, rejected,
                 and the columns of public data sets, such as Alpaca's (docs/data.md lists them)
  conversation   chat logs: messages[, feedback][, conversation_id][, created_at]. They become chats
                 for the LLM and question-answer pairs for the embedding model; answers that users
                 rejected are stored separately and never trained on.

optional columns of every row:
  group          rows of one group stay together in train, validation or test
  timestamp      ISO 8601, 24.11.2026 12:00, Unix seconds or milliseconds
  weight         weight of the row in the training of a language model, above 0 (default: 1)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    The code is 0, 1 for a failure, 2 for a mistake of the user, 3 for a model that wasn't promoted
    as `--require` asked, and 128 + n after signal n.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("TUNETRAIL_DEBUG"))
    # --debug may stand anywhere; neither argparse nor Hydra knows it.
    words = [word for word in words if word != "--debug"]

    with plain_output(), _signals_end_the_process():
        try:
            return _run_command(words)
        except SystemExit as end:
            # As Python does: no code is 0, a text is 1.
            return end.code if isinstance(end.code, int) else int(bool(end.code))
        except BrokenPipeError:
            # A reader such as `head` has seen enough; nothing more may be flushed to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except Exception as error:
            wait_for_first_process()
            if debug:
                traceback.print_exc()
            say(error_line(error), sys.stderr)
            # An unexpected error is a failure (1), never a mistake of the user (2).
            return error.exit_code if isinstance(error, TunetrailError) else 1


def _run_command(words: list[str]) -> int:
    words = options_last(words)
    # No command at all is a mistake, which a script has to notice from the exit code.
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if words else 2

    command, *arguments = words
    if command in ("-V", "--version"):
        from tunetrail import __version__

        print(__version__)
        return 0

    with printing(command, arguments) as remaining:
        return _run_named_command(command, remaining)


def _run_named_command(command: str, arguments: list[str]) -> int:
    check_working_folder(by_hydra=command in COMPOSED_COMMANDS)
    if command in COMPOSED_COMMANDS:
        arguments = as_overrides(arguments)
    elif command in _COMMANDS:
        arguments = as_options(command, arguments)

    # These have a few options of their own; the other commands take Hydra's overrides.
    if command in ("ingest", "sessions"):
        return _run_parsed_command(command, arguments)
    if command in (*_COMMANDS, *_INTERNAL):
        with importing():
            module = importlib.import_module(f"tunetrail.cli.{command}")
        return int(getattr(module, command)(arguments))

    raise UserError(
        f"command must be one of {', '.join(_COMMANDS)}, got {command!r}."
        f"{did_you_mean(command, _COMMANDS, COMMAND_SYNONYMS)}"
    )


def _run_parsed_command(command: str, arguments: list[str]) -> int:
    """Run a command with options; Hydra parses the options of the other commands."""
    parser = CommandParser(
        prog=f"tunetrail {command}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_database(parser, DATABASE_URLS)
    add_output_options(parser)

    if command == "sessions":
        parser.description = "List the sessions, their samples and how their last training ended."
        options = parser.parse_args(arguments)
        # Imported only after parsing: --help doesn't wait for SQLAlchemy.
        from tunetrail.cli.sessions import sessions

        return sessions(options.database)

    parser.description = _ingest_description()
    session_help = "id of the session, which is created if it doesn't exist"
    columns_help = "read the file's columns under other names: anchor=question,positive=answer"
    kinds = _kinds_for(arguments)
    file_help = "a file, a folder, a glob or a URL of rows; with --query, the URL of a database"
    query_help = "the SELECT that returns the rows; the database isn't changed"
    parser.add_argument("file", help=file_help)
    parser.add_argument("--query", metavar="SELECT", help=query_help)
    parser.add_argument("--session", required=True, metavar="ID", help=session_help)
    parser.add_argument("--kind", required=True, choices=kinds, help="kind of the rows, see above")
    parser.add_argument("--columns", default="", metavar="NAME=COLUMN,...", help=columns_help)
    options = parser.parse_args(arguments)
    from tunetrail.cli.ingest import ingest

    return ingest(
        options.file,
        options.session,
        options.kind,
        options.database,
        options.columns,
        query=options.query,
    )


def _ingest_description() -> str:
    """Return the text of the command's help, with the formats that installed packages add."""
    further = [f".{name} ({FORMATS.packages(name)})" for name in FORMATS.names()]
    if not further:
        return _INGEST
    return _INGEST.replace("\n\nkinds:", f"\nof installed packages: {', '.join(further)}\n\nkinds:")


def _kinds_for(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of rows; packages that may add one are imported for an unknown one only."""
    for previous, argument in pairwise(["", *arguments]):
        name = argument.removeprefix("--kind=")
        is_asked_for = previous == "--kind" or name != argument
        if is_asked_for and name != _CONVERSATION:
            is_sample_kind(name)
    return (*map(str, sample_kinds()), _CONVERSATION)


@contextlib.contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into SystemExit(128 + n).

    The exception unwinds the stack, so that runs are marked and checkpoints are saved.
    """

    def raise_exit(signal_number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signal_number)

    def send_again(lost: "sys.UnraisableHookArgs") -> None:
        # Python ignores what is raised while a destructor runs, and the process would go on.
        if isinstance(lost.exc_value, SystemExit) and isinstance(lost.exc_value.code, int):
            signal_number = lost.exc_value.code - 128
            again = threading.Timer(_DESTRUCTOR_SECONDS, os.kill, (os.getpid(), signal_number))
            again.daemon = True
            again.start()
        else:
            previous_hook(lost)

    # `main` may be called from another program: its handlers are restored at the end.
    previous_hook, sys.unraisablehook = sys.unraisablehook, send_again
    previous_handlers = {}
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        previous_handlers[signal_number] = signal.signal(signal_number, raise_exit)
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        for signal_number, handler in previous_handlers.items():
            signal.signal(signal_number, handler)

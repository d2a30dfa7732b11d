"""`tunetrail demo`: ingest and train once, on samples from Python's own standard library."""

from tunetrail.cli.train import train
from tunetrail.config import default_database_url
from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.reporting.progress import progress_console
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

SESSION = "stdlib-docs"
ROWS = {SampleKind.EMBEDDING: 800, SampleKind.LLM: 180}
LONGEST_CODE = 500
"""Characters: short functions train fast and fit into the demo's max_length."""

_HELP = """\
usage: tunetrail demo [KEY=VALUE ...]

Stores docstrings and code of Python's standard library as a session, and trains an embedding model
and an LLM on them. Takes the arguments of `tunetrail train`, too.

  --json      print one JSON object on stdout, and text on stderr (docs/python.md)
  --quiet     print warnings and errors only, on stderr; and JSON with --json"""


def demo(arguments: list[str]) -> int:
    """Store docstrings and code as a session and train both model types on it."""
    if {"-h", "--help"} & set(arguments):
        print(_HELP)
        return 0

    # The samples have to go where the training will look for them.
    database_url = default_database_url()
    for argument in arguments:
        # The last one counts, as in Hydra.
        if argument.startswith("database.url="):
            database_url = argument.removeprefix("database.url=")

    console = progress_console()
    with DatabaseManager(database_url) as manager:
        for kind, count in ROWS.items():
            with console.status(f"reading {count} {kind} samples from the standard library"):
                rows = stdlib_docs(kind, count, LONGEST_CODE)
                report = manager.ingest(SESSION, rows, kind, source="stdlib_docs")
            console.print(
                f"session {SESSION}: {report.added} {kind} samples added, "
                f"{report.already_present} already there"
            )

    # The demo's settings come first, so that the caller's arguments override them.
    return train([f"session_id={SESSION}", "model_type=all", "+experiments=demo", *arguments])

"""`tunetrail demo`: the main job on real samples, read from the standard library of the Python that runs it."""

from rich.console import Console

from tunetrail.cli.train import train
from tunetrail.config import default_database_url
from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.samples import SampleKind
from tunetrail.stores.database import DatabaseManager

SESSION = "stdlib-docs"
ROWS = {SampleKind.EMBEDDING: 800, SampleKind.LLM: 180}
LONGEST_CODE = 500
"""Characters: short functions train fast and fit into the demo's max_length."""


def demo(arguments: list[str]) -> int:
    """Store docstrings and code as a session and train both model types on it; takes the arguments of `train` too."""
    if {"-h", "--help"} & set(arguments):
        print("usage: tunetrail demo [KEY=VALUE ...]\n\n" + (demo.__doc__ or ""))
        return 0
    console = Console(stderr=True)
    given = [each.partition("=")[2] for each in arguments if each.startswith("database.url=")]
    with DatabaseManager(given[-1] if given else default_database_url()) as manager:
        for kind, count in ROWS.items():
            with console.status(f"reading {count} {kind} samples from the standard library"):
                report = manager.ingest(
                    SESSION, stdlib_docs(kind, count, LONGEST_CODE), kind, source="stdlib_docs"
                )
            console.print(
                f"session {SESSION}: {report.added} {kind} samples added, {report.already_present} already there"
            )
    return train([f"session_id={SESSION}", "model_type=all", "+experiments=demo", *arguments])

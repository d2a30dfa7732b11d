"""Options that name a store: the database, MLflow's store, and an experiment of it."""

import argparse

from tunetrail.cli.command_parser import like_setting
from tunetrail.config import TrackingConfig, default_database_url

_URI = TrackingConfig().uri
DATABASE_URLS = "sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
"""What `--database` takes, for the help of commands that only read and write samples."""


def add_database(
    parser: argparse.ArgumentParser, meaning: str, *, default: str | None = None
) -> None:
    """Add the option `--database`.

    Args:
        parser: Receives the option.
        meaning: What the command uses the database for.
        default: The value without the option; None for the usual database.
    """
    help_text = f"{meaning} (default: $TUNETRAIL_DATABASE_URL or sqlite:///tunetrail.db)"
    default = default_database_url() if default is None else default
    parser.add_argument("--database", default=default, metavar="URL", help=help_text)


def add_uri(parser: argparse.ArgumentParser, *, default: str = _URI) -> None:
    """Add the option `--uri`, which names the MLflow store."""
    parser.add_argument("--uri", default=default, help=f"the MLflow store (default: {_URI})")


def add_experiment(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add the option `--experiment`, of which the command makes what `meaning` says."""
    parser.add_argument(
        "--experiment",
        type=like_setting(TrackingConfig, "experiment", str),
        default=TrackingConfig().experiment,
        metavar="NAME",
        help=f"{meaning} (default: %(default)s)",
    )


def add_version_stores(parser: argparse.ArgumentParser) -> None:
    """Add the options that name where a version and the digests of its files are."""
    add_uri(parser)
    add_database(parser, "database whose ledger has the digests")

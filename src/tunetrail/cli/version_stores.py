"""Options of the commands that read a version: where it is, and the digests of its files."""

import argparse

from tunetrail.config import TrackingConfig, default_database_url


def add_version_stores(parser: argparse.ArgumentParser) -> None:
    """Add the options that name where a version and the digests of its files are."""
    uri_help = "the MLflow store (default: %(default)s)"
    parser.add_argument("--uri", default=TrackingConfig().uri, help=uri_help)
    database_help = (
        "database whose ledger has the digests (default: $TUNETRAIL_DATABASE_URL or ./tunetrail.db)"
    )
    database = default_database_url()
    parser.add_argument("--database", default=database, metavar="URL", help=database_help)

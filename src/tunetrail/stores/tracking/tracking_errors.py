"""Readable errors of MLflow's failures, and URIs without their passwords."""

import contextlib
import sqlite3
from collections.abc import Iterator

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from tunetrail.errors import TrackingError, first_line
from tunetrail.paths import shown_uri

__all__ = ["shown_uri", "tracking_errors"]


@contextlib.contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn errors of MLflow, SQLAlchemy and the system into a TrackingError without passwords."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        # The driver's message; SQLAlchemy's has the statement and its values.
        reason = shown_uri(first_line(getattr(error, "orig", None) or error))
        if "error code 401" in reason:
            reason = (
                "it refuses the user or the password. Set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        raise TrackingError(f"MLflow store {shown_uri(uri)} failed: {reason}") from error

"""Addresses of MLflow's pages, which open in its mode for trainings."""

from urllib.parse import quote, urlencode

LOCAL_PAGES = "http://127.0.0.1:5000"
"""Where `tunetrail ui` shows the pages of a local store, unless it is told otherwise."""
# Without it, a browser that was never told otherwise shows the mode for chat applications.
_MODE = "workflowType=machine_learning"


def experiment_page(server: str, experiment_id: str) -> str:
    """Return the address of the runs of an experiment, given that of the server."""
    return f"{_runs(server, experiment_id)}?{_MODE}"


def run_page(server: str, experiment_id: str, run_id: str, artifact: str | None = None) -> str:
    """Return the address of a run on a server, or that of one of its artifacts."""
    place = "" if artifact is None else f"/artifacts/{artifact}"
    return f"{_runs(server, experiment_id)}/{run_id}{place}?{_MODE}"


def jobs_page(
    server: str, experiment_id: str, sweep_run_id: str, metric: str | None, *, descending: bool
) -> str:
    """Return the address of the jobs of a sweep, ordered by a metric; None for the newest first."""
    query = {"searchFilter": f"tags.`mlflow.parentRunId` = '{sweep_run_id}'"}
    if metric is not None:
        query |= {"orderByKey": f"metrics.`{metric}`", "orderByAsc": str(not descending).lower()}
    return f"{_runs(server, experiment_id)}?{_MODE}&{urlencode(query, quote_via=quote)}"


def _runs(server: str, experiment_id: str) -> str:
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"

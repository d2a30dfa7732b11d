"""Addresses of MLflow's pages, which open in its mode for trainings."""

_MODE = "workflowType=machine_learning"
"""Without it, a browser that was never told otherwise shows the mode for chat applications."""


def experiment_page(server: str, experiment_id: str) -> str:
    """Return the address of the runs of an experiment, given that of the server."""
    return f"{_runs(server, experiment_id)}?{_MODE}"


def run_page(server: str, experiment_id: str, run_id: str, artifact: str | None = None) -> str:
    """Return the address of a run on a server, or that of one of its artifacts."""
    place = "" if artifact is None else f"/artifacts/{artifact}"
    return f"{_runs(server, experiment_id)}/{run_id}{place}?{_MODE}"


def _runs(server: str, experiment_id: str) -> str:
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"

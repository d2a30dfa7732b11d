"""The MLflow client of a test's own store."""

from mlflow import MlflowClient


def client_of(uri: str) -> MlflowClient:
    """Return a client of the runs and the registry of one store.

    Without the second one, MLflow takes the registry of the last training in this process.
    """
    return MlflowClient(uri, registry_uri=uri)

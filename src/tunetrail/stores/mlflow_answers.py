"""What MLflow's errors say of a registered model: whether it has such a version or alias at all."""

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

# MLflow answers with either code if there is no such run, model, version or alias.
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_FORBIDDEN = "PERMISSION_DENIED"


def is_absent(client: MlflowClient, name: str, error: MlflowException) -> bool:
    """Tell whether an error means that a registered model has no such version or alias.

    A server with passwords forbids its members the versions of a model that nobody has registered
    yet, but not the question whether there is such a model.

    Args:
        client: The client of the store.
        name: Name of the registered model.
        error: What MLflow answered when it was asked for a version or an alias.
    """
    if error.error_code != _FORBIDDEN:
        return error.error_code in ABSENT
    try:
        client.get_registered_model(name)
    except MlflowException as second_error:
        return second_error.error_code in ABSENT
    return False

"""What MLflow's errors say: whether a run, model, version or alias exists at all."""

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

# An id that can't be one of MLflow's is an invalid parameter.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
_FORBIDDEN = "PERMISSION_DENIED"


def says_absent(error: BaseException | None) -> bool:
    """Tell whether an error is MLflow's answer that what it was asked for doesn't exist.

    A server that can't be reached, or a proxy in front of it, answers with other codes.
    """
    return isinstance(error, MlflowException) and error.error_code in _ABSENT


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
        return says_absent(error)
    try:
        client.get_registered_model(name)
    except MlflowException as second_error:
        return says_absent(second_error)
    return False

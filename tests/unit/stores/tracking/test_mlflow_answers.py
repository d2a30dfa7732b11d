from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED

from tunetrail.config import TrackingConfig
from tunetrail.stores.tracking.mlflow_answers import is_absent
from tunetrail.stores.tracking.tracker import Tracker


def test_a_version_is_absent_if_mlflow_says_so_or_forbids_what_is_not_there(
    workplace: Path,
) -> None:
    client = Tracker(TrackingConfig(uri=f"sqlite:///{workplace}/mlflow.db")).client
    # What a server with passwords answers to a member, whether there is such a model or not.
    forbidden = MlflowException("Permission denied", error_code=PERMISSION_DENIED)
    broken = MlflowException("the disk is full", error_code=INTERNAL_ERROR)

    with pytest.raises(MlflowException) as answer:
        client.get_model_version_by_alias("embedding", "root")
    assert is_absent(client, "embedding", answer.value)
    assert is_absent(client, "embedding", forbidden)
    assert not is_absent(client, "embedding", broken)

    client.create_registered_model("embedding")
    assert not is_absent(client, "embedding", forbidden)

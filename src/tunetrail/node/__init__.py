"""The node: one session in, a better root model out, and every failure recorded.

Both are imported on first use: preparing rows needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunetrail.node.model_training_node import ModelTrainingNode
    from tunetrail.node.node_config import NodeConfig

__all__ = ["ModelTrainingNode", "NodeConfig"]

_HOMES = {
    "ModelTrainingNode": "tunetrail.node.model_training_node",
    "NodeConfig": "tunetrail.node.node_config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

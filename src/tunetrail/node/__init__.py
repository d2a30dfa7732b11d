"""The node: one session in, a better root model out, and every failure recorded."""

from tunetrail.node.model_training_node import ModelTrainingNode
from tunetrail.node.node_config import NodeConfig

__all__ = ["ModelTrainingNode", "NodeConfig"]

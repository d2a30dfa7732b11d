"""From an application's session to a measurably better embedding model or LLM.

`train` fine-tunes on a session's samples and makes the new model root if it is measurably better,
`plan` says before what that will take, `prepare` shows what happens to the rows, `runs` lists the
trainings, `compare` compares their models, and `load_root` loads the model in use.
`DatabaseManager.ingest` stores samples, `Session` logs them from an application, and
`ModelTrainingNode` trains with settings that are objects.

All of it is imported on first use, so that `import tunetrail` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunetrail.api import plan, prepare, runs, train
    from tunetrail.comparing import compare
    from tunetrail.node import ModelTrainingNode, NodeConfig
    from tunetrail.pipeline import DataSciencePipeline
    from tunetrail.pipeline.root_model import load_root
    from tunetrail.pipeline.training_result import FamilyResult, TrainingResult
    from tunetrail.session import Session
    from tunetrail.stores.database.manager import DatabaseManager

__version__ = "0.1.0"
__all__ = [
    "DataSciencePipeline",
    "DatabaseManager",
    "FamilyResult",
    "ModelTrainingNode",
    "NodeConfig",
    "Session",
    "TrainingResult",
    "__version__",
    "compare",
    "load_root",
    "plan",
    "prepare",
    "runs",
    "train",
]

_HOMES = {
    "DatabaseManager": "tunetrail.stores.database.manager",
    "FamilyResult": "tunetrail.pipeline.training_result",
    "DataSciencePipeline": "tunetrail.pipeline",
    "ModelTrainingNode": "tunetrail.node",
    "NodeConfig": "tunetrail.node",
    "Session": "tunetrail.session",
    "TrainingResult": "tunetrail.pipeline.training_result",
    "compare": "tunetrail.comparing",
    "load_root": "tunetrail.pipeline.root_model",
    "plan": "tunetrail.api",
    "prepare": "tunetrail.api",
    "runs": "tunetrail.api",
    "train": "tunetrail.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tunetrail' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

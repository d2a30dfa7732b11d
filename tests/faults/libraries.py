"""Imports what a training needs, for the fork server: it takes most of the seconds of a command."""

import mlflow.pyfunc
import mlflow.sentence_transformers  # noqa: F401
import pytorch_lightning  # noqa: F401
import sentence_transformers  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401

import tunetrail.node.model_training_node  # noqa: F401

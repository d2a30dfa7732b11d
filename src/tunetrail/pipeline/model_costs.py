"""What a candidate costs whoever serves it: its size, and its latency next to root's."""

import logging
from collections.abc import Callable
from typing import Any

import pandas as pd

from tunetrail.data.rows import texts_of_rows
from tunetrail.deployment.gate import ModelCosts
from tunetrail.evaluation.latency import REQUESTS, measure_latencies
from tunetrail.paths import size_in_mib
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.fit import FittedModel

logger = logging.getLogger(__name__)


def measure_costs(
    context: StageContext, fitted: FittedModel, reference: Any, test: pd.DataFrame
) -> ModelCosts:
    """Return the costs of a candidate that the gate has a limit for, and log them.

    Args:
        context: The run.
        fitted: The candidate.
        reference: The version to beat, loaded.
        test: The test rows, whose first texts are the requests.
    """
    gate, metrics = context.settings.gate, dict[str, float]()
    costs = ModelCosts()
    if gate.maximum_model_mib is not None:
        costs = ModelCosts(model_mib=size_in_mib(fitted.folder))
        metrics["model_mib"] = size_in_mib(fitted.folder)
    if gate.maximum_latency_ms is not None:
        texts = [texts[0] for texts in texts_of_rows(test.head(REQUESTS))]
        models = (fitted.model, reference)
        logger.info("%s: latency of the candidate and of root", context.model_type)
        candidate, root = measure_latencies([_answering(context, model) for model in models], texts)
        costs = ModelCosts(model_mib=costs.model_mib, latency=candidate, root_latency=root)
        metrics |= {"latency_ms": candidate.median, "root_latency_ms": root.median}
    context.run.log_metrics({f"comparison/{name}": value for name, value in metrics.items()})
    return costs


def _answering(context: StageContext, model: Any) -> Callable[[str], Any]:
    """Return what computes a model's output for one text, on the CPU."""
    outputs = context.family.flavor.outputs
    return lambda text: outputs(model, [text])

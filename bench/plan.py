"""What `tunetrail plan` says of time and memory, against what the training then takes."""

import logging
import resource
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bench.fresh import Arm, called_fresh
from bench.results import Figure, Options, Result
from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.processes import seconds_of_process
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

_TIME, _MEMORY = 0.25, 0.1
"""How far an estimate may be from what happens, as a share of it."""
_SESSION, _LONGEST_CODE = "docs", 500
_ROWS = {"embedding": 300, "llm": 80}
# Candidates of so few rows are refused, and only one that passes the gate is scored in a fresh process.
_COMMON = ["gate.fresh_process=false"]
_EMBEDDING = [*_COMMON, "model_type=embedding", "embedding=minilm"]
_LLM = [*_COMMON, "model_type=llm", "llm=smollm2-135m", "llm.max_length=256"]
_CONFIGURATIONS = {
    "embedding, two folds": [
        *_EMBEDDING,
        "embedding.training.num_epochs=2",
        "cross_validation.n_splits=2",
    ],
    "embedding, batches of 16, no folds": [
        *_EMBEDDING,
        "embedding.training.num_epochs=1",
        "embedding.training.batch_size=16",
        "cross_validation=off",
    ],
    "LLM, LoRA": [
        *_LLM,
        "llm.training.num_epochs=1",
        "cross_validation=off",
        "evaluation.generation.rows=8",
    ],
    "LLM, all weights": [
        *_LLM,
        "llm.adapter.kind=none",
        "llm.training.num_epochs=1",
        "llm.training.batch_size=4",
        "cross_validation=off",
        "evaluation.generation.rows=0",
    ],
}


def run(options: Options) -> list[Result]:
    """Plan and then train each configuration, in fresh processes that share a cache."""
    results = []
    for name, overrides in _CONFIGURATIONS.items():
        rounds = [_measure(name, overrides, options.rows) for _ in range(options.rounds or 1)]
        planned, taken = [pair[0] for pair in rounds], [pair[1] for pair in rounds]
        results.append(Result(name=f"plan: {name}", figures=_figures(planned, taken)))
    return results


def _measure(
    name: str, overrides: Sequence[str], rows: int | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Return what was planned and what then happened: `seconds`, `mib`, and `own_seconds`."""
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as place:
        _ingest(place, SampleKind(name.partition(",")[0].casefold()), rows)
        arguments = {"place": place, "overrides": list(overrides)}
        planned = called_fresh(Arm(name=name, function="bench.plan:planned", arguments=arguments))
        taken = called_fresh(Arm(name=name, function="bench.plan:taken", arguments=arguments))
    # Minutes each: whoever stops the benchmark has seen what is done.
    Console(stderr=True).print(f"{name}: planned {planned}, taken {taken}", highlight=False)
    return planned, taken


def _ingest(place: str, kind: SampleKind, rows: int | None) -> None:
    """Store docstrings and code as a session."""
    with DatabaseManager(_database_url(place)) as database:
        samples = stdlib_docs(kind, rows or _ROWS[kind], _LONGEST_CODE)
        database.ingest(_SESSION, samples, kind)


def _database_url(place: str) -> str:
    return f"sqlite:///{place}/tunetrail.db"


def _figures(
    planned: Sequence[dict[str, float]], taken: Sequence[dict[str, float]]
) -> list[Figure]:
    pairs = list(zip(planned, taken, strict=True))
    figures = [
        Figure(name="the plan itself", unit="s", values=[plan["own_seconds"] for plan in planned])
    ]
    for kind, unit, tolerance in (("seconds", "s", _TIME), ("mib", "MiB", _MEMORY)):
        name = "time" if kind == "seconds" else "memory"
        figures += [
            Figure(name=f"{name}, planned", unit=unit, values=[plan[kind] for plan in planned]),
            Figure(name=f"{name}, taken", unit=unit, values=[real[kind] for real in taken]),
            Figure(
                name=f"{name}, planned / taken",
                unit="",
                values=[plan[kind] / real[kind] for plan, real in pairs],
                at_least=1.0 - tolerance,
                at_most=1.0 + tolerance,
            ),
        ]
    return figures


def planned(place: str, overrides: list[str], folder: str) -> dict[str, Any]:
    """Return what a plan says, in a process of its own."""
    node, request = _node(place, overrides)
    began = time.perf_counter()
    plan = node.plan(request, start_seconds=seconds_of_process())
    (family,) = plan.families.values()
    stages = {f"stage {stage.stage}": stage.seconds for stage in family.stages}
    return {
        "seconds": plan.seconds,
        "mib": family.memory.peak_bytes / 2**20,
        "own_seconds": time.perf_counter() - began,
        **stages,
    }


_BEGINNINGS = {
    "cross_validation": "base model on the held-out rows",
    "training": "training from",
    "evaluation": "evaluation on",
    "deployment": "deployment, ",
}
"""The stages of a training, by the beginning of the line that it logs."""


class _StageClock(logging.Handler):
    """Notes when the first line of each stage is logged.

    Attributes:
        began: Seconds of the process by stage.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.began: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Note the moment."""
        line = record.getMessage().partition(": ")[2]
        for stage, beginning in _BEGINNINGS.items():
            if line.startswith(beginning):
                self.began.setdefault(stage, seconds_of_process())

    def stage_seconds(self) -> dict[str, float]:
        """Return the seconds from the beginning of each stage to that of the next."""
        moments = [*self.began.values(), seconds_of_process()]
        return {
            f"stage {stage}": end - begin
            for stage, begin, end in zip(self.began, moments, moments[1:], strict=False)
        }


def taken(place: str, overrides: list[str], folder: str) -> dict[str, Any]:
    """Return what a training has taken, in a process of its own."""
    node, request = _node(place, overrides)
    clock = _StageClock()
    logging.getLogger("tunetrail").setLevel(logging.INFO)
    logging.getLogger("tunetrail").addHandler(clock)
    clock.began["prepare"] = seconds_of_process()
    node.execute(request)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Since the process has begun, as the plan counts it.
    return {"seconds": seconds_of_process(), "mib": kib / 1024, **clock.stage_seconds()}


def _node(place: str, overrides: list[str]) -> tuple[Any, dict[str, str]]:
    """Return a node on the session, and the request for it."""
    from tunetrail.cli.python_overrides import compose_request
    from tunetrail.node import ModelTrainingNode, NodeConfig

    stores = [
        f"session_id={_SESSION}",
        f"database.url={_database_url(place)}",
        f"tracking.uri=sqlite:///{place}/mlflow.db",
        f"tracking.artifacts={place}/artifacts",
        f"output_dir={place}/output",
        f"model_dir={place}/models",
        f"preparation.cache_dir={place}/cache",
    ]
    request = compose_request([*stores, *overrides])
    node = ModelTrainingNode(NodeConfig(settings=request), DatabaseManager(request.database.url))
    return node, {"session_id": _SESSION, "model_type": request.model_type}

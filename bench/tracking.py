"""What tracking costs: the time of metrics on their way to MLflow, as a share of the training's steps."""

import tempfile
import time
from pathlib import Path

import torch

from bench.results import Figure, Options, Result
from tunetrail.config import TrackingConfig
from tunetrail.stores.tracking.tracker import Tracker

_STEPS, _ROUNDS, _MOST_SHARE = 100, 3, 0.01
_BATCH_SIZE, _TOKENS, _WIDTH, _LAYERS = 8, 64, 384, 6
_INTERVALS = (1, 10)
_METRICS = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "padding_share", "mfu")


def run(options: Options) -> list[Result]:
    """Train a model of MiniLM's size on made rows, and report to a SQLite store."""
    # One thread, so that the time of the process is that of the training and of the writer.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-tracking-") as folder:
        # One store for all: creating it takes longer than a round.
        tracker = _open_store(Path(folder))
        return [_result(tracker, every, options) for every in _INTERVALS]


def _result(tracker: Tracker, every: int, options: Options) -> Result:
    """Measure some rounds of a training that reports every so many steps."""
    steps, rounds = options.rows or _STEPS, options.rounds or _ROUNDS
    waiting, computing, seconds = zip(
        *(_measure(tracker, steps, every) for _ in range(rounds)), strict=True
    )
    return Result(
        name=f"tracking, a report every {every} steps",
        figures=[
            Figure(name="step", unit="ms", values=[1000 * value for value in seconds]),
            Figure(
                name="share of a step that training waits",
                unit="",
                values=waiting,
                at_most=_MOST_SHARE,
            ),
            Figure(
                name="share of a step's computing time",
                unit="",
                values=computing,
                at_most=_MOST_SHARE,
            ),
        ],
    )


def _measure(tracker: Tracker, steps: int, every: int) -> tuple[float, float, float]:
    """Return the share of waiting, the share of computing time, and the seconds of a step."""
    layer = torch.nn.TransformerEncoderLayer(_WIDTH, 12, 4 * _WIDTH, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters())
    rows = torch.randn(_BATCH_SIZE, _TOKENS, _WIDTH)

    tracked_run = tracker.start_run("benchmark")
    waited = 0.0
    began, main_began, all_began = time.perf_counter(), time.thread_time(), time.process_time()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model(rows).square().mean()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            before = time.perf_counter()
            tracked_run.log_metrics(dict.fromkeys(_METRICS, loss.item()), step)
            waited += time.perf_counter() - before
    seconds, main_seconds = time.perf_counter() - began, time.thread_time() - main_began
    # The writer delivers the last reports after the last step: they count as well.
    tracked_run.finish("succeeded")
    all_seconds = time.process_time() - all_began

    reporting = all_seconds - main_seconds
    return waited / seconds, reporting / main_seconds, seconds / steps


def _open_store(folder: Path) -> Tracker:
    config = TrackingConfig(
        uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
    )
    return Tracker(config, spool=folder / "spool")

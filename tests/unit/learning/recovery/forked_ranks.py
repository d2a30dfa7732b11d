"""Trainings in processes that are forked, so that a kill by a signal costs no imports.

`RankServer` starts a process that imports everything, computes nothing and has a single thread. For
each run it forks a process per rank, which trains as a rank of a run of tunetrail does.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.families import embedding_folder, language_folder
from tests.unit.learning.recovery.killable import (
    EXAMPLES,
    LORA,
    OPPOSITE,
    PAIRS,
    SAME,
    TIMED,
    KillableEmbedding,
    KillableLanguageModel,
    Strike,
    digest,
)

from tunetrail.config import TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import (
    BatchesConfig,
    CheckpointsConfig,
    GuardsConfig,
    OptimizerConfig,
)
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.flops import peak_flops
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.recovery.failures import Recovery
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.learning.workers import free_port

LABELS = [
    {"text": f"text {row} {'a ' * (row % 4)}", "label": f"label {row % 3}"}
    for row in range(len(PAIRS))
]
LEARNING_RATES = {"adamw": 3e-3, "sgd": 0.05}
LANGUAGE_MODELS = ("language", "lora")
MODELS = ("pairs", "scores", "labels", *LANGUAGE_MODELS)

_TURNED = [
    pair | {"positive": PAIRS[(row + 1) % len(PAIRS)]["positive"]} for row, pair in enumerate(PAIRS)
]
_REGROUPED = [record | {"label": f"label {row // 3 % 3}"} for row, record in enumerate(LABELS)]
_RECORDS = {"pairs": (PAIRS, _TURNED), "scores": (SAME, OPPOSITE), "labels": (LABELS, _REGROUPED)}
"""Rows to learn from, and rows on which whoever learns the former gets worse."""
_VALIDATION_ROWS = 17
_SHAPES = {"pairs": "pair", "scores": "score", "labels": "label"}
_LOSSES = {"pairs": "auto", "scores": "cosine_similarity", "labels": "supervised_contrastive"}
_DROPOUT = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "llama": ("attention_dropout",),
}
_SECONDS = 120.0
"""How long a run may take before it is taken for one that hangs."""
_PATIENCE_SECONDS = 60.0
"""How long the other ranks may take to end after one has ended."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that decides what a training learns, except for the number of ranks.

    Attributes:
        model: One of `MODELS`.
        accumulate: Micro-batches per optimizer step.
        validations: Validations per epoch; 0: none.
        mini_batch_size: Rows that go through an embedding model at once; a language model's
            micro-batches are cut into two parts instead. 0: all rows.
        patience: Above 0, the validation loss is one that rises, and stops the training early.
        dropout: Dropout of the model; above 0, language models also get noisy embeddings.
        optimizer: Name of the optimizer.
    """

    model: str
    accumulate: int = 1
    validations: int = 1
    mini_batch_size: int = 0
    patience: int = 0
    dropout: float = 0.0
    optimizer: str = "adamw"


@dataclass(frozen=True, kw_only=True)
class Kill:
    """How and where a process of a run is killed.

    Attributes:
        way: `stop` (SIGTERM), `crash` (SIGKILL) or `anywhere` (SIGALRM, which nothing handles, some
            time later).
        place: A place of `Killable`.
        finished: Micro-batches that are finished there, at least.
        ranks: The ranks that get the signal.
        seconds: Time until it comes, if it comes `anywhere`.
    """

    way: str
    place: str
    finished: int
    ranks: tuple[int, ...] = (0,)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a training: from the start, or from the last checkpoint in its folder.

    Attributes:
        training: The training.
        folder: Where checkpoints, outcomes and the output of the ranks go.
        ranks: Number of processes.
        workers: Processes of each rank that prepare its micro-batches.
        every_steps: Steps between checkpoints; 0: only after validations.
        preflight: Whether the checks run before the first step.
        kill: What happens to the run; None if nothing.
    """

    training: Training
    folder: Path
    ranks: int = 1
    workers: int = 0
    every_steps: int = 0
    preflight: bool = False
    kill: Kill | None = None

    def to_json(self) -> str:
        """Return a line for the server."""
        return json.dumps(asdict(replace(self, folder=str(self.folder))))  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, line: str) -> "Run":
        """Return the run of a line."""
        plain = json.loads(line)
        kill = plain.pop("kill")
        return cls(
            **{**plain, "folder": Path(plain["folder"]), "training": Training(**plain["training"])},
            kill=kill and Kill(**{**kill, "ranks": tuple(kill["ranks"])}),
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rank of a finished training leaves.

    Attributes:
        final: Hash of the state after the last step: weights, optimizer, schedule, step.
        best: Hash of the weights of the result.
        history: The curves of `FitResult`, except for times.
        result: Steps, epochs, whether it stopped early, the best validation loss.
        passed: Micro-batches that were finished whenever a place was passed.
        numbers: Every number of the last state and of the result's weights, by name.
    """

    final: str
    best: str
    history: Mapping[str, Sequence[Sequence[float]]]
    result: Mapping[str, Any]
    passed: Mapping[str, Sequence[int]]
    numbers: Mapping[str, Any]


def outcome_of(folder: Path, rank: int = 0) -> Outcome:
    """Read what a rank has left."""
    plain = json.loads((folder / f"outcome.{rank}.json").read_text())
    with np.load(folder / f"outcome.{rank}.npz") as arrays:
        return Outcome(**plain, numbers={name: arrays[name] for name in arrays})


class RankServer:
    """Starts runs; a context, at whose end the server ends.

    Args:
        root: Folder of the models, and of the server's output.
    """

    def __init__(self, root: Path) -> None:
        _write_models(root)
        paths = os.pathsep.join(filter(None, sys.path))
        environment = {
            **os.environ,
            "PYTHONPATH": paths,
            # A fork keeps no thread except the one that forks, so there may be no other.
            "OMP_NUM_THREADS": "1",
            "JE_ARROW_MALLOC_CONF": "background_thread:false",
        }
        with (root / "server.txt").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", __name__, str(root)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> "RankServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def run(self, run: Run) -> list[int]:
        """Run a training to its end, and return the exit code of each rank as `Popen` does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(run.to_json() + "\n")
        self._process.stdin.flush()
        codes: list[int] = json.loads(self._process.stdout.readline())
        return codes


def _write_models(root: Path) -> None:
    for dropout in (0.0, 0.1):
        bert = dict.fromkeys(_DROPOUT["bert"], dropout)
        llama = dict.fromkeys(_DROPOUT["llama"], dropout)
        embedding_folder(root / f"bert-{dropout}", "bert", **bert)
        language_folder(root / f"llama-{dropout}", "llama", **llama)


def _serve(root: Path) -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    torch.set_num_threads(1)
    # Measured once, or it would cost each rank as much as its steps do.
    peak_flops("cpu", torch.float32)
    for model in MODELS:
        _import_what_is_used(root, Run(training=Training(model=model), folder=root / "first"))

    for line in sys.stdin:
        print(json.dumps(_run(root, Run.from_json(line))), file=answers, flush=True)


def _import_what_is_used(root: Path, run: Run) -> None:
    """Import the modules that a training imports on its way, so that no rank has to."""
    _run(root, run)
    for name in (run.folder / "modules.txt").read_text().split():
        # Some exist by the grace of their parents only.
        with suppress(Exception):
            importlib.import_module(name)


def _run(root: Path, run: Run) -> list[int]:
    """Fork the ranks, and wait for their end as `run_ranks` does: one that fails ends them all."""
    # A lock that another thread holds would stay locked in the ranks.
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1
    run.folder.mkdir(parents=True, exist_ok=True)
    port = free_port()

    pids = {}
    for rank in range(run.ranks):
        pids[rank] = os.fork()
        if not pids[rank]:
            _become_rank(root, run, rank, port)

    try:
        return _wait(pids)
    finally:
        # Each rank leads a group, to which its workers belong.
        for pid in pids.values():
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _wait(pids: Mapping[int, int]) -> list[int]:
    """Return the exit code of each rank."""
    codes: dict[int, int] = {}
    kill_at = time.monotonic() + _SECONDS
    while len(codes) < len(pids):
        for rank in pids.keys() - codes.keys():
            pid, status = os.waitpid(pids[rank], os.WNOHANG)
            if not pid:
                continue
            codes[rank] = os.waitstatus_to_exitcode(status)
            if codes[rank]:
                _signal(pids, codes, signal.SIGTERM)
                kill_at = min(kill_at, time.monotonic() + _PATIENCE_SECONDS)

        if time.monotonic() > kill_at:
            _signal(pids, codes, signal.SIGKILL)
            kill_at = float("inf")
        time.sleep(0.005)
    return [codes[rank] for rank in sorted(codes)]


def _signal(pids: Mapping[int, int], codes: Mapping[int, int], number: int) -> None:
    """Send a signal to the ranks that have not ended."""
    for rank in pids.keys() - codes.keys():
        os.kill(pids[rank], number)


def _become_rank(root: Path, run: Run, rank: int, port: int) -> None:
    """Train in this process, which has just been forked, and end it."""
    code = 1
    try:
        os.setsid()
        with (run.folder / f"output.{rank}.txt").open("a") as output:
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.dup2(output.fileno(), sys.stderr.fileno())
        if run.ranks > 1:
            os.environ |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(run.ranks),
                "LOCAL_WORLD_SIZE": str(run.ranks),
                "GROUP_RANK": "0",
                "TORCHELASTIC_RUN_ID": run.folder.name,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            }
        modules_before = set(sys.modules)
        _train(root, run, rank)
        modules = sorted(sys.modules.keys() - modules_before)
        (run.folder / "modules.txt").write_text("\n".join(modules))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Whatever runs at the end of an interpreter belongs to the server.
        os._exit(code)


def _train(root: Path, run: Run, rank: int) -> None:
    """Train, and write the outcome."""
    training = run.training
    config = TrainingConfig(
        batch_size=4,
        num_epochs=3,
        warmup_steps=3,
        learning_rate=LEARNING_RATES[training.optimizer],
        schedule="constant" if training.patience else "cosine",
        logging_steps=1,
        early_stopping_patience=training.patience,
        validations_per_epoch=max(training.validations, 1),
        optimizer=OptimizerConfig(name=training.optimizer, momentum=0.5),
        batches=BatchesConfig(accumulate=training.accumulate, workers=run.workers),
        checkpoints=CheckpointsConfig(every_steps=run.every_steps),
        guards=GuardsConfig(preflight=run.preflight),
    )
    module, data = _module_and_data(root, training, config)
    passed: dict[str, list[int]] = {}
    kill = _killer(run.kill, rank)

    def strike(place: str, finished: int) -> None:
        passed.setdefault(place, []).append(finished)
        kill(place, finished)

    def sink(metrics: Mapping[str, float], step: int) -> None:
        module.strike("val_sink" if "val/loss" in metrics else "sink")

    module.on_place = strike
    last = run.folder / "checkpoints" / "last.ckpt"
    in_parts = training.model in LANGUAGE_MODELS and training.mini_batch_size
    plan = TrainingPlan(
        folder=run.folder,
        on_metrics=sink,
        validate=training.validations > 0,
        resume=last if last.exists() else None,
        trainer=TrainerConfig(accelerator="cpu", devices=run.ranks),
        recovery=Recovery(mini_batch_size=2, parts=2) if in_parts else None,
    )
    result = fit(module, data, config, plan, seed=3)

    history = {name: curve for name, curve in result.history.items() if name not in TIMED}
    outcome = {
        "final": digest(module.final_state),
        "best": digest(module.state_dict()),
        "history": history,
        "result": {
            "steps": result.steps,
            "epochs": result.epochs,
            "stopped_early": result.stopped_early,
            "best_validation_loss": result.best_validation_loss,
        },
        "passed": passed,
    }
    numbers = _numbers({"final": module.final_state, "best": module.state_dict()})
    np.savez(run.folder / f"outcome.{rank}.npz", **numbers)
    (run.folder / f"outcome.{rank}.json").write_text(json.dumps(outcome))


def _module_and_data(root: Path, training: Training, config: TrainingConfig) -> tuple[Any, Any]:
    """Return the module and the data of a training, with one to stop early if it asks for that."""
    settings: dict[str, Any] = {"optimization": optimization_settings(config), "seed": 3}
    batches: dict[str, Any] = {"batch_size": config.batch_size, "batches": config.batches}
    is_opposed = training.patience > 0
    if training.model in LANGUAGE_MODELS:
        module: Any = KillableLanguageModel(
            model=str(root / f"llama-{training.dropout}"),
            adapter=LORA | {"dropout": training.dropout} if training.model == "lora" else None,
            neftune_alpha=5.0 if training.dropout else 0.0,
            pad_token_id=1,
            **settings,
        )
        examples = list(map(_untrained, EXAMPLES)) if is_opposed else EXAMPLES
        return module, LanguageModelDataModule(
            train=EXAMPLES, validation=examples[:_VALIDATION_ROWS], seed=3, **batches
        )

    train, validation = _RECORDS[training.model][0], _RECORDS[training.model][int(is_opposed)]
    module = KillableEmbedding(
        model=str(root / f"bert-{training.dropout}" / "model"),
        shape=_SHAPES[training.model],
        loss=_LOSSES[training.model],
        mini_batch_size=training.mini_batch_size,
        **settings,
    )
    return module, EmbeddingDataModule(
        train=train,
        validation=validation[:_VALIDATION_ROWS],
        shape=_SHAPES[training.model],
        validation_rows=config.batch_size,
        seed=3,
        **batches,
    )


def _untrained(example: TokenizedExample) -> TokenizedExample:
    """Return an example as long as another, of a token that no text of the training has."""
    ids = [258] * len(example.input_ids)
    return replace(example, input_ids=ids, labels=[IGNORED, *ids[1:]])


def _killer(kill: Kill | None, rank: int) -> Strike:
    """Return what kills this process at the place that a kill names, once."""
    struck = False

    def strike(place: str, finished: int) -> None:
        nonlocal struck
        if struck or kill is None or rank not in kill.ranks:
            return
        if place != kill.place or finished < kill.finished:
            return

        struck = True
        if kill.way == "anywhere":
            signal.setitimer(signal.ITIMER_REAL, kill.seconds)
        else:
            number = signal.SIGTERM if kill.way == "stop" else signal.SIGKILL
            os.kill(os.getpid(), number)

    return strike


def _numbers(value: Any, name: str = "") -> dict[str, Any]:
    """Return all numbers in nested collections as arrays, by the path that leads to them."""
    if isinstance(value, torch.Tensor):
        return {name: value.detach().numpy()}
    if isinstance(value, int | float):
        return {name: np.asarray(float(value))}
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))

    arrays: dict[str, Any] = {}
    if isinstance(value, Mapping):
        for key, member in value.items():
            arrays |= _numbers(member, f"{name}/{key}")
    return arrays


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))

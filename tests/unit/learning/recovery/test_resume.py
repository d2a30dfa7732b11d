"""A training that was killed and goes on has the losses and the weights of one that was not, to the last bit."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from tests.families import embedding_folder, language_folder
from tests.unit.learning.recovery.killable import (
    EXAMPLES,
    LORA,
    OPPOSITE,
    PAIRS,
    SAME,
    TIMED,
    Killable,
    KillableEmbedding,
    KillableLanguageModel,
    Strike,
    digest,
)

from tunetrail.config import EvaluationConfig, TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import (
    AveragingConfig,
    BatchesConfig,
    CheckpointsConfig,
    OptimizerConfig,
)
from tunetrail.errors import TrainingError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.recovery.diagnosis import Diagnosis
from tunetrail.learning.recovery.failures import (
    FullMemoryError,
    NonFiniteError,
    RecoverableError,
)
from tunetrail.learning.training.monitored import Monitor
from tunetrail.learning.training.records import Encode
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline.monitoring import embedding_monitors

# Whole trainings.
pytestmark = pytest.mark.processes

NDCG = embedding_monitors("pair", PAIRS[:9], PAIRS, EvaluationConfig())[0]


def measure_saturated(encode: Encode) -> float:
    """Return the best value that there is, as nDCG is on easy rows."""
    return 1.0


SATURATED = Monitor(metric="ndcg_at_10", higher_is_better=True, measure=measure_saturated)
TRAINING = TrainingConfig(
    batch_size=4,
    num_epochs=3,
    warmup_steps=3,
    learning_rate=3e-3,
    logging_steps=1,
    early_stopping_patience=0,
)


@dataclass(frozen=True, kw_only=True, order=True)
class Kill:
    """How a training is killed, and where.

    Attributes:
        way: `exception`, `sigterm`, `sigkill` (nothing is written afterwards) or `keyboard`.
        place: `step` (before it), `sink` (behind it), `validation` (at its second batch),
            `val_sink` (when its loss is reported), `validated` (behind it), `epoch` (at its end).
        at: Number of the step, of the validation or of the epoch among those of the training.
    """

    way: str
    place: str
    at: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training."""

    model: str = "embedding"
    training: TrainingConfig = field(default_factory=lambda: TRAINING)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    monitor: Monitor = field(default_factory=Monitor)
    """What chooses the weights."""

    def with_training(self, **changes: Any) -> "Case":
        return replace(self, training=replace(self.training, **changes))


class KilledError(Exception):
    """The end, as far as this process is concerned."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training left: its result, and digests of its best weights and of its last state."""

    result: FitResult
    history: dict[str, Any]
    best: str
    final: str


class Trainings:
    """Trains cases, each uninterrupted one once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {
            "embedding": embedding_folder(
                root / "bert", "bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
            ),
            "language": language_folder(root / "llama", "llama", attention_dropout=0.1),
        }
        self.count = 0
        self.uninterrupted = cache(self._uninterrupted)

    def _uninterrupted(self, case_text: str) -> tuple[Outcome, dict[str, list[int]]]:
        """Return the outcome, and how many batches were finished whenever a place was passed."""
        passed: dict[str, list[int]] = {}

        def note(place: str, finished: int) -> None:
            passed.setdefault(place, []).append(finished)

        return self.train(CASES[case_text], self.new_folder(), note), passed

    def new_folder(self) -> Path:
        self.count += 1
        return self.root / str(self.count)

    def train(
        self,
        case: Case,
        folder: Path,
        strike: Strike = Killable.on_place,
        resume: Path | None = None,
    ) -> Outcome:
        training = case.training
        settings: dict[str, Any] = {
            "optimization": optimization_settings(training),
            "seed": 3,
        }
        common: dict[str, Any] = {
            "batch_size": training.batch_size,
            "batches": training.batches,
            "seed": 3,
        }
        module: Any
        if case.model.startswith("embedding"):
            opposed = case.model == "embedding-opposed"
            module = KillableEmbedding(
                model=self.folders["embedding"],
                shape="score" if opposed else "pair",
                loss="cosine_similarity" if opposed else "auto",
                mini_batch_size=3 if case.model == "embedding-cached" else 0,
                **settings,
            )
            train, validation = (SAME, OPPOSITE[:9]) if opposed else (PAIRS, PAIRS[:9])
            data: Any = EmbeddingDataModule(
                train=train,
                validation=validation,
                shape=module.hparams["shape"],
                validation_rows=training.batch_size,
                **common,
            )
        else:
            module = KillableLanguageModel(
                model=self.folders["language"],
                adapter=LORA if case.model == "lora" else None,
                neftune_alpha=5.0,
                pad_token_id=1,
                **settings,
            )
            data = LanguageModelDataModule(train=EXAMPLES, validation=EXAMPLES[:9], **common)
        module.on_place = strike

        def sink(metrics: Mapping[str, float], step: int) -> None:
            module.strike("val_sink" if "val/loss" in metrics else "sink")

        result = fit(
            module,
            data,
            training,
            TrainingPlan(
                folder=folder,
                on_metrics=sink,
                resume=resume,
                monitor=case.monitor,
                trainer=TrainerConfig(callbacks=case.callbacks),
            ),
            seed=3,
        )
        assert module.final_state is not None
        return Outcome(
            result=result,
            history={name: values for name, values in result.history.items() if name not in TIMED},
            best=digest(module.state_dict()),
            final=digest(module.final_state),
        )

    def killed(self, case: Case, *kills: Kill) -> Outcome:
        """Train; after each kill, go on from the last checkpoint that there is."""
        folder = self.new_folder()
        _, passed = self.uninterrupted(text_of(case))
        places = sorted(
            (passed[kill.place][kill.at % len(passed[kill.place])], kill) for kill in kills
        )
        checkpoints, aside = folder / "checkpoints", folder / "aside"
        for at, kill in places:

            def strike(place: str, finished: int, kill: Kill = kill, at: int = at) -> None:
                if (place, finished) != (kill.place, at):
                    return
                if kill.way == "sigterm":
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                if kill.way == "sigkill" and checkpoints.exists():
                    shutil.copytree(checkpoints, aside)
                raise KeyboardInterrupt if kill.way == "keyboard" else KilledError

            resume = self.last_of(checkpoints)
            with pytest.raises((KilledError, SIGTERMException, SystemExit)):
                self.train(case, folder, strike, resume)
                pytest.fail("it was not killed")
            if kill.way == "sigkill":
                shutil.rmtree(checkpoints, ignore_errors=True)
                if aside.exists():
                    aside.rename(checkpoints)
        return self.train(case, folder, resume=self.last_of(checkpoints))

    def last_of(self, checkpoints: Path) -> Path | None:
        last = checkpoints / "last.ckpt"
        return last if last.exists() else None


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert found.history == expected.history
    assert (found.best, found.final) == (expected.best, expected.final)
    names = ("steps", "epochs", "stopped_early", "best_validation_loss", "best_step", "monitor")
    assert [getattr(found.result, name) for name in names] == [
        getattr(expected.result, name) for name in names
    ]


CASES: dict[str, Case] = {}


def text_of(case: Case) -> str:
    CASES[repr(case)] = case
    return repr(case)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("resume"))


def drawn(seed: int) -> tuple[Case, Kill]:
    """Draw a training and a kill."""
    draw = random.Random(seed)
    way = draw.choice(["exception", "sigterm", "sigkill"])
    place = draw.choice(
        ["step", "step", "sink", "sink", "validation", "val_sink", "validated", "epoch"]
    )
    # few trainings, many kills: each training has to be done once without any
    case = Case(model=draw.choice(["embedding", "language", "lora"])).with_training(
        batches=BatchesConfig(accumulate=draw.choice([1, 3])),
        checkpoints=CheckpointsConfig(every_steps=draw.choice([0, 2])),
        validations_per_epoch=draw.choice([1, 3]),
    )
    return case, Kill(way=way, place=place, at=draw.randrange(100))


@pytest.mark.parametrize(
    "seed",
    [*range(12), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 36))],
)
def test_killed_anywhere_and_resumed_it_is_the_same_training(
    trainings: Trainings, seed: int
) -> None:
    case, kill = drawn(seed)
    expected, _ = trainings.uninterrupted(text_of(case))
    assert_same(trainings.killed(case, kill), expected)


BASE = Case()
ONE_VALIDATION = BASE.with_training(validations_per_epoch=1)
OPPOSED = Case(model="embedding-opposed").with_training(
    schedule="constant", early_stopping_patience=2
)
# Ours would stop after the third validation, too, but is off.
NAMED = replace(
    OPPOSED.with_training(early_stopping_patience=0, num_epochs=4),
    callbacks={
        "stop": {"_target_": "EarlyStopping", "monitor": "val/loss", "patience": 2},
        "limit": {"_target_": "Timer", "duration": {"days": 9}},
    },
)
TARGETED: dict[str, tuple[Case, list[Kill]]] = {
    "a checkpoint at every step": (
        BASE.with_training(checkpoints=CheckpointsConfig(every_steps=1)),
        [Kill(way="sigkill", place="step", at=11)],
    ),
    "a checkpoint at every third step": (
        BASE.with_training(checkpoints=CheckpointsConfig(every_steps=3), validations_per_epoch=3),
        [Kill(way="sigkill", place="sink", at=16)],
    ),
    "before the first step": (BASE, [Kill(way="exception", place="step", at=0)]),
    "behind the first step": (BASE, [Kill(way="sigterm", place="sink", at=0)]),
    "behind the last step": (BASE, [Kill(way="exception", place="sink", at=-1)]),
    "by the keyboard, in a step": (BASE, [Kill(way="keyboard", place="step", at=9)]),
    "by the keyboard, behind a step": (BASE, [Kill(way="keyboard", place="sink", at=9)]),
    "by the keyboard, in a validation": (BASE, [Kill(way="keyboard", place="validation", at=1)]),
    "in the last validation": (BASE, [Kill(way="exception", place="validation", at=-1)]),
    "behind the last validation": (BASE, [Kill(way="sigkill", place="validated", at=-1)]),
    "at the end of the last epoch": (BASE, [Kill(way="sigterm", place="epoch", at=-1)]),
    "again and again": (
        BASE.with_training(batches=BatchesConfig(accumulate=3), validations_per_epoch=3),
        [
            Kill(way="sigterm", place="step", at=1),
            Kill(way="exception", place="validation", at=1),
            Kill(way="sigkill", place="sink", at=5),
            Kill(way="sigterm", place="validation", at=-2),
        ],
    ),
    "losses that are still to be reported": (
        BASE.with_training(logging_steps=4),
        [Kill(way="sigterm", place="step", at=9)],
    ),
    "in pieces (GradCache)": (
        replace(BASE, model="embedding-cached"),
        [Kill(way="sigterm", place="step", at=9)],
    ),
    "with max_steps in the middle of an epoch": (
        BASE.with_training(max_steps=10),
        [Kill(way="sigterm", place="step", at=8)],
    ),
    "in the validation that max_steps asks for": (
        BASE.with_training(max_steps=10),
        [Kill(way="exception", place="validation", at=-1)],
    ),
    "behind the validation that max_steps asks for": (
        BASE.with_training(max_steps=10),
        [Kill(way="sigkill", place="validated", at=-1)],
    ),
    "an average over all steps": (
        BASE.with_training(
            averaging=AveragingConfig(kind="ema", decay=0.8), validations_per_epoch=3
        ),
        [Kill(way="sigterm", place="step", at=5), Kill(way="exception", place="validation", at=-2)],
    ),
    "an average over the last steps": (
        BASE.with_training(averaging=AveragingConfig(kind="swa", start=0.4)),
        [Kill(way="sigkill", place="step", at=5), Kill(way="exception", place="validation", at=-1)],
    ),
    "another optimizer and schedule": (
        BASE.with_training(optimizer=OptimizerConfig(name="sgd", layer_decay=0.8), schedule="wsd"),
        [Kill(way="sigterm", place="sink", at=12)],
    ),
    "adapters, in a validation": (
        Case(model="lora").with_training(averaging=AveragingConfig(kind="ema", decay=0.8)),
        [Kill(way="sigterm", place="validation", at=1)],
    ),
    "watching nDCG, in and behind a validation": (
        replace(
            BASE.with_training(validations_per_epoch=3, early_stopping_patience=8),
            monitor=NDCG,
        ),
        [
            Kill(way="sigterm", place="validation", at=2),
            Kill(way="exception", place="val_sink", at=4),
            Kill(way="sigkill", place="validated", at=-2),
        ],
    ),
    "watching nDCG of averaged weights": (
        replace(BASE.with_training(averaging=AveragingConfig(kind="ema", decay=0.8)), monitor=NDCG),
        [Kill(way="sigkill", place="step", at=9), Kill(way="exception", place="validation", at=-1)],
    ),
    "stopping early, behind the validation that stops": (
        OPPOSED,
        [Kill(way="sigkill", place="validated", at=-1)],
    ),
    "stopping early, in the validation that stops": (
        OPPOSED,
        [Kill(way="exception", place="validation", at=-1)],
    ),
    "stopping early, when its loss is reported": (
        OPPOSED,
        [Kill(way="exception", place="val_sink", at=-1)],
    ),
    "stopping early, behind its last step": (OPPOSED, [Kill(way="exception", place="sink", at=-1)]),
    "stopping early, one validation before": (
        OPPOSED,
        [Kill(way="sigterm", place="validation", at=-2)],
    ),
    "stopping early by a named callback, in the validation before": (
        NAMED,
        [Kill(way="sigterm", place="validation", at=-2)],
    ),
    "stopping early by a named callback, behind the validation that stops": (
        NAMED,
        [Kill(way="sigkill", place="validated", at=-1)],
    ),
    "stopping early within an epoch": (
        OPPOSED.with_training(validations_per_epoch=3),
        [Kill(way="sigkill", place="validated", at=-1)],
    ),
    "stopping early within an epoch, in the validation": (
        OPPOSED.with_training(validations_per_epoch=3),
        [Kill(way="exception", place="validation", at=-1)],
    ),
}


@pytest.mark.parametrize("name", TARGETED)
def test_killed_at_a_delicate_place_and_resumed_it_is_the_same_training(
    trainings: Trainings, name: str
) -> None:
    case, kills = TARGETED[name]
    expected, _ = trainings.uninterrupted(text_of(case))
    assert expected.result.stopped_early == (case.model == "embedding-opposed")
    assert_same(trainings.killed(case, *kills), expected)


def test_of_equal_values_the_lowest_loss_chooses_also_if_killed(trainings: Trainings) -> None:
    case = replace(BASE.with_training(validations_per_epoch=3), monitor=SATURATED)
    expected, _ = trainings.uninterrupted(text_of(case))

    losses = dict(expected.history["val/loss"])
    values = {value for _, value in expected.history["val/ndcg_at_10"]}
    assert values == {1.0} and losses[min(losses)] > min(losses.values())
    assert expected.result.best_step == min(losses, key=lambda step: losses[step])
    assert expected.result.best_validation_loss == min(losses.values())
    # In and after validations: the loss of the best weights so far must not be forgotten.
    kills = [
        Kill(way="exception", place="validation", at=2),
        Kill(way="sigkill", place="validated", at=4),
        Kill(way="sigterm", place="step", at=-1),
    ]
    assert_same(trainings.killed(case, *kills), expected)


@pytest.mark.parametrize("model", ["embedding", "language"])
@pytest.mark.parametrize("way", ["sigterm", "sigkill"])
def test_killed_with_workers_and_resumed_it_is_the_same_training(
    trainings: Trainings, model: str, way: str
) -> None:
    case = Case(model=model).with_training(
        batches=BatchesConfig(accumulate=3, workers=2),
        checkpoints=CheckpointsConfig(every_steps=1),
        num_epochs=2,
    )
    expected, _ = trainings.uninterrupted(text_of(case))
    without, _ = trainings.uninterrupted(
        text_of(case.with_training(batches=BatchesConfig(accumulate=3)))
    )
    assert_same(expected, without)
    assert_same(trainings.killed(case, Kill(way=way, place="step", at=4)), expected)


def test_a_training_that_has_ended_ends_at_once_with_the_same_result(trainings: Trainings) -> None:
    for case in (BASE, OPPOSED, BASE.with_training(max_steps=10)):
        folder = trainings.new_folder()
        expected = trainings.train(case, folder)
        steps: list[str] = []
        last = folder / "checkpoints" / "last.ckpt"
        found = trainings.train(
            case, folder, lambda place, finished, to=steps: to.append(place), resume=last
        )
        assert steps.count("step") <= 1  # behind the last validation
        assert_same(found, expected)


def interrupted(trainings: Trainings, folder: Path, at: int, resume: Path | None = None) -> Path:
    """Train until SIGTERM comes in a step, and return the checkpoint."""

    def strike(place: str, finished: int) -> None:
        if (place, finished) == ("step", at):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SIGTERMException):
        trainings.train(BASE, folder, strike, resume)
    return folder / "checkpoints" / "last.ckpt"


def seconds_of(checkpoint: Path) -> float:
    state = torch.load(checkpoint, weights_only=True)["callbacks"]["LastCheckpoint"]
    return float(state["recovery"]["seconds"])


def add_seconds(checkpoint: Path, seconds: float) -> None:
    """Have the training of a checkpoint have taken longer: no test waits for it."""
    content = torch.load(checkpoint, weights_only=True)
    content["callbacks"]["LastCheckpoint"]["recovery"]["seconds"] += seconds
    torch.save(content, checkpoint)


def test_seconds_of_a_resumed_training_add_up(trainings: Trainings) -> None:
    folder = trainings.new_folder()
    last = interrupted(trainings, folder, at=4)
    first = seconds_of(last)
    assert 0.0 < first < 1000.0
    add_seconds(last, 1000.0)

    result = trainings.train(BASE, folder, resume=last).result

    assert 1000.0 + first < result.seconds < 2000.0


def test_seconds_add_up_over_several_interruptions(trainings: Trainings) -> None:
    folder = trainings.new_folder()
    last = interrupted(trainings, folder, at=4)
    add_seconds(last, 1000.0)
    last = interrupted(trainings, folder, at=9, resume=last)
    second = seconds_of(last)
    assert 1000.0 < second < 2000.0
    add_seconds(last, 1000.0)

    result = trainings.train(BASE, folder, resume=last).result

    assert 1000.0 + second < result.seconds < 3000.0


NO_ROWS = Diagnosis(positions=(), rows=(), tokens=(), rows_at_fault=False)


@pytest.mark.parametrize(
    "failure",
    [
        NonFiniteError(name="train/loss", value=math.nan, step=7, rate=1e-3, diagnosis=NO_ROWS),
        FullMemoryError(mini_batch_size=2, rows=4, cuts_itself=True),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_seconds_add_up_over_a_recovery_within_the_process(
    trainings: Trainings, failure: RecoverableError
) -> None:
    folder = trainings.new_folder()
    last = interrupted(trainings, folder, at=4)
    add_seconds(last, 1000.0)
    failures = [failure]

    def strike(place: str, finished: int) -> None:
        if (place, finished) == ("step", 7) and failures:
            raise failures.pop()

    result = trainings.train(BASE, folder, strike, resume=last).result

    assert not failures and result.steps == 21
    assert 1000.0 < result.seconds < 2000.0


def test_another_number_of_batches_is_refused(trainings: Trainings) -> None:
    folder = trainings.new_folder()
    trainings.train(BASE.with_training(num_epochs=1), folder)
    last, other = (
        folder / "checkpoints" / "last.ckpt",
        BASE.with_training(batches=BatchesConfig(accumulate=2)),
    )
    with pytest.raises(
        TrainingError,
        match=r"the checkpoint has 7 per epoch and 1 per step, got 7 and 2\. Restore its rows",
    ):
        trainings.train(other, folder, resume=last)
    assert torch.load(last, weights_only=True)["global_step"] == 7  # untouched


@dataclass(frozen=True)
class Lack:
    """A part of a checkpoint's state that another version of tunetrail would not have written."""

    where: tuple[str, ...]
    message: str
    training: TrainingConfig = field(default_factory=lambda: TRAINING)


LACKS = {
    "a key of the best weights": Lack(("callbacks", "BestWeights", "best_step"), "'best_step'"),
    "the best weights": Lack(("callbacks", "BestWeights"), "'BestWeights'"),
    "a key of the history": Lack(("callbacks", "MetricsReporter", "tokens"), "'tokens'"),
    "a key of the last checkpoint": Lack(("callbacks", "LastCheckpoint", "stopping"), "'stopping'"),
    "a key of the recovery": Lack(("callbacks", "LastCheckpoint", "recovery", "parts"), "'parts'"),
    "the recovery": Lack(("callbacks", "LastCheckpoint"), "'recovery'"),
    "a key of the batches": Lack(
        ("loops", "fit_loop", "state_dict", "combined_loader", "0", "done"), "'done'"
    ),
    "a key of the averages": Lack(
        ("averaging", "current"),
        "'current'",
        replace(TRAINING, averaging=AveragingConfig(kind="ema")),
    ),
    "a weight": Lack(("state_dict", "model."), "the model's weights"),
}


def without(content: Any, where: Sequence[str]) -> None:
    """Delete a part of a checkpoint; names of callbacks and weights are given by their beginning."""
    *parents, last = where
    for name in parents:
        content = (
            content[int(name)] if isinstance(content, list) else content[key_of(content, name)]
        )
    del content[key_of(content, last)]


def key_of(content: Mapping[str, Any], name: str) -> str:
    return next(key for key in content if key.startswith(name))


@pytest.mark.parametrize("lack", LACKS)
def test_a_checkpoint_of_another_version_says_what_it_lacks_and_the_way_out(
    trainings: Trainings, lack: str
) -> None:
    case = Case(
        training=replace(LACKS[lack].training, checkpoints=CheckpointsConfig(every_steps=2))
    )
    folder = trainings.new_folder()

    def strike(place: str, finished: int) -> None:
        # After a validation, in the middle of the second epoch.
        if (place, finished) == ("step", 10):
            raise KilledError

    with pytest.raises(KilledError):
        trainings.train(case, folder, strike)
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    without(content, LACKS[lack].where)
    torch.save(content, last)

    with pytest.raises(TrainingError) as caught:
        trainings.train(case, folder, resume=last)

    assert str(caught.value).startswith(f"{last} must be written by this version of tunetrail")
    assert f"differs in {LACKS[lack].message}" in str(caught.value)
    assert "Delete it to train from the beginning" in str(caught.value)


def test_a_key_error_after_the_first_step_stays_one(trainings: Trainings) -> None:
    folder = trainings.new_folder()
    last = interrupted(trainings, folder, at=4)

    def strike(place: str, finished: int) -> None:
        if place == "step":
            raise KeyError(place)

    with pytest.raises(KeyError, match="step"):
        trainings.train(BASE, folder, strike, last)


def test_a_signal_is_obeyed_after_the_running_step_with_a_checkpoint(
    trainings: Trainings,
) -> None:
    folder = trainings.new_folder()

    def strike(place: str, finished: int) -> None:
        if (place, finished) == ("step", 4):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SIGTERMException):
        trainings.train(ONE_VALIDATION, folder, strike)

    checkpoints = folder / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["last.ckpt"]
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 5


def test_a_failure_within_a_step_writes_no_checkpoint(trainings: Trainings) -> None:
    folder = trainings.new_folder()

    def strike(place: str, finished: int) -> None:
        if (place, finished) == ("step", 5):
            raise KilledError

    with pytest.raises(KilledError):
        trainings.train(ONE_VALIDATION, folder, strike)

    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "workers", "lines"), [("embedding", 0, 6), ("embedding", 2, 9), ("lora", 0, 13)]
)
def test_a_process_that_is_really_killed_leaves_a_training_that_can_go_on(
    trainings: Trainings, model: str, workers: int, lines: int
) -> None:
    case = Case(model=model).with_training(
        batches=BatchesConfig(workers=workers), checkpoints=CheckpointsConfig(every_steps=2)
    )
    expected, _ = trainings.uninterrupted(text_of(case))
    folder = trainings.new_folder()
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        str(trainings.root),
        str(folder),
        model,
        str(workers),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += line.startswith("place sink")
            if seen == lines:
                break
        time.sleep(
            random.Random(lines).random() / 20
        )  # anywhere in what follows, a checkpoint being written too
        process.kill()
    assert (process.returncode, seen) == (-signal.SIGKILL, lines)
    last = trainings.last_of(folder / "checkpoints")
    assert last is not None
    assert_same(trainings.train(case, folder, resume=last), expected)


def _train_in_a_process_of_its_own(root: str, folder: str, model: str, workers: str) -> None:
    case = Case(model=model).with_training(
        batches=BatchesConfig(workers=int(workers)), checkpoints=CheckpointsConfig(every_steps=2)
    )
    trainings = Trainings(Path(root))

    def tell(place: str, finished: int) -> None:
        print("place", place, finished, flush=True)
        time.sleep(0.02)  # there is time enough to kill it

    trainings.train(case, Path(folder), tell)


if __name__ == "__main__":
    _train_in_a_process_of_its_own(*sys.argv[1:])

"""Calibration: a few steps of the real training on real rows, to see what each thing takes.

It goes the way of a training: same learner, same batches, same checkpoints; only the rows are few.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config import Settings, TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.data.flow.preparation import result_cache
from tunetrail.data.rows import content_digest, records_of, stacked_rows
from tunetrail.errors import ConfigError, SampleError
from tunetrail.evaluation.scores import Scores
from tunetrail.fingerprints import model_fingerprint
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.automatic.conditions import machine_conditions
from tunetrail.learning.devices import computing_device
from tunetrail.learning.learner import Learner
from tunetrail.learning.memory_meter import collect_memory, peak_memory
from tunetrail.learning.training.monitored import Monitor
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline.fold_costs import SCORING_COST
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.planning.division import Division
from tunetrail.pipeline.planning.estimate import Speeds
from tunetrail.pipeline.planning.timed_training import StepClock, TimedTraining
from tunetrail.pipeline.planning.workload import tokens_of
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.plain_values import plain_values
from tunetrail.scratch import scratch_folder
from tunetrail.verbosity import VARIABLE, WARNINGS, changed_environment

STEPS = 3
"""Optimizer steps; the first warms up and isn't timed."""
# Held-out rows that are scored, and rows that these are ranked against.
_HELD_OUT_ROWS = 16
# Rows of a scoring whose time is nearly that of none.
_FEWEST_ROWS = 2
_ANSWER_TOKENS = 5
NOMINAL_RATE = 1e-6
"""A learning rate in place of the training's: no time depends on it."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Times a family's model on rows of a session.

    Attributes:
        family: The family.
        settings: All that can be set.
        path: Folder of the base model.
        prepared: The rows of the training.
        corpus: Rows that held-out rows are ranked against.
        validation_corpus: The same for a validation.
        auto_values: What stands for `auto` in the training's settings.
        division: How the devices of the training divide a batch, of which one share is timed.
    """

    family: ModelFamily
    settings: Settings
    path: str
    prepared: PreparedRows
    corpus: pd.DataFrame
    validation_corpus: pd.DataFrame
    auto_values: AutoValues
    division: Division = field(default_factory=Division)

    def conditions(self) -> dict[str, Any]:
        """Return all that the measured speeds depend on, as plain values.

        The number of epochs, the learning rate and the folds aren't among them.
        """
        section = plain_values(self.family.section(self.settings))
        rows = [*self._trained_rows(), *self._scored_rows(2 * _HELD_OUT_ROWS)]
        return {
            "family": self.family.name,
            "shape": self.prepared.shape,
            # The time of a step depends on the shapes of the weights, not on their values.
            "model": model_fingerprint(Path(self.path), contents=False),
            "section": {**section, "training": asdict(self._training)},
            "evaluation": asdict(self.settings.evaluation),
            "trainer": asdict(self._one_device),
            "rows": [content_digest(frame) for frame in rows if not frame.empty],
            "division": asdict(self.division),
            "steps": STEPS,
            "machine": machine_conditions(computing_device(self.settings.trainer)),
        }

    def measure(self) -> Speeds:
        """Train for a few steps, validate, score and save once, and return what it took.

        Raises:
            ConfigError: A setting keeps the training from learning anything.
            SampleError: The rows keep it from that.
            TrainingError: The model or the machine isn't up to the training.
        """
        cache = result_cache(self.settings.preparation)
        learner = self.family.learner(self.settings, self.prepared.shape, cache)
        device = computing_device(self.settings.trainer)
        collect_memory(device)

        # Its bars and lines would speak of a training that nobody has started.
        with (
            scratch_folder() as folder,
            changed_environment({VARIABLE: str(WARNINGS)}),
            peak_memory(device) as peak,
        ):
            began, computing = time.perf_counter(), time.process_time()
            timed, saved = self._train_and_save(learner, folder)
            collect_memory(device)

            # The evaluation holds two models at once, which may take more than the training.
            reading = time.perf_counter()
            models = [learner.load(str(path)) for path in (saved.folder, self.path)]
            read_seconds = (time.perf_counter() - reading) / len(models)
            scored = self._score(learner, models[-1], timed.train_seconds)
            answer_seconds = self._answer_seconds(learner, models[-1], scored)
            seconds, computed = time.perf_counter() - began, time.process_time() - computing

        return Speeds(
            load_seconds=max(timed.clock.load_seconds, read_seconds),
            read_seconds=read_seconds,
            train_seconds=timed.train_seconds,
            validation_seconds=timed.validation_seconds,
            score_seconds=scored.token_seconds,
            checkpoint_seconds=timed.checkpoint_seconds,
            save_seconds=saved.seconds,
            answer_seconds=answer_seconds,
            read_tokens=timed.read_tokens,
            padding_share=timed.clock.padding_share,
            memory_bytes=peak.bytes,
            checkpoint_bytes=timed.checkpoint_bytes,
            model_bytes=saved.bytes,
            # Several cores compute more than a second in a second.
            slowdown=max(seconds / computed, 1.0),
            steps=len(timed.clock.reports),
        )

    def _train_and_save(self, learner: Learner, folder: Path) -> tuple[TimedTraining, "_Saved"]:
        """Train on a few rows and write the model, of which nothing stays in memory."""
        model, timed = self._train(learner, folder)
        began = time.perf_counter()
        saved = folder / "model"
        learner.save(model, saved)
        seconds = time.perf_counter() - began
        return timed, _Saved(folder=saved, seconds=seconds, bytes=sum(map(_size, saved.rglob("*"))))

    def _train(self, learner: Learner, folder: Path) -> tuple[Any, TimedTraining]:
        """Train on a few rows, validate once, and return the model and what it took."""
        rows, validation, corpus = self._trained_rows()
        train_records, records = records_of(rows), records_of(validation)
        monitor = self._monitor(records, records_of(corpus))

        clock = StepClock()
        plan = TrainingPlan(
            folder=folder,
            on_metrics=clock,
            monitor=monitor,
            auto_values=self.auto_values,
            trainer=self._one_device,
        )
        model, _ = learner.train(self.path, train_records, records, self._training, plan)
        return model, TimedTraining(
            clock=clock,
            ended=time.perf_counter(),
            counted_tokens=tokens_of(rows),
            validated_tokens=tokens_of(validation) + tokens_of(corpus),
            checkpoint_bytes=max(map(_size, (folder / "checkpoints").iterdir()), default=0),
        )

    def _trained_rows(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return the rows to learn from, the rows of the validation, and what these rank."""
        return (
            calibrated_rows(self.prepared.train, STEPS * self._rows_per_batch),
            evenly_spaced(self.prepared.split.validation, _HELD_OUT_ROWS),
            evenly_spaced(self.validation_corpus, _HELD_OUT_ROWS),
        )

    @property
    def _training(self) -> TrainingConfig:
        """The training of one epoch over the calibrated rows, each step of one batch."""
        training = self.auto_values.applied_to(self.family.section(self.settings).training)

        return replace(
            training,
            batch_size=self.division.share(training.rows_per_batch),
            # No time depends on it, and it may be still to be found.
            learning_rate=NOMINAL_RATE,
            num_epochs=1,
            max_steps=-1,
            warmup_steps=0,
            warmup_ratio=0.0,
            early_stopping_patience=0,
            validations_per_epoch=1,
            logging_steps=1,
            batches=replace(
                training.batches,
                accumulate=1,
                tokens=self.division.share(training.batches.tokens),
            ),
            # They would judge this short training, and not the one to come.
            guards=replace(training.guards, preflight=False),
        )

    @property
    def _rows_per_batch(self) -> int:
        training, train = self._training, self.prepared.train
        if not training.batches.tokens:
            return training.rows_per_batch
        return max(round(training.batches.tokens * len(train) / max(tokens_of(train), 1)), 1)

    @property
    def _one_device(self) -> TrainerConfig:
        """The trainer on one device, without the callbacks and loggers of the training."""
        trainer = self.settings.trainer
        accelerator = "auto" if trainer.launcher == "ray" else trainer.accelerator
        return replace(
            trainer, devices=1, num_nodes=1, accelerator=accelerator, callbacks={}, logger={}
        )

    def _monitor(
        self, validation: Sequence[Mapping[str, Any]], corpus: Sequence[Mapping[str, Any]]
    ) -> Monitor:
        """Return what is monitored, or the loss if these few rows don't give it."""
        try:
            return self.family.monitor(self.settings, self.prepared.shape, validation, corpus)
        except ConfigError:
            return Monitor()

    def _score(self, learner: Learner, model: Any, train_seconds: float) -> "_Scored":
        """Score a model on a few test rows."""
        few, several = self._scored_rows(_FEWEST_ROWS), self._scored_rows(2 * _HELD_OUT_ROWS)
        records = records_of(several[0])

        try:
            # Libraries do some things once.
            self._timed_scores(learner, model, few)
            few_seconds, _ = self._timed_scores(learner, model, few)
            seconds, scores = self._timed_scores(learner, model, several)
        except SampleError:
            # Such as labels that don't occur in so few rows.
            return _Scored(records=records, scores=None, token_seconds=train_seconds * SCORING_COST)

        # Each scoring has a part that no row makes longer, such as the trial of its batches.
        tokens, few_tokens = sum(map(tokens_of, several)), sum(map(tokens_of, few))
        if tokens > few_tokens and seconds > few_seconds:
            seconds, tokens = seconds - few_seconds, tokens - few_tokens
        return _Scored(records=records, scores=scores, token_seconds=seconds / max(tokens, 1))

    def _timed_scores(
        self, learner: Learner, model: Any, scored: tuple[pd.DataFrame, pd.DataFrame]
    ) -> tuple[float, Scores]:
        """Return how long a model's scores take, and these, for rows and what they are ranked in.

        Raises:
            SampleError: So few rows have no scores.
        """
        records, ranked = map(records_of, scored)
        began = time.perf_counter()
        scores = self.family.score(learner, model, records, ranked, self.settings.evaluation)
        return time.perf_counter() - began, scores

    def _scored_rows(self, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return about `count` rows to score and to rank, in the proportion of the evaluation.

        Of a ranked row, fewer texts are read than of a scored one.
        """
        test = self.prepared.split.test
        share = min(1.0, count / max(len(test) + len(self.corpus), 1))
        rows = evenly_spaced(test, max(round(share * len(test)), _FEWEST_ROWS))
        return rows, evenly_spaced(self.corpus, round(share * len(self.corpus)))

    def _answer_seconds(self, learner: Learner, model: Any, scored: "_Scored") -> float:
        """Return the seconds in which a model writes all answers, if each is as long as allowed."""
        config = self.settings.evaluation
        wanted = min(config.generation.rows, len(self.prepared.split.test))
        if self.family.add_answers is None or scored.scores is None or not wanted:
            return 0.0

        rows = min(wanted, config.batch_size, len(scored.records))
        seconds = []
        for tokens in (1, _ANSWER_TOKENS):
            generation = replace(config.generation, rows=rows, max_new_tokens=tokens)
            short = replace(config, generation=generation)
            began = time.perf_counter()
            self.family.add_answers(learner, model, scored.records, scored.scores, short)
            seconds.append(time.perf_counter() - began)

        # The first token takes the reading of the prompt.
        first, several = seconds
        further = max(several - first, 0.0) / (_ANSWER_TOKENS - 1)
        batches = math.ceil(wanted / rows)
        return batches * (first + further * (config.generation.max_new_tokens - 1))


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """A model that was written to a folder, how long that took, and its size."""

    folder: Path
    seconds: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """Records that a model was scored on, their scores if they have any, and a token's seconds."""

    records: Sequence[Mapping[str, Any]]
    scores: Scores | None
    token_seconds: float


def calibrated_rows(train: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return at most `count` train rows: a batch of the longest, which need the most memory.

    The others are evenly spaced. In the end, tokens are timed and not rows, so that the longest
    make no estimate longer.

    Args:
        train: Rows with their `token_count`.
        count: Number of rows, of `STEPS` batches.
    """
    longest = train.sort_values("token_count", ascending=False, kind="stable").head(count // STEPS)
    others = evenly_spaced(train.drop(longest.index), count - len(longest))
    return stacked_rows([longest, others]).sort_values("row_id", kind="stable", ignore_index=True)


def evenly_spaced(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return at most `count` rows, evenly spaced, in their order."""
    if len(rows) <= count:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

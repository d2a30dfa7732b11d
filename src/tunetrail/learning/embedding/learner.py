"""EmbeddingLearner: everything that the pipeline asks of an embedding model, in one place.

Takes plain records, gives back models and NumPy arrays; knows nothing of metrics, sessions or
MLflow.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from tunetrail.cache import ResultCache
from tunetrail.config import EmbeddingConfig, TrainingConfig
from tunetrail.config.loss_choice import choose_loss
from tunetrail.config.losses import Loss
from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import ConfigError, SampleError
from tunetrail.learning.automatic.auto_values import AutoValues, TrialSetup, find_auto_values
from tunetrail.learning.automatic.learning_rate_finder import WHOLE_MODEL
from tunetrail.learning.devices import computing_device
from tunetrail.learning.embedding.data import EmbeddingDataModule, shape_of
from tunetrail.learning.embedding.losses import check_loss, check_records
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.embedding.preflight import EMBEDDING_CHECKS
from tunetrail.learning.embedding.reader import EmbeddingReader, set_prompts
from tunetrail.learning.embedding.teacher import taught_records
from tunetrail.learning.embedding.teacher_model import CachedTeacher
from tunetrail.learning.evaluation_mode import undisturbed
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model
from tunetrail.learning.tokens.prompts import (
    QUERY,
    configured_prompts,
    prompts_of_folder,
    role_of,
)
from tunetrail.learning.tokens.tokenized import TokenizedTexts
from tunetrail.learning.training.records import Record, Refresh
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.samples import shape_named

logger = logging.getLogger(__name__)

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingLearner:
    """Loads, trains and applies embedding models for samples of one shape.

    Attributes:
        config: The model, its loss and its training.
        shape: Name of the shape that is scored. Records of other shapes (`config.also_train`) name
            theirs in the column `shape`.
        seed: Decides the order of the rows, and dropout.
        cache: Keeps tokens and what was found for `auto` from run to run.
        trainer: The devices; models that the learner applies compute on the first.
    """

    config: EmbeddingConfig
    shape: str
    seed: int
    cache: ResultCache | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def check(self, path: str, records: Sequence[Record], load: Callable[[str], Any]) -> None:
        """Raise `ConfigError` or `SampleError` if model, loss and records don't fit together."""
        model = load(path)
        dimensions = int(model.get_embedding_dimension() or 0)
        check_loss(self.config, self.shape, self._of_shape(records, self.shape), dimensions)
        for shape, loss in self._further_losses.items():
            check_records(loss, self._of_shape(records, shape))

        for record in self._of_shape(records, "vector"):
            if len(record["embedding"]) != dimensions:
                raise SampleError(
                    f"embedding must have the model's {dimensions} dimensions, "
                    f"got {len(record['embedding'])}."
                )
        self._check_prompts(path, model.tokenizer)

    def load(self, path: str) -> SentenceTransformer:
        """Load a model folder; its prompts become the configured ones."""
        return self._reader.load(path)

    def save(self, model: SentenceTransformer, folder: Path) -> None:
        """Write a model as a sentence-transformers folder."""
        model.save_pretrained(str(folder), create_model_card=False)

    def train(
        self,
        path: str,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
        plan: TrainingPlan,
    ) -> tuple[SentenceTransformer, FitResult]:
        """Fine-tune the model of the folder `path` and return it with what the training did.

        Training records of the shapes of `config.also_train` name their shape in the column
        `shape`; each batch has one shape. The records of `plan.refresh` replace the records of the
        learner's own shape; its random draws, if any, change none of the training's.
        """
        auto_values = plan.auto_values or self.find_auto_values(path, train, training)
        training = auto_values.applied_to(training)

        module, batches = self._prepare(path, train, validation, training, plan.refresh)
        # 0 if the search had nothing to find; the configured size then stays.
        module.mini_batch_size = auto_values.mini_batch_size or module.mini_batch_size
        result = fit(module, batches, training, plan, seed=self.seed, checks=EMBEDDING_CHECKS)

        return module.trained(), replace(result, auto_values=auto_values.to_dict())

    def find_auto_values(
        self, path: str, train: Sequence[Record], training: TrainingConfig, ranks: int = 1
    ) -> AutoValues:
        """Find what is `auto` in a training of a model, on the records of the learner's shape."""
        # A trial depends on these settings; the training's settings are compared separately.
        own_settings = {"training": None, "shape": self.shape, "seed": self.seed}
        settings = {**asdict(self.config), **own_settings}

        setup = TrialSetup(
            build=lambda records, trial: self._prepare(path, records, [], trial),
            path=path,
            records=self._of_shape(train, self.shape),
            settings=settings,
            in_mini_batches=not self._loss.is_row_wise(self.config.loss_options),
            mini_batch_size=self.config.mini_batch_size,
            rates=WHOLE_MODEL,
            ranks=ranks,
            device=computing_device(self.trainer),
        )
        return find_auto_values(setup, training, self.cache)

    def vectors(
        self, model: SentenceTransformer, texts: Sequence[str], *, role: str = QUERY
    ) -> NDArray:
        """Return the unit vectors of texts, [texts, dimensions]; see `EmbeddingReader.vectors`."""
        return self._reader.vectors(model, texts, role=role)

    def _prepare(
        self,
        path: str,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
        refresh: Refresh | None = None,
    ) -> tuple[EmbeddingModule, EmbeddingDataModule]:
        """Return the module and the batches that a training begins with."""
        # Only records of the learner's own shape are taught and made again between epochs.
        scored = self._of_shape(train, self.shape)
        further: list[Record] = []
        for shape in self._further_losses:
            further += self._of_shape(train, shape)
        check_records(self._loss, [*scored, *validation], self.config.loss_options)

        module = self._build_module(path, training)
        # All texts are tokenised before the first step, and not once more in each epoch.
        module.encoder.tokenized = self._tokenize(module.model, [*train, *validation])
        teach = self._teaching(module)
        prompts = configured_prompts(self.config)

        def refreshed(epoch: int) -> Sequence[Record]:
            assert refresh is not None
            # Mining encodes without dropout, and its draws mustn't shift the training's.
            with undisturbed(module):
                return [*teach(refresh.records(module.encode, epoch)), *further]

        batches = EmbeddingDataModule(
            train=[*teach(scored), *further] if further else teach(scored),
            validation=teach(validation),
            shape=self.shape,
            batch_size=training.rows_per_batch,
            loss=self._loss,
            batches=training.batches,
            lengths=self._token_counter(module, refreshes=refresh is not None),
            padded=not module.encoder.padding_free,
            seen_twice=self._seen_twice,
            seed=self.seed,
            prompts=prompts,
            refresh=refreshed if refresh else None,
            refresh_epochs=refresh.every_epochs if refresh else 0,
        )
        return module, batches

    def _build_module(self, path: str, training: TrainingConfig) -> EmbeddingModule:
        # Plain lists and dicts: a checkpoint holds them, and loads without unpickling.
        weights = self.config.matryoshka_weights
        module = EmbeddingModule(
            model=path,
            shape=self.shape,
            loss=self._loss.name,
            loss_options=asdict(self.config.loss_options),
            extensions={name: dict(own) for name, own in self.config.extensions.items()},
            further_losses={shape: loss.name for shape, loss in self._further_losses.items()},
            matryoshka_dimensions=list(self.config.matryoshka_dimensions),
            matryoshka_weights=None if weights is None else list(weights),
            max_length=self.config.max_length,
            mini_batch_size=self.config.mini_batch_size,
            padding_free=training.batches.padding_free,
            optimization=optimization_settings(training),
            seed=self.seed,
        )

        # Prompts are part of the model: the trained one is saved with them.
        set_prompts(module.model, self.config)
        return module

    def _token_counter(
        self, module: EmbeddingModule, *, refreshes: bool
    ) -> Callable[[Record], int]:
        """Return what counts the tokens of a record, padding within the record included.

        Args:
            module: The module; its tokenizer knows the records' texts.
            refreshes: Whether negatives change between epochs. The batches must not change with
                them, so each record then counts a negative as long as its positive.
        """
        prompts, seen_twice = configured_prompts(self.config), self._seen_twice
        encoder = module.encoder

        def count_tokens(record: Record) -> int:
            name = shape_of(record, self.shape)
            shape = shape_named(name)
            columns = shape.input_texts if refreshes else shape.texts
            counts = []
            for column in columns:
                if record.get(column):
                    prompt = prompts[role_of(column)]
                    counts.append(encoder.tokenized.count(record[column], prompt))

            # The positive comes last; the negative that is to be mined counts as much.
            if refreshes and name == self.shape:
                counts.append(counts[-1])
            if name in seen_twice:
                counts *= 2
            # Padded, every text of a row is as long as the longest.
            return sum(counts) if encoder.padding_free else max(counts) * len(counts)

        return count_tokens

    def _tokenize(self, model: SentenceTransformer, records: Sequence[Record]) -> TokenizedTexts:
        """Return the model's tokenizer with the texts of the records tokenised."""
        tokenized = TokenizedTexts(model, self.cache)
        prompts = configured_prompts(self.config)

        # A column of several shapes (`text`) is tokenised once.
        columns: list[str] = []
        for shape in self._losses:
            columns += shape_named(shape).texts
        for column in dict.fromkeys(columns):
            texts = [record[column] for record in records if isinstance(record.get(column), str)]
            if texts:
                tokenized.keep(texts, prompts[role_of(column)])
        return tokenized

    def _teaching(self, module: EmbeddingModule) -> Callable[[Sequence[Record]], Sequence[Record]]:
        """Return what adds the teacher's vectors or scores to records, if there is a teacher."""
        if self.config.teacher is None:
            return lambda records: records

        folder = resolve_model(self.config.teacher, EMBEDDING_MODELS).path
        teacher = CachedTeacher(
            folder=folder,
            max_length=self.config.max_length,
            device=computing_device(self.trainer),
            cache=self.cache,
        )
        return partial(
            taught_records,
            loss=self._loss,
            encode=teacher.encode,
            dimensions=int(module.model.get_embedding_dimension() or 0),
            similarity=self.config.loss_options.similarity,
        )

    @property
    def _loss(self) -> Loss:
        return choose_loss(self.shape, self.config.loss, self.config.teacher)

    @property
    def _further_losses(self) -> dict[str, Loss]:
        names = self.config.also_train.losses
        return {shape: choose_loss(shape, name) for shape, name in names.items()}

    @property
    def _reader(self) -> EmbeddingReader:
        return EmbeddingReader(config=self.config, trainer=self.trainer)

    @property
    def _losses(self) -> dict[str, Loss]:
        return {self.shape: self._loss, **self._further_losses}

    @property
    def _seen_twice(self) -> list[str]:
        return [shape for shape, loss in self._losses.items() if loss.views == 2]

    def _of_shape(self, records: Sequence[Record], shape: str) -> list[Record]:
        return [record for record in records if shape_of(record, self.shape) == shape]

    def _check_prompts(self, path: str, tokenizer: Any) -> None:
        """Refuse prompts that leave no room for a text; warn of the model's own, unused prompts."""
        max_length, prompts = self.config.max_length, configured_prompts(self.config)
        for name, prompt in prompts.items():
            if not prompt:
                continue
            tokens = len(tokenizer(prompt, truncation=False, verbose=False)["input_ids"])
            # The special tokens are counted, so one token fewer leaves room for the text.
            if tokens >= max_length:
                raise ConfigError(
                    f"embedding.{name}_prompt must have fewer tokens than max_length={max_length}, "
                    f"got {tokens}. Shorten it or raise max_length."
                )

        unused = prompts_of_folder(path)
        for name, prompt in list(unused.items()):
            if prompt in prompts.values():
                del unused[name]
        if unused:
            logger.warning(
                "the base model comes with the prompts %s, which aren't used: set "
                "embedding.query_prompt and embedding.document_prompt if they should be",
                unused,
            )

"""EmbeddingLearner: everything that the pipeline asks of an embedding model, in one place.

Takes plain records, gives back models and NumPy arrays; knows nothing of metrics, sessions or MLflow.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from tunetrail.cache import ResultCache
from tunetrail.config import EmbeddingConfig, TrainingConfig
from tunetrail.config.losses import Loss, choose_loss
from tunetrail.errors import ConfigError, SampleError
from tunetrail.learning.automatic.auto_values import AutoValues, TrialSetup, find_auto_values
from tunetrail.learning.automatic.learning_rate_finder import WHOLE_MODEL
from tunetrail.learning.embedding.data import EmbeddingDataModule, Record, shape_of
from tunetrail.learning.embedding.encoder import build_encoder, concatenating, encode_texts
from tunetrail.learning.embedding.losses import check_loss, check_records
from tunetrail.learning.embedding.module import EmbeddingModule, load_embedding_model
from tunetrail.learning.embedding.preflight import EMBEDDING_CHECKS
from tunetrail.learning.embedding.teacher import taught_records
from tunetrail.learning.evaluation_mode import evaluating, undisturbed
from tunetrail.learning.fitting import FitResult, fit, optimization_settings
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model
from tunetrail.learning.tokens.prompts import (
    QUERY,
    configured_prompts,
    own_prompts,
    prompt_of,
    role_of,
)
from tunetrail.learning.tokens.tokenized import TokenizedTexts
from tunetrail.learning.training.records import Refresh
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.samples import shape_named

logger = logging.getLogger(__name__)

SHOWN_FROM = 500
"""Texts from which encoding shows a progress bar."""

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingLearner:
    """Loads, trains and applies embedding models for samples of one shape."""

    config: EmbeddingConfig
    shape: str
    seed: int
    cache: ResultCache | None = None

    def check(self, path: str, records: Sequence[Record]) -> None:
        """Raise `ConfigError` or `SampleError` where the model, the loss and the records don't fit together."""
        dimensions = int(load_embedding_model(path).get_embedding_dimension() or 0)
        check_loss(self.config, self.shape, self._of_shape(records, self.shape), dimensions)
        for shape, loss in self._further_losses.items():
            check_records(loss, self._of_shape(records, shape))
        vectors = (each["embedding"] for each in self._of_shape(records, "vector"))
        wrong = next((len(vector) for vector in vectors if len(vector) != dimensions), None)
        if wrong is not None:
            raise SampleError(
                f"embedding must have the model's {dimensions} dimensions, got {wrong}."
            )
        self._check_prompts(path)

    def load(self, path: str) -> SentenceTransformer:
        """Load a model folder; its prompts become the configured ones."""
        return self._with_prompts(load_embedding_model(path, self.config.max_length))

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

        module, data = self._prepared(path, train, validation, training, plan.refresh)
        module.mini_batch_size = auto_values.mini_batch_size or module.mini_batch_size
        result = fit(module, data, training, plan, seed=self.seed, checks=EMBEDDING_CHECKS)

        return module.trained(), replace(result, auto_values=auto_values.to_dict())

    def find_auto_values(
        self, path: str, train: Sequence[Record], training: TrainingConfig
    ) -> AutoValues:
        """Find what is `auto` in a training of the model of the folder `path` on those of the records of its shape."""
        setup = TrialSetup(
            build=lambda records, trial: self._prepared(path, records, [], trial),
            path=path,
            records=self._of_shape(train, self.shape),
            settings={
                **asdict(self.config),
                "training": None,
                "shape": self.shape,
                "seed": self.seed,
            },
            in_mini_batches=not self._loss.is_row_wise(self.config.loss_options),
            mini_batch_size=self.config.mini_batch_size,
            rates=WHOLE_MODEL,
        )
        return find_auto_values(setup, training, self.cache)

    def _prepared(
        self,
        path: str,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
        refresh: Refresh | None = None,
    ) -> tuple[EmbeddingModule, EmbeddingDataModule]:
        """Return the module and the batches that a training begins with."""
        module = self._module(path, training)
        own = self._of_shape(train, self.shape)
        further = [
            record for shape in self._further_losses for record in self._of_shape(train, shape)
        ]
        check_records(self._loss, [*own, *validation], self.config.loss_options)
        tokenized = self._tokenized(module.model, [*train, *validation])
        module.encoder.tokenized = tokenized
        prompts = configured_prompts(self.config)

        def encode(texts: Sequence[str], role: str = QUERY) -> NDArray:
            return encode_texts(module.encoder, texts, prompts[role])

        def tokens(record: Record) -> int:
            shape = shape_of(record, self.shape)
            further = ["negative"] if refresh is None else []
            columns = [
                name for name in (*shape_named(shape).input_texts, *further) if record.get(name)
            ]
            counts = [tokenized.count(record[name], prompts[role_of(name)]) for name in columns]
            if refresh is not None and shape == self.shape:
                counts.append(
                    counts[-1]
                )  # a negative that changes between the epochs; the batches must not
            counts *= 2 if shape in seen_twice else 1
            return sum(counts) if module.encoder.padding_free else max(counts) * len(counts)

        def refreshed(epoch: int) -> Sequence[Record]:
            assert refresh is not None
            with undisturbed(module):
                return [*taught(refresh.records(encode, epoch)), *further]

        taught = self._teaching(module)
        seen_twice = [shape for shape, loss in self._losses.items() if loss.views == 2]
        data = EmbeddingDataModule(
            train=[*taught(own), *further] if further else taught(own),
            validation=taught(validation),
            shape=self.shape,
            batch_size=training.rows_per_batch,
            batches=training.batches,
            lengths=tokens,
            padded=not module.encoder.padding_free,
            seen_twice=seen_twice,
            seed=self.seed,
            prompts=prompts,
            refresh=refreshed if refresh else None,
            refresh_epochs=refresh.every_epochs if refresh else 0,
        )
        return module, data

    def _module(self, path: str, training: TrainingConfig) -> EmbeddingModule:
        weights = self.config.matryoshka_weights
        module = EmbeddingModule(
            model=path,
            shape=self.shape,
            loss=self._loss.name,
            loss_options=asdict(self.config.loss_options),
            further_losses={shape: loss.name for shape, loss in self._further_losses.items()},
            matryoshka_dimensions=list(self.config.matryoshka_dimensions),
            matryoshka_weights=None if weights is None else list(weights),
            max_length=self.config.max_length,
            mini_batch_size=self.config.mini_batch_size,
            padding_free=training.batches.padding_free,
            optimization=optimization_settings(training),
            seed=self.seed,
            max_grad_norm=training.max_grad_norm,
        )
        self._with_prompts(module.model)
        return module

    @property
    def _loss(self) -> Loss:
        return choose_loss(self.shape, self.config.loss, self.config.teacher)

    @property
    def _further_losses(self) -> dict[str, Loss]:
        return {
            shape: choose_loss(shape, loss) for shape, loss in self.config.also_train.losses.items()
        }

    @property
    def _losses(self) -> dict[str, Loss]:
        return {self.shape: self._loss, **self._further_losses}

    def _of_shape(self, records: Sequence[Record], shape: str) -> list[Record]:
        return [record for record in records if shape_of(record, self.shape) == shape]

    def _teaching(self, module: EmbeddingModule) -> Callable[[Sequence[Record]], Sequence[Record]]:
        """Return what adds the teacher's word to records, if there is a teacher."""
        if self.config.teacher is None:
            return lambda records: records
        teacher = load_embedding_model(
            resolve_model(self.config.teacher, EMBEDDING_MODELS).path, self.config.max_length
        )

        def encode(texts: Sequence[str], role: str) -> NDArray:
            return self._encoded(
                teacher, texts, role, unit=False
            )  # as long as the student's are to be

        return partial(
            taught_records,
            loss=self._loss,
            encode=encode,
            dimensions=int(module.model.get_embedding_dimension() or 0),
            similarity=self.config.loss_options.similarity,
        )

    def vectors(
        self, model: SentenceTransformer, texts: Sequence[str], *, role: str = QUERY
    ) -> NDArray:
        """Return the unit vectors of the texts, each behind the model's own prompt for `query` or `document`.

        Returns:
            float32 [texts, dimensions], in the texts' order.
        """
        return self._encoded(model, texts, role)

    def _encoded(
        self, model: SentenceTransformer, texts: Sequence[str], role: str, *, unit: bool = True
    ) -> NDArray:
        encoder = build_encoder(model, TokenizedTexts(model))
        with evaluating(model), concatenating(model) if encoder.padding_free else nullcontext():
            return encode_texts(
                encoder, texts, prompt_of(model, role), unit=unit, shown=len(texts) > SHOWN_FROM
            )

    def _with_prompts(self, model: SentenceTransformer) -> SentenceTransformer:
        model.prompts = {**configured_prompts(self.config)}
        model.default_prompt_name = None
        return model

    def _tokenized(self, model: SentenceTransformer, records: Sequence[Record]) -> TokenizedTexts:
        """Return the model's tokenizer with the texts of the records tokenised."""
        tokenized = TokenizedTexts(model, self.cache)
        shapes = map(shape_named, self._losses)
        for column in dict.fromkeys(column for shape in shapes for column in shape.texts):
            texts = [record[column] for record in records if isinstance(record.get(column), str)]
            if texts:
                tokenized.keep(texts, configured_prompts(self.config)[role_of(column)])
        return tokenized

    def _check_prompts(self, path: str) -> None:
        prompts = {
            name: prompt for name, prompt in configured_prompts(self.config).items() if prompt
        }
        tokenizer = load_embedding_model(path).tokenizer if prompts else None
        for name, prompt in prompts.items():
            assert tokenizer is not None
            tokens = len(tokenizer(prompt, truncation=False, verbose=False)["input_ids"])
            if tokens >= self.config.max_length:
                raise ConfigError(
                    f"embedding.{name}_prompt must have fewer tokens than max_length={self.config.max_length}, got "
                    f"{tokens}. Shorten it or raise max_length."
                )
        unused = {
            name: prompt
            for name, prompt in own_prompts(path).items()
            if prompt not in prompts.values()
        }
        if unused:
            logger.warning(
                "the base model comes with the prompts %s, which aren't used: set embedding.query_prompt and "
                "embedding.document_prompt if they should be",
                unused,
            )

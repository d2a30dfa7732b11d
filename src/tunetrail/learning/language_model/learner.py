"""LanguageModelLearner: loads, trains and applies language models for the pipeline.

It takes plain records and returns models and NumPy arrays.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunetrail.cache import ResultCache
from tunetrail.config import LanguageModelConfig, TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.learning.automatic.auto_values import AutoValues, TrialSetup, find_auto_values
from tunetrail.learning.automatic.learning_rate_finder import ADAPTER, WHOLE_MODEL
from tunetrail.learning.devices import computing_device, placed_on
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import (
    LanguageModelDataModule,
)
from tunetrail.learning.language_model.items import ItemBuilder
from tunetrail.learning.language_model.learnable import check_learnable, teaches
from tunetrail.learning.language_model.likelihoods import Likelihoods, example_likelihoods
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.language_model.module import (
    LanguageModelModule,
    load_language_model,
    load_tokenizer,
)
from tunetrail.learning.language_model.preflight import LANGUAGE_MODEL_CHECKS
from tunetrail.learning.language_model.record_tokenizer import RecordTokenizer
from tunetrail.learning.language_model.writing import GreedyWriter, add_end_token
from tunetrail.learning.tokens.chat import (
    end_tokens,
    is_preference,
    last_answer,
    prompt_tokens,
)
from tunetrail.learning.tokens.rendering import answer_end
from tunetrail.learning.tokens.token_texts import TokenText, token_texts
from tunetrail.learning.training.records import Record
from tunetrail.learning.training_plan import TrainingPlan

_logger = logging.getLogger(__name__)

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModelLearner:
    """Loads, trains and applies causal language models.

    Attributes:
        config: The model, its adapter and its training.
        seed: Decides the order of the rows, dropout and the adapters' first weights.
        cache: Keeps tokens and what was found for `auto` from run to run.
        trainer: The devices; models that the learner applies compute on the first.
        compared: Tokenizers of the models that are compared, if they differ: only the text that all
            of them read is scored. See `comparing`.
    """

    config: LanguageModelConfig
    seed: int
    cache: ResultCache | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    compared: tuple[PreTrainedTokenizerBase, ...] = field(default=(), repr=False)

    def comparing(
        self, models: Sequence[LanguageModel], records: Sequence[Record]
    ) -> "LanguageModelLearner":
        """Return the learner that scores the same bytes of each record, whichever of the models.

        It is this learner if their tokenizers split all records in the same way.
        """
        first, *further = models
        expected = self._record_tokenizer(first.tokenizer).all_examples(records)
        for model in further:
            if self._record_tokenizer(model.tokenizer).all_examples(records) != expected:
                return replace(self, compared=tuple(model.tokenizer for model in models))
        return self

    def check(self, path: str, records: Sequence[Record], load: Callable[[str], Any]) -> None:
        """Raise `SampleError` if more than half of the rows teach nothing; name fewer of them."""
        # The tokenizer decides, so the weights, which may be gigabytes, aren't loaded for it.
        check_learnable(self._record_tokenizer(load_tokenizer(path)), records)

    def load(self, path: str) -> LanguageModel:
        """Load a model folder."""
        model = load_language_model(path)
        return LanguageModel(model=model.eval(), tokenizer=load_tokenizer(path))  # type: ignore[no-untyped-call]

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write model and tokenizer as a Hugging Face folder.

        `generate` stops at the token by which the chat template ends an answer.
        """
        add_end_token(model.model, answer_end(model.tokenizer))
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)

    def train(
        self,
        path: str,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
        plan: TrainingPlan,
    ) -> tuple[LanguageModel, FitResult]:
        """Fine-tune the model in the folder `path`, and merge its adapters.

        Returns:
            The model, and the result of the training.

        Raises:
            ValueError: The plan has a `refresh`, which needs vectors.
        """
        if plan.refresh is not None:
            raise ValueError("refresh must be None for a language model, which gives no vectors.")
        auto_values = plan.auto_values or self.find_auto_values(path, train, training)
        training = auto_values.applied_to(training)

        tokenizer = load_tokenizer(path)
        # After the trials, which load models of their own: never more than one is in memory.
        module, batches = self._build(path, tokenizer, train, validation, training)
        result = fit(module, batches, training, plan, seed=self.seed, checks=LANGUAGE_MODEL_CHECKS)

        trained = module.merged().cpu().eval()  # type: ignore[no-untyped-call]
        model = LanguageModel(model=trained, tokenizer=tokenizer)
        return model, replace(result, auto_values=auto_values.to_dict())

    def find_auto_values(
        self, path: str, train: Sequence[Record], training: TrainingConfig, ranks: int = 1
    ) -> AutoValues:
        """Find the values of settings that are `auto`, for the model in the folder `path`."""
        tokenizer = load_tokenizer(path)
        setup = TrialSetup(
            build=lambda records, trial: self._build(path, tokenizer, records, [], trial),
            path=path,
            records=train,
            # The trial compares the training's settings separately.
            settings={**asdict(self.config), "training": None, "seed": self.seed},
            # The loss compares no rows, so a step may be cut into any micro-batches.
            in_mini_batches=False,
            rates=WHOLE_MODEL if self.config.adapter.kind == "none" else ADAPTER,
            ranks=ranks,
            device=computing_device(self.trainer),
        )
        return find_auto_values(setup, training, self.cache)

    def _build(
        self,
        path: str,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
    ) -> tuple[LanguageModelModule, LanguageModelDataModule]:
        """Return the module and the batches of a training."""
        adapter = self.config.adapter
        module = LanguageModelModule(
            model=path,
            adapter=None if adapter.kind == "none" else asdict(adapter),
            pad_token_id=int(tokenizer.pad_token_id),
            padding_free=training.batches.padding_free,
            neftune_alpha=self.config.neftune_alpha,
            preference=asdict(self.config.preference),
            kto=asdict(self.config.kto),
            optimization=optimization_settings(training),
            seed=self.seed,
        )
        batch_size = training.rows_per_batch
        builder = ItemBuilder(
            module=module,
            tokenizer=self._record_tokenizer(tokenizer),
            batch_size=batch_size,
            device=computing_device(self.trainer),
        )
        rows, train_items = builder.build(train)
        _, validation_items = builder.build(validation)

        batches = LanguageModelDataModule(
            train=train_items,
            validation=validation_items,
            batch_size=batch_size,
            batches=training.batches,
            padded=not module.forward_pass.padding_free,
            seed=self.seed,
            numbers=rows,
            left_out=len(train) - len(train_items),
        )
        return module, batches

    def scorable(self, model: LanguageModel, records: Sequence[Record]) -> list[bool]:
        """Tell for each record whether the maximum length leaves any text to score.

        Both answers of a preference must have some text, and they must still differ.
        """
        tokenizer = self._record_tokenizer(model.tokenizer)
        if not any(map(is_preference, records)):
            examples = tokenizer.scored_examples(records)
            return [example.supervised_bytes > 0 for example in examples]

        scorable = []
        for pair in tokenizer.scored_pairs(records):
            chosen, rejected = pair
            has_texts = chosen.supervised_bytes > 0 and rejected.supervised_bytes > 0
            scorable.append(has_texts and teaches(pair))
        return scorable

    def likelihoods(
        self, model: LanguageModel, records: Sequence[Record], batch_size: int
    ) -> Likelihoods:
        """Return the likelihoods of records; a record without a supervised token has zeros."""
        examples = self._record_tokenizer(model.tokenizer).scored_examples(records)
        device = computing_device(self.trainer)
        return example_likelihoods(model, examples, batch_size, device)

    def write_answers(
        self,
        model: LanguageModel,
        records: Sequence[Record],
        *,
        max_new_tokens: int,
        batch_size: int,
    ) -> list[str | None]:
        """Return the last answer of each record as the model writes it, greedily.

        None for a record without an answer to a prompt. The answer ends where training teaches the
        model to end one, or after `max_new_tokens`. It doesn't depend on the other records.
        """
        prompted = [row for row, record in enumerate(records) if last_answer(record) is not None]
        prompted_records = [records[row] for row in prompted]
        examples = self._record_tokenizer(model.tokenizer).examples(prompted_records)
        # Without a form in the chat template, a conversation has no prompt either.
        learnable = [example for example in examples if example.input_ids]
        has_form = [bool(example.input_ids) for example in examples]
        prompted = list(compress(prompted, has_form))
        prompts = [prompt_tokens(model.tokenizer, records[row]) for row in prompted]
        ends = end_tokens(model.tokenizer, learnable)

        answers: list[str | None] = [None] * len(records)
        with placed_on(computing_device(self.trainer), model.model):
            writer = GreedyWriter(
                model=model.model,
                tokenizer=model.tokenizer,
                ends=ends,
                max_new_tokens=max_new_tokens,
            )
            for row, answer in zip(prompted, writer.write(prompts, batch_size), strict=True):
                answers[row] = answer
        return answers

    def preference_likelihoods(
        self, model: LanguageModel, records: Sequence[Record], batch_size: int
    ) -> tuple[Likelihoods, Likelihoods]:
        """Return the likelihoods of the chosen and of the rejected answers, given their prompts."""
        pairs = self._record_tokenizer(model.tokenizer).scored_pairs(records)
        chosen, rejected = map(itemgetter(0), pairs), map(itemgetter(1), pairs)
        device = computing_device(self.trainer)
        likelihoods = example_likelihoods(model, [*chosen, *rejected], batch_size, device)
        count = len(pairs)
        return likelihoods.part(slice(count)), likelihoods.part(slice(count, None))

    def token_texts(self, model: LanguageModel, record: Record) -> list[TokenText]:
        """Return each scored token of a record that isn't a preference, with the text around it."""
        (example,) = self._record_tokenizer(model.tokenizer).scored_examples([record])
        return token_texts(model.tokenizer, example)

    def _record_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> RecordTokenizer:
        return RecordTokenizer(
            tokenizer=tokenizer,
            max_length=self.config.max_length,
            thoughts=self.config.thoughts,
            cache=self.cache,
            compared=self.compared,
        )

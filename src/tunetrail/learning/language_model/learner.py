"""LanguageModelLearner: everything that the pipeline asks of a language model, in one place.

Takes plain records, gives back models and NumPy arrays; knows nothing of metrics, sessions or
MLflow.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunetrail.cache import ResultCache
from tunetrail.config import LanguageModelConfig, TrainingConfig
from tunetrail.errors import SampleError
from tunetrail.learning.automatic.auto_values import AutoValues, TrialSetup, find_auto_values
from tunetrail.learning.automatic.learning_rate_finder import ADAPTER, WHOLE_MODEL
from tunetrail.learning.evaluation_mode import undisturbed
from tunetrail.learning.fitting import FitResult, fit, optimization_settings
from tunetrail.learning.language_model.data import Item, LanguageModelDataModule, PreferencePair
from tunetrail.learning.language_model.forward import LanguageForward, build_forward, concatenating
from tunetrail.learning.language_model.module import (
    LanguageModelModule,
    load_language_model,
    load_tokenizer,
)
from tunetrail.learning.language_model.preflight import LANGUAGE_MODEL_CHECKS
from tunetrail.learning.tokens.chat import TokenizedExample, is_preference
from tunetrail.learning.tokens.tokenized import tokenize_examples, tokenize_preferences
from tunetrail.learning.training.batching import length_batches
from tunetrail.learning.training.out_of_memory import compute_batches
from tunetrail.learning.training.records import Record
from tunetrail.learning.training_plan import TrainingPlan

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModel:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Likelihoods:
    """Per record: negative log-likelihood in nats, supervised tokens, and UTF-8 bytes of the supervised text."""

    nats: NDArray
    tokens: NDArray
    bytes: NDArray

    def part(self, records: slice) -> "Likelihoods":
        """Return those of some of the records."""
        return Likelihoods(
            nats=self.nats[records], tokens=self.tokens[records], bytes=self.bytes[records]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModelLearner:
    """Loads, trains and applies causal language models."""

    config: LanguageModelConfig
    seed: int
    cache: ResultCache | None = None

    def check(self, path: str, records: Sequence[Record]) -> None:
        """Raise `SampleError` where the output of more than half of the records lies beyond the maximum length."""
        tokenizer, preferences = load_tokenizer(path), any(map(is_preference, records))
        if preferences:
            empty = sum(not _teaches(pair) for pair in self._pairs(tokenizer, records))
        else:
            empty = sum(not _learns(example) for example in self._tokenized(tokenizer, records))
        if empty * 2 > len(records):
            what = "what two answers differ by" if preferences else "the whole output"
            raise SampleError(
                f"llm.max_length={self.config.max_length} cuts off {what} of {empty} of {len(records)} rows. Raise it."
            )

    def load(self, path: str) -> LanguageModel:
        """Load a model folder."""
        model = load_language_model(path)
        return LanguageModel(model=model.eval(), tokenizer=load_tokenizer(path))  # type: ignore[no-untyped-call]

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write model and tokenizer as a Hugging Face folder."""
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
        """Fine-tune the model of the folder `path`, and merge its adapters.

        Returns:
            The model, with what the training did.

        Raises:
            ValueError: The plan has a `refresh`: a language model gives no vectors.
        """
        if plan.refresh is not None:
            raise ValueError("refresh must be None for a language model, which gives no vectors.")
        auto_values = plan.auto_values or self.find_auto_values(path, train, training)
        training = auto_values.applied_to(training)

        tokenizer = load_tokenizer(path)
        module, data = self._prepared(path, tokenizer, train, validation, training)
        result = fit(module, data, training, plan, seed=self.seed, checks=LANGUAGE_MODEL_CHECKS)

        trained = module.merged().cpu().eval()  # type: ignore[no-untyped-call]
        model = LanguageModel(model=trained, tokenizer=tokenizer)
        return model, replace(result, auto_values=auto_values.to_dict())

    def find_auto_values(
        self, path: str, train: Sequence[Record], training: TrainingConfig
    ) -> AutoValues:
        """Find what is `auto` in a training of the model of the folder `path` on these records."""
        setup = TrialSetup(
            build=lambda records, trial: self._prepared(
                path, load_tokenizer(path), records, [], trial
            ),
            path=path,
            records=train,
            settings={**asdict(self.config), "training": None, "seed": self.seed},
            in_mini_batches=False,
            rates=WHOLE_MODEL if self.config.adapter.kind == "none" else ADAPTER,
        )
        return find_auto_values(setup, training, self.cache)

    def _prepared(
        self,
        path: str,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
    ) -> tuple[LanguageModelModule, LanguageModelDataModule]:
        """Return the module and the batches that a training begins with."""
        adapter = self.config.adapter
        module = LanguageModelModule(
            model=path,
            adapter=None if adapter.kind == "none" else asdict(adapter),
            pad_token_id=int(tokenizer.pad_token_id),
            padding_free=training.batches.padding_free,
            neftune_alpha=self.config.neftune_alpha,
            preference=asdict(self.config.preference),
            optimization=optimization_settings(training),
            seed=self.seed,
            max_grad_norm=training.max_grad_norm,
        )
        numbers, items = self._items(module, tokenizer, train, training.rows_per_batch)
        data = LanguageModelDataModule(
            train=items,
            validation=self._items(module, tokenizer, validation, training.rows_per_batch)[1],
            batch_size=training.rows_per_batch,
            batches=training.batches,
            padded=not module.forward_pass.padding_free,
            seed=self.seed,
            numbers=numbers,
            left_out=len(train) - len(items),
        )
        return module, data

    def scorable(self, model: LanguageModel, records: Sequence[Record]) -> list[bool]:
        """Return per record whether any text that should be learnt is left within the maximum length.

        Of a preference, there must be some of both answers, and they must still differ.
        """
        if any(map(is_preference, records)):
            pairs = self._pairs(model.tokenizer, records)
            return [
                _teaches(pair) and all(example.supervised_bytes for example in pair)
                for pair in pairs
            ]
        return [
            example.supervised_bytes > 0 for example in self._tokenized(model.tokenizer, records)
        ]

    def likelihoods(
        self, model: LanguageModel, records: Sequence[Record], batch_size: int
    ) -> Likelihoods:
        """Score each record's supervised tokens; a record cut off before its first one counts 0 everywhere."""
        return _likelihoods(model, self._tokenized(model.tokenizer, records), batch_size)

    def preference_likelihoods(
        self, model: LanguageModel, records: Sequence[Record], batch_size: int
    ) -> tuple[Likelihoods, Likelihoods]:
        """Score the chosen answers of preferences, and the rejected ones, each given its prompt."""
        pairs = self._pairs(model.tokenizer, records)
        chosen, rejected = ([pair[side] for pair in pairs] for side in (0, 1))
        found = _likelihoods(model, [*chosen, *rejected], batch_size)
        return found.part(slice(len(pairs))), found.part(slice(len(pairs), None))

    def _items(
        self,
        module: LanguageModelModule,
        tokenizer: PreTrainedTokenizerBase,
        records: Sequence[Record],
        batch_size: int,
    ) -> tuple[list[int], Sequence[Item]]:
        """Return the numbers of the records that teach something, and what a training learns from them.

        Of preferences, that is with what the model makes of them as it is now.
        """
        if not any(is_preference(record) for record in records):
            return self._examples(tokenizer, records)
        teaching = [
            (number, pair)
            for number, pair in enumerate(self._pairs(tokenizer, records))
            if _teaches(pair)
        ]
        if not teaching:
            raise SampleError(
                f"llm.max_length={self.config.max_length} cuts off what two answers differ by of all {len(records)} "
                "rows on one side of the split. Raise it."
            )
        answers = [answer for _, pair in teaching for answer in pair]
        with undisturbed(module):
            found = (-_nats(module.forward_pass, answers, batch_size, "Reference")).tolist()
        return [number for number, _ in teaching], [
            PreferencePair(
                chosen=chosen, rejected=rejected, reference=(found[2 * place], found[2 * place + 1])
            )
            for place, (_, (chosen, rejected)) in enumerate(teaching)
        ]

    def _examples(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> tuple[list[int], list[TokenizedExample]]:
        examples = self._tokenized(tokenizer, records)
        numbers = [number for number, example in enumerate(examples) if _learns(example)]
        if records and not numbers:
            raise SampleError(
                f"llm.max_length={self.config.max_length} cuts off the whole output of all {len(records)} rows "
                "on one side of the split. Raise it."
            )
        return numbers, [examples[number] for number in numbers]

    def _tokenized(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> list[TokenizedExample]:
        return tokenize_examples(tokenizer, records, self.config.max_length, self.cache)

    def _pairs(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> list[tuple[TokenizedExample, TokenizedExample]]:
        return tokenize_preferences(tokenizer, records, self.config.max_length, self.cache)


def _nats(
    forward: LanguageForward, examples: Sequence[TokenizedExample], batch_size: int, title: str
) -> NDArray:
    """Return each example's negative log-likelihood in nats, float64 [examples]."""

    def scored(numbers: NDArray) -> NDArray:
        found: NDArray = (
            forward.nats([examples[number] for number in numbers]).double().cpu().numpy()
        )
        return found

    nats = np.zeros(len(examples))
    batches = length_batches([len(example.input_ids) for example in examples], batch_size)
    with torch.inference_mode():
        for numbers, found in compute_batches(
            track(batches, title, console=Console(stderr=True), transient=True), scored
        ):
            nats[numbers] = found
    return nats


def _likelihoods(
    model: LanguageModel, examples: Sequence[TokenizedExample], batch_size: int
) -> Likelihoods:
    nats = np.zeros(len(examples))
    scored = [number for number, example in enumerate(examples) if _learns(example)]
    forward = build_forward(model.model, int(model.tokenizer.pad_token_id))
    with concatenating(model.model) if forward.padding_free else nullcontext():
        nats[scored] = _nats(
            forward, [examples[number] for number in scored], batch_size, "Scoring"
        )
    return Likelihoods(
        nats=nats,
        tokens=np.array([example.supervised_tokens for example in examples]),
        bytes=np.array([example.supervised_bytes for example in examples]),
    )


def _learns(example: TokenizedExample) -> bool:
    return example.supervised_tokens > 0


def _teaches(pair: tuple[TokenizedExample, TokenizedExample]) -> bool:
    """Whether both answers are there, as far as the maximum length goes, and differ."""
    chosen, rejected = pair
    return _learns(chosen) and _learns(rejected) and chosen.input_ids != rejected.input_ids


def last_logits(model: LanguageModel, texts: Sequence[str]) -> NDArray:
    """Return the logits behind each text's last token, float64 [texts, vocabulary]."""
    rows = []
    for text in texts:
        encoded = model.tokenizer(text or " ", truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model.model(**encoded, logits_to_keep=1).logits[0, -1].double().numpy())
    return np.stack(rows)

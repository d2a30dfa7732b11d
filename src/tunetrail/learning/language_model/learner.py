"""LanguageModelLearner: loads, trains and applies language models for the pipeline.

It takes plain records and returns models and NumPy arrays.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, compress
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunetrail.cache import ResultCache
from tunetrail.config import LanguageModelConfig, TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import SampleError
from tunetrail.learning.automatic.auto_values import AutoValues, TrialSetup, find_auto_values
from tunetrail.learning.automatic.learning_rate_finder import ADAPTER, WHOLE_MODEL
from tunetrail.learning.devices import computing_device, placed_on
from tunetrail.learning.evaluation_mode import undisturbed
from tunetrail.learning.fitting import FitResult, fit, optimization_settings
from tunetrail.learning.language_model.data import (
    Item,
    JudgedAnswer,
    LanguageModelDataModule,
    PreferencePair,
)
from tunetrail.learning.language_model.forward import LanguageForward, build_forward, concatenating
from tunetrail.learning.language_model.kto import mismatched, previous_in_block
from tunetrail.learning.language_model.module import (
    LanguageModelModule,
    load_language_model,
    load_tokenizer,
)
from tunetrail.learning.language_model.preflight import LANGUAGE_MODEL_CHECKS
from tunetrail.learning.language_model.writing import GreedyWriter, add_end_token
from tunetrail.learning.tokens.chat import (
    TokenizedExample,
    completions_of,
    end_tokens,
    example_lengths,
    is_judged,
    is_preference,
    last_answer,
    prompt_tokens,
    supervised_counts,
    tokenize_record,
)
from tunetrail.learning.tokens.shared_text import tokenize_shared
from tunetrail.learning.tokens.templates import answer_end
from tunetrail.learning.tokens.token_texts import TokenText, token_texts
from tunetrail.learning.tokens.tokenized import tokenize_examples, tokenize_preferences
from tunetrail.learning.training.batching import length_batches
from tunetrail.learning.training.out_of_memory import compute_batches
from tunetrail.learning.training.records import Record
from tunetrail.learning.training_plan import TrainingPlan

_logger = logging.getLogger(__name__)

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModel:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Likelihoods:
    """Likelihoods of records.

    Attributes:
        nats: Negative log-likelihood of each record's supervised tokens, [records].
        tokens: Number of supervised tokens, [records].
        bytes: Number of UTF-8 bytes of the supervised text, [records].
        text_nats: The part of `nats` of the tokens that spell text, without the end of a turn or of
            the document, [records].
        hits: Number of supervised tokens that the model finds likeliest, given the true text before
            them, [records].
        unshared_bytes: Number of bytes that a compared model's tokenizer doesn't read, and which
            are therefore not scored, [records].
        token_nats: Negative log-likelihood of each supervised token, float32 [tokens] of each
            record.
    """

    nats: NDArray
    tokens: NDArray
    bytes: NDArray
    text_nats: NDArray
    hits: NDArray
    unshared_bytes: NDArray
    token_nats: list[NDArray]

    def part(self, records: slice) -> "Likelihoods":
        """Return the likelihoods of some of the records."""
        return Likelihoods(
            nats=self.nats[records],
            tokens=self.tokens[records],
            bytes=self.bytes[records],
            text_nats=self.text_nats[records],
            hits=self.hits[records],
            unshared_bytes=self.unshared_bytes[records],
            token_nats=self.token_nats[records],
        )


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
        expected = self._examples_of(first.tokenizer, records)
        for model in further:
            if self._examples_of(model.tokenizer, records) != expected:
                return replace(self, compared=tuple(model.tokenizer for model in models))
        return self

    def check(self, path: str, records: Sequence[Record], load: Callable[[str], Any]) -> None:
        """Raise `SampleError` if more than half of the rows teach nothing; name fewer of them."""
        # The tokenizer decides, so the weights, which may be gigabytes, aren't loaded for it.
        tokenizer = load_tokenizer(path)
        if any(map(is_preference, records)):
            pairs = self._pairs(tokenizer, records)
            teaches = list(map(_teaches, pairs))
            has_form = [bool(chosen.input_ids and rejected.input_ids) for chosen, rejected in pairs]
            target = "the difference between the answers"
        else:
            examples = self._tokenize(tokenizer, records)
            teaches = list(map(_is_supervised, examples))
            has_form = [bool(example.input_ids) for example in examples]
            target = "the whole output"
            self._name_context_answers(examples)

        unlearnable = has_form.count(False)
        if unlearnable:
            reason = self._why_unlearnable(tokenizer, records[has_form.index(False)])
            summary = f"{unlearnable} of {len(records)} rows can't be learnt: {reason}"
            if unlearnable * 2 > len(records):
                raise SampleError(summary)
            _logger.warning(summary)

        cut = teaches.count(False) - unlearnable
        if cut * 2 > len(records):
            raise SampleError(
                f"llm.max_length={self.config.max_length} cuts off {target} of {cut} of "
                f"{len(records)} rows. Raise it."
            )

    def _name_context_answers(self, examples: Sequence[TokenizedExample]) -> None:
        """Warn of answers that nothing is learnt from, although their rows are learnt."""
        context_answers = sum(example.context_answers for example in examples)
        if context_answers:
            _logger.warning(
                "%d answers before the last one of their chats are context only: the chat "
                "template writes them in another way once the chat goes on. To learn them as "
                "well, add the chat up to each of them as a row of its own.",
                context_answers,
            )

    def _why_unlearnable(self, tokenizer: PreTrainedTokenizerBase, record: Record) -> str:
        """Return why the chat template has no form for a record."""
        examples = completions_of(record) if is_preference(record) else (record,)
        try:
            for example in examples:
                tokenize_record(tokenizer, example, self.config.max_length, self.config.thoughts)
        except SampleError as error:
            return str(error)
        return "the row has no text."

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
        rows, train_items = self._items(module, tokenizer, train, batch_size)
        _, validation_items = self._items(module, tokenizer, validation, batch_size)

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
        """Tell of each record whether the maximum length leaves any text to score.

        Both answers of a preference must have some text, and they must still differ.
        """
        if not any(map(is_preference, records)):
            examples = self._scored_examples(model.tokenizer, records)
            return [example.supervised_bytes > 0 for example in examples]

        scorable = []
        for pair in self._scored_pairs(model.tokenizer, records):
            chosen, rejected = pair
            has_texts = chosen.supervised_bytes > 0 and rejected.supervised_bytes > 0
            scorable.append(has_texts and _teaches(pair))
        return scorable

    def likelihoods(
        self, model: LanguageModel, records: Sequence[Record], batch_size: int
    ) -> Likelihoods:
        """Return the likelihoods of records; a record without a supervised token has zeros."""
        examples = self._scored_examples(model.tokenizer, records)
        return self._likelihoods(model, examples, batch_size)

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
        examples = self._tokenize(model.tokenizer, [records[row] for row in prompted])
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
        pairs = self._scored_pairs(model.tokenizer, records)
        chosen, rejected = map(itemgetter(0), pairs), map(itemgetter(1), pairs)
        likelihoods = self._likelihoods(model, [*chosen, *rejected], batch_size)
        count = len(pairs)
        return likelihoods.part(slice(count)), likelihoods.part(slice(count, None))

    def _likelihoods(
        self, model: LanguageModel, examples: Sequence[TokenizedExample], batch_size: int
    ) -> Likelihoods:
        # Without a supervised token there is nothing to compute: those examples keep their zeros.
        rows, supervised = _supervised(examples)
        scores = np.zeros((len(examples), 3))
        token_nats: list[NDArray] = [np.zeros(0, dtype=np.float32)] * len(examples)
        special_ids = model.tokenizer.all_special_ids
        with placed_on(computing_device(self.trainer), model.model):
            forward = build_forward(model.model, int(model.tokenizer.pad_token_id))
            with concatenating(model.model) if forward.padding_free else nullcontext():
                scores[rows], nats_of_rows = _token_scores(
                    forward, supervised, batch_size, "Scoring", special_ids
                )
        for row, nats in zip(rows, nats_of_rows, strict=True):
            token_nats[row] = nats

        return Likelihoods(
            nats=scores[:, 0],
            tokens=np.array(supervised_counts(examples)),
            bytes=np.array([example.supervised_bytes for example in examples]),
            text_nats=scores[:, 1],
            hits=scores[:, 2],
            unshared_bytes=np.array([example.unshared_bytes for example in examples]),
            token_nats=token_nats,
        )

    def token_texts(self, model: LanguageModel, record: Record) -> list[TokenText]:
        """Return each scored token of a record that isn't a preference, with the text around it."""
        (example,) = self._scored_examples(model.tokenizer, [record])
        return token_texts(model.tokenizer, example)

    def _items(
        self,
        module: LanguageModelModule,
        tokenizer: PreTrainedTokenizerBase,
        records: Sequence[Record],
        batch_size: int,
    ) -> tuple[list[int], Sequence[Item]]:
        """Return the indices of the records that teach something, and what they teach.

        Preferences and judged answers come with the log-probabilities by the model as it is now.
        """
        if any(map(is_judged, records)):
            return self._judged_answers(module, tokenizer, records, batch_size)
        if not any(map(is_preference, records)):
            return self._examples(tokenizer, records)

        rows, pairs = [], []
        for row, pair in enumerate(self._pairs(tokenizer, records)):
            if _teaches(pair):
                rows.append(row)
                pairs.append(pair)
        if not pairs:
            raise SampleError(
                f"llm.max_length={self.config.max_length} cuts off the difference between the "
                f"answers in all {len(records)} rows on one side of the split. Raise it."
            )

        items = []
        references = self._references(module, pairs, batch_size)
        for (chosen, rejected), reference in zip(pairs, references, strict=True):
            items.append(PreferencePair(chosen=chosen, rejected=rejected, reference=reference))
        return rows, items

    def _judged_answers(
        self,
        module: LanguageModelModule,
        tokenizer: PreTrainedTokenizerBase,
        records: Sequence[Record],
        batch_size: int,
    ) -> tuple[list[int], list[JudgedAnswer]]:
        """Return the indices of the records whose answer isn't cut off, and the judged answers."""
        rows, answers = self._examples(tokenizer, records)
        previous = previous_in_block(len(answers), batch_size)
        pairs = []
        for answer, previous_row in zip(answers, previous, strict=True):
            other_answer = mismatched(answer, answers[previous_row], self.config.max_length)
            pairs.append((answer, other_answer))

        items = []
        references = self._references(module, pairs, batch_size)
        for row, (answer, other_answer), reference in zip(rows, pairs, references, strict=True):
            items.append(
                JudgedAnswer(
                    answer=answer,
                    mismatched=other_answer,
                    accepted=bool(records[row]["accepted"]),
                    reference=reference,
                )
            )
        return rows, items

    def _references(
        self,
        module: LanguageModelModule,
        pairs: Sequence[tuple[TokenizedExample, TokenizedExample]],
        batch_size: int,
    ) -> list[tuple[float, float]]:
        """Return the log-probabilities of both answers of each pair by the model as it is now."""
        # The reference is the model without dropout, and mustn't change the training's draws.
        with placed_on(computing_device(self.trainer), module), undisturbed(module):
            answers = list(chain.from_iterable(pairs))
            scores, _ = _token_scores(module.forward_pass, answers, batch_size, "Reference")
        # The two answers of a pair follow each other, hence a row of two for each pair.
        return [(float(first), float(second)) for first, second in -scores[:, 0].reshape(-1, 2)]

    def _examples(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> tuple[list[int], list[TokenizedExample]]:
        examples = self._tokenize(tokenizer, records)
        rows, supervised = _supervised(examples)
        if records and not rows:
            raise SampleError(
                f"llm.max_length={self.config.max_length} cuts off the whole output of all "
                f"{len(records)} rows on one side of the split. Raise it."
            )
        return rows, supervised

    def _scored_examples(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> list[TokenizedExample]:
        """Return the examples of records, with labels on what all compared tokenizers read."""
        if not self.compared:
            return self._tokenize(tokenizer, records)
        # Its own comes first; among the compared ones, it changes nothing.
        tokenizers = (tokenizer, *self.compared)
        config = self.config
        return [
            tokenize_shared(tokenizers, record, config.max_length, config.thoughts)[0]
            for record in records
        ]

    def _scored_pairs(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> list[tuple[TokenizedExample, TokenizedExample]]:
        """Return both answers of preferences, with labels on what all compared tokenizers read."""
        if not self.compared:
            return self._pairs(tokenizer, records)
        completions = list(map(completions_of, records))
        chosen, rejected = (
            self._scored_examples(tokenizer, list(map(itemgetter(answer), completions)))
            for answer in (0, 1)
        )
        return list(zip(chosen, rejected, strict=True))

    def _examples_of(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> list[TokenizedExample]:
        """Return the examples of records; a preference has one for each of its two answers."""
        if not any(map(is_preference, records)):
            return self._tokenize(tokenizer, records)
        return list(chain.from_iterable(self._pairs(tokenizer, records)))

    def _tokenize(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> list[TokenizedExample]:
        config = self.config
        return tokenize_examples(tokenizer, records, config.max_length, self.cache, config.thoughts)

    def _pairs(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> list[tuple[TokenizedExample, TokenizedExample]]:
        config = self.config
        return tokenize_preferences(
            tokenizer, records, config.max_length, self.cache, config.thoughts
        )


def _token_scores(
    forward: LanguageForward,
    examples: Sequence[TokenizedExample],
    batch_size: int,
    title: str,
    special_ids: Sequence[int] = (),
) -> tuple[NDArray, list[NDArray]]:
    """Return the sums of `LanguageForward.token_scores`, float64 [examples, 3].

    In addition, the nats of each example's supervised tokens, float32 [tokens].
    """

    def score(rows: NDArray) -> tuple[NDArray, list[NDArray]]:
        batch = [examples[row] for row in rows]
        sums, nats = forward.token_scores(batch, special_ids)
        # One copy from the device for all examples.
        split = torch.split(torch.cat(nats).float().cpu(), list(map(len, nats)))
        return sums.double().cpu().numpy(), [tokens.numpy() for tokens in split]

    scores = np.zeros((len(examples), 3))
    token_nats: list[NDArray] = [np.zeros(0, dtype=np.float32)] * len(examples)
    batches = length_batches(example_lengths(examples), batch_size)
    progress = track(batches, title, console=Console(stderr=True), transient=True)
    with torch.inference_mode():
        for rows, (sums, nats) in compute_batches(progress, score):
            scores[rows] = sums
            for row, tokens in zip(rows, nats, strict=True):
                token_nats[row] = tokens
    return scores, token_nats


def _supervised(
    examples: Sequence[TokenizedExample],
) -> tuple[list[int], list[TokenizedExample]]:
    """Return the indices of the examples that have a supervised token, and these examples."""
    rows, supervised = [], []
    for row, example in enumerate(examples):
        if _is_supervised(example):
            rows.append(row)
            supervised.append(example)
    return rows, supervised


def _is_supervised(example: TokenizedExample) -> bool:
    return example.supervised_tokens > 0


def _teaches(pair: tuple[TokenizedExample, TokenizedExample]) -> bool:
    """Tell whether both answers are there, as far as the maximum length goes, and differ."""
    chosen, rejected = pair
    has_answers = _is_supervised(chosen) and _is_supervised(rejected)
    return has_answers and chosen.input_ids != rejected.input_ids


def last_logits(model: LanguageModel, texts: Sequence[str]) -> NDArray:
    """Return the logits after each text's last token, float64 [texts, vocabulary]."""
    rows = []
    for text in texts:
        # A model can't read a row without tokens.
        encoded = model.tokenizer(text or " ", truncation=True, max_length=128, return_tensors="pt")
        inputs = encoded.to(model.model.device)
        with torch.inference_mode():
            logits = model.model(**inputs, logits_to_keep=1).logits[0, -1]
        rows.append(logits.double().cpu().numpy())
    return np.stack(rows)

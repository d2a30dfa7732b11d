"""Tokenizes records as the configuration says, for training and for scoring."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter

from transformers import PreTrainedTokenizerBase

from tunetrail.cache import ResultCache
from tunetrail.learning.tokens.chat import (
    TokenizedExample,
    completions_of,
    is_preference,
    tokenize_record,
)
from tunetrail.learning.tokens.shared_text import tokenize_shared
from tunetrail.learning.tokens.tokenized import tokenize_examples, tokenize_preferences
from tunetrail.learning.training.records import Record

AnswerPair = tuple[TokenizedExample, TokenizedExample]
"""Two answers to one prompt: the chosen and the rejected one, or an answer and a mismatched one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordTokenizer:
    """Turns records into examples with one tokenizer.

    Attributes:
        tokenizer: Splits the texts.
        max_length: Longest example, in tokens.
        thoughts: What happens to the thoughts of an answer; see `llm.thoughts`.
        cache: Keeps the tokens from run to run.
        compared: Tokenizers of the models that are compared, if they differ: only the text that all
            of them read is scored.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    thoughts: str
    cache: ResultCache | None = None
    compared: tuple[PreTrainedTokenizerBase, ...] = field(default=(), repr=False)

    def examples(self, records: Sequence[Record]) -> list[TokenizedExample]:
        """Return the example of each record that isn't a preference."""
        return tokenize_examples(
            self.tokenizer, records, self.max_length, self.cache, self.thoughts
        )

    def pairs(self, records: Sequence[Record]) -> list[AnswerPair]:
        """Return the examples of both answers of each preference."""
        return tokenize_preferences(
            self.tokenizer, records, self.max_length, self.cache, self.thoughts
        )

    def all_examples(self, records: Sequence[Record]) -> list[TokenizedExample]:
        """Return the examples of records; a preference has one for each of its two answers."""
        if not any(map(is_preference, records)):
            return self.examples(records)
        return list(chain.from_iterable(self.pairs(records)))

    def scored_examples(self, records: Sequence[Record]) -> list[TokenizedExample]:
        """Return the examples of records, with labels on what all compared tokenizers read."""
        if not self.compared:
            return self.examples(records)

        # Its own comes first, and is mostly one of the compared ones.
        others = [tokenizer for tokenizer in self.compared if tokenizer is not self.tokenizer]
        tokenizers = (self.tokenizer, *others)
        return [
            tokenize_shared(tokenizers, record, self.max_length, self.thoughts)[0]
            for record in records
        ]

    def scored_pairs(self, records: Sequence[Record]) -> list[AnswerPair]:
        """Return both answers of preferences, with labels on what all compared tokenizers read."""
        if not self.compared:
            return self.pairs(records)

        completions = list(map(completions_of, records))
        chosen = self.scored_examples(list(map(itemgetter(0), completions)))
        rejected = self.scored_examples(list(map(itemgetter(1), completions)))
        return list(zip(chosen, rejected, strict=True))

    def check_form(self, record: Record) -> None:
        """Raise `SampleError` with the reason if the chat template has no form for a record."""
        examples = completions_of(record) if is_preference(record) else (record,)
        for example in examples:
            tokenize_record(self.tokenizer, example, self.max_length, self.thoughts)

"""Builds what a training learns from: examples, preferences and judged answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from tunetrail.errors import SampleError
from tunetrail.learning.devices import placed_on
from tunetrail.learning.evaluation_mode import undisturbed
from tunetrail.learning.language_model.data import Item, JudgedAnswer, PreferencePair
from tunetrail.learning.language_model.kto import mismatched, previous_in_block
from tunetrail.learning.language_model.learnable import supervised_examples, teaches
from tunetrail.learning.language_model.likelihoods import token_scores
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.language_model.record_tokenizer import AnswerPair, RecordTokenizer
from tunetrail.learning.tokens.chat import TokenizedExample, is_judged, is_preference
from tunetrail.learning.training.records import Record


@dataclass(frozen=True, kw_only=True)
class ItemBuilder:
    """Builds the items of a training from records.

    Attributes:
        module: The model that is trained, as it is before the first step.
        tokenizer: Tokenizes the records.
        batch_size: Rows of a batch.
        device: Where the reference log-probabilities are computed.
    """

    module: LanguageModelModule
    tokenizer: RecordTokenizer
    batch_size: int
    device: torch.device

    def build(self, records: Sequence[Record]) -> tuple[list[int], Sequence[Item]]:
        """Return the indices of the records that teach something, and what they teach.

        Preferences and judged answers come with the log-probabilities by the model as it is now.
        """
        if any(map(is_judged, records)):
            return self._judged_answers(records)
        if not any(map(is_preference, records)):
            return self._examples(records)

        rows, pairs = [], []
        for row, pair in enumerate(self.tokenizer.pairs(records)):
            if teaches(pair):
                rows.append(row)
                pairs.append(pair)
        if not pairs:
            raise SampleError(
                f"llm.max_length={self.tokenizer.max_length} cuts off the difference between the "
                f"answers in all {len(records)} rows of one split. Raise it."
            )

        items = []
        references = self._references(pairs)
        for (chosen, rejected), reference in zip(pairs, references, strict=True):
            items.append(PreferencePair(chosen=chosen, rejected=rejected, reference=reference))
        return rows, items

    def _judged_answers(self, records: Sequence[Record]) -> tuple[list[int], list[JudgedAnswer]]:
        """Return the indices of the records whose answer isn't cut off, and the judged answers."""
        rows, answers = self._examples(records)
        previous = previous_in_block(len(answers), self.batch_size)
        pairs = []
        for answer, previous_row in zip(answers, previous, strict=True):
            other_answer = mismatched(answer, answers[previous_row], self.tokenizer.max_length)
            pairs.append((answer, other_answer))

        items = []
        references = self._references(pairs)
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

    def _references(self, pairs: Sequence[AnswerPair]) -> list[tuple[float, float]]:
        """Return the log-probabilities of both answers of each pair by the model as it is now."""
        # The reference is the model without dropout, and mustn't change the training's draws.
        module = self.module
        with placed_on(self.device, module), undisturbed(module):
            answers = list(chain.from_iterable(pairs))
            scores, _ = token_scores(module.forward_pass, answers, self.batch_size, "Reference")
        # The two answers of a pair follow each other, hence a row of two for each pair.
        return [(float(first), float(second)) for first, second in -scores[:, 0].reshape(-1, 2)]

    def _examples(self, records: Sequence[Record]) -> tuple[list[int], list[TokenizedExample]]:
        """Return the indices of the records with a supervised token, and their examples."""
        rows, supervised = supervised_examples(self.tokenizer.examples(records))
        if records and not rows:
            raise SampleError(
                f"llm.max_length={self.tokenizer.max_length} cuts off the whole output of all "
                f"{len(records)} rows of one split. Raise it."
            )
        return rows, supervised

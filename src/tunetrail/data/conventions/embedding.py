"""The conventions of embedding data: pairs, negatives, scored pairs, and entailment."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tunetrail.data.conventions.convention import (
    Convention,
    Row,
    list_of,
    register,
    text_of,
)
from tunetrail.data.conventions.verdicts import (
    JUDGEMENT_COLUMNS,
    VERDICT_COLUMNS,
    checked_verdict,
)
from tunetrail.errors import SampleError
from tunetrail.samples import LeftOut, SampleKind
from tunetrail.samples.values import checked_number, checked_text, shortened

_NEGATIVES = ("negative", "negatives", "neg", "negs", "hard_negative", "hard_negatives")
_MOST_NEGATIVES = 100
_PREFIXES = ("negative_", "negative", "neg_")
_NUMBERED = [f"{name}{n}" for name in _PREFIXES for n in range(_MOST_NEGATIVES)]
NEGATIVE_COLUMNS = (*_NEGATIVES, *_NUMBERED)
"""Columns that hold one negative or a list of them; sentence-transformers numbers them."""

# SNLI's words and the numbers that Hugging Face's copies of SNLI, MNLI and ANLI have for them.
_ENTAILMENT = {"entailment": 0, "neutral": 1, "contradiction": 2, "e": 0, "n": 1, "c": 2}


# Columns that hold lists of texts, in CSV as JSON.
_LISTS = ("pos", "neg", "negs", "negatives", "hard_negatives")
_NEGATIVE_SET = frozenset(NEGATIVE_COLUMNS)


def _pair(name: str, anchor: str, positive: str, needs: tuple[str, ...] = ()) -> Convention:
    """Return the convention of pairs in these two columns, with any number of negatives."""
    text_columns = {anchor, positive, *_NEGATIVE_SET}

    def becomes(row: Row) -> list[Row]:
        checked_verdict(row, f"{positive} belongs to {anchor}", JUDGEMENT_COLUMNS)
        negatives: list[str] = []
        for column in filter(_NEGATIVE_SET.__contains__, row):
            negatives += _texts(row, column)

        # What isn't understood here, such as the label of a topic, is carried over and named.
        carried = {column: row[column] for column in row if column not in text_columns}
        query = checked_text(row[anchor], anchor)
        return [carried | texts for texts in _combined(query, _texts(row, positive), negatives)]

    def becomes_or_stays(row: Row) -> list[Row]:
        rows = becomes(row)
        # A row that was a plain pair before stays the same object: nothing is to be said about it.
        return [row] if rows == [row] else rows

    return Convention(
        name=name,
        kind=SampleKind.EMBEDDING,
        columns=(anchor, positive),
        optional=(*NEGATIVE_COLUMNS, *VERDICT_COLUMNS, *JUDGEMENT_COLUMNS),
        becomes=becomes_or_stays,
        needs=needs,
        own=("anchor", "positive", "negative"),
    )


def _texts(row: Row, column: str) -> list[str]:
    """Return the texts of a column that holds one text or a list of them."""
    # In a column for one text, JSON of a list may well be the text.
    is_text = isinstance(row[column], str) and column not in _LISTS
    texts = None if is_text else list_of(row[column])
    if texts is None:
        return [checked_text(row[column], column)]
    if not texts:
        raise SampleError(f"{column} must have at least one text, got none. Leave the column out.")
    return [checked_text(text, f"{column}[{index}]") for index, text in enumerate(texts)]


def _combined(query: str, positives: list[str], negatives: list[str]) -> Iterator[dict[str, str]]:
    """Yield triplets in which each positive and each negative occurs at least once."""
    # Side by side instead of each with each: 2 positives and 7 negatives are 7 rows, not 14 whose
    # queries would fill whole batches.
    for position in range(max(len(positives), len(negatives))):
        texts = {"anchor": query, "positive": positives[position % len(positives)]}
        if negatives:
            texts["negative"] = negatives[position % len(negatives)]
        yield texts


def _scored(name: str, first: str, second: str, score: str) -> Convention:
    """Return the convention of two texts with a number that says how similar they are."""

    def becomes(row: Row) -> list[Row]:
        texts = {"sentence1": row[first], "sentence2": row[second]}
        return [{**texts, "score": _score(row[score], score)}]

    columns = (first, second, score)
    return Convention(name=name, kind=SampleKind.EMBEDDING, columns=columns, becomes=becomes)


def _score(value: Any, column: str) -> float:
    # 0 and 1 may be written as truth values, also in the text of a CSV file.
    word = value.strip().casefold() if isinstance(value, str) else str(value).casefold()
    if word in ("true", "false"):
        return float(word == "true")
    try:
        return checked_number(float(value), column)
    except (TypeError, ValueError) as error:
        raise SampleError(
            f"{column} must be a number that says how similar the texts are, got "
            f"{shortened(value)}. Rename the column if it means something else."
        ) from error


@dataclass
class _Premise:
    """The hypotheses of one premise, by what follows from it: row number and row."""

    entailed: list[tuple[int, Row]] = field(default_factory=list)
    contradicted: list[tuple[int, Row]] = field(default_factory=list)


class _Entailments:
    """Collects hypotheses by premise, because positive and negative are in different rows."""

    def __init__(self, premise: str, hypothesis: str, label: str) -> None:
        self._columns = (premise, hypothesis, label)
        self._premises: dict[str, _Premise] = {}

    def add(self, row_number: int, row: Row) -> None:
        """Take one row; raises `SampleError` if nothing can be learnt from its label."""
        premise_column, hypothesis_column, label_column = self._columns
        premise = text_of(row, premise_column)
        text_of(row, hypothesis_column)
        relation = _relation(row[label_column], label_column)
        if relation == _ENTAILMENT["neutral"]:
            raise SampleError(
                f"{label_column} must be entailment or contradiction, got "
                f"{shortened(row[label_column])}. A neutral hypothesis is no pair."
            )

        hypotheses = self._premises.setdefault(premise, _Premise())
        is_entailed = relation == _ENTAILMENT["entailment"]
        (hypotheses.entailed if is_entailed else hypotheses.contradicted).append((row_number, row))

    def rows(self) -> Iterator[tuple[int, Row | LeftOut]]:
        """Yield a pair or a triplet per entailed hypothesis, and the unused contradictions."""
        _, hypothesis, label = self._columns
        for premise, hypotheses in self._premises.items():
            if not hypotheses.entailed:
                reason = (
                    f"{label} must be entailment in one row of each premise, got contradiction "
                    "only. A negative needs a positive."
                )
                for row_number, row in hypotheses.contradicted:
                    yield row_number, LeftOut(kind=SampleKind.EMBEDDING, row=row, reason=reason)
                continue

            positives = [row[hypothesis] for _, row in hypotheses.entailed]
            negatives = [row[hypothesis] for _, row in hypotheses.contradicted]
            for position, texts in enumerate(_combined(premise, positives, negatives)):
                row_number, row = hypotheses.entailed[position % len(positives)]
                carried = {name: row[name] for name in row if name not in self._columns}
                yield row_number, {**carried, **texts}


def _relation(value: Any, column: str) -> int:
    """Return 0 for entailment, 1 for neutral, 2 for contradiction."""
    word = str(value).strip().casefold().removesuffix(".0")
    relation = _ENTAILMENT.get(word, word)
    if str(relation) not in ("0", "1", "2"):
        raise SampleError(
            f"{column} must be entailment, neutral or contradiction, or 0, 1 or 2, got "
            f"{shortened(value)}. Leave the row out."
        )
    return int(relation)


def _entailment(premise: str, hypothesis: str, label: str) -> Convention:
    columns = (premise, hypothesis, label)
    return Convention(
        name="NLI",
        kind=SampleKind.EMBEDDING,
        columns=columns,
        gathers=lambda: _Entailments(*columns),
    )


register(
    # What says more comes first: of two that explain equally many columns, the first one wins.
    _entailment("premise", "hypothesis", "label"),
    _entailment("sentence1", "sentence2", "gold_label"),
    _scored("STS", "sentence1", "sentence2", "label"),
    _scored("STS", "sentence1", "sentence2", "similarity_score"),
    _scored("STS", "sentence1", "sentence2", "similarity"),
    _scored("STS", "text1", "text2", "score"),
    _scored("STS", "text1", "text2", "label"),
    _scored("SICK", "sentence_A", "sentence_B", "relatedness_score"),
    _scored("Quora", "question1", "question2", "is_duplicate"),
    _pair("pairs with several negatives", "anchor", "positive"),
    _pair("FlagEmbedding", "query", "pos", needs=("label",)),
    _pair("question/answer", "question", "answer", needs=("label",)),
    _pair("query/passage", "query", "passage", needs=("label",)),
    _pair("query/positive", "query", "positive", needs=("label",)),
    _pair("query/answer", "query", "answer", needs=("label",)),
    _pair("query/document", "query", "document", needs=("label",)),
    _pair("question/passage", "question", "passage", needs=("label",)),
    _pair("question/context", "question", "context", needs=("label",)),
    _pair("question/positive", "question", "positive", needs=("label",)),
    _pair("text1/text2", "text1", "text2", needs=("label", "score")),
)

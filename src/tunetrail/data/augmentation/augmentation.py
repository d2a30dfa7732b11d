"""Augmentation: extra rows made from rows of the train side. Never sees the other sides or alters what is learnt.

Only the text that a model reads is varied; positives, outputs, the answers of a preference, conversations and documents
stay as they are. What needs a model (writing, translating, comparing) comes in as plain callables.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import AugmentationConfig
from tunetrail.data.augmentation.drafts import (
    Draft,
    rejected_frame,
    rejections,
    stacked,
)
from tunetrail.data.augmentation.lexicon import load_lexicon
from tunetrail.data.augmentation.round_trip import with_round_trip
from tunetrail.data.augmentation.word_variants import (
    with_synonyms,
    with_typos,
    with_words_dropped,
    with_words_swapped,
)
from tunetrail.errors import ConfigError
from tunetrail.samples import all_shapes

QUERY_REQUEST = ("Write a question that this text answers.", "Question:")
"""What a language model is asked for a query, and the words that its answer begins with."""
PARAPHRASE_REQUEST = ("Say this in other words.", "In other words,")
"""What a language model is asked for a paraphrase, and the words that its answer begins with."""

_WRITTEN = ("generated_query", "paraphrase")
_MODEL_METHODS = ("back_translation", *_WRITTEN)

Vary = Callable[[str, np.random.Generator], str | None]


@dataclass(frozen=True, kw_only=True)
class AugmentationTools:
    """What some methods need of models; a method whose tool is None can't be used.

    Attributes:
        write: From an instruction, texts and the answers' first words to one line for each text; it may be empty. Of
            equal texts in one call, each gets a line of its own.
        translate: From texts to the same texts after a translation there and back.
        vectors: From texts to their unit vectors, [texts, dimensions].
    """

    write: Callable[[str, Sequence[str], str], Sequence[str]] | None = None
    translate: Callable[[Sequence[str]], Sequence[str]] | None = None
    vectors: Callable[[Sequence[str]], npt.NDArray[np.float32]] | None = None


@dataclass(frozen=True, kw_only=True)
class AugmentationResult:
    """The rows with those added at the end.

    Attributes:
        rows: With a `parent_id` column (Int64): the `row_id` of the row that an added one was made from, else <NA>.
            Added rows have the row ids -1, -2, and so on, and their parent's group and cluster.
        added: Number of rows added by each method, in the order of the config.
        rejected: What was made and not added, as a set-aside frame: the parent's `row_id`, `augmentation.METHOD` as the
            step, the reason, the text that it was made from, and what was made.
        notes: Why fewer rows were varied than asked for.
    """

    rows: pd.DataFrame
    added: Mapping[str, int]
    rejected: pd.DataFrame
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        added = sum(self.added.values())
        methods = [str(step).partition(".")[2] for step in self.rejected["step"]]
        reasons = [str(reason).partition(":")[0] for reason in self.rejected["reason"]]
        rejected: dict[str, Counter[str]] = defaultdict(Counter)
        for method, reason in zip(methods, reasons, strict=True):
            rejected[method][reason] += 1
        return {
            "rows_in": len(self.rows) - added,
            "rows_out": len(self.rows),
            "added": added,
            "methods": {
                method: {"added": count, "rejected": dict(rejected[method])}
                for method, count in self.added.items()
            },
            "notes": list(self.notes),
        }


def augment(
    train_rows: pd.DataFrame,
    config: AugmentationConfig,
    seed: int,
    tools: AugmentationTools = AugmentationTools(),
) -> AugmentationResult:
    """Add what each method of `config` makes from `config.share` of the rows.

    Which rows a method takes, and what the word methods do to them, depends for each row on nothing but the seed, the
    method and its row id: the folds of a cross-validation mostly take the same rows as the whole train side does.

    Rows of a shape whose texts are all learnt to be written or compared (score, chat, document) are never parents; the
    notes say so. A generated query becomes the anchor of a pair, and the text of a label or text row: a query about a
    passage has the passage's label. What a language model wrote is kept only where it finds what it was written about
    among the first `config.round_trip_rank` of all such texts of the train side, twins of the parent not counted.

    Raises:
        ConfigError: A method needs a tool or a lexicon that isn't there.
    """
    rows = train_rows.reset_index(drop=True)
    rows["parent_id"] = pd.array([pd.NA] * len(rows), dtype="Int64")
    for method in config.methods:
        _check_tools(method, config, tools)
    seen: set[tuple[int, str]] = set()
    tries = [_try(method, rows, config, seed, tools, seen) for method in config.methods]
    kept = {
        each.method: [draft for draft, reason in each.judged if reason is None] for each in tries
    }
    return AugmentationResult(
        rows=stacked(rows, [draft for drafts in kept.values() for draft in drafts]),
        added={method: len(drafts) for method, drafts in kept.items()},
        rejected=rejected_frame(
            rows,
            [
                (each.method, draft, reason)
                for each in tries
                for draft, reason in each.judged
                if reason
            ],
        ),
        notes=tuple(note for each in tries for note in each.notes),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tried:
    """What one method made, each draft with the reason that speaks against it, and why it made no more."""

    method: str
    judged: Sequence[tuple[Draft, str | None]]
    notes: Sequence[str]


def _try(
    method: str,
    rows: pd.DataFrame,
    config: AugmentationConfig,
    seed: int,
    tools: AugmentationTools,
    seen: set[tuple[int, str]],
) -> _Tried:
    columns = _source_columns(method)
    sources = _sources(rows, columns)
    wanted = round(config.share * len(rows))
    order = _order(rows, sources, method, seed)
    if method in _MODEL_METHODS:
        drafts = _modelled(method, sources, order[:wanted], config, tools)
    else:
        drafts = _varied(
            rows, sources, order, _word_method(method, config), wanted, f"{seed}/{method}"
        )
    reasons = rejections(drafts, rows, seen, exact=method not in _MODEL_METHODS)
    if method in _WRITTEN and tools.vectors is not None:
        reasons = with_round_trip(
            drafts, reasons, rows, sources, tools.vectors, config.round_trip_rank
        )
    notes = _notes(rows, columns, method, wanted, len({draft.position for draft in drafts}))
    return _Tried(method=method, judged=list(zip(drafts, reasons, strict=True)), notes=notes)


def _source_columns(method: str) -> dict[str, str]:
    """Return the column whose text a method starts from, by shape; a shape without one stays as it is."""
    columns = {
        shape.name: shape.passage if method == "generated_query" else shape.reworded
        for shape in all_shapes()
    }
    return {name: column for name, column in columns.items() if column is not None}


def _word_method(method: str, config: AugmentationConfig) -> Vary:
    if method == "synonym":
        lexicon = load_lexicon(config.lexicon)
        return lambda text, generator: with_synonyms(text, config.rate, generator, lexicon)
    vary = {
        "word_dropout": with_words_dropped,
        "word_swap": with_words_swapped,
        "typo": with_typos,
    }[method]
    return lambda text, generator: vary(text, config.rate, generator)


def _check_tools(method: str, config: AugmentationConfig, tools: AugmentationTools) -> None:
    if method == "back_translation" and tools.translate is None:
        raise ConfigError(
            "augmentation.translation_models must name two models, there and back, for the method back_translation, "
            f"got {config.translation_models!r}. Name two folders or hub ids, or leave the method out."
        )
    if method in _WRITTEN and tools.write is None:
        raise ConfigError(
            f"augmentation.generator must be a language model that can be loaded for the method {method}, got "
            f"{config.generator!r}. Name one, or leave the method out."
        )
    if method in _WRITTEN and tools.vectors is None:
        raise ConfigError(
            f"augmentation.methods must do without {method} where there is no embedding model to check what is "
            f"written, got {config.methods!r}. Name one in embedding.model, or leave the method out."
        )


def _sources(rows: pd.DataFrame, columns: Mapping[str, str]) -> list[str | None]:
    """Return the text of each row that the method starts from, None where the row has none or a blank one."""
    texts = {column: rows[column].tolist() for column in set(columns.values()) if column in rows}
    found: list[str | None] = []
    for position, shape in enumerate(rows["shape"]):
        text = texts[columns[shape]][position] if columns.get(shape) in texts else None
        found.append(text if isinstance(text, str) and text.strip() else None)
    return found


def _order(rows: pd.DataFrame, sources: Sequence[str | None], method: str, seed: int) -> list[int]:
    """Return the positions of the rows with a source, in the order in which the method takes them."""
    places = [_number(f"{seed}/{method}/{row_id}") for row_id in rows["row_id"]]
    return sorted(
        (row for row, source in enumerate(sources) if source is not None),
        key=lambda row: places[row],
    )


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def _varied(
    rows: pd.DataFrame,
    sources: Sequence[str | None],
    order: Sequence[int],
    vary: Vary,
    wanted: int,
    salt: str,
) -> list[Draft]:
    """Vary the first `wanted` rows of which the method can make something else."""

    def drafts() -> Iterator[Draft]:
        for position in order:
            source = sources[position]
            assert source is not None
            varied = vary(
                source,
                np.random.default_rng(_number(f"{salt}/{rows.at[position, 'row_id']}/words")),
            )
            if varied is not None:
                yield Draft(position=position, source=source, text=varied)

    return [draft for draft, _ in zip(drafts(), range(wanted), strict=False)]


def _modelled(
    method: str,
    sources: Sequence[str | None],
    chosen: Sequence[int],
    config: AugmentationConfig,
    tools: AugmentationTools,
) -> list[Draft]:
    """Have a model make something from the chosen rows."""
    repeats = config.generations_per_row if method in _WRITTEN else 1
    positions = [position for position in chosen for _ in range(repeats)]
    texts = [
        source for source in (sources[position] for position in positions) if source is not None
    ]
    if not texts:
        return []
    if method == "back_translation":
        assert tools.translate is not None
        made = tools.translate(texts)
    else:
        assert tools.write is not None
        instruction, opening = QUERY_REQUEST if method == "generated_query" else PARAPHRASE_REQUEST
        made = [line[:1].upper() + line[1:] for line in tools.write(instruction, texts, opening)]
    return [
        Draft(position=position, source=source, text=text)
        for position, source, text in zip(positions, texts, made, strict=True)
    ]


def _notes(
    rows: pd.DataFrame, columns: Mapping[str, str], method: str, wanted: int, varied: int
) -> list[str]:
    notes = []
    skipped = sorted({shape for shape in rows["shape"] if shape not in columns})
    if skipped:
        notes.append(
            f"{method} leaves {', '.join(skipped)} rows as they are: another text would change what they teach."
        )
    if varied < wanted:
        notes.append(
            f"{method}: augmentation.share asks for {wanted} rows to be varied, {varied} hold a text that it can vary."
        )
    return notes

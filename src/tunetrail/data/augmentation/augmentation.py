"""Augmentation: add rows made from the rows of the train side, without altering what is learnt.

Only the text that a model reads is varied; positives, outputs, the answers of a preference,
conversations and documents stay as they are. Whatever needs a model (writing, translating,
comparing) is passed in as a plain callable.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import AugmentationConfig
from tunetrail.config.typed_options import options_of
from tunetrail.data.augmentation.drafts import (
    Draft,
    append_drafts,
    rejected_frame,
    rejections,
)
from tunetrail.data.augmentation.lexicon import load_lexicon
from tunetrail.data.augmentation.method import AugmentationMethod
from tunetrail.data.augmentation.round_trip import with_round_trip
from tunetrail.data.augmentation.word_variants import (
    with_synonyms,
    with_typos,
    with_words_dropped,
    with_words_swapped,
)
from tunetrail.errors import ConfigError
from tunetrail.extensions import AUGMENTATION as INSTALLED_METHODS
from tunetrail.samples import all_shapes

QUERY_REQUEST = ("Write a question that this text answers.", "Question:")
"""The instruction for a generated query, and the words that its answer begins with."""
PARAPHRASE_REQUEST = ("Say this in other words.", "In other words,")
"""The instruction for a paraphrase, and the words that its answer begins with."""

# Methods by which a language model writes something new; its text has to prove itself.
_WRITTEN = ("generated_query", "paraphrase")
_MODEL_METHODS = ("back_translation", *_WRITTEN)


def _with_synonyms(
    text: str, generator: np.random.Generator, config: AugmentationConfig
) -> str | None:
    return with_synonyms(text, config.rate, generator, load_lexicon(config.lexicon))


def _of_words(name: str, vary: Callable[..., str | None]) -> AugmentationMethod:
    """Return the method of a function that takes a text, the rate and the generator."""
    return AugmentationMethod(
        name=name, vary=lambda text, generator, config: vary(text, config.rate, generator)
    )


_WORD_METHODS = {
    method.name: method
    for method in (
        _of_words("word_dropout", with_words_dropped),
        _of_words("word_swap", with_words_swapped),
        _of_words("typo", with_typos),
        AugmentationMethod(name="synonym", vary=_with_synonyms),
    )
}


@dataclass(frozen=True, kw_only=True)
class AugmentationTools:
    """Models as callables; a method whose tool is None can't be used.

    Attributes:
        write: From an instruction, texts and the answers' first words to one line for each text,
            which may be empty. Equal texts in one call each get a line of their own.
        translate: From texts to the same texts after a translation there and back.
        vectors: From texts to their unit vectors, [texts, dimensions].
    """

    write: Callable[[str, Sequence[str], str], Sequence[str]] | None = None
    translate: Callable[[Sequence[str]], Sequence[str]] | None = None
    vectors: Callable[[Sequence[str]], npt.NDArray[np.float32]] | None = None


@dataclass(frozen=True, kw_only=True)
class AugmentationResult:
    """The rows, with the added ones at the end.

    Attributes:
        rows: The rows with a column `parent_id` (Int64): for an added row, the `row_id` of the row
            that it was made from, otherwise <NA>. Added rows have the row ids -1, -2, and so on,
            and their parent's group and cluster.
        added: Number of rows added by each method, in the order of the configuration.
        rejected: Drafts that weren't added, as a frame of rows set aside: the parent's `row_id`,
            `augmentation.METHOD` as the step, the reason, the source text, and the draft.
        notes: Why fewer rows were varied than asked for.
    """

    rows: pd.DataFrame
    added: Mapping[str, int]
    rejected: pd.DataFrame
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        rejected: dict[str, Counter[str]] = defaultdict(Counter)
        for step, reason in zip(self.rejected["step"], self.rejected["reason"], strict=True):
            # The step is `augmentation.METHOD`; a reason goes into detail after a colon.
            method, reason_itself = step.partition(".")[2], reason.partition(":")[0]
            rejected[method][reason_itself] += 1

        methods = {}
        for method, count in self.added.items():
            methods[method] = {"added": count, "rejected": dict(rejected[method])}

        added = sum(self.added.values())
        return {
            "rows_in": len(self.rows) - added,
            "rows_out": len(self.rows),
            "added": added,
            "methods": methods,
            "notes": list(self.notes),
        }


def augment(
    train_rows: pd.DataFrame,
    config: AugmentationConfig,
    seed: int,
    tools: AugmentationTools = AugmentationTools(),
) -> AugmentationResult:
    """Add what each method of `config` makes from `config.share` of the rows.

    The rows that a method takes, and what the word methods do to a row, depend only on the seed,
    the method and the row's id: the folds of a cross-validation mostly take the same rows as the
    whole train side does.

    Rows of a shape whose texts are all learnt to be written or compared (score, chat, document)
    are never parents; the notes say so. A generated query becomes the anchor of a pair, or the text
    of a label or text row, as a query about a passage has the passage's label. A text written by a
    language model is added only if it finds its own source among the first
    `config.round_trip_rank` of all sources of the train side, not counting the parent's twins.

    Raises:
        ConfigError: A method needs a tool or a lexicon that isn't there.
    """
    rows = train_rows.reset_index(drop=True)
    rows["parent_id"] = pd.array([pd.NA] * len(rows), dtype="Int64")

    # Check all methods before the first one spends time on a model.
    for method in config.methods:
        _check_tools(method, config, tools)

    drafts: list[Draft] = []
    added: dict[str, int] = {}
    rejected: list[tuple[str, Draft, str]] = []
    notes: list[str] = []
    seen: set[tuple[int, str]] = set()
    for method in config.methods:
        # `seen` grows from method to method, so that no text is added twice.
        judged, notes_of_method = _apply_method(method, rows, config, seed, tools, seen)
        accepted = []
        for draft, reason in judged:
            if reason is None:
                accepted.append(draft)
            else:
                rejected.append((method, draft, reason))

        drafts += accepted
        added[method] = len(accepted)
        notes += notes_of_method

    return AugmentationResult(
        rows=append_drafts(rows, drafts),
        added=added,
        rejected=rejected_frame(rows, rejected),
        notes=tuple(notes),
    )


def _apply_method(
    method: str,
    rows: pd.DataFrame,
    config: AugmentationConfig,
    seed: int,
    tools: AugmentationTools,
    seen: set[tuple[int, str]],
) -> tuple[list[tuple[Draft, str | None]], list[str]]:
    """Return the drafts of one method, each with the reason against it (if any), and its notes."""
    columns = _source_columns(method)
    sources = _source_texts(rows, columns)
    target_count = round(config.share * len(rows))
    order = _draw_order(rows, sources, method, seed)

    if method in _MODEL_METHODS:
        drafts = _drafts_of_model(method, sources, order[:target_count], config, tools)
    else:
        record, options = _word_method(method, config)
        drafts = _drafts_of_words(rows, sources, order, record, options, target_count, seed)

    reasons = rejections(drafts, rows, seen, exact=method not in _MODEL_METHODS)
    if method in _WRITTEN and tools.vectors is not None:
        deepest = config.round_trip_rank
        reasons = with_round_trip(drafts, reasons, rows, sources, tools.vectors, deepest)

    # Several drafts can come from one row; the share counts rows.
    varied_count = len({draft.position for draft in drafts})
    notes = _write_notes(rows, columns, method, target_count, varied_count)
    return list(zip(drafts, reasons, strict=True)), notes


def _source_columns(method: str) -> dict[str, str]:
    """Return the column that a method starts from, by shape; other shapes are left as they are."""
    columns = {}
    for shape in all_shapes():
        column = shape.passage if method == "generated_query" else shape.reworded
        if column is not None:
            columns[shape.name] = column
    return columns


def _word_method(method: str, config: AugmentationConfig) -> tuple[AugmentationMethod, Any]:
    """Return a method that varies words, and the options that it gets."""
    if method in _WORD_METHODS:
        return _WORD_METHODS[method], config
    installed: AugmentationMethod = INSTALLED_METHODS.load(method)
    return installed, options_of(installed, "augmentation.extensions", config.extensions)


def _check_tools(method: str, config: AugmentationConfig, tools: AugmentationTools) -> None:
    if method == "back_translation" and tools.translate is None:
        raise ConfigError(
            "augmentation.translation_models must name two models, there and back, for the method "
            f"back_translation, got {config.translation_models!r}. Name two folders or hub ids, or "
            "leave the method out."
        )

    if method in _WRITTEN and tools.write is None:
        raise ConfigError(
            "augmentation.generator must be a language model that can be loaded for the method "
            f"{method}, got {config.generator!r}. Name one, or leave the method out."
        )

    if method in _WRITTEN and tools.vectors is None:
        raise ConfigError(
            f"augmentation.methods must not include {method} without an embedding model, which "
            f"checks the generated texts, got {config.methods!r}. Set embedding.model, or leave "
            "the method out."
        )


def _source_texts(rows: pd.DataFrame, columns: Mapping[str, str]) -> list[str | None]:
    """Return the text that the method starts from for each row, None if it has none."""
    texts = {name: rows[name].tolist() for name in set(columns.values()) if name in rows}
    sources: list[str | None] = []
    for position, shape in enumerate(rows["shape"]):
        column = columns.get(shape)
        text = texts[column][position] if column in texts else None
        sources.append(text if isinstance(text, str) and text.strip() else None)
    return sources


def _draw_order(
    rows: pd.DataFrame, sources: Sequence[str | None], method: str, seed: int
) -> list[int]:
    """Return the positions of the rows with a source, in the order in which they are varied."""
    # A hash of the row's id, not a shuffle: a row more or less doesn't reorder the other rows.
    keys = [_hash(f"{seed}/{method}/{row_id}") for row_id in rows["row_id"]]
    with_source = [position for position, source in enumerate(sources) if source is not None]
    return sorted(with_source, key=keys.__getitem__)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def _drafts_of_words(
    rows: pd.DataFrame,
    sources: Sequence[str | None],
    order: Sequence[int],
    method: AugmentationMethod,
    options: Any,
    target_count: int,
    seed: int,
) -> list[Draft]:
    """Vary the words of rows until `target_count` rows have a draft."""
    salt = f"{seed}/{method.name}"
    drafts: list[Draft] = []
    for position in order:
        if len(drafts) == target_count:
            break

        source = sources[position]
        assert source is not None
        generator = np.random.default_rng(_hash(f"{salt}/{rows.at[position, 'row_id']}/words"))
        text = method.vary(source, generator, options)
        if text is not None:
            drafts.append(Draft(position=position, source=source, text=text))
    return drafts


def _drafts_of_model(
    method: str,
    sources: Sequence[str | None],
    chosen: Sequence[int],
    config: AugmentationConfig,
    tools: AugmentationTools,
) -> list[Draft]:
    """Have a model translate or write about the chosen rows."""
    # Writing is sampled, so several texts of one row differ; a translation is always the same.
    repeats = config.generations_per_row if method in _WRITTEN else 1
    positions = np.repeat(np.array(chosen, dtype=np.int64), repeats).tolist()
    texts = [text for text in map(sources.__getitem__, positions) if text is not None]
    if not texts:
        return []

    if method == "back_translation":
        assert tools.translate is not None
        lines = tools.translate(texts)
    else:
        assert tools.write is not None
        instruction, opening = QUERY_REQUEST if method == "generated_query" else PARAPHRASE_REQUEST
        # The answer goes on after the opening words, hence without a capital.
        answers = tools.write(instruction, texts, opening)
        lines = [answer[:1].upper() + answer[1:] for answer in answers]

    return [
        Draft(position=position, source=source, text=line)
        for position, source, line in zip(positions, texts, lines, strict=True)
    ]


def _write_notes(
    rows: pd.DataFrame,
    columns: Mapping[str, str],
    method: str,
    target_count: int,
    varied_count: int,
) -> list[str]:
    """Return why a method varied fewer rows than asked for."""
    notes = []
    skipped_shapes = sorted(set(rows["shape"]) - set(columns))
    if skipped_shapes:
        notes.append(
            f"{method} leaves {', '.join(skipped_shapes)} rows as they are: another text would "
            "change what they teach."
        )
    if varied_count < target_count:
        notes.append(
            f"{method}: augmentation.share asks for {target_count} rows to be varied, "
            f"{varied_count} hold a text that it can vary."
        )
    return notes

"""BEIR's form of a retrieval data set: a folder with a corpus, queries and judgements.

`corpus.jsonl` and `queries.jsonl` (`_id`, `text`, and `title` of a document), and `qrels/*.tsv` or
`qrels.tsv` (query-id, corpus-id, score).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.data.formats import read_rows
from tunetrail.data.formats.files import SourceFile, readable
from tunetrail.data.formats.lines import text_lines
from tunetrail.errors import SampleError
from tunetrail.samples import BrokenRow

_COLUMNS = ("query-id", "corpus-id", "score")
_SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judgement:
    """A line of a file of judgements."""

    query_id: str
    document_id: str
    score: str
    file: Path
    line_number: int


def is_beir_folder(path: str | Path) -> bool:
    """Tell whether a path is a folder with a corpus, queries and judgements."""
    folder = Path(path)
    has_texts = folder.is_dir() and all(map(_texts_of(folder).get, ("corpus", "queries")))
    return has_texts and bool(_judgement_files(folder))


def beir_rows(path: str | Path) -> Iterator[dict[str, Any] | BrokenRow]:
    """Yield query and document as anchor and positive for each judgement above 0, in order.

    Only judged documents are in memory. A judgement of 0, or of an unknown id, becomes a broken
    row that says so.

    Raises:
        SampleError: A file can't be read, or a file of judgements has other columns.
    """
    folder = Path(path)
    judgements = [line for file in _judgement_files(folder) for line in _judgements(file)]
    files = _texts_of(folder)
    queries = _read_texts(files["queries"], {judgement.query_id for judgement in judgements})
    documents = _read_texts(files["corpus"], {judgement.document_id for judgement in judgements})

    for judgement in judgements:
        query_id, document_id, score = judgement.query_id, judgement.document_id, judgement.score
        reason = ""
        if query_id not in queries:
            reason = f"query-id must be in {files['queries'].name}, got {query_id!r}."
        elif document_id not in documents:
            reason = f"corpus-id must be in {files['corpus'].name}, got {document_id!r}."
        elif not _is_positive(score):
            reason = f"score must be above 0 to make a pair, got {score!r}."

        if reason:
            yield BrokenRow(
                text=json.dumps([query_id, document_id, score], ensure_ascii=False),
                reason=reason,
                source=str(judgement.file),
                position=judgement.line_number,
            )
        else:
            yield {"anchor": queries[query_id], "positive": documents[document_id]}


def _texts_of(folder: Path) -> dict[str, Path]:
    paths = [folder / f"{name}{suffix}" for name in ("corpus", "queries") for suffix in _SUFFIXES]
    return {path.name.partition(".")[0]: path for path in paths if path.is_file()}


def _judgement_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("qrels/*.tsv"), *folder.glob("qrels*.tsv")])


def _judgements(file: Path) -> Iterator[_Judgement]:
    source = SourceFile(path=str(file), name=str(file), suffix=file.suffix)
    with readable(file):
        yield from _read_judgements(file, text_lines(source))


def _read_judgements(file: Path, lines: Iterator[str]) -> Iterator[_Judgement]:
    """Yield the judgements of a tab-separated file, in BEIR's form or in TREC's."""
    for line_number, line in enumerate(lines, start=1):
        # Ids and numbers only: a quote is a character like any other.
        cells = line.removesuffix("\r").split("\t")
        if line_number == 1 and cells == list(_COLUMNS):
            continue
        # TREC's own form has a second column, which is always 0.
        if len(cells) == len(_COLUMNS) + 1:
            cells = [cells[0], *cells[2:]]
        if len(cells) != len(_COLUMNS):
            raise SampleError(
                f"line {line_number} of {file} must have {', '.join(_COLUMNS)} between tabs, got "
                f"{len(cells)} cells. Write the line again."
            )

        query_id, document_id, score = cells
        yield _Judgement(
            query_id=query_id,
            document_id=document_id,
            score=score,
            file=file,
            line_number=line_number,
        )


def _read_texts(file: Path, ids: set[str]) -> dict[str, str]:
    """Return the texts with these ids; a document's title comes first, as in BEIR's own models."""
    texts: dict[str, str] = {}
    for row in read_rows(file):
        if isinstance(row, BrokenRow) or str(row.get("_id")) not in ids:
            continue
        text = f"{row.get('title') or ''} {row.get('text') or ''}".strip()
        texts[str(row["_id"])] = text
    return texts


def _is_positive(score: str) -> bool:
    try:
        return float(score) > 0
    except ValueError:
        return False

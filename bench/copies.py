"""Copies: which of the planted near copies preparation found, and which rows it took for some. Prepares nothing."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from bench.corpus import similarity_of

_NEAR = 0.8
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class FoundCopies:
    """What became of the planted near copies, and of the rows that were taken for near copies.

    Attributes:
        planted: Near copies whose source stayed.
        found: Planted copies that were set aside as duplicates.
        taken: Rows set aside as near-duplicates.
        right: Taken rows that have a similarity of at least 0.8 to the row that they were set
            aside for.
        accidental: Right rows that weren't planted as near copies of a row or of
            its copy.
        hard: Similar rows that are no copies, of which `hard_taken` were set aside all the same.
    """

    planted: int
    found: int
    taken: int
    right: int
    accidental: int
    hard: int
    hard_taken: int

    @property
    def recall(self) -> float:
        """Found ones among the planted."""
        return self.found / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        """Right ones among those taken."""
        return self.right / self.taken if self.taken else 1.0

    def to_dict(self) -> dict[str, int]:
        """Return the counts, JSON-serialisable."""
        return asdict(self)


def judged_copies(source: Path, folder: Path) -> FoundCopies:
    """Hold what preparation set aside in `folder` against what was planted in the rows of the file `source`."""
    gone = pd.read_parquet(folder / "set_aside.parquet", columns=["row_id", "reason"])
    reasons = dict(zip(gone["row_id"].tolist(), gone["reason"].tolist(), strict=True))
    taken_for = {
        row_id: int(reason.rsplit(" ", 1)[1])
        for row_id, reason in reasons.items()
        if reason.startswith("near-dup")
    }
    truth = pd.read_parquet(source, columns=["row_id", "planted", "source"])
    made_from = truth[truth["planted"] == "near_copy"]
    judged = [
        (row, origin)
        for row, origin in zip(made_from["row_id"], made_from["source"], strict=True)
        if origin not in reasons
    ]
    hard = truth.loc[truth["planted"] == "hard_non_copy", "row_id"]
    texts = _texts(source, {*taken_for, *taken_for.values()})
    right = {
        row for row, other in taken_for.items() if similarity_of(texts[row], texts[other]) >= _NEAR
    }
    return FoundCopies(
        planted=len(judged),
        found=sum("duplicate" in reasons.get(row, "") for row, _ in judged),
        taken=len(taken_for),
        right=len(right),
        accidental=len(right - set(made_from["row_id"])),
        hard=len(hard),
        hard_taken=sum(row in taken_for for row in hard),
    )


def _texts(source: Path, wanted: set[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    with pq.ParquetFile(source, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["row_id", "text"]):
            ids = batch.column("row_id").to_pylist()
            chosen = [place for place, row_id in enumerate(ids) if row_id in wanted]
            found.update((ids[place], batch.column("text")[place].as_py()) for place in chosen)
    return found

"""Mines hard negatives with a learner's vectors, before a training and between its epochs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import HardNegativesConfig
from tunetrail.data.feature_engineering.hard_negatives import MiningResult, mine
from tunetrail.data.rows import records_of
from tunetrail.learning.tokens.prompts import DOCUMENT, QUERY
from tunetrail.learning.training.ranks import rank_of_all, value_of_first_rank
from tunetrail.learning.training.records import Encode, Refresh
from tunetrail.pipeline.run_files import read_rows, write_rows

_MINED = "mined-{}.parquet"


def wants_negatives(rows: pd.DataFrame, config: HardNegativesConfig) -> bool:
    """Tell whether negatives are to be mined for these rows: it is asked for, and all are pairs."""
    return config.enabled and set(rows["shape"]) == {"pair"}


def mine_negatives(
    rows: pd.DataFrame, encode: Encode, config: HardNegativesConfig, seed: int
) -> MiningResult:
    """Mine hard negatives for pairs of the train side, by the vectors that `encode` gives."""
    # Each side with its own prompt, since negatives are to be hard for a search.
    query_vectors = _vectors_of(list(rows["anchor"]), lambda texts: encode(texts, QUERY))
    document_vectors = _vectors_of(list(rows["positive"]), lambda texts: encode(texts, DOCUMENT))
    return mine(rows, query_vectors, document_vectors, config, seed)


def remining(rows: pd.DataFrame, config: HardNegativesConfig, seed: int) -> Refresh | None:
    """Return how a training mines its negatives again, from the rows before any mining.

    Returns:
        None if they are mined once or not at all.
    """
    if not wants_negatives(rows, config) or config.remine_every_epochs == 0:
        return None

    def records(encode: Encode, epoch: int) -> list[dict[str, Any]]:
        # A seed per epoch: epochs draw differently, but the same in every run of these settings.
        return records_of(mine_negatives(rows, encode, config, seed + epoch).rows)

    return Refresh(every_epochs=config.remine_every_epochs, records=records)


def remembered(refresh: Refresh | None, folder: Path) -> Refresh | None:
    """Return a refresh that writes an epoch's records to a file, and reads them the next time.

    A training that is resumed within an epoch asks for that epoch's records again; the weights that
    they were mined with are gone by then.
    """
    if refresh is None:
        return None

    def records(encode: Encode, epoch: int) -> Sequence[Mapping[str, Any]]:
        path = folder / _MINED.format(epoch)
        is_first = rank_of_all()[0] == 0
        # The first rank decides: the file may appear while the others look, and all have to encode.
        if not value_of_first_rank(path.exists()):
            mined = pd.DataFrame(list(refresh.records(encode, epoch)))
            # All ranks have mined the same rows.
            if is_first:
                write_rows(mined, path)
            # Nobody reads the file before it is written.
            value_of_first_rank(path)

        # The last checkpoint may still be of the epochs before this one: their records stay.
        if is_first:
            two_before = epoch - 2 * refresh.every_epochs
            (folder / _MINED.format(two_before)).unlink(missing_ok=True)

        # Read back even if just written, so that a resumed epoch sees exactly the same values.
        return records_of(read_rows(path))

    return Refresh(every_epochs=refresh.every_epochs, records=records)


def _vectors_of(
    texts: Sequence[str], encode: Callable[[Sequence[str]], npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """Return the vectors of the texts; equal texts go through the model once."""
    row_of_text = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors = encode(list(row_of_text))
    return vectors[[row_of_text[text] for text in texts]]

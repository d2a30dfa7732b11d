"""Mines hard negatives with a learner's vectors, before a training and between its epochs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.cache import ResultCache
from tunetrail.config import HardNegativesConfig
from tunetrail.data.feature_engineering.hard_negatives import MiningResult, mine
from tunetrail.data.rows import object_series, records_of
from tunetrail.fingerprints import value_fingerprint
from tunetrail.learning.tokens.prompts import DOCUMENT, QUERY
from tunetrail.learning.training.ranks import rank_of_all, value_of_first_rank
from tunetrail.learning.training.records import Encode, Refresh
from tunetrail.pipeline.run_files import read_rows, write_rows
from tunetrail.plain_values import plain_values

# Version of the mining and of its file in the cache; raise it if either changes.
_FORMAT = "1"
_MINED = "mined-{}.parquet"


def wants_negatives(rows: pd.DataFrame, config: HardNegativesConfig) -> bool:
    """Tell whether negatives are to be mined for these rows: it is asked for, and all are pairs."""
    return config.enabled and set(rows["shape"]) == {"pair"}


def mine_once(
    rows: pd.DataFrame,
    encode: Encode,
    config: HardNegativesConfig,
    seed: int,
    cache: ResultCache | None,
    encoder_identity: str,
) -> MiningResult:
    """Return what `mine_negatives` returns, computed once for all runs that share a cache.

    Args:
        rows: As for `mine_negatives`, and so on.
        encode: Called only if the result isn't in the cache.
        config: Which negatives are taken.
        seed: Of the random choice.
        cache: Where the result is kept; None mines for this run alone.
        encoder_identity: What the vectors depend on besides the texts.
    """
    if cache is None:
        return mine_negatives(rows, encode, config, seed)

    # All columns count: a group, for example, decides which passages are barred.
    inputs = value_fingerprint(rows.to_dict("split"))
    parts = ("negatives", _FORMAT, encoder_identity, str(asdict(config)), str(seed), inputs)
    file = cache.place(*parts) / "negatives.json"
    if (result := _read_mined(file, rows)) is not None:
        return result

    with cache.computing("the hard negatives", *parts):
        if (result := _read_mined(file, rows)) is not None:
            return result
        result = mine_negatives(rows, encode, config, seed)
        content = {"negatives": list(result.rows["negative"]), "result": plain_values(result)}
        with cache.writing(file) as unfinished:
            unfinished.write_text(json.dumps(content), encoding="utf-8")
        return result


def _read_mined(file: Path, rows: pd.DataFrame) -> MiningResult | None:
    """Return the result in a file, with the rows; None if the file isn't there or is broken."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        negatives = object_series(content["negatives"], index=rows.index)
        warnings = tuple(content["result"].pop("warnings"))
        return MiningResult(
            rows=rows.assign(negative=negatives), warnings=warnings, **content["result"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
        """Return an epoch's records, which the first attempt mines and later ones read."""
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
        # Mining needs all ranks. They don't look for the file themselves: it may appear between
        # two looks, and then some would mine and others not.
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

"""Where a learner's vectors become hard negatives: before the training, and between its epochs."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import HardNegativesConfig
from tunetrail.data.feature_engineering.hard_negatives import MiningResult, mine
from tunetrail.data.rows import records_of
from tunetrail.learning.tokens.prompts import DOCUMENT, QUERY
from tunetrail.learning.training.records import Encode, Refresh


def wants_negatives(rows: pd.DataFrame, config: HardNegativesConfig) -> bool:
    """Whether negatives are to be mined for these rows: it is asked for, and all of them are pairs."""
    return config.enabled and set(rows["shape"]) == {"pair"}


def mine_negatives(
    rows: pd.DataFrame, encode: Encode, config: HardNegativesConfig, seed: int
) -> MiningResult:
    """Mine hard negatives for pairs of the train side, with the model behind `encode`."""
    return mine(
        rows,
        _encoded(list(rows["anchor"]), lambda texts: encode(texts, QUERY)),
        _encoded(list(rows["positive"]), lambda texts: encode(texts, DOCUMENT)),
        config,
        seed,
    )


def remining(rows: pd.DataFrame, config: HardNegativesConfig, seed: int) -> Refresh | None:
    """Return how a training mines its negatives again, from `rows` as they were before any were mined; None if not."""
    if not wants_negatives(rows, config) or config.remine_every_epochs == 0:
        return None

    def records(encode: Encode, epoch: int) -> list[dict[str, object]]:
        return records_of(mine_negatives(rows, encode, config, seed + epoch).rows)

    return Refresh(every_epochs=config.remine_every_epochs, records=records)


def _encoded(
    texts: Sequence[str], encode: Callable[[Sequence[str]], npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """Return the vectors of the texts; equal texts go through the model once."""
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return encode(list(place))[[place[text] for text in texts]]

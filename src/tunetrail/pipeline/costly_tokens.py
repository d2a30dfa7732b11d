"""Tokens that cost language models the most bits, in the test rows with the highest loss."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.data.privacy.scrubber import Scrubber
from tunetrail.data.rows import texts_of
from tunetrail.evaluation.error_analysis import MOST_LISTED, costliest_tokens
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.scores import Scores
from tunetrail.pipeline.stage_context import StageContext

Record = Mapping[str, Any]


def costly_tokens(
    context: StageContext,
    learner: Any,
    models: Sequence[Any],
    records: Sequence[Record],
    scores: Sequence[Scores],
) -> pd.DataFrame | None:
    """Return the costliest tokens of the rows with the highest loss, before and after.

    The likelihoods come from the evaluation; nothing is computed again. A row in which personal
    data is found is left out, as a token can't be masked by itself.

    Args:
        context: The run.
        learner: What scored the models.
        models: The candidate and the version to beat.
        records: The test rows.
        scores: The scores of both models on them.

    Returns:
        Lines of `costliest_tokens` with their `row_id`, the row with the highest loss first. None
        if the scores have no values of tokens.
    """
    after, before = scores
    token_texts = context.family.token_texts
    if token_texts is None or after.row_ids is None:
        return None
    if after.token_nats is None or before.token_nats is None:
        return None

    mask = Scrubber(context.settings.cleaning.privacy).mask
    by_loss = np.argsort(-after.per_example["bits_per_byte"], kind="stable")
    tables = []
    for row in by_loss[:MOST_LISTED].tolist():
        if any(mask(text) != text for text in texts_of(records[row])):
            continue
        newer, older = (
            _token_table(token_texts(learner, model, records[row]), nats[row])
            for model, nats in zip(models, (after.token_nats, before.token_nats), strict=True)
        )
        tokens = costliest_tokens(older, newer)
        tokens.insert(0, "row_id", after.row_ids[row])
        tables.append(tokens)
    return pd.concat(tables, ignore_index=True).round(4) if tables else None


def _token_table(texts: Sequence[Any], nats: Array) -> pd.DataFrame:
    """Return a line for each token of a row: its text, the text around it, and its bits."""
    bits = np.asarray(nats, dtype=np.float64) / math.log(2.0)
    return pd.DataFrame(list(map(dataclasses.asdict, texts))).assign(bits=bits)

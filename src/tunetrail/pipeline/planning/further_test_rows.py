"""Further test rows: what an evaluation scores besides the test rows of the trained sessions."""

from collections.abc import Sequence

import pandas as pd

from tunetrail.config import Settings
from tunetrail.pipeline.benchmark import Benchmark
from tunetrail.pipeline.general_file import read_general_file
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.stores.database.manager import DatabaseManager


def count_further_test_rows(
    settings: Settings,
    database: DatabaseManager,
    family: ModelFamily,
    session_ids: Sequence[str],
    shape: str,
) -> int:
    """Return the number of rows of earlier sessions and of the general file that are scored too.

    Rows that have been learnt from by then are left out of an evaluation, and counted here.

    Args:
        settings: All that can be set.
        database: Holds the test rows of earlier sessions.
        family: The family.
        session_ids: The sessions that are trained on.
        shape: The shape of the rows that the model is judged by.

    Raises:
        ConfigError: The general file can't be used.
    """
    if settings.evaluation.benchmark_rows == 0:
        return 0
    benchmark = Benchmark(
        database=database,
        family=family,
        session_ids=session_ids,
        prefix=settings.tracking.prefix,
    )
    earlier, _ = benchmark.rows(shape)
    general = _general_rows(settings, family, shape)
    # A single row can't be ranked.
    return (len(earlier) if len(earlier) > 1 else 0) + len(general)


def _general_rows(settings: Settings, family: ModelFamily, shape: str) -> pd.DataFrame:
    general_file = read_general_file(settings, family.kind)
    return pd.DataFrame() if general_file is None else general_file.general_set(shape, settings)

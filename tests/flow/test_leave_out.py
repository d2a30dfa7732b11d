import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import Settings, SplitConfig
from tunetrail.errors import SampleError
from tunetrail.evaluation.example_rows import read_example_rows
from tunetrail.samples import SampleKind

pytestmark = pytest.mark.processes

Make = Callable[..., Settings]

WORDS = ["".join(random.Random(index).choices("abcdefgh", k=6)) for index in range(400)]
ROWS = 240
FIRST, SECOND = "first", "second"


def sentence(drawn: random.Random) -> list[str]:
    return drawn.choices(WORDS, k=12)


def sessions() -> tuple[list[str], list[str]]:
    """Texts of a session, and of one whose first half differs from these in one word each."""
    drawn = random.Random(0)
    first = [sentence(drawn) for _ in range(ROWS)]
    second = []
    for words in first[: ROWS // 2]:
        changed = list(words)
        changed[drawn.randrange(12)] = "unheard"
        second.append(changed)
    second += [sentence(drawn) for _ in range(ROWS // 2)]
    return [" ".join(words) for words in first], [" ".join(words) for words in second]


def store(database: DatabaseManager, session_id: str, texts: list[str]) -> dict[int, int]:
    """Store pairs; returns the position of each row's text by row id."""
    drawn = random.Random(session_id)
    rows = [{"anchor": text, "positive": " ".join(sentence(drawn))} for text in texts]
    assert database.ingest(session_id, rows, SampleKind.EMBEDDING).added == len(texts)
    position = {row["anchor"]: index for index, row in enumerate(rows)}
    return {
        stored.row_id: position[stored.sample.content["anchor"]]
        for chunk in database.read_samples(session_id, SampleKind.EMBEDDING)
        for stored in chunk
    }


def train(settings: Settings, database: DatabaseManager, session_id: str) -> dict[str, Any]:
    results = ModelTrainingNode(NodeConfig(settings=settings), database).execute(
        {"session_id": session_id, "model_type": "embedding"}
    )
    return {name: step["embedding"] for name, step in results["results"]["steps"].items()}


def scored_rows(settings: Settings, steps: dict[str, Any], folder: Path) -> list[int]:
    run_id = steps["deployment"]["mlflow_run_id"]
    path = client_of(settings.tracking.uri).download_artifacts(
        run_id, "evaluation/rows.parquet", str(folder)
    )
    return read_example_rows(Path(path)).table["row_id"].tolist()


def test_execute_leaves_out_test_rows_whose_twins_root_has_learnt_from(
    database: DatabaseManager,
    workplace: Path,
    make_settings: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = make_settings(workplace)
    texts, near_twins = sessions()
    position_of_first = store(database, FIRST, texts)
    position_of_second = store(database, SECOND, near_twins)

    train(settings, database, FIRST)
    learnt = database.learnt_rows("embedding", "1")
    assert learnt is not None
    learnt_positions = {position_of_first[row_id] for row_id in learnt.tolist()}
    steps = train(settings, database, SECOND)

    evaluation, comparison = steps["evaluation"], steps["comparison"]
    left_out = evaluation["left_out_rows"]
    scored = [position_of_second[row_id] for row_id in scored_rows(settings, steps, tmp_path)]
    side = len(scored) + left_out
    # A row of the second session resembles the row of the first one at the same position.
    twinned = {position for position in learnt_positions if position < ROWS // 2}
    assert 0 < left_out < side and not twinned & set(scored)
    # So many learnt twins were asked about before: more than a quarter of the test rows.
    assert left_out > 0.25 * side

    assert (comparison["scored_rows"], comparison["side_rows"]) == (len(scored), side)
    metrics = (
        client_of(settings.tracking.uri).get_run(steps["deployment"]["mlflow_run_id"]).data.metrics
    )
    assert metrics["evaluation/left_out_rows"] == left_out
    line = f"{left_out} of {side} test rows are left out: version 1 has learnt from near-duplicates"
    assert line in caplog.text

    # The second version has learnt from both sessions, as it started from the first.
    both = database.learnt_rows("embedding", "2")
    assert both is not None and set(learnt.tolist()) < set(both.tolist())


def test_execute_leaves_out_nothing_of_a_session_that_is_trained_on_again(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)
    train(settings, database, session)
    steps = train(settings, database, session)
    assert steps["comparison"]["against"] == "models:/embedding/1"
    assert steps["evaluation"]["left_out_rows"] == 0


def test_execute_says_that_the_rows_of_an_older_version_are_unknown(
    database: DatabaseManager,
    session: str,
    workplace: Path,
    make_settings: Make,
    make_rows: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = make_settings(workplace)
    train(settings, database, session)
    assert "isn't in the ledger" not in caplog.text

    # The ledger of another database knows as little of the version as one of an older release.
    with DatabaseManager(f"sqlite:///{workplace}/other.db") as other:
        other.ingest(session, make_rows("pair"), SampleKind.EMBEDDING)
        steps = train(settings, other, session)
        unknown = "embedding: what version 1 has learnt from isn't in the ledger"
        assert unknown in caplog.text
        assert "With embedding.start_from=base, a new version" in caplog.text
        assert steps["evaluation"]["left_out_rows"] == 0

        # The second version is in the ledger, but it began with the first.
        caplog.clear()
        steps = train(settings, other, session)
        assert steps["comparison"]["against"] == "models:/embedding/2"
        assert unknown in caplog.text


def test_execute_leaves_out_rows_that_were_learnt_under_another_split_and_their_new_twins(
    database: DatabaseManager, workplace: Path, make_settings: Make, tmp_path: Path
) -> None:
    settings = make_settings(workplace)
    texts, _ = sessions()
    position_of = store(database, FIRST, texts[:100])
    train(settings, database, FIRST)
    learnt = database.learnt_rows("embedding", "1")
    assert learnt is not None
    learnt_positions = {position_of[row_id] for row_id in learnt.tolist()}

    # The session grows by a row with one word more for each row, and another salt draws all anew.
    drawn = random.Random(9)
    twins = [
        {"anchor": f"{text} indeed", "positive": " ".join(sentence(drawn))} for text in texts[:100]
    ]
    database.ingest(FIRST, twins, SampleKind.EMBEDDING)
    for chunk in database.read_samples(FIRST, SampleKind.EMBEDDING):
        for stored in chunk:
            anchor = stored.sample.content["anchor"].removesuffix(" indeed")
            position_of[stored.row_id] = texts.index(anchor)
    steps = train(dataclasses.replace(settings, split=SplitConfig(salt="other")), database, FIRST)

    scored = {position_of[row_id] for row_id in scored_rows(settings, steps, tmp_path)}
    assert steps["evaluation"]["left_out_rows"] > 0
    assert scored and not learnt_positions & scored


def test_execute_refuses_a_session_whose_test_rows_were_all_learnt(
    database: DatabaseManager, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, split=SplitConfig(test_share=0.05, validation_share=0.05))
    texts, _ = sessions()
    store(database, FIRST, texts)
    train(settings, database, FIRST)
    learnt = database.learnt_rows("embedding", "1")
    assert learnt is not None
    by_id = {
        stored.row_id: stored.sample.content["anchor"]
        for chunk in database.read_samples(FIRST, SampleKind.EMBEDDING)
        for stored in chunk
    }

    store(database, SECOND, [f"{by_id[row_id]} indeed" for row_id in learnt.tolist()])

    with pytest.raises(SampleError, match="test rows must differ from what version 1 has learnt"):
        train(settings, database, SECOND)

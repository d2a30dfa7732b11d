import dataclasses
from typing import Any

import pandas as pd
import pytest

from tunetrail.config import CrossValidationConfig, TrainingConfig
from tunetrail.config.training import BatchesConfig
from tunetrail.data.splits import Split, make_folds
from tunetrail.pipeline.fold_costs import FoldChoice, affordable_folds
from tunetrail.pipeline.stages.prepare import PreparedRows


def prepared_rows(rows: int, added: int = 0, *, by_time: bool = False) -> PreparedRows:
    """A train side of so many rows, all independent, and copies that augmentation added."""
    train = pd.DataFrame(
        {
            "row_id": range(rows),
            "cluster": list(map(str, range(rows))),
            "shape": "completion",
            "token_count": 10,
            "timestamp": [f"2026-01-01T00:{row // 60:02}:{row % 60:02}" for row in range(rows)],
        }
    )
    split = Split(
        train=train,
        validation=train.head(0),
        test=train.head(0),
        method="time" if by_time else "content",
        warnings=(),
    )
    augmented = pd.concat([train, train.head(added)], ignore_index=True)
    return PreparedRows(split=split, augmented=augmented, train=augmented, additional=None)


def choice(
    prepared: PreparedRows, training: TrainingConfig, config: CrossValidationConfig
) -> FoldChoice:
    by_time = prepared.split.method == "time"
    folds = make_folds(prepared.split.train, config.n_splits, seed=0, by_time=by_time)
    return affordable_folds(folds, prepared, training, config)


@pytest.mark.parametrize("changes", [{"max_steps": 2003}, {"num_epochs": 5}])
def test_five_folds_that_take_less_than_the_training_are_all_trained(
    changes: dict[str, Any],
) -> None:
    training = TrainingConfig(batch_size=8, **changes)
    chosen = choice(prepared_rows(280), training, CrossValidationConfig())
    assert len(chosen.folds) == 5 and chosen.note is None


def test_scoring_counts_so_that_400_rows_train_four_folds_by_default() -> None:
    # 280 of 400 rows are on the train side: 105 steps of eight rows, and 17 for each fold.
    chosen = choice(prepared_rows(280), TrainingConfig(batch_size=8), CrossValidationConfig())

    # Both models score 280 rows, which takes 560 / 8 / 3 = 23.3 steps.
    assert (chosen.training_steps, chosen.all_steps) == (105, 5 * 17 + 24)
    assert len(chosen.folds) == 4 and chosen.note is not None
    assert "as all would take as long as 109 steps and the training itself takes 105" in chosen.note


@pytest.mark.parametrize(
    ("config", "changes", "trained"),
    [
        # Each fold takes three steps and scores twenty rows, as long as 1.7 steps.
        (CrossValidationConfig(), {"max_steps": 15}, 3),
        (CrossValidationConfig(max_cost=3.0), {"max_steps": 15}, 5),
        (CrossValidationConfig(max_cost=0.5), {"max_steps": 1000}, 2),
        (CrossValidationConfig(max_cost=0.61), {"max_steps": 1000}, 3),
        # Two are trained whatever they cost.
        (CrossValidationConfig(max_cost=0.01), {"max_steps": 1000}, 2),
        (CrossValidationConfig(n_splits=10, budget=1.0, max_cost=4.1), {"max_steps": 100}, 4),
    ],
)
def test_fewer_folds_are_trained_where_all_cost_too_much(
    config: CrossValidationConfig, changes: dict[str, Any], trained: int
) -> None:
    chosen = choice(prepared_rows(100), TrainingConfig(batch_size=8, **changes), config)

    assert [fold.number for fold in chosen.folds] == list(range(trained))
    if trained < config.n_splits:
        assert chosen.note is not None
        assert f"only {trained} of {config.n_splits} folds" in chosen.note
        assert "Raise cross_validation.max_cost" in chosen.note


def test_by_time_the_latest_folds_are_trained() -> None:
    prepared = prepared_rows(120, by_time=True)
    training = TrainingConfig(batch_size=8, max_steps=100)
    chosen = choice(prepared, training, CrossValidationConfig(max_cost=0.4))
    assert [fold.number for fold in chosen.folds] == [3, 4]


def test_steps_follow_from_accumulation_tokens_and_added_rows() -> None:
    config, training = CrossValidationConfig(), TrainingConfig(batch_size=10, num_epochs=10)
    accumulated = dataclasses.replace(training, batches=BatchesConfig(accumulate=2))
    by_tokens = dataclasses.replace(training, batches=BatchesConfig(tokens=500))

    assert choice(prepared_rows(200), training, config).training_steps == 200
    assert choice(prepared_rows(200), accumulated, config).training_steps == 100
    assert choice(prepared_rows(200), by_tokens, config).training_steps == 40
    # Half as many again, in the folds too.
    augmented = choice(prepared_rows(200, added=100), training, config)
    assert (augmented.training_steps, augmented.all_steps) == (300, 260)

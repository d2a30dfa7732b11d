import dataclasses
from typing import Any

import pandas as pd
import pytest

from tunetrail.config import (
    AugmentationConfig,
    CrossValidationConfig,
    FeatureEngineeringConfig,
    HardNegativesConfig,
    Settings,
    TrainingConfig,
)
from tunetrail.config.training import BatchesConfig
from tunetrail.data.splits import Split
from tunetrail.pipeline.planning.workload import Workload, count_validations, count_work, tokens_of
from tunetrail.pipeline.stages.prepare import PreparedRows


def rows(count: int, tokens: int = 10) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row_id": range(count),
            "cluster": list(map(str, range(count))),
            "shape": "completion",
            "token_count": tokens,
        }
    )


def prepared_rows(train: int = 200, added: int = 0) -> PreparedRows:
    split = Split(train=rows(train), validation=rows(40), test=rows(30, tokens=20))
    learnt = pd.concat([split.train, rows(added)], ignore_index=True)
    return PreparedRows(split=split, augmented=learnt, train=learnt, additional=None)


def work(
    training: TrainingConfig | None = None,
    prepared: PreparedRows | None = None,
    *,
    mines: bool = False,
    **changes: Any,
) -> Workload:
    return count_work(
        Settings(**changes),
        training or TrainingConfig(batch_size=8, num_epochs=4),
        prepared or prepared_rows(),
        corpus=rows(100),
        validation_corpus=rows(40),
        base_remembers=True,
        mines=mines,
    )


def test_rows_tokens_and_steps_are_those_of_the_training() -> None:
    counted = work()

    assert counted.rows == {"train": 200, "validation": 40, "test": 30}
    assert counted.tokens == {"train": 2000, "validation": 400, "test": 600}
    assert (counted.steps_per_epoch, counted.steps, counted.epochs) == (25, 100, 4.0)
    assert counted.tokens_per_step == 80.0
    # The held-out rows, and those that they are ranked against.
    assert (counted.validation_tokens, counted.test_tokens) == (800, 1600)


def test_accumulation_and_added_rows_change_the_steps() -> None:
    accumulated = TrainingConfig(batch_size=8, num_epochs=4, batches=BatchesConfig(accumulate=2))
    assert work(accumulated).steps_per_epoch == 13
    assert work(prepared=prepared_rows(added=100)).steps_per_epoch == 38


def test_folds_are_as_many_as_the_training_trains() -> None:
    config = CrossValidationConfig(n_splits=4, budget=0.2, max_cost=10.0)
    counted = work(cross_validation=config)

    assert (len(counted.folds), counted.all_folds, counted.fold_note) == (4, 4, None)
    assert counted.fold_steps == 4 * 15  # a fifth of four epochs of 19 steps each
    # Each fold scores 50 rows and ranks 75; the base model reads the ranked ones once.
    assert counted.fold_tokens == 2 * 4 * 500 + 4 * 750 + 750


def test_fewer_folds_are_explained_and_none_are_silent() -> None:
    counted = work(cross_validation=CrossValidationConfig(max_cost=0.01))
    assert len(counted.folds) == 2 and "cross_validation.max_cost" in str(counted.fold_note)

    off = work(cross_validation=CrossValidationConfig(n_splits=0))
    assert (off.folds, off.fold_steps, off.fold_tokens, off.fold_note) == ([], 0, 0, None)


def test_with_augmentation_each_fold_is_trained_twice() -> None:
    once, twice = work(), work(augmentation=AugmentationConfig(methods=["typo"]))
    assert twice.fold_steps == 2 * once.fold_steps


def test_negatives_are_mined_for_the_training_and_each_fold_and_again_between_epochs() -> None:
    mining = HardNegativesConfig(enabled=True, remine_every_epochs=2)
    counted = work(
        mines=True,
        feature_engineering=FeatureEngineeringConfig(hard_negatives=mining),
        cross_validation=CrossValidationConfig(n_splits=4, max_cost=10.0),
    )

    # Each of four folds has three quarters of the rows; the third of four epochs begins anew.
    assert (counted.minings, counted.reminings) == (1.0 + 4 * 0.75, 1)
    assert (work().minings, work().reminings) == (0.0, 0)


@pytest.mark.parametrize(
    ("per_epoch", "steps_per_epoch", "steps", "validations"),
    [
        (1, 10, 30, 3),
        (2, 10, 30, 6),
        (2, 7, 7, 3),  # after 3, 6 and 7
        (5, 3, 6, 6),  # each step
        (2, 10, 4, 2),  # below one epoch
        (1, 10, 25, 3),  # the last step as well
        (2, 10, 25, 5),
    ],
)
def test_validations_end_with_the_last_step(
    per_epoch: int, steps_per_epoch: int, steps: int, validations: int
) -> None:
    training = TrainingConfig(validations_per_epoch=per_epoch)
    assert count_validations(training, steps_per_epoch, steps) == validations


def test_documents_of_a_file_count_as_much_as_the_rows() -> None:
    documents = pd.DataFrame({"text": ["a", "b"], "token_count": pd.array([None, 30], "Int64")})
    assert tokens_of(documents) == 60
    assert tokens_of(documents.head(0)) == 0


def test_work_as_plain_values_has_stable_keys() -> None:
    fields = {field.name for field in dataclasses.fields(Workload)}
    assert work().to_dict().keys() == fields | {"epochs", "fold_steps"}

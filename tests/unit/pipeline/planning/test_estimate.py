import dataclasses

import pytest

from tunetrail.pipeline.planning.division import Division
from tunetrail.pipeline.planning.estimate import (
    FixedSeconds,
    Speeds,
    StageEstimate,
    cross_validation_note,
    disk_bytes,
    estimate_stages,
)
from tunetrail.pipeline.planning.workload import FoldWork, Workload

SPEEDS = Speeds(
    load_seconds=2.0,
    read_seconds=0.75,
    train_seconds=0.01,
    validation_seconds=0.004,
    score_seconds=0.003,
    checkpoint_seconds=0.5,
    save_seconds=0.25,
    answer_seconds=10.0,
    read_tokens=2.0,
    padding_share=0.1,
    memory_bytes=1 << 30,
    checkpoint_bytes=300,
    model_bytes=100,
    slowdown=2.0,
    steps=4,
)
WORK = Workload(
    rows={"train": 200, "validation": 40, "test": 30},
    tokens={"train": 2000, "validation": 400, "test": 600},
    steps_per_epoch=25,
    steps=100,
    validations=8,
    validation_tokens=800,
    test_tokens=1600,
    folds=[FoldWork(steps=20, held_out_tokens=500, corpus_tokens=1000)] * 3,
    all_folds=5,
)
FIXED = FixedSeconds(
    start=5.0,
    prepare=3.0,
    opening=1.0,
    fold=0.25,
    training=0.5,
    evaluation=4.0,
    deployment=2.0,
    fresh_process=3.0,
)


def seconds(
    work: Workload, search_steps: int = 0, division: Division | None = None
) -> dict[str, float]:
    stages = estimate_stages(work, SPEEDS, FIXED, search_steps=search_steps, division=division)
    return {stage.stage: stage.seconds for stage in stages}


def test_each_stage_is_the_sum_of_what_it_computes() -> None:
    found = seconds(WORK)

    assert list(found) == [
        "start",
        "prepare",
        "cross_validation",
        "training",
        "evaluation",
        "deployment",
    ]
    assert (found["start"], found["prepare"]) == (5.0, 5.0)
    # A step has 80 tokens; three folds score 1,500 tokens each, and so does the base model.
    # The first fold waits for the libraries; all others, and the training, only read the model.
    assert found["cross_validation"] == pytest.approx(
        2.0 + 2 * 0.75 + 3 * 0.5 + 60 * 0.8 + 9000 * 0.003
    )
    # Of eight validations, four and a half are taken for the best so far.
    checkpoints = 12.5 * 0.25
    assert found["training"] == pytest.approx(0.75 + 101 * 0.8 + 8 * 3.2 + checkpoints + 0.25 + 1.0)
    # Both models are read and score the test rows; what is registered is read once more.
    assert found["evaluation"] == pytest.approx(2 * (0.75 + 4.8 + 10.0) + 8.0)
    assert found["deployment"] == pytest.approx(4 * 0.25 + 2 * 0.75 + 2 * (2.0 + 3.0))


def test_libraries_that_are_imported_take_no_time() -> None:
    fixed = dataclasses.replace(FIXED, start=0.0)
    assert estimate_stages(WORK, SPEEDS, fixed)[0].stage == "prepare"


def test_a_search_for_a_rate_is_a_stage_and_no_folds_are_none() -> None:
    found = seconds(dataclasses.replace(WORK, folds=[]), search_steps=100)
    assert "cross_validation" not in found
    assert found["search"] == pytest.approx(2.0 + 100 * 0.8)
    assert seconds(dataclasses.replace(WORK, folds=[]))["training"] == pytest.approx(
        found["training"] + 2.0 - 0.75
    )


def test_devices_divide_steps_and_validations_and_each_training_starts_their_processes() -> None:
    found = seconds(WORK, division=Division(ranks=4, devices=4, start_seconds=8.0))

    # A step of 0.8 s takes 0.2; every training is the first one of its processes.
    assert found["cross_validation"] == pytest.approx(
        3 * (8.0 + 2.0) + 3 * 0.5 + 60 * 0.2 + 9000 * 0.003
    )
    assert found["training"] == pytest.approx(
        8.0 + 2.0 + 101 * 0.2 + 8 * 3.2 / 4 + 12.5 * 0.25 + 0.25 + 1.0
    )
    assert found["evaluation"] == pytest.approx(seconds(WORK)["evaluation"])


def test_processes_on_the_same_cores_only_add_their_start() -> None:
    alone = seconds(dataclasses.replace(WORK, folds=[]))
    found = seconds(
        dataclasses.replace(WORK, folds=[]), division=Division(ranks=2, start_seconds=8.0)
    )
    assert found["training"] == pytest.approx(alone["training"] + 8.0)


def test_the_search_for_a_rate_runs_on_one_device() -> None:
    division = Division(ranks=4, devices=4, start_seconds=8.0)
    assert seconds(WORK, 100, division)["search"] == pytest.approx(2.0 + 100 * 0.8)


def test_mining_is_a_stage_and_takes_time_between_epochs() -> None:
    found = seconds(dataclasses.replace(WORK, minings=2.5, reminings=3))

    # A pass forward over 2,000 tokens takes a third of the steps that learn from them.
    forward = 2000 * 0.01 / 3
    assert found["mining"] == pytest.approx(0.75 + 2.5 * forward)
    assert found["training"] == pytest.approx(seconds(WORK)["training"] + 3 * forward)


def test_rows_of_earlier_sessions_are_scored_by_both_models() -> None:
    work = WORK.with_further_test_rows(90)

    assert (work.further_test_rows, work.further_test_tokens) == (90, 1800)
    evaluation = seconds(work)["evaluation"] - seconds(WORK)["evaluation"]
    assert evaluation == pytest.approx(2 * 1800 * 0.003)
    (stage,) = (
        stage for stage in estimate_stages(work, SPEEDS, FIXED) if stage.stage == "evaluation"
    )
    assert stage.detail == "30 test rows and 90 of others, scored by both models"


def test_folds_that_take_longer_than_the_training_are_named_with_their_settings() -> None:
    stages = [
        StageEstimate(stage="cross_validation", seconds=200.0, detail=""),
        StageEstimate(stage="training", seconds=100.0, detail=""),
    ]
    note = cross_validation_note(stages)
    assert note is not None
    for words in ("(3 min)", "(2 min)", "cross_validation.max_cost", "cross_validation=off"):
        assert words in note
    assert cross_validation_note(stages[1:]) is None


def test_disk_is_four_checkpoints_and_the_model_then_two_models() -> None:
    assert disk_bytes(SPEEDS) == {
        "while_training": 1300,
        "registered_version": 100,
        "exported_folder": 100,
    }


def test_a_version_that_no_fresh_process_scores_is_read_once() -> None:
    fixed = dataclasses.replace(FIXED, fresh_process=0.0)

    stages = estimate_stages(WORK, SPEEDS, fixed)

    assert stages[-1].seconds == pytest.approx(4 * 0.25 + 0.75 + 2 * 2.0)

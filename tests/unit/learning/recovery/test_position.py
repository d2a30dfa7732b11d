import pytest
from tunetrail.learning.recovery.position import Position

from tunetrail.learning.lightning_internals import loops_at


@pytest.mark.parametrize(
    ("finished", "epoch", "done"),
    [(0, 0, 0), (1, 0, 1), (6, 0, 6), (7, 0, 7), (8, 1, 1), (14, 1, 7), (15, 2, 1)],
)
def test_the_end_of_an_epoch_belongs_to_it(finished: int, epoch: int, done: int) -> None:
    position = Position(finished=finished, per_epoch=7)
    assert (position.epoch, position.done) == (epoch, done)


@pytest.mark.parametrize(("finished", "last"), [(9, False), (14, True)])
def test_loops_are_left_in_the_middle_of_an_epoch(finished: int, last: bool) -> None:
    position = Position(finished=finished, per_epoch=7)
    loops = loops_at(
        {"epoch_progress": None, "epoch_loop.scheduler_progress": "kept"},
        epoch=position.epoch,
        batches=position.done,
        finished=position.finished,
        is_last=position.ends_epoch,
    )
    assert loops["epoch_loop.scheduler_progress"] == "kept"
    assert loops["epoch_progress"]["total"] == {
        "ready": 2,
        "started": 2,
        "processed": 1,
        "completed": 1,
    }
    batches = loops["epoch_loop.batch_progress"]
    assert set(batches["total"].values()) == {finished} and set(batches["current"].values()) == {
        finished - 7
    }
    assert batches["is_last_batch"] is last
    assert loops["state_dict"]["combined_loader"] == [{"epoch": 1, "done": finished - 7}]

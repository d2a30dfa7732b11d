import errno
import zipfile
from pathlib import Path

import pytest

from tunetrail.errors import SampleError, TrainingError
from tunetrail.pipeline.work import remove_leftovers, working_folder

NEEDED = [
    "augmented.parquet",
    "checkpoints",
    "mined-1.parquet",
    "prepared",
    "start",
    "state.json",
    "train.parquet",
]


def fill(folder: Path, *, checkpoint: bool = True) -> None:
    for name in ("start", "fold-1", "prepared/rows"):
        (folder / name).mkdir(parents=True)
    for name in (
        "prepared/rows/train",
        "prepared/report.html",
        "augmentation_rejected.parquet",
        ".train.parquet",
    ):
        (folder / name).touch()
    for name in ("state.json", "augmented.parquet", "train.parquet", "mined-1.parquet"):
        (folder / name).touch()
    if checkpoint:
        (folder / "checkpoints").mkdir()
        with zipfile.ZipFile(folder / "checkpoints" / "last.ckpt", "w") as file:
            file.writestr("data", b"weights")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_working_folder_is_left_to_its_run_after_success(tmp_path: Path) -> None:
    with working_folder(tmp_path / "out" / "run"):
        (tmp_path / "out" / "run" / "state.json").touch()
    assert names(tmp_path / "out" / "run") == ["state.json"]


@pytest.mark.parametrize(
    "error", [ValueError("bad"), SystemExit(143), KeyboardInterrupt(), OSError(errno.EACCES, "no")]
)
def test_working_folder_keeps_what_a_resumed_run_needs(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), working_folder(tmp_path / "run"):
        fill(tmp_path / "run")
        raise error
    assert names(tmp_path / "run") == NEEDED
    assert names(tmp_path / "run" / "prepared") == ["rows"]


def test_working_folder_is_gone_after_a_mistake_that_would_come_again(tmp_path: Path) -> None:
    with pytest.raises(SampleError), working_folder(tmp_path / "run"):
        fill(tmp_path / "run", checkpoint=False)
        raise SampleError("rows must be good")
    assert names(tmp_path) == []


def test_working_folder_keeps_what_was_trained_after_any_mistake(tmp_path: Path) -> None:
    with pytest.raises(SampleError), working_folder(tmp_path / "run"):
        fill(tmp_path / "run")
        raise SampleError("llm.max_length cuts off all outputs")
    assert names(tmp_path / "run") == NEEDED


def test_working_folder_drops_a_checkpoint_that_a_full_disk_cut_off(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    with pytest.raises(OSError, match="No space"), working_folder(tmp_path / "run"):
        fill(tmp_path / "run")
        (checkpoints / "best.ckpt").write_bytes((checkpoints / "last.ckpt").read_bytes()[:-9])
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(checkpoints) == ["last.ckpt"] and names(tmp_path / "run") == NEEDED


def test_working_folder_names_the_setting_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = "output_dir must be a folder that can be written, got .*file: .*"
    with pytest.raises(TrainingError, match=message), working_folder(tmp_path / "file" / "run"):
        pass


def test_remove_leftovers_takes_an_absent_and_an_empty_folder(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "absent")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    remove_leftovers(tmp_path / "empty")
    assert names(tmp_path) == []

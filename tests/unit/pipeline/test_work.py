import errno
from pathlib import Path

import pytest

from tunetrail.errors import TrainingError
from tunetrail.pipeline.work import remove_leftovers, working_folder


def fill(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "start").mkdir()
    (folder / "set_aside.parquet").touch()


def test_working_folder_is_gone_after_success(tmp_path: Path) -> None:
    with working_folder(tmp_path / "out" / "run"):
        fill(tmp_path / "out" / "run")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(143), OSError(errno.EACCES, "no")])
def test_working_folder_keeps_the_checkpoints_of_a_failure(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), working_folder(tmp_path / "run"):
        fill(tmp_path / "run")
        raise error
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")] == ["run/checkpoints/last.ckpt"]
    assert not (tmp_path / "run" / "start").exists()


@pytest.mark.parametrize("filled", [True, False])
def test_working_folder_leaves_nothing_on_a_full_disk(tmp_path: Path, filled: bool) -> None:
    with pytest.raises(OSError, match="No space"), working_folder(tmp_path / "run"):
        if filled:
            fill(tmp_path / "run")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_working_folder_names_the_setting_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = "output_dir must be a folder that can be written, got .*file: .*"
    with pytest.raises(TrainingError, match=message), working_folder(tmp_path / "file" / "run"):
        pass


def test_remove_leftovers_keeps_checkpoints_and_takes_an_absent_folder(tmp_path: Path) -> None:
    fill(tmp_path)
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    remove_leftovers(tmp_path / "absent")

import errno
import logging
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunetrail.cache import ResultCache
from tunetrail.errors import ConfigError


def filled(cache: ResultCache, kind: str, age: float, size: int = 600_000) -> Path:
    folder = cache.place(kind)
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * size)
    then = time.time() - age
    os.utime(folder, (then, then))
    return folder


def test_place_depends_on_all_parts(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    folders = {
        cache.place("a", "b"),
        cache.place("a"),
        cache.place("b", "a"),
        cache.place("a", "b", ""),
    }

    assert len(folders) == 4 and cache.place("a", "b") in folders


def test_prune_removes_the_longest_unused_above_the_size(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=0.001)
    oldest, older, used = (
        filled(cache, "1", 90_000),
        filled(cache, "2", 80_000),
        filled(cache, "3", 70_000),
    )
    cache.place("3")  # asking for a result counts as using it

    assert cache.prune() == 2
    assert not oldest.exists() and not older.exists() and used.exists()


def test_prune_spares_what_may_be_in_use(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=0.0001)
    recent = filled(cache, "1", 60)
    assert cache.prune() == 0 and recent.exists()


def test_prune_removes_what_a_dead_process_left_unfinished(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    left = tmp_path / "ab" / ".unfinished-x"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    assert cache.prune() == 1 and not left.exists()


def test_prune_takes_a_cache_that_is_not_there(tmp_path: Path) -> None:
    assert ResultCache(folder=tmp_path / "none", gigabytes=1.0).prune() == 0


def test_place_tells_parts_apart_whatever_they_hold(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    assert cache.place("a\nb", "c") != cache.place("a", "b\nc")


def test_open_makes_a_folder_for_its_owner_alone(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path / "new", gigabytes=1.0)
    assert cache.open()

    assert cache.folder.stat().st_mode & 0o077 == 0

    (tmp_path / "file").touch()

    with pytest.raises(
        ConfigError, match=r"preparation\.cache_dir must be a folder that can be written"
    ):
        ResultCache(folder=tmp_path / "file", gigabytes=1.0).open()


def test_prune_survives_what_vanishes_meanwhile(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=0.0)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "gone").symlink_to(tmp_path / "nowhere")
    old = filled(cache, "1", 90_000)
    assert cache.prune() == 1 and not old.exists()


def test_writing_leaves_nothing_where_it_fails(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    file = cache.place("a") / "file"

    with pytest.raises(RuntimeError), cache.writing(file) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert list(file.parent.iterdir()) == []

    with cache.writing(file) as unfinished:
        unfinished.write_text("whole")
    assert [path.name for path in file.parent.iterdir()] == ["file"]


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_nothing_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    file = cache.place("a") / "array.npy"

    with cache.writing(file) as unfinished:
        unfinished.write_text("half")
        raise FULL
    with cache.writing(file):
        raise FULL

    assert list(file.parent.iterdir()) == []
    (message,) = caplog.messages
    assert message.startswith(f"the disk of the cache {tmp_path} is full: ")
    with pytest.raises(PermissionError), cache.writing(file):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_disk_without_room_for_a_file_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    make_file = tempfile.mkstemp

    def refuse(**settings: Any) -> Any:
        raise FULL

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    computed = cache.array("an array", "a", compute=lambda: np.ones(3))
    assert computed.tolist() == [1.0, 1.0, 1.0] and list(tmp_path.rglob("*.npy")) == []

    monkeypatch.setattr(tempfile, "mkstemp", make_file)
    cache.array("an array", "a", compute=lambda: np.ones(3))
    assert len(list(tmp_path.rglob("*.npy"))) == 1


def test_a_cache_on_a_full_disk_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ResultCache(folder=tmp_path / "cache", gigabytes=1.0)
    assert cache.open()

    usage = type("Usage", (), {"free": 1_000, "total": 10**12})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)

    assert not cache.open()
    assert "is full: what can't be kept there is computed again" in caplog.text


def test_computing_lets_one_process_at_a_time_compute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    computed: list[int] = []

    def compute() -> np.ndarray:
        computed.append(1)
        time.sleep(0.3)
        return np.arange(3, dtype=np.float32)

    # Each thread opens the lock's file itself, and so is as far from the others as a process.
    caplog.set_level(logging.INFO)
    with ThreadPoolExecutor(4) as threads:
        calls = [
            threads.submit(lambda: cache.array("the vectors", "a", "b", compute=compute))
            for _ in range(4)
        ]
        arrays = [call.result() for call in calls]

    assert len(computed) == 1
    for array in arrays:
        assert array.dtype == np.float32 and array.tolist() == [0.0, 1.0, 2.0]
    assert caplog.messages.count("another process makes the vectors: waiting for it") == 3


def test_computing_of_other_results_waits_for_nobody(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    with cache.computing("a", "a"), cache.computing("b", "b"):
        assert len(list(tmp_path.rglob("*.lock"))) == 2


def test_a_failed_computation_leaves_the_lock_free_and_nothing_in_the_cache(
    tmp_path: Path,
) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)

    def fail() -> np.ndarray:
        raise ValueError("no vectors")

    with pytest.raises(ValueError, match="no vectors"):
        cache.array("the vectors", "a", compute=fail)
    assert cache.array("the vectors", "a", compute=lambda: np.ones(1)).tolist() == [1.0]


def test_prune_removes_locks_that_nobody_holds(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    with cache.computing("a", "old"):
        pass
    with cache.computing("b", "held"):
        for file in tmp_path.rglob("*.lock"):
            os.utime(file, (0, 0))
        cache.prune()
        assert len(list(tmp_path.rglob("*.lock"))) == 1

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunetrail.config import PreparationConfig
from tunetrail.data.flow.executors import ChunkTask, run_tasks


@dataclass(frozen=True)
class Upper:
    """Writes a file's text in capitals; a real step, as small as one can be."""

    def __call__(self, raw: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "text").write_text(raw.read_text().upper())


def tasks(folder: Path, count: int) -> Iterator[ChunkTask]:
    for index in range(count):
        raw = folder / f"raw-{index}"
        raw.write_text(f"text {index}")
        yield ChunkTask(raw=raw, folder=folder / f"done-{index}")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_run_tasks_runs_all_and_keeps_their_order(tmp_path: Path, workers: int, count: int) -> None:
    done = list(run_tasks(Upper(), tasks(tmp_path, count), PreparationConfig(workers=workers)))
    assert [(task.folder / "text").read_text() for task in done] == [
        f"TEXT {index}" for index in range(count)
    ]
    assert not list(tmp_path.glob("raw-*"))


def test_run_tasks_leaves_what_is_done(tmp_path: Path) -> None:
    (tmp_path / "done-0").mkdir()
    list(run_tasks(Upper(), tasks(tmp_path, 2), PreparationConfig(workers=1)))
    assert not (tmp_path / "done-0" / "text").exists() and (tmp_path / "done-1" / "text").exists()


def test_run_tasks_has_few_chunks_waiting(tmp_path: Path) -> None:
    waiting = []

    def counted() -> Iterator[ChunkTask]:
        for task in tasks(tmp_path, 40):
            waiting.append(len(list(tmp_path.glob("raw-*"))))
            yield task

    assert len(list(run_tasks(Upper(), counted(), PreparationConfig(workers=2)))) == 40
    assert max(waiting) <= 8


def test_run_tasks_hands_on_the_error_of_a_step(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\xff")

    with pytest.raises(UnicodeDecodeError):
        list(
            run_tasks(
                Upper(),
                [ChunkTask(raw=tmp_path / "raw", folder=tmp_path / "done")],
                PreparationConfig(workers=1),
            )
        )

    shutil.rmtree(tmp_path / "done", ignore_errors=True)

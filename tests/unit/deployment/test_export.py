import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tunetrail.deployment.export import staged_root
from tunetrail.errors import DeploymentError


def export_root(
    model_dir: Path, model_type: str, version: str, save: Callable[[Path], None]
) -> Path:
    with staged_root(model_dir, model_type, save) as point_root:
        return point_root(version)


def writer(text: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "a.txt").write_text(text)
        (folder / "b.txt").write_text(text)

    return save


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_export_root_points_at_the_version_and_keeps_the_one_before(tmp_path: Path) -> None:
    for version in ("1", "2", "9", "10"):
        path = export_root(tmp_path, "llm", version, writer(version))

    assert path == tmp_path / "llm" / "root" and path.is_symlink()
    assert path.readlink() == Path("versions/10")  # relative: the directory can be moved
    assert (path / "a.txt").read_text() == "10"
    assert sorted(path.name for path in (tmp_path / "llm" / "versions").iterdir()) == ["10", "9"]


def test_export_root_keeps_the_model_types_apart(tmp_path: Path) -> None:
    export_root(tmp_path, "llm", "1", writer("llm"))
    export_root(tmp_path, "embedding", "1", writer("embedding"))
    assert (tmp_path / "llm/root/a.txt").read_text() == "llm"
    assert (tmp_path / "embedding/root/a.txt").read_text() == "embedding"


def test_export_root_replaces_the_same_version(tmp_path: Path) -> None:
    for text in ("first", "second"):
        path = export_root(tmp_path, "llm", "1", writer(text))

    assert (path / "a.txt").read_text() == "second"
    assert everything(tmp_path / "llm") == {
        "root",
        "versions",
        "versions/1",
        "versions/1/a.txt",
        "versions/1/b.txt",
        "versions/1/SHA256SUMS",
    }


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("broken"), KeyboardInterrupt()]
)
def test_export_root_leaves_root_as_it_was_where_saving_fails(
    tmp_path: Path, error: BaseException
) -> None:
    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "a.txt").write_text("half")
        raise error

    export_root(tmp_path, "llm", "1", writer("whole"))
    before = everything(tmp_path)
    with pytest.raises(DeploymentError if isinstance(error, OSError) else type(error)):
        export_root(tmp_path, "llm", "2", save)
    assert everything(tmp_path) == before
    assert (tmp_path / "llm/root/a.txt").read_text() == "whole"


def test_export_root_says_that_the_disk_is_full(tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        DeploymentError,
        match=r"model_dir .* can't be written: .*No space left on device.* Free some space",
    ):
        export_root(tmp_path, "llm", "1", save)


def test_export_root_refuses_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeploymentError, match=r"model_dir .*/file/models can't be written"):
        export_root(tmp_path / "file" / "models", "llm", "1", writer("x"))


def test_export_root_refuses_a_root_that_is_somebodys_folder(tmp_path: Path) -> None:
    """A folder called root with files in it isn't ours to remove."""
    (tmp_path / "llm" / "root").mkdir(parents=True)
    (tmp_path / "llm" / "root" / "mine.txt").touch()
    with pytest.raises(DeploymentError, match="can't be written"):
        export_root(tmp_path, "llm", "1", writer("x"))
    assert (tmp_path / "llm" / "root" / "mine.txt").exists()


def test_export_root_is_always_a_whole_model_for_its_readers(tmp_path: Path) -> None:
    path = export_root(tmp_path, "llm", "1", writer("1"))
    wrong, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                folder = path.resolve(strict=True)
                texts = {(folder / "a.txt").read_text(), (folder / "b.txt").read_text()}
            except OSError as error:
                wrong.append(repr(error))
            else:
                if len(texts) != 1:
                    wrong.append(str(texts))

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(2, 60):
        export_root(tmp_path, "llm", str(version), writer(str(version)))
    stop.set()
    reader.join()
    # A reader that resolved the link two promotions ago may find its version removed; it never sees
    # a mixture.
    assert [error for error in wrong if "FileNotFoundError" not in error] == []
    assert path.resolve(strict=True).name == "59"

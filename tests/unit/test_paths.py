from pathlib import Path

import pytest

from tunetrail.paths import replacing_file


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with replacing_file(path) as file:
        file.write(b"old")

    with pytest.raises(RuntimeError), replacing_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and path.stat().st_mode & 0o777 == 0o600

    with replacing_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]

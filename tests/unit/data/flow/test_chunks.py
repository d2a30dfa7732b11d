from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.data.flow.chunks import UNREADABLE, read_chunk, write_chunks
from tunetrail.data.rows import object_series


def rows(count: int, start: int = 0) -> pd.DataFrame:
    ids = np.arange(start, start + count)
    return pd.DataFrame(
        {
            "row_id": ids,
            "shape": "text",
            "text": object_series([f"text {row_id}" for row_id in ids]),
        }
    )


def test_write_chunks_keeps_every_row_once_and_in_order(tmp_path: Path) -> None:
    chunks = list(write_chunks([rows(70), rows(930, 70)], 50, tmp_path))

    assert sum(chunk.rows for chunk in chunks) == 1000 and all(
        12 <= chunk.rows <= 100 for chunk in chunks[:-1]
    )

    read = pd.concat([read_chunk(chunk.path) for chunk in chunks], ignore_index=True)
    assert (
        read["row_id"].tolist() == list(range(1000))
        and read["text"].tolist() == rows(1000)["text"].tolist()
    )


def test_write_chunks_changes_only_the_chunk_of_a_row_that_is_added_or_removed(
    tmp_path: Path,
) -> None:
    def digests(name: str, frame: pd.DataFrame) -> list[str]:
        (tmp_path / name).mkdir()
        return [chunk.digest for chunk in write_chunks([frame], 50, tmp_path / name)]

    before = digests("before", rows(1000))
    assert len(set(before) - set(digests("added", rows(1001)))) <= 1
    assert len(set(before) - set(digests("removed", rows(1000).drop(index=500)))) <= 2


def test_write_chunks_does_not_depend_on_the_frames(tmp_path: Path) -> None:
    whole = [chunk.digest for chunk in write_chunks([rows(300)], 40, tmp_path)]
    frames = [rows(7, start) for start in range(0, 294, 7)] + [rows(6, 294)]
    assert [chunk.digest for chunk in write_chunks(frames, 40, tmp_path)] == whole


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_write_chunks_survives_what_json_has_no_form_for(tmp_path: Path) -> None:
    values = [
        nested(100_000),
        b"bytes",
        {1, 2},
        np.float32(2.5),
        np.array([1.0, 2.0]),
        float("nan"),
        "\ud800",
        "\0",
    ]
    frame = pd.DataFrame(
        {"row_id": range(len(values)), "shape": "text", "text": object_series(values)}
    )
    (chunk,) = write_chunks([frame], 100, tmp_path)

    read = read_chunk(chunk.path)["text"].tolist()

    assert [value[UNREADABLE] for value in read[:3]] == ["list", "bytes", "set"]
    assert read[3:5] == [2.5, [1.0, 2.0]] and read[5] != read[5] and read[6:] == ["\ud800", "\0"]


def test_write_chunks_writes_nothing_that_it_could_not_read_again(tmp_path: Path) -> None:
    values = [
        nested(3),
        nested(950),
        [nested(100_000), b"bytes"],
        [[1, 2, 3]] * 500,
        ["[" * 500, b"bytes"],
    ]
    frame = pd.DataFrame({"row_id": range(len(values)), "text": object_series(values)})
    frame["deep"] = object_series([nested(100_000), "x", {1}, nested(2), b""])
    (chunk,) = write_chunks([frame], 100, tmp_path)

    read = read_chunk(chunk.path)["text"].tolist()

    unreadable = {UNREADABLE: "list"}
    assert read == [
        nested(3),
        unreadable,
        unreadable,
        values[3],
        ["[" * 500, {UNREADABLE: "bytes"}],
    ]


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text() | st.integers() | st.none(), max_size=20), chunk_rows=st.integers(1, 7)
)
def test_write_chunks_gives_back_what_came(
    tmp_path_factory: Any, texts: list[Any], chunk_rows: int
) -> None:
    frame = pd.DataFrame(
        {
            "row_id": range(len(texts)),
            "shape": object_series(["text"] * len(texts)),
            "text": object_series(texts),
        }
    )
    chunks = list(write_chunks([frame], chunk_rows, tmp_path_factory.mktemp("chunks")))

    read = [read_chunk(chunk.path) for chunk in chunks]

    assert [
        value
        for frame in read
        for value in (frame["text"] if "text" in frame else [None] * len(frame))
    ] == texts

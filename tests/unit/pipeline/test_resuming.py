import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tunetrail.config import AugmentationConfig, FeatureEngineeringConfig
from tunetrail.data.augmentation.augmentation import augment
from tunetrail.data.feature_engineering.features import engineer_features
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.errors import UserError
from tunetrail.learning.training.records import Refresh
from tunetrail.pipeline.resuming import KeptRun, is_kept
from tunetrail.samples import SampleKind, parse_sample

TEXTS = ["the river opens 3 doors", "a violin counts to 12", "walnut 🌰 and naïve é", "no end"]
ROWS: dict[str, tuple[SampleKind, list[dict[str, Any]]]] = {
    "pair": (
        SampleKind.EMBEDDING,
        [
            {
                "anchor": text,
                "positive": text.upper(),
                **({"negative": "x y z"} if number % 2 else {}),
            }
            for number, text in enumerate(TEXTS)
        ],
    ),
    "score": (
        SampleKind.EMBEDDING,
        [
            {"sentence1": text, "sentence2": text[::-1], "score": 0.1 * number}
            for number, text in enumerate(TEXTS)
        ],
    ),
    "label": (
        SampleKind.EMBEDDING,
        [{"text": text, "label": text[0], "group": "g"} for text in TEXTS],
    ),
    "vector": (
        SampleKind.EMBEDDING,
        [{"text": text, "embedding": [0.1, -1 / 3, 1e-30]} for text in TEXTS],
    ),
    "text": (
        SampleKind.EMBEDDING,
        [{"text": text, "timestamp": "2024-01-01T00:00:00Z"} for text in TEXTS],
    ),
    "completion": (SampleKind.LLM, [{"input": text, "output": text[::-1]} for text in TEXTS]),
    "chat": (
        SampleKind.LLM,
        [
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "é"}]}
            for text in TEXTS
        ],
    ),
    "document": (SampleKind.LLM, [{"text": text} for text in TEXTS]),
}


def train_rows(shape: str) -> pd.DataFrame:
    """Rows as they are trained on: augmented where their shape allows it, with features."""
    kind, rows = ROWS[shape]
    frame = rows_frame(
        (number, parse_sample(row, kind)) for number, row in enumerate(rows, start=1)
    )
    frame = frame.assign(
        cluster=pd.Series([f"c{number}" for number in range(len(frame))], dtype=object)
    )
    rows_ = augment(frame, AugmentationConfig(methods=["word_swap"], share=1.0), 0).rows
    return engineer_features(rows_, np.full(len(rows_), 7), 64, FeatureEngineeringConfig()).rows


def kept(folder: Path) -> KeptRun:
    run = KeptRun(folder=folder)
    run.keep()
    return run


def test_kept_run_gives_back_steps_in_order_and_facts(tmp_path: Path) -> None:
    run = kept(tmp_path)
    run.keep(
        steps={"validation": {"rows": 3, "share": 1 / 3}, "training": {"é": None}},
        facts={"root": None},
    )
    run.keep(steps={"evaluation": {"added": []}})
    opened = KeptRun.open(tmp_path)
    assert list(opened.steps) == ["validation", "training", "evaluation"]
    assert (opened.steps, opened.facts) == (run.steps, {"root": None})
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must hold what is kept of the run, but there is no state.json"),
        ("", "state.json must be readable to resume the run"),
        ('{"form": 1, "steps": {"val', "state.json must be readable to resume the run"),
        ('{"form": 2, "steps": {}, "facts": {}}', "its form is 2, not 1"),
        ('{"form": 1}', "state.json must be readable to resume the run: 'steps'"),
        ("[]", "state.json must be readable"),
    ],
)
def test_kept_run_refuses_a_folder_without_a_state_in_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "state.json").write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        KeptRun.open(tmp_path)
    assert "\n" not in str(raised.value) and "tunetrail train" in str(raised.value)


@pytest.mark.parametrize("shape", list(ROWS))
def test_kept_rows_are_the_very_records_that_were_written(tmp_path: Path, shape: str) -> None:
    rows, run = train_rows(shape), kept(tmp_path)
    run.write_rows(rows, "train.parquet")
    read = run.rows("train.parquet")
    assert records_of(read) == records_of(rows)
    assert json.dumps(records_of(read), default=float) == json.dumps(
        records_of(rows), default=float
    )
    added = rows["parent_id"].notna()
    assert list(read["parent_id"].notna()) == list(added)
    assert added.any() == (shape in ("pair", "label", "vector", "text", "completion"))


def test_kept_rows_that_are_broken_are_refused(tmp_path: Path) -> None:
    run = kept(tmp_path)
    run.write_rows(train_rows("pair"), "train.parquet")
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=r"train.parquet must be readable to resume the run: .*tunetrail train"
    ):
        run.rows("train.parquet")
    with pytest.raises(UserError, match=r"augmented\.parquet must be readable"):
        run.rows("augmented.parquet")


def test_checkpoint_is_the_last_one_and_whole(tmp_path: Path) -> None:
    run = kept(tmp_path)
    assert run.checkpoint() is None
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {"weight": torch.ones(1000)}}, path)
    assert run.checkpoint() == path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        UserError,
        match=r"last.ckpt must be a whole checkpoint, got a broken one. Delete it to train",
    ):
        run.checkpoint()


def encode(texts: Sequence[str], role: str = "query") -> Any:
    return np.ones((len(texts), 2), dtype=np.float32)


def counting_refresh(calls: list[int], every: int = 1) -> Refresh:
    def records(encode: Any, epoch: int) -> list[dict[str, Any]]:
        calls.append(epoch)
        return [
            {"anchor": "a", "positive": "b"},
            {"anchor": "c", "positive": "d", "negative": f"mined in {epoch}"},
        ]

    return Refresh(every_epochs=every, records=records)


def test_kept_run_is_opened_only_if_all_of_it_is_there(tmp_path: Path) -> None:
    run, rows = kept(tmp_path), train_rows("pair")
    (tmp_path / "prepared" / "rows").mkdir(parents=True)
    for side in ("train", "validation", "test"):
        rows.to_parquet(tmp_path / "prepared" / "rows" / f"{side}.parquet")
    for name, step in (
        ("augmented.parquet", "augmentation"),
        ("train.parquet", "feature_engineering"),
    ):
        run.write_rows(rows, name)
        run.keep(steps={"cleaning": {}, step: {}})
    KeptRun.open(tmp_path)
    for name in ("train.parquet", "augmented.parquet", "prepared/rows/test.parquet"):
        (tmp_path / name).rename(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=rf"{name} must be readable to resume the run"):
            KeptRun.open(tmp_path)
        (tmp_path / "elsewhere").rename(tmp_path / name)
    KeptRun.open(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"last.ckpt must be a whole checkpoint"):
        KeptRun.open(tmp_path)


def test_refresh_gives_the_same_records_again_after_an_interruption(tmp_path: Path) -> None:
    calls: list[int] = []
    refresh = kept(tmp_path).refresh(counting_refresh(calls))
    assert refresh is not None and refresh.every_epochs == 1
    first = refresh.records(encode, 1)
    assert first == [
        {"anchor": "a", "positive": "b"},
        {"anchor": "c", "positive": "d", "negative": "mined in 1"},
    ]
    resumed = KeptRun.open(tmp_path).refresh(counting_refresh(calls))
    assert resumed is not None and resumed.records(encode, 1) == first
    assert calls == [1]


@pytest.mark.parametrize("every", [1, 2])
def test_refresh_keeps_the_records_of_this_epoch_and_of_the_one_before(
    tmp_path: Path, every: int
) -> None:
    refresh = kept(tmp_path).refresh(counting_refresh([], every))
    assert refresh is not None
    for epoch in range(every, 5 * every, every):
        refresh.records(encode, epoch)
    mined = sorted(path.name for path in tmp_path.glob("mined-*"))
    assert mined == [f"mined-{epoch}.parquet" for epoch in (3 * every, 4 * every)]
    assert all(is_kept(name) for name in mined)


def test_refresh_is_none_where_nothing_is_mined(tmp_path: Path) -> None:
    assert kept(tmp_path).refresh(None) is None

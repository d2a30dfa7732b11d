import errno
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.config import AugmentationConfig, FeatureEngineeringConfig
from tunetrail.data.augmentation.augmentation import augment
from tunetrail.data.feature_engineering.features import engineer_features
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.errors import SampleError, TrainingError, UserError
from tunetrail.pipeline.run_state import SavedRunState, remove_leftovers, working_folder
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


def saved(folder: Path) -> SavedRunState:
    state = SavedRunState(folder=folder)
    state.save()
    return state


def test_run_state_gives_back_steps_in_order_and_what_they_rest_on(tmp_path: Path) -> None:
    state = saved(tmp_path)
    state.steps |= {"validation": {"rows": 3, "share": 1 / 3}, "training": {"é": None}}
    state.compared_with = ModelVersion(name="llm", version="3", base_model=None)
    state.save()
    state.steps["evaluation"] = {"added": []}
    state.save()

    opened = SavedRunState.open(tmp_path)

    assert list(opened.steps) == ["validation", "training", "evaluation"]
    assert opened == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must hold the state of the run, but there is no state.json"),
        ("", "state.json must be readable to resume the run"),
        ('{"form": 2, "steps": {"val', "state.json must be readable to resume the run"),
        ('{"form": 1, "steps": {}, "facts": {}}', "its format is 1, not 2"),
        ('{"form": 2}', "state.json must be readable to resume the run: 'compared_with'"),
        ("[]", "state.json must be readable"),
    ],
)
def test_run_state_refuses_a_folder_without_a_state_in_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "state.json").write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        SavedRunState.open(tmp_path)
    assert "\n" not in str(raised.value) and "tunetrail train" in str(raised.value)


@pytest.mark.parametrize("shape", list(ROWS))
def test_rows_are_the_very_records_that_were_written(tmp_path: Path, shape: str) -> None:
    rows, state = train_rows(shape), saved(tmp_path)
    state.write_rows(rows, "train.parquet")
    read = state.rows("train.parquet")
    assert records_of(read) == records_of(rows)
    assert json.dumps(records_of(read), default=float) == json.dumps(
        records_of(rows), default=float
    )
    added = rows["parent_id"].notna()
    assert list(read["parent_id"].notna()) == list(added)
    assert added.any() == (shape in ("pair", "label", "vector", "text", "completion"))


def test_rows_that_are_broken_are_refused(tmp_path: Path) -> None:
    state = saved(tmp_path)
    state.write_rows(train_rows("pair"), "train.parquet")
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=r"train.parquet must be readable to resume the run: .*tunetrail train"
    ):
        state.rows("train.parquet")
    with pytest.raises(UserError, match=r"augmented\.parquet must be readable"):
        state.rows("augmented.parquet")


def test_run_state_is_opened_only_if_all_of_it_is_there(tmp_path: Path) -> None:
    state, rows = saved(tmp_path), train_rows("pair")
    (tmp_path / "prepared" / "rows").mkdir(parents=True)
    for side in ("train", "validation", "test"):
        rows.to_parquet(tmp_path / "prepared" / "rows" / f"{side}.parquet")
    state.split = {"method": "content", "warnings": []}
    for name, step in (
        ("augmented.parquet", "augmentation"),
        ("train.parquet", "feature_engineering"),
    ):
        state.write_rows(rows, name)
        state.steps[step] = {}
        state.save()

    SavedRunState.open(tmp_path)

    for name in ("train.parquet", "augmented.parquet", "prepared/rows/test.parquet"):
        (tmp_path / name).rename(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=rf"{name} must be readable to resume the run"):
            SavedRunState.open(tmp_path)
        (tmp_path / "elsewhere").rename(tmp_path / name)
    SavedRunState.open(tmp_path)


@pytest.mark.parametrize("job", ["fit", "fold-2", "fold-1-not-augmented"])
def test_run_state_is_opened_only_if_its_jobs_can_go_on(tmp_path: Path, job: str) -> None:
    saved(tmp_path)
    (tmp_path / job / "checkpoints").mkdir(parents=True)
    (tmp_path / job / "checkpoints" / "last.ckpt").write_bytes(b"PK")

    with pytest.raises(UserError, match=r"last.ckpt must be a whole checkpoint"):
        SavedRunState.open(tmp_path)


NEEDED = [
    "additional.parquet",
    "augmented.parquet",
    "fit",
    "fold-1",
    "prepared",
    "start",
    "state.json",
    "train.parquet",
]


def fill(folder: Path, *, checkpoint: bool = True) -> None:
    for name in ("start", "fit", "fold-1", "score", "prepared/rows"):
        (folder / name).mkdir(parents=True)
    for name in (
        "prepared/rows/train",
        "prepared/report.html",
        "augmentation_rejected.parquet",
        ".train.parquet",
    ):
        (folder / name).touch()
    for name in ("state.json", "augmented.parquet", "train.parquet", "additional.parquet"):
        (folder / name).touch()
    if checkpoint:
        (folder / "fit" / "checkpoints").mkdir()
        with zipfile.ZipFile(folder / "fit" / "checkpoints" / "last.ckpt", "w") as file:
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


@pytest.mark.parametrize(
    "trained", ["fit/checkpoints/last.ckpt", "fit/model", "fold-1/scores.parquet"]
)
def test_working_folder_keeps_what_was_trained_after_any_mistake(
    tmp_path: Path, trained: str
) -> None:
    with pytest.raises(SampleError), working_folder(tmp_path / "run"):
        fill(tmp_path / "run", checkpoint=trained.endswith("ckpt"))
        (tmp_path / "run" / trained).touch()
        raise SampleError("llm.max_length cuts off all outputs")
    assert names(tmp_path / "run") == NEEDED


def test_working_folder_drops_a_checkpoint_that_a_full_disk_cut_off(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "fit" / "checkpoints"
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

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunetrail.learning.embedding.bert_folder import bert_folder

Change = Callable[[Any], object]


@pytest.fixture
def folder(tiny_embedding_model: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_embedding_model, tmp_path / "model"))


def changed(file: Path, change: Change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_bert_folder_describes_a_model_of_bert(folder: Path) -> None:
    described = bert_folder(str(folder))

    assert described is not None and described.weights.is_file()
    assert (described.heads, described.positions, described.pooling) == (2, 512, "mean")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", lambda config: config.update(model_type="roberta")),
        ("config.json", lambda config: config.update(hidden_act="relu")),
        ("config.json", lambda config: config.update(position_embedding_type="relative_key")),
        ("config.json", lambda config: config.update(is_decoder=True)),
        ("config.json", lambda config: config.pop("num_attention_heads")),
        ("sentence_bert_config.json", lambda config: config.update(do_lower_case=True)),
        ("1_Pooling/config.json", lambda config: config.update(pooling_mode="max")),
        ("1_Pooling/config.json", lambda config: config.update(pooling_mode=["mean", "max"])),
        ("1_Pooling/config.json", lambda config: config.update(include_prompt=False)),
        ("modules.json", lambda modules: modules.append({**modules[1], "type": "x.Dense"})),
        ("modules.json", lambda modules: modules.pop()),
    ],
)
def test_a_model_that_is_more_than_bert_has_no_description(
    folder: Path, file: str, change: Change
) -> None:
    changed(folder / file, change)
    assert bert_folder(str(folder)) is None


@pytest.mark.parametrize(
    ("modes", "expected"),
    [({"mean": True}, "mean"), ({"cls": True}, "cls"), ({"mean": True, "cls": True}, None)],
)
def test_the_pooling_of_an_old_folder_is_read(
    folder: Path, modes: dict[str, bool], expected: str | None
) -> None:
    names = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    config = {name: modes.get(mode, False) for mode, name in names.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))

    described = bert_folder(str(folder))

    assert (described.pooling if described else None) == expected


@pytest.mark.parametrize("file", ["modules.json", "config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_has_no_description(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert bert_folder(str(folder)) is None

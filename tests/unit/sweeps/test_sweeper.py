from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from tests.unit.sweeps.test_swept_overrides import space_of

from tunetrail.config import SearchConfig, TrainingConfig
from tunetrail.paths import conf_dir
from tunetrail.sweeps.samplers import checked_search

SWEEPS = sorted((conf_dir() / "sweep").glob("*.yaml"))


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_sweeps_of_conf_can_be_searched_by_either_model_type(file: Path) -> None:
    settings = yaml.safe_load(file.read_text())["hydra"]["sweeper"]
    params = settings.pop("params")

    space = space_of(*(f"{key}={values}" for key, values in params.items()))

    assert checked_search(SearchConfig(**settings), space, 1).sampler in ("grid", "tpe")
    names = {f"training.{field.name}" for field in fields(TrainingConfig)}
    assert params.keys() <= names

"""What commands are composed of: the same as Hydra's own loader gives, at the first call and later."""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from tunetrail.cli import remembered_configs
from tunetrail.cli.composition import prepare_hydra
from tunetrail.cli.remembered_configs import Memory, RememberingLoader, initialized_hydra
from tunetrail.paths import conf_dir

OVERRIDES = {
    "values": ["seed=7", "embedding.training.learning_rate=3e-5", "output_dir=${session_id}/out"],
    "option, then values": ["optimizer=sgd", "session_id='a, b=c'", "llm.training.batch_size=8"],
    "values of Hydra's": ["hydra.run.dir=.", "~hydra.job_logging.handlers.file", "seed=8"],
    "file of the user's folder": ["+experiments=mine", "seed=9"],
    "list of options, and an added key": [
        "callbacks=[ema,frequent_checkpoints]",
        "+trainer.callbacks.mine._target_=LearningRateMonitor",
    ],
}


class Loaders(NamedTuple):
    """Hydra's own loader and ours, with the copy of conf/ and the folder of the user's files."""

    hydra: ConfigLoader
    ours: RememberingLoader
    memory: Memory
    conf: Path
    home: Path

    def expected(self, *overrides: str) -> str:
        """Return what Hydra's loader gives, as text."""
        return _text_of(self.hydra, overrides)

    def composed(self, *overrides: str) -> str:
        """Return what our loader gives, as text."""
        return _text_of(self.ours, overrides)


def _text_of(loader: ConfigLoader, overrides: Sequence[str]) -> str:
    config = loader.load_configuration("train", list(overrides), run_mode=RunMode.RUN)
    assert OmegaConf.is_struct(config)
    # Unresolved, as moments differ; as text, in which the order of the keys counts.
    return OmegaConf.to_yaml(config)


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaders]:
    folder = tmp_path_factory.mktemp("workplace")
    conf, home = folder / "conf", folder / "home"
    shutil.copytree(conf_dir(), conf)
    (home / "experiments").mkdir(parents=True)
    (home / "experiments" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNETRAIL_HOME", str(home))
        prepare_hydra()
        with initialize_config_dir(str(conf), version_base="1.3"):
            hydra, memory = GlobalHydra.instance().config_loader(), Memory()
            ours = RememberingLoader(hydra, conf, memory)
            yield Loaders(hydra, ours, memory, conf, home)


def test_the_first_command_of_a_process_is_composed_by_hydra_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Before the loaders of the other tests are there: Hydra is initialised once at a time.
    monkeypatch.setattr(remembered_configs, "_EARLIER_COMMANDS", itertools.count())

    remembers = []
    for _ in range(3):
        with initialized_hydra() as hydra:
            remembers.append(isinstance(hydra.config_loader, RememberingLoader))

    assert remembers == [False, True, True]


@pytest.mark.parametrize("overrides", OVERRIDES.values(), ids=OVERRIDES)
def test_a_command_is_composed_as_by_hydra(loaders: Loaders, overrides: list[str]) -> None:
    expected = loaders.expected(*overrides)

    assert loaders.composed(*overrides) == expected
    # What was set once is not in the next one.
    assert loaders.composed(*overrides) == expected


def test_commands_that_differ_in_values_are_composed_once(loaders: Loaders) -> None:
    loaders.memory.clear()

    for overrides in (["seed=7"], ["session_id=s1", "seed=8"], ["+experiments=mine"]):
        loaders.composed(*overrides)

    # A file of the user's folder isn't remembered.
    assert len(loaders.memory) == 1


def test_another_folder_and_environment_are_those_of_the_command(
    loaders: Loaders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loaders.composed("seed=5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNETRAIL_HOME", str(tmp_path))

    composed = loaders.composed("seed=5")

    assert composed == loaders.expected("seed=5") != before
    assert str(tmp_path) in composed


def test_a_file_of_conf_that_is_edited_is_read_again(loaders: Loaders) -> None:
    before = loaders.composed("seed=6")
    (loaders.conf / "gate" / "interval.yaml").write_text("minimum_improvement: 0.5\n")

    assert loaders.composed("seed=6") == loaders.expected("seed=6") != before


def test_a_folder_that_makes_a_key_a_group_is_seen(loaders: Loaders) -> None:
    loaders.composed("output_dir=mine")
    (loaders.home / "output_dir").mkdir()

    with pytest.raises(HydraException, match="Could not override 'output_dir'"):
        loaders.ours.load_configuration("train", ["output_dir=mine"], run_mode=RunMode.RUN)

    (loaders.home / "output_dir").rmdir()


@pytest.mark.parametrize("override", ["sed=1", "seed=many", "optimizer=sdg", "seed=1,2", "="])
def test_a_mistake_is_the_error_that_hydra_reports(loaders: Loaders, override: str) -> None:
    with pytest.raises(HydraException) as expected:
        loaders.hydra.load_configuration("train", [override], run_mode=RunMode.RUN)

    with pytest.raises(type(expected.value)) as raised:
        loaders.ours.load_configuration("train", [override], run_mode=RunMode.RUN)

    assert str(raised.value) == str(expected.value)

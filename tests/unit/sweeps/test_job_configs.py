"""What the jobs of a sweep are composed of: the same as Hydra's own loader gives, whatever varies."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tunetrail.cli.composition import prepare_hydra
from tunetrail.paths import conf_dir
from tunetrail.sweeps.job_configs import JobConfigLoader

SHARED = ["session_id=s1", "hydra.sweep.dir=jobs"]

EVERY_KIND = {
    "values": ["embedding.training.learning_rate=3e-5", "seed=7", "hydra.job.name=other"],
    "number in the sweep": ["sweep.run_id='17'", "sweep.job=3"],
    "lists and interpolations": [
        "embedding.matryoshka_dimensions=[256,128]",
        "output_dir=${session_id}/out",
    ],
    "added and deleted keys": [
        "+trainer.callbacks.mine._target_=LearningRateMonitor",
        "++trainer.callbacks.mine.logging_interval=step",
        "~hydra.job_logging.handlers.file",
    ],
    "value below an added key": [
        "++trainer.callbacks.mine={_target_:LearningRateMonitor,logging_interval:step}",
        "trainer.callbacks.mine.logging_interval=epoch",
    ],
    "added key below a value": [
        "embedding.loss_options={temperature:0.1}",
        "++embedding.loss_options.temperature=0.2",
    ],
    "section and a key of it": [
        "embedding.training={batch_size:4,num_epochs:2}",
        "embedding.training.batch_size=8",
    ],
    "key and then its section": [
        "embedding.training.batch_size=8",
        "embedding.training={batch_size:4,num_epochs:2}",
    ],
    "nothing, and quoted text": ["sweep.job=null", "output_dir='a, b=c'"],
    "the same key twice": ["seed=1", "seed=2"],
    "option of a group": ["optimizer=sgd", "embedding.training.batch_size=8"],
    "another option": ["optimizer=adafactor", "embedding.training.batch_size=8"],
    "options of several groups": ["embedding=mpnet", "callbacks=[ema,frequent_checkpoints]"],
    "added group": ["+experiments=mine", "embedding.training.num_epochs=2"],
}


class Loaders(NamedTuple):
    """Hydra's own loader and ours, what the command was composed to, and a file of an experiment."""

    hydra: ConfigLoader
    ours: JobConfigLoader
    command: DictConfig
    experiment: Path


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaders]:
    folder = tmp_path_factory.mktemp("workplace")
    experiment = folder / "experiments" / "mine.yaml"
    experiment.parent.mkdir()
    experiment.write_text("# @package _global_\nseed: 3\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNETRAIL_HOME", str(folder))
        prepare_hydra()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            hydra = GlobalHydra.instance().config_loader()
            command = hydra.load_configuration("train", list(SHARED), run_mode=RunMode.MULTIRUN)
            yield Loaders(hydra, JobConfigLoader(hydra, command), command, experiment)


# One loader for all of them: what one job sets must not be in the next one.
@pytest.mark.parametrize("overrides", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_job_is_composed_as_by_hydra(loaders: Loaders, overrides: list[str]) -> None:
    overrides = [*SHARED, *overrides]
    expected = loaders.hydra.load_sweep_config(loaders.command, overrides)
    # Unresolved, as moments differ; as text, in which the order of the keys counts.
    expected_text = OmegaConf.to_yaml(expected)

    for _ in range(2):
        composed = loaders.ours.load_sweep_config(loaders.command, overrides)

        assert OmegaConf.to_yaml(composed) == expected_text
        assert OmegaConf.get_type(composed, "trainer") == OmegaConf.get_type(expected, "trainer")
        assert OmegaConf.is_struct(composed)


@pytest.mark.parametrize(
    "override",
    ["sed=1", "seed=many", "optimizer=sdg", "+seed=2", "~sed", "seed=1,2", "seed.x=1", "=", "seed"],
)
def test_a_mistake_is_the_error_that_hydra_reports(loaders: Loaders, override: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as expected:
        loaders.hydra.load_sweep_config(loaders.command, [*SHARED, override])

    with pytest.raises(type(expected.value)) as raised:
        loaders.ours.load_sweep_config(loaders.command, [*SHARED, override])

    assert str(raised.value) == str(expected.value)


def test_files_that_are_edited_meanwhile_change_no_later_job(loaders: Loaders) -> None:
    overrides = [*SHARED, "+experiments=mine"]
    before = loaders.ours.load_sweep_config(loaders.command, overrides)
    loaders.experiment.write_text("# @package _global_\nseed: 4\n")

    after = loaders.ours.load_sweep_config(loaders.command, [*overrides, "output_dir=elsewhere"])

    assert before.seed == after.seed == 3


def test_options_are_those_of_all_folders_in_which_the_command_looks(loaders: Loaders) -> None:
    assert "mine" in loaders.ours.get_group_options("experiments")
    assert "sgd" in loaders.ours.get_group_options("optimizer")
    assert loaders.ours.get_group_options("nothing") == []

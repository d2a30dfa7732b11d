from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from tests.commands import CallMain

from tunetrail.cli.composition import register_schema
from tunetrail.cli.text_values import keep_text, without_quotes


def value_at(printed: str, key: str) -> Any:
    """Return the value of a dotted key in a printed configuration."""
    value = yaml.safe_load(printed)
    for name in key.split("."):
        value = value[name]
    return value


def as_overrides(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


@pytest.mark.parametrize(
    "texts",
    [
        {
            "session_id": "2026_11_24",
            "tracking.experiment": "1e3",
            "embedding.model": "007",
            "llm.model": "null",
            "output_dir": "runs (old)",
            "database.url": "postgresql+psycopg://u:p@h/db?sslmode=require",
            "embedding.query_prompt": " query: ",
            "preparation.cache_dir": "1_0",
        },
        {
            "session_id": "1_000",
            "++tracking.experiment": "-1.50",
            "embedding.model": "true",
            "llm.model": "0x10",
            "output_dir": "it's; 100 %!",
            "embedding.query_prompt": "问题: ?",
            "+preparation.cache_dir": "nan",
        },
        {"session_id": "yes", "tracking.experiment": "0b1", "model_dir": "2026-11-24"},
    ],
)
def test_a_value_of_a_text_key_is_the_text_that_was_typed(
    call_main: CallMain, texts: dict[str, str]
) -> None:
    result = call_main("prepare", *as_overrides(texts), "--cfg", "job")

    assert result.err == ""
    composed = {key: value_at(result.out, key.lstrip("+")) for key in texts}
    assert composed == texts


def test_lists_quotes_interpolations_and_numbers_keep_their_meaning(call_main: CallMain) -> None:
    meanings = {
        "augmentation.methods": ("[typo,word_swap]", ["typo", "word_swap"]),
        "augmentation.translation_models": ("[ 1e3 , '0_1' ]", ["1e3", "0_1"]),
        "llm.adapter.target_modules": ("[no,true,2026_11]", ["no", "true", "2026_11"]),
        "embedding.shape": ("null", None),
        "embedding.teacher": ("'1_0'", "1_0"),
        "tracking.experiment": ("s${seed}", "s10"),
        "seed": ("1_0", 10),
        "embedding.training.learning_rate": ("1e-3", 0.001),
    }
    overrides = as_overrides({key: typed for key, (typed, _) in meanings.items()})

    result = call_main("prepare", "session_id=s", *overrides, "--cfg", "job", "--resolve")

    composed = {key: value_at(result.out, key) for key in meanings}
    assert composed == {key: meaning for key, (_, meaning) in meanings.items()}


@pytest.mark.parametrize(
    ("override", "quoted"),
    [
        ("session_id=2026_11_24,20261125", "session_id='2026_11_24','20261125'"),
        ("session_id=choice(1_0,b)", "session_id=choice('1_0',b)"),
        ("session_id=range(1,3)", "session_id=range(1,3)"),
        ("session_id=a\\,1,2", "session_id=a\\,1,'2'"),
        ("session_id='a,1',2", "session_id='a,1','2'"),
        ("embedding.shape=null,pair", "embedding.shape=null,pair"),
        ("embedding.model=null,007", "embedding.model='null',007"),
        ("+experiments=2026_11", "+experiments='2026_11'"),
        ("seed=1_0,2", "seed=1_0,2"),
        ("~session_id", "~session_id"),
        ("session_id=[", "session_id=["),
        (
            'evaluation.generation.json_schema={"a": ["it\'s", 1]}',
            'evaluation.generation.json_schema=\'{"a": ["it\\\'s", 1]}\'',
        ),
    ],
)
def test_keep_text_quotes_the_values_that_hydra_would_read_as_numbers(
    override: str, quoted: str
) -> None:
    assert keep_text(override, register_schema()) == quoted


def test_without_quotes_is_what_people_read() -> None:
    assert without_quotes("session_id='2026_11_24'") == "session_id=2026_11_24"
    assert without_quotes("seed=1") == "seed=1"


# Private names of Hydra, a test for each: an upgrade then says which one has gone.


def test_hydra_has_the_source_that_reads_yaml_files(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "mine.yaml").write_text("# @package _global_\nseed: 1_0\n")

    source = FileConfigSource(provider="test", path=f"file://{tmp_path}")
    result = source.load_config("group/mine")

    # `TypedFileSource` finds the file below `path`, and changes the values of `config` in place.
    assert Path(source.path) == tmp_path
    assert result.header["package"] == "_global_"
    assert result.config["seed"] == 10


def test_hydra_has_the_source_s_way_to_complete_a_file_name(tmp_path: Path) -> None:
    source = FileConfigSource(provider="test", path=f"file://{tmp_path}")

    assert source._normalize_file_name("group/mine") == "group/mine.yaml"
    assert source._normalize_file_name("group/mine.yaml") == "group/mine.yaml"


def test_hydra_has_the_value_of_an_override_as_it_was_parsed() -> None:
    plain, quoted = map(OverridesParser.create().parse_override, ("seed=a ", "seed='a '"))

    # The public `value()` returns no quotes, which tell a typed text from a number.
    assert plain._value == "a"
    assert isinstance(quoted._value, QuotedString) and quoted._value.text == "a "


@pytest.fixture
def experiment(workplace: Path) -> Callable[[str], None]:
    """Write experiments/mine.yaml."""
    (workplace / "experiments").mkdir()
    return lambda text: (workplace / "experiments" / "mine.yaml").write_text(text) and None


def test_a_text_in_an_experiment_is_the_text_in_the_file(
    call_main: CallMain, experiment: Callable[[str], None]
) -> None:
    experiment(
        """# @package _global_
        defaults: [override /cross_validation: off]
        session_id: 2026_11_24
        model_dir: 0x10
        tracking: {experiment: 1e3, artifacts: yes, uri: 2026-11-24}
        embedding:
            model: 007
            shape: null
            query_prompt: "1_0"
        llm:
            model: s${seed}
            adapter: {target_modules: [no, 1_0]}
        seed: 1_0
        """
    )

    result = call_main("prepare", "+experiments=mine", "--cfg", "job", "--resolve")

    assert result.err == ""
    composed = yaml.safe_load(result.out)
    assert composed["session_id"] == "2026_11_24"
    assert composed["model_dir"] == "0x10"
    tracking = composed["tracking"]
    named = {"experiment": "1e3", "artifacts": "yes", "uri": "2026-11-24"}
    assert named.items() <= tracking.items()
    assert composed["embedding"]["model"] == "007"
    assert composed["embedding"]["shape"] is None
    assert composed["embedding"]["query_prompt"] == "1_0"
    assert composed["llm"]["model"] == "s10"
    assert composed["llm"]["adapter"]["target_modules"] == ["no", "1_0"]
    assert composed["seed"] == 10
    assert composed["cross_validation"]["n_splits"] == 0


def test_a_text_in_a_group_file_of_the_folder_is_the_text_in_the_file(
    call_main: CallMain, workplace: Path
) -> None:
    (workplace / "tracking").mkdir()
    (workplace / "tracking" / "mine.yaml").write_text("experiment: 2026_11\n")

    result = call_main("prepare", "session_id=s", "tracking=mine", "--cfg", "job")

    assert value_at(result.out, "tracking.experiment") == "2026_11"


def test_an_experiment_may_have_a_name_that_looks_like_a_number(
    call_main: CallMain, workplace: Path
) -> None:
    (workplace / "experiments").mkdir()
    (workplace / "experiments" / "2026_11.yaml").write_text("# @package _global_\nseed: 7\n")

    result = call_main("prepare", "session_id=s", "+experiments=2026_11", "--cfg", "job")

    assert value_at(result.out, "seed") == 7


def test_sweep_values_of_an_experiment_are_the_texts_in_the_file(
    call_main: CallMain, experiment: Callable[[str], None]
) -> None:
    experiment(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      session_id: 2026_11,1_0\n"
    )

    result = call_main("prepare", "+experiments=mine", "--cfg", "hydra")

    params = value_at(result.out, "hydra.sweeper.params")
    assert params == {"session_id": "'2026_11','1_0'"}


@pytest.mark.parametrize(
    ("name", "choice"), [("mine", "+experiments=mine"), ("sub/mine", "+experiments/sub=mine")]
)
def test_an_experiment_without_a_package_header_is_told_what_to_add(
    call_main: CallMain, workplace: Path, name: str, choice: str
) -> None:
    file = workplace / "experiments" / f"{name}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("seed: 1\n")

    result = call_main("train", "session_id=s", choice)

    assert result.exit_code == 2
    advice = f"add `# @package _global_` as the first line of experiments/{name}.yaml."
    assert result.err.endswith(f"{advice}\n") and result.err.count("\n") == 1


def test_the_one_of_two_experiments_without_a_package_header_is_named(
    call_main: CallMain, experiment: Callable[[str], None], workplace: Path
) -> None:
    experiment("seed: 1\n")

    result = call_main("train", "session_id=s", "+experiments=[quick,mine]")

    assert result.exit_code == 2 and "first line of experiments/mine.yaml" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "session_id=s", "--cfg", "job", "seed=1"],
        ["train", "-c", "job", "session_id=s", "--resolve", "seed=1"],
        ["prepare", "session_id=s", "--cfg=job", "seed=1", "--package", "_global_", "gate=point"],
        ["prepare", "session_id=s", "--info", "config", "seed=1"],
    ],
)
def test_overrides_are_taken_on_both_sides_of_an_option(
    call_main: CallMain, arguments: list[str]
) -> None:
    result = call_main(*arguments)

    assert result.exit_code == 0 and result.err == ""
    assert "seed: 1\n" in result.out and "session_id: s\n" in result.out


@pytest.mark.parametrize(
    ("overrides", "key", "folder"),
    [
        (["output_dir=file/below"], "output_dir", "file/below"),
        (["output_dir=/proc/nothing"], "output_dir", "/proc/nothing"),
        (["hydra.run.dir=file/logs"], "hydra.run.dir", "file/logs"),
        (["-m", "output_dir=/proc/nothing", "seed=1,2"], "output_dir", "/proc/nothing"),
    ],
)
def test_a_folder_that_can_not_be_made_is_named_with_its_key(
    call_main: CallMain, workplace: Path, overrides: list[str], key: str, folder: str
) -> None:
    (workplace / "file").touch()

    result = call_main("train", "session_id=s", *overrides)

    assert result.exit_code == 2
    assert f"error: {key} must be a folder that can be written, got '{folder}" in result.err


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("# @package _global_\nhydra:\n  run:\n    dir: /tmp/x\n", "hydra.run"),
        ("# @package _global_\nhydra:\n  job_logging:\n    version: 1\n", "hydra.job_logging"),
        ("# @package hydra\nrun:\n  dir: /tmp/x\n", "hydra.run"),
        ("# @package hydra.job_logging.handlers\nfile:\n  filename: x\n", "hydra.job_logging"),
        ("# @package _global_.hydra\nverbose: true\n", "hydra.verbose"),
        ("# @package _global_\ndefaults:\n  - /gate@hydra.run: point\n", "hydra.run"),
        ("# @package _global_\ndefaults:\n  - override /hydra/job_logging: stdout\n", "hydra.job"),
    ],
)
def test_an_experiment_sets_nothing_of_hydra_but_its_sweep(
    workplace: Path, call_main: CallMain, text: str, target: str
) -> None:
    (workplace / "experiments").mkdir()
    (workplace / "experiments/mine.yaml").write_text(text)

    result = call_main("config", "session_id=s1", "+experiments=mine")

    assert result.exit_code == 2
    assert "must set nothing of Hydra except hydra.sweeper and hydra.launcher" in result.error_line
    assert f"got {target}" in result.error_line


def test_an_experiment_sets_its_sweep(workplace: Path, call_main: CallMain) -> None:
    (workplace / "experiments").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /gate: point\nhydra:\n  sweeper:\n    n_trials: 3\n"
    (workplace / "experiments/mine.yaml").write_text(text)

    assert call_main("config", "session_id=s1", "+experiments=mine").exit_code == 0

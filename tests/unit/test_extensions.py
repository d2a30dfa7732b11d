"""Packages are found by their entry points, imported only if they are used, and checked as ours are."""

import re
import sys

import pytest
from tests.packages import Install

from tunetrail import extensions
from tunetrail.config import AugmentationConfig, EmbeddingConfig, EvaluationConfig, Settings
from tunetrail.config.loss_choice import choose_loss
from tunetrail.errors import ConfigError
from tunetrail.extensions import POINTS, installed_extensions

LOSS = """
from dataclasses import dataclass
from tunetrail.config.checks import POSITIVE, setting
from tunetrail.config.losses import Loss, Negatives

@dataclass(kw_only=True)
class Options:
    gamma: float = setting(2.0, POSITIVE)
    mode: str = "soft"
    layers: list[int] | None = None

def build(options):
    return lambda vectors, target: vectors[0].sum() * options.gamma

FOCAL = Loss(name="focal", shapes=("pair",), negatives=Negatives.IN_BATCH, build=build, options_class=Options)
PLAIN = Loss(name="plain", shapes=("score",), build=build)
COSENT = Loss(name="cosent", shapes=("score",), build=build)
"""


def test_names_of_extensions_are_known_without_importing_their_package(install: Install) -> None:
    install(LOSS, losses={"focal": "FOCAL", "plain": "PLAIN"})

    found = [(extension.name, extension.package) for extension in installed_extensions()]

    assert found == [("focal", "acme-models"), ("plain", "acme-models")]
    assert extensions.LOSSES.names() == ("focal", "plain")
    assert "acme_models" not in sys.modules


def test_settings_without_an_extension_import_none(install: Install) -> None:
    install(LOSS, losses={"focal": "FOCAL"})

    Settings()
    EmbeddingConfig(loss="cosent", shape="score")

    assert "acme_models" not in sys.modules


def test_a_loss_of_a_package_is_chosen_by_its_name(install: Install) -> None:
    install(LOSS, losses={"focal": "FOCAL"})

    config = EmbeddingConfig(loss="focal", shape="pair", extensions={"focal": {"gamma": 3}})

    assert choose_loss("pair", config.loss).name == "focal"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss": "focl"},
            r"embedding\.loss must be one of .*focal.*got 'focl'\. Did you mean 'focal'\?$",
        ),
        (
            {"loss": "plain", "shape": "pair"},
            r"embedding\.loss for pair samples must be one of multiple_",
        ),
        (
            {"loss": "focal", "extensions": {"focal": {"gama": 3}}},
            r"^there is no key embedding\.extensions\.focal\.gama\. Did you mean "
            r"'embedding\.extensions\.focal\.gamma'\? Known here: gamma, mode, layers\.$",
        ),
        (
            {"loss": "focal", "extensions": {"focal": {"gamma": "high"}}},
            r"^embedding\.extensions\.focal\.gamma must be a number, got 'high'\.$",
        ),
        (
            {"loss": "focal", "extensions": {"focal": {"gamma": -1.0}}},
            r"^embedding\.extensions\.focal\.gamma must be above 0, got -1\.0\.$",
        ),
        (
            {"loss": "focal", "extensions": {"focl": {"gamma": 1.0}}},
            r"^embedding\.extensions\.focl must be named after an installed loss \(focal, plain\), got 'focl'\. "
            r"Did you mean 'focal'\?$",
        ),
        (
            {"extensions": {"focal": {"gamma": 1.0}}},
            r"^embedding\.extensions\.focal must be left out unless embedding\.loss names focal, got",
        ),
        (
            {"loss": "plain", "extensions": {"plain": {"gamma": 1.0}}},
            r"^embedding\.extensions\.plain must be left out, since it has no options, got",
        ),
        (
            {"loss": "focal", "teacher": "minilm", "shape": "pair"},
            r"embedding\.teacher must be null for the loss focal on pair samples, got 'minilm'",
        ),
    ],
)
def test_a_wrong_use_of_an_extension_is_one_line(
    install: Install,
    settings: dict[str, object],
    message: str,
) -> None:
    install(LOSS, losses={"focal": "FOCAL", "plain": "PLAIN"})

    with pytest.raises(ConfigError, match=message) as error:
        EmbeddingConfig(**settings)
    assert "\n" not in str(error.value)


def test_a_name_of_our_own_is_refused_with_both_packages(install: Install) -> None:
    install(LOSS, losses={"cosent": "COSENT"})

    message = (
        r"^the loss 'cosent' must come from one package, got tunetrail and acme-models\. Uninstall"
    )
    with pytest.raises(ConfigError, match=message):
        EmbeddingConfig(loss="cosent", shape="score")


def test_a_name_of_two_packages_is_refused_with_both_packages(install: Install) -> None:
    install(LOSS, losses={"focal": "FOCAL"})
    install(LOSS, name="other-models", losses={"focal": "FOCAL"})

    message = r"^the loss 'focal' must come from one package, got (other|acme)-models and (other|acme)-models\."
    with pytest.raises(ConfigError, match=message):
        EmbeddingConfig(loss="focal")
    (problem, _) = [extension.problem() for extension in installed_extensions()]
    assert problem is not None and re.match(message, problem)


@pytest.mark.parametrize(
    ("module", "entry_point", "reason"),
    [
        ("import no_such_module", {"focal": "FOCAL"}, "ModuleNotFoundError: No module named"),
        ("raise ValueError('two\\nlines')", {"focal": "FOCAL"}, "ValueError: two lines"),
        ("import sys; sys.exit(3)", {"focal": "FOCAL"}, "SystemExit: 3"),
        (LOSS, {"focal": "MISSING"}, "AttributeError: module 'acme_models'"),
        ("FOCAL = 3", {"focal": "FOCAL"}, "it must be an instance of Loss, got 3"),
        (LOSS, {"focal": "PLAIN"}, "its record must have the entry point's name, got 'plain'"),
        (LOSS, {"fo-cal": "FOCAL"}, "its name must be letters, digits and '_'"),
    ],
)
def test_a_broken_extension_is_named_with_its_package_and_its_error(
    install: Install,
    module: str,
    entry_point: dict[str, str],
    reason: str,
) -> None:
    install(module, losses=entry_point)
    (name,) = entry_point

    (extension,) = installed_extensions()
    problem = extension.problem()

    assert problem is not None and reason in problem and "\n" not in problem
    assert problem.startswith(f"the loss {name!r} of the package acme-models 1.0 can't be used: ")
    with pytest.raises(ConfigError, match=re.escape(problem)):
        EmbeddingConfig(loss=name)


def test_a_signal_during_an_import_ends_the_command(install: Install) -> None:
    install("import sys; sys.exit(143)", losses={"focal": "FOCAL"})

    with pytest.raises(SystemExit, match="143"):
        EmbeddingConfig(loss="focal")


def test_every_kind_of_extension_has_a_record_and_knows_our_own_names() -> None:
    ours = {
        "tunetrail.metrics": "ndcg_at_10",
        "tunetrail.losses": "cosent",
        "tunetrail.augmentation": "typo",
        "tunetrail.formats": "csv",
        "tunetrail.callbacks": "Timer",
        "tunetrail.loggers": "CSVLogger",
        "tunetrail.families": "embedding",
    }
    for point in POINTS:
        assert isinstance(extensions._resolved(point.record), type)
        assert extensions._resolved(point.is_taken)(ours[point.group])
        assert not extensions._resolved(point.is_taken)("of_nobody")


METHOD = """
from dataclasses import dataclass
from tunetrail.data.augmentation.method import AugmentationMethod

@dataclass(kw_only=True)
class Options:
    mark: str = "!"

SHOUT = AugmentationMethod(
    name="shout", vary=lambda text, generator, options: text.upper() + options.mark, options_class=Options
)
"""


def test_a_method_of_a_package_makes_rows(install: Install) -> None:
    import pandas as pd

    from tunetrail.data.augmentation.augmentation import augment
    from tunetrail.data.rows import object_series

    install(METHOD, augmentation={"shout": "SHOUT"})
    rows = pd.DataFrame(
        {
            "row_id": range(4),
            "shape": ["text"] * 4,
            "text": object_series(["one two", "three four", "five six", "seven eight"]),
            "group": None,
            "cluster": ["a", "b", "c", "d"],
        }
    )
    config = AugmentationConfig(methods=["shout"], share=0.5, extensions={"shout": {"mark": "?"}})

    result = augment(rows, config, seed=0)

    assert result.added == {"shout": 2}
    added = result.rows["text"].tolist()[4:]
    assert all(text.isupper() and text.endswith("?") for text in added)
    with pytest.raises(
        ConfigError, match=r"no key augmentation\.extensions\.shout\.marc\. Did you mean"
    ):
        AugmentationConfig(methods=["shout"], extensions={"shout": {"marc": "?"}})


METRIC = """
import numpy as np
from dataclasses import dataclass
from tunetrail.evaluation.metric import ExampleMetric

@dataclass(kw_only=True)
class Options:
    cosine: float = 0.5

def near(records, vectors, options):
    cosines = (vectors("anchor") * vectors("positive")).sum(axis=1)
    return (cosines >= options.cosine).astype(float)

NEAR = ExampleMetric(name="near", label="near answers", shapes=("pair",), of_vectors=near, options_class=Options)
SHORT = ExampleMetric(
    name="short", label="short answers", of_answer=lambda answer, expected, options: float(len(answer) < 9)
)
SCALAR = ExampleMetric(
    name="scalar", label="scalar", shapes=("pair",), of_vectors=lambda records, vectors, options: 1.0
)
"""
METRICS = {"near": "NEAR", "short": "SHORT", "scalar": "SCALAR"}


def test_a_metric_of_a_package_is_scored_with_an_interval(install: Install) -> None:
    import numpy as np

    from tunetrail.errors import TrainingError
    from tunetrail.evaluation.further_metrics import check_shape, metrics_of_vectors
    from tunetrail.evaluation.metrics import is_metric, metric_named
    from tunetrail.evaluation.scoring import score_embedding

    install(METRIC, metrics=METRICS)
    records = [{"anchor": f"a{row}", "positive": f"p{row}", "row_id": row} for row in range(6)]
    vectors_by_text = {f"{side}{row}": [1.0, 0.0] for side in "ap" for row in range(6)}
    vectors_by_text |= {"p4": [0.0, 1.0], "p5": [0.0, 1.0]}

    def encode(texts: list[str]) -> np.ndarray:
        return np.array([vectors_by_text[text] for text in texts], dtype=np.float32)

    config = EvaluationConfig(metrics=["near"], extensions={"near": {"cosine": 0.9}})
    scores = score_embedding("pair", records, encode, further=metrics_of_vectors(config))

    assert scores.metric == "ndcg_at_10" and scores.metrics["near"] == pytest.approx(4 / 6)
    assert scores.per_example["near"].tolist() == [1, 1, 1, 1, 0, 0]
    assert is_metric("near") and metric_named("near").label == "near answers"
    with pytest.raises(
        ConfigError, match=r"must name metrics for score samples, got 'near', which is for pair"
    ):
        check_shape(config, "score")
    with pytest.raises(
        TrainingError, match=r"the metric scalar must return one value for each of the 6 examples"
    ):
        score_embedding(
            "pair",
            records,
            encode,
            further=metrics_of_vectors(EvaluationConfig(metrics=["scalar"])),
        )


def test_a_metric_of_written_answers_is_a_mean_over_the_answers(install: Install) -> None:
    import numpy as np

    from tunetrail.config import GenerationConfig
    from tunetrail.evaluation.answers import AnswerChecks, with_answers
    from tunetrail.evaluation.further_metrics import metrics_of_answers
    from tunetrail.evaluation.scores import scores_from

    install(METRIC, metrics=METRICS)
    scores = scores_from({"nats": np.ones(4), "bytes": np.ones(4)}, "bits_per_byte")
    checks = AnswerChecks(further=metrics_of_answers(EvaluationConfig(metrics=["short"])))

    answered = with_answers(scores, ["yes", "certainly not", None, "no"], ["yes"] * 4, checks)

    assert answered.metrics["short"] == pytest.approx(2 / 3)
    with pytest.raises(
        ConfigError, match=r"evaluation\.generation\.rows must be at least 1 with the metric short"
    ):
        EvaluationConfig(metrics=["short"], generation=GenerationConfig(rows=0))


FORMAT = """
from tunetrail.data.formats import FileFormat, text_lines
from tunetrail.samples import SourceRow

def rows(file):
    for number, line in enumerate(text_lines(file), start=1):
        anchor, positive = line.split(" => ")
        yield SourceRow({"anchor": anchor, "positive": positive}, file.name, number)

ARROWS = FileFormat(rows=rows)
"""


def test_a_format_of_a_package_is_read_by_its_suffix(install: Install, tmp_path) -> None:
    import gzip

    from tunetrail.data.formats import count_rows, position_unit, read_rows

    install(FORMAT, formats={"arrows": "ARROWS", "csv": "ARROWS"})
    (tmp_path / "a.arrows").write_text("one => two\nthree => four\n")
    (tmp_path / "b.arrows.gz").write_bytes(gzip.compress(b"five => six\n"))
    (tmp_path / "c.csv").write_text("anchor,positive\none,two\n")

    rows = [*read_rows(tmp_path / "a.arrows"), *read_rows(tmp_path / "b.arrows.gz")]

    assert [row["anchor"] for row in rows] == ["one", "three", "five"]
    assert count_rows(tmp_path / "a.arrows") == 2 and position_unit("a.arrows") == "line"
    with pytest.raises(
        ConfigError,
        match=r"the file format 'csv' must come from one package, got tunetrail and acme",
    ):
        list(read_rows(tmp_path / "c.csv"))

"""The snippets of docs/extending.md are a package that works, and its commands are understood."""

import ast
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.commands import CallMain
from tests.documents import REPOSITORY, blocks
from tests.packages import Install

from tunetrail.config import EmbeddingConfig, EvaluationConfig
from tunetrail.config.loss_choice import choose_loss
from tunetrail.data.formats import read_rows
from tunetrail.evaluation.further_metrics import metrics_of_answers, metrics_of_vectors
from tunetrail.extensions import AUGMENTATION, installed_extensions
from tunetrail.samples import BrokenRow

PAGE = REPOSITORY / "docs/extending.md"
ENTRY_POINTS = {
    "metrics": {"near_answers": "NEAR_ANSWERS", "length_likeness": "LENGTH_LIKENESS"},
    "losses": {"cosine_hinge": "COSINE_HINGE"},
    "augmentation": {"politeness": "POLITENESS"},
    "formats": {"arrows": "ARROWS"},
}


@pytest.fixture(autouse=True)
def package(install: Install) -> None:
    """Install what the page shows; the family's record is an outline, and only has to be Python."""
    *snippets, family = blocks("python", PAGE)
    assert "ModelFamily(" in family
    ast.parse(family)
    install("\n".join(snippets), **ENTRY_POINTS)


def test_everything_on_the_page_can_be_used() -> None:
    problems = {extension.name: extension.problem() for extension in installed_extensions()}
    names = [name for group in ENTRY_POINTS.values() for name in group]

    assert problems == dict.fromkeys(names)


def test_the_loss_asks_for_a_margin() -> None:
    config = EmbeddingConfig(
        loss="cosine_hinge", shape="pair", extensions={"cosine_hinge": {"margin": 0.5}}
    )
    loss = choose_loss("pair", config.loss)
    assert loss.build is not None and loss.options_class is not None
    compute = loss.build(loss.options_class(margin=0.5))

    apart, equal = torch.eye(2), torch.ones(2, 2)
    # Of equal vectors, each wrong answer is as near as the right one: the margin is missing.
    assert float(compute([equal, equal], None)) == pytest.approx(0.5)
    assert float(compute([apart, apart], None)) == pytest.approx(0.25)


def test_the_metrics_have_a_value_for_each_example() -> None:
    metrics = ["near_answers", "length_likeness"]
    config = EvaluationConfig(metrics=metrics, extensions={"near_answers": {"cosine": 0.9}})
    (near,), (length,) = metrics_of_vectors(config), metrics_of_answers(config)

    vectors = {"anchor": np.eye(2), "positive": np.array([[1.0, 0.0], [1.0, 0.0]])}
    assert near.values([{}, {}], vectors.__getitem__).tolist() == [1.0, 0.0]
    assert length.value("four", "fourteen") == pytest.approx(0.04)


def test_the_augmentation_adds_a_phrase_unless_there_is_one() -> None:
    method = AUGMENTATION.load("politeness")
    options = method.options_class(phrases=["kindly"])
    generator = np.random.default_rng(0)

    assert method.vary("Help me", generator, options) == "Help me kindly"
    assert method.vary("Kindly help", generator, options) is None


def test_the_format_counts_lines_that_are_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "questions.arrows"
    file.write_text("Why? => Because.\nnothing\n")

    pair, broken = read_rows(file)

    assert dict(pair) == {"anchor": "Why?", "positive": "Because."}
    assert isinstance(broken, BrokenRow) and "a line must hold ' => '" in broken.reason


def test_the_commands_are_understood(call_main: CallMain) -> None:
    lines = "\n".join(blocks("shell", PAGE)).splitlines()
    commands = [shlex.split(line) for line in lines if "cosine_hinge" in line]
    assert len(commands) == 2

    for _, *words in commands:
        result = call_main(*words, *([] if "--help" in words else ["--cfg", "job"]))
        assert result.exit_code == 0, result.err
        assert "margin" in result.out

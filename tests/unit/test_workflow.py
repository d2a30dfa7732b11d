"""The workflow of GitHub Actions does what `.ci/run` does, and the one for users is understood."""

import re
import shlex

import yaml
from tests.documents import REPOSITORY, blocks

from tunetrail.cli.override_keys import check_keys
from tunetrail.cli.spellings import options_of


def test_the_workflow_takes_the_steps_of_the_ci_script_on_the_oldest_python() -> None:
    script = (REPOSITORY / ".ci/run").read_text()
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    makefile = (REPOSITORY / "Makefile").read_text()

    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    targets = set(re.findall(r"^make (\S+)$", script, re.MULTILINE))

    assert targets and {f"make {target}" for target in targets} <= set(commands)
    # `PYTHON=python` takes the interpreter that the step before has set up.
    for command in commands:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"][0] == "3.11"


def test_the_workflow_for_a_nightly_training_has_keys_and_options_that_exist() -> None:
    (block,) = blocks("yaml", REPOSITORY / "docs/ci.md")
    (job,) = yaml.safe_load(block)["jobs"].values()
    # What GitHub puts in place of an expression is a word.
    commands = [shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", step["run"])) for step in job["steps"]]

    assert [words[:2] for words in commands] == [["tunetrail", "train"], ["tunetrail", "root"]]
    for _, command, *words in commands:
        check_keys([word for word in words if "=" in word])
        options = [word for word in words if word.startswith("--")]
        subcommand = words[:1] if command == "root" else []
        assert options and set(options) <= set(options_of(command, *subcommand)), words

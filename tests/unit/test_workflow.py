"""The workflow of GitHub Actions does what `.ci/run` does."""

import re
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]


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

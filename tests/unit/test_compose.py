"""compose.yaml: the server's command is one that the installed MLflow understands."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["mlflow"]


def test_the_server_of_the_team_has_the_version_of_the_constraints(server: Any) -> None:
    constraints = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )

    pinned = re.findall(r'"(\w+)\[\w+\]==([\d.]+)"', server["command"][-1])

    assert dict(pinned).keys() == {"mlflow", "psycopg"}
    assert all(constraints[name] == version for name, version in pinned)


def test_the_server_of_the_team_gets_options_that_there_are(server: Any) -> None:
    from mlflow import environment_variables
    from mlflow.cli import server as command

    options = {option for parameter in command.params for option in parameter.opts}
    words = re.findall(r"--[a-z-]+", server["command"][-1].partition("exec mlflow server")[2])
    variables = list(server["environment"])

    assert len(words) == 7 and set(words) <= options
    assert len(variables) == 4 and all(hasattr(environment_variables, name) for name in variables)

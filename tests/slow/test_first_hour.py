"""The first hour and the second day of a new user: the pages' own commands, in an empty folder.

Every command of the tutorial and of the second day runs as it is written, in its order, in a
process of its own and with the real model. `pytest -m slow -s tests/slow/test_first_hour.py` prints
the transcript.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from tests.documents import REPOSITORY, blocks, commands

TUTORIAL, SECOND_DAY = REPOSITORY / "docs/tutorial.md", REPOSITORY / "docs/second-day.md"

SAID = {
    "ingest support.csv": r"280 rows read: 280 added to session support, 0 already there, 0 rejected",
    "sessions": r"support\s+280\s+0\s+0",
    "prepare": r"look/report\.html",
    "train session_id=support": r"embedding\s+nDCG@10 ↑\s+0\.\d{4}\s+0\.\d{4}\s+\+0\.\d{4} .* promoted",
    "root": r"embedding/1",
    "root log embedding": r"embedding/1.*promoted",
    "runs": r"succeeded.*promoted",
    "report": r"\.html",
    "show": r"^embedding: promoted",
    "plan": r"The training takes about .*This plan took ",
    "compare": r"embedding@root",
    "root rollback": r"earlier root",
    "ingest samples.jsonl": r"60 added to session session_124",
    "train --help embedding.training": r"embedding\.training\.learning_rate",
    "config": r"embedding\.model.*embedding=e5-small",
}  # fmt: skip
"""What each command has to say, as a regular expression, by the beginning of the command."""

EXIT_CODES = {"root rollback": 2}
"""Codes other than 0: the first root has none before it to go back to."""


def beginning_of(command: str, beginnings: Iterable[str]) -> str | None:
    """Return the longest beginning that a command has, in whole words."""
    matching = [words for words in beginnings if f"{command} ".startswith(f"{words} ")]
    return max(matching, key=len, default=None)


def run(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, and print what a user sees."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "COLUMNS": "140"}
    environment.pop("TUNETRAIL_DATABASE_URL", None)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"$ python {' '.join(arguments)}\n{done.stdout}", flush=True)
    return done


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_tutorial_and_the_second_day_run_as_they_are_written(tmp_path: Path) -> None:
    (script,) = blocks("python", TUTORIAL)
    (tmp_path / "make_support.py").write_text(script)
    assert run(["make_support.py"], tmp_path).returncode == 0
    # The new rows of the second day.
    pairs = [f'{{"anchor": "question {row}", "positive": "answer {row}"}}\n' for row in range(60)]
    (tmp_path / "samples.jsonl").write_text("".join(pairs))

    checked = set()
    for program, *words in commands("bash|shell", TUTORIAL, SECOND_DAY):
        command = " ".join(words)
        beginning = beginning_of(command, SAID)
        assert program == "tunetrail" and beginning is not None, f"what should {command} say?"
        done = run(["-m", "tunetrail", *words], tmp_path)
        assert done.returncode == EXIT_CODES.get(beginning, 0), command
        assert re.search(SAID[beginning], done.stdout, re.MULTILINE), command
        checked.add(beginning)

    assert checked == set(SAID)
    (loading,) = blocks("text", TUTORIAL)
    shape = run(["-c", f"{loading}\nprint(vectors.shape)"], tmp_path)
    assert shape.returncode == 0 and "(2, 384)" in shape.stdout

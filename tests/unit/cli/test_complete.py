"""What the Tab key offers: as a function, and in the real shells."""

import os
import pty
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.commands import CallMain
from tests.packages import Install

from tunetrail import DatabaseManager
from tunetrail.cli.complete import candidates
from tunetrail.samples import SampleKind
from tunetrail.stores.quick_names import quick_names

RUN_ID = "0f8fad5bd9cb469fa16570867728950e"


@pytest.fixture
def database(workplace: Path, migrated_database: Path) -> str:
    """A database with two sessions, a failed run and the ledger's line of a version."""
    shutil.copy(migrated_database, "tunetrail.db")
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        for session_id in ("tickets", "tools"):
            manager.ingest(session_id, [{"text": "a"}], SampleKind.EMBEDDING)
        run_id = manager.create_training_run("tickets", "embedding")
        manager.update_training_run(run_id, state="running", mlflow_run_id=RUN_ID)
        manager.update_training_run(run_id, state="failed", reason="OSError: full")
    return "sqlite:///tunetrail.db"


def words(*typed: str) -> list[str]:
    return [candidate.word for candidate in candidates(typed)]


LOSS = """
from dataclasses import dataclass
from tunetrail.config.checks import one_of, setting
from tunetrail.config.losses import Loss, Negatives

@dataclass(kw_only=True)
class Options:
    margin: float = 0.2
    mode: str = setting("soft", one_of("soft", "hard"))

HINGE = Loss(name="hinge", shapes=("pair",), negatives=Negatives.IN_BATCH, build=print, options_class=Options)
"""


def test_options_of_an_extension_are_offered_with_their_values(install: Install) -> None:
    install(LOSS, losses={"hinge": "HINGE", "broken": "NOTHING"})
    section = "embedding.extensions"

    assert words("train", f"{section}.") == [f"{section}.broken.", f"{section}.hinge."]
    # Only now is the package imported.
    assert "acme_models" not in sys.modules
    assert words("train", f"{section}.hinge.m") == [
        f"{section}.hinge.margin=",
        f"{section}.hinge.mode=",
    ]
    assert words("train", f"{section}.hinge.mode=") == [
        f"{section}.hinge.mode=soft",
        f"{section}.hinge.mode=hard",
    ]
    assert words("train", f"{section}.hinge.margin=") == [f"{section}.hinge.margin=0.2"]
    assert words("train", f"{section}.broken.") == words("train", f"{section}.hinge.x=") == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["tr"], ["train"]),
        (["train", "seed"], ["seed="]),
        (["train", "embedding"], ["embedding=", "embedding."]),
        (["train", "embedding.training.opt"], ["embedding.training.optimizer."]),
        (["train", "embedding.training.optimizer.beta"], ["embedding.training.optimizer.beta1=", "embedding.training.optimizer.beta2="]),
        (["train", "optimizer=adaf"], ["optimizer=adafactor"]),
        (["train", "-m", "schedule=wsd,co"], ["schedule=wsd,constant", "schedule=wsd,cosine"]),
        (["prepare", "split.stratify="], ["split.stratify=true", "split.stratify=false"]),
        (["train", "split.salt="], ["split.salt=tunetrail"]),
        (["train", "model_type=l"], ["model_type=llm"]),
        (["train", "+exp"], ["+experiments="]),
        (["train", "++see"], ["++seed="]),
        (["train", "--c"], ["--cfg"]),
        (["train", "--cfg", "j"], ["job"]),
        (["train", "--help", "embedding.lo"], ["embedding.loss", "embedding.loss_options."]),
        (["config", "--di"], ["--diff"]),
        (["config", "spl"], ["split=", "split."]),
        (["resume", "--l"], ["--last"]),
        (["resume", "se"], []),
        (["root", "pro"], ["promote"]),
        (["root", "promote", "--re"], ["--reason"]),
        (["ingest", "--ki"], ["--kind"]),
        (["ingest", "f", "--kind", "l"], ["llm"]),
        (["completion", "z"], ["zsh"]),
        (["unknown", ""], []),
        (["train", "hydra.run.dir="], []),
    ],
)  # fmt: skip
def test_candidates(workplace: Path, typed: list[str], offered: list[str]) -> None:
    assert words(*typed) == offered


def test_candidates_name_sessions_and_runs_of_the_database(database: str) -> None:
    assert sorted(words("train", "session_id=t")) == ["session_id=tickets", "session_id=tools"]
    assert words("ingest", "f", "--session", "ti") == ["tickets"]
    assert words("resume", "0") == words("report", "0") == [RUN_ID]
    (run,) = candidates(["resume", "0"])
    assert run.meaning == "failed, session tickets, embedding"
    # Another database, and one that doesn't exist, which isn't made.
    assert words("train", "database.url=sqlite:///other.db", "session_id=t") == []
    assert not Path("other.db").exists()


@pytest.mark.parametrize("url", ["sqlite:///a/b.db", "postgresql+psycopg://h:1/x", "nonsense", ""])
def test_quick_names_never_fail(workplace: Path, url: str) -> None:
    Path("a").touch()
    assert quick_names(url, "sessions") == []


@pytest.mark.parametrize(
    ("line", "breaks", "printed"),
    [
        ("tunetrail train optimizer=s", " \t=:", "sgd\n"),
        ("tunetrail train optimizer=s", " \t", "optimizer=sgd\n"),
        ("tunetrail train 'optimizer=s", " \t", ""),
        ("tunetrail ", "=", None),
    ],
)
def test_complete_prints_for_bash_what_it_inserts(
    call_main: CallMain, line: str, breaks: str, printed: str | None
) -> None:
    result = call_main("complete", "bash", line, breaks)
    assert result.exit_code == 0
    assert result.out == printed if printed is not None else "train\n" in result.out


def test_complete_prints_meanings_for_zsh_and_fish(call_main: CallMain) -> None:
    printed = call_main("complete", "zsh", "train", "see").out
    assert printed.startswith("seed=\tSeed of every random number:")


@pytest.mark.processes
def test_complete_imports_nothing_slow(workplace: Path) -> None:
    heavy = {"hydra", "mlflow", "omegaconf", "sqlalchemy", "torch", "pandas", "numpy"}
    code = (
        "import sys; from tunetrail.cli import main; "
        "main(['complete', 'bash', 'tunetrail train optimizer=s', '=']); "
        f"print(*({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "sgd\n\n"


@pytest.fixture
def program(workplace: Path) -> Path:
    """The folder of an executable `tunetrail`."""
    folder = workplace / "bin"
    folder.mkdir()
    file = folder / "tunetrail"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m tunetrail "$@"\n')
    file.chmod(0o755)
    return folder


def environment(program: Path) -> dict[str, str]:
    path = f"{program}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "TERM": "dumb", "HOME": str(program.parent), "PS1": "$ "}


def line_after_tab(command: list[str], setup: str, typed: str, program: Path) -> str:
    """Return the command line that an interactive shell has made of what was typed and Tab."""
    file = program.parent / "line.txt"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(program.parent)
        os.execvpe(command[0], command, environment(program))  # noqa: S606

    def send(text: str) -> None:
        os.write(terminal, text.encode())

    send(f"{setup}; echo ready''now\n")
    read_until(terminal, "readynow\r")
    # Ctrl-A and Ctrl-E: the line becomes an argument of printf, instead of being run.
    send(f"{typed}\t\x01printf '%s|' \x05 > {file}\n")
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
        drain(terminal, 0.1)
    send("exit\n")
    os.close(terminal)
    os.waitpid(pid, 0)
    return file.read_text()


def drain(terminal: int, seconds: float) -> str:
    """Return what the terminal has printed, after waiting for it so many seconds at most."""
    # Unlike select.select, a selector reads terminals whose number is above 1,023.
    with selectors.DefaultSelector() as selector:
        selector.register(terminal, selectors.EVENT_READ)
        if not selector.select(seconds):
            return ""

    return os.read(terminal, 65536).decode(errors="replace")


def read_until(terminal: int, text: str) -> None:
    seen, deadline = "", time.monotonic() + 60
    while text not in seen:
        assert time.monotonic() < deadline, seen
        seen += drain(terminal, 0.1)


COMPLETED = [
    ("tunetrail tra", "tunetrail|train|"),
    ("tunetrail train embedding.training.optimizer.mom", "tunetrail|train|embedding.training.optimizer.momentum=|"),
    ("tunetrail train optimizer=adaf", "tunetrail|train|optimizer=adafactor|"),
    ("tunetrail train session_id=ti", "tunetrail|train|session_id=tickets|"),
    ("tunetrail resume 0f8", f"tunetrail|resume|{RUN_ID}|"),
    ("tunetrail ingest row", "tunetrail|ingest|rows.jsonl|"),
]  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize(("typed", "line"), COMPLETED)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_tab_key_of_a_real_shell(
    shell: str, typed: str, line: str, program: Path, database: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} isn't installed")
    Path("rows.jsonl").touch()
    commands = {
        "bash": (["bash", "--norc", "-i"], 'eval "$(tunetrail completion bash)"'),
        "zsh": (
            ["zsh", "-f", "-i"],
            'autoload -Uz compinit; compinit -u -D; eval "$(tunetrail completion zsh)"',
        ),
    }
    assert line_after_tab(*commands[shell], typed, program) == line


@pytest.mark.processes
@pytest.mark.parametrize(("typed", "line"), COMPLETED)
def test_the_tab_key_of_fish(typed: str, line: str, program: Path, database: str) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish isn't installed")
    Path("rows.jsonl").touch()

    script = f"tunetrail completion fish | source; complete -C '{typed}'"
    done = subprocess.run(
        ["fish", "-c", script], capture_output=True, text=True, env=environment(program)
    )

    words_offered = [offered.split("\t")[0] for offered in done.stdout.splitlines()]
    assert words_offered == [line.rstrip("|").rpartition("|")[2]]

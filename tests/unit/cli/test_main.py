import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands import CallMain

from tunetrail import __version__
from tunetrail.cli import main

HEAVY = (
    "alembic",
    "hydra",
    "mlflow",
    "numpy",
    "omegaconf",
    "pandas",
    "pytorch_lightning",
    "sqlalchemy",
    "torch",
    "transformers",
)


@pytest.mark.processes
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["train", "--help", "seed"],
        ["resume", "--help"],
        ["config", "--help"],
        ["watch", "--help"],
        ["trian"],
        [],
    ],
)
def test_main_imports_nothing_heavy_before_it_is_needed(arguments: list[str]) -> None:
    code = (
        f"import sys; from tunetrail.cli import main; main({arguments!r}); "
        f"print(*(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.processes
@pytest.mark.parametrize(
    "command", ["ingest", "sessions", "runs", "show", "sweep", "serve", "export", "ui"]
)
def test_main_helps_with_a_command_without_tensors(command: str) -> None:
    heavy = {"torch", "mlflow", "hydra"}
    call = f"main([{command!r}, '--help'])"
    code = (
        f"import sys; from tunetrail.cli import main; {call}; print(*({heavy} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "" and f"usage: tunetrail {command}" in done.stdout


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_main_help_names_every_command(call_main: CallMain, flag: str) -> None:
    result = call_main(flag)
    assert result.exit_code == 0 and result.err == ""
    for command in (
        "train",
        "watch",
        "resume",
        "repro",
        "plan",
        "ingest",
        "sessions",
        "runs",
        "show",
        "sweep",
        "compare",
        "report",
        "serve",
        "export",
        "config",
        "completion",
        "ui",
    ):
        assert f"\n  {command} " in result.out


def test_main_without_arguments_shows_help_and_exits_with_two(call_main: CallMain) -> None:
    result = call_main()
    assert result.exit_code == 2 and "usage: tunetrail" in result.out


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_main_prints_the_version(call_main: CallMain, flag: str) -> None:
    assert call_main(flag).out.strip() == __version__


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("trian", "Did you mean 'train'?"),
        ("list", "Did you mean 'sessions'?"),
        ("Fit", "Did you mean 'train'?"),
        ("zzz", ""),
        ("--wrong", ""),
    ],
)
def test_main_refuses_an_unknown_command(call_main: CallMain, command: str, hint: str) -> None:
    result = call_main(command)

    assert result.exit_code == 2

    known = (
        "train, watch, resume, repro, sync, plan, prepare, ingest, sessions, runs, show, sweep, compare, "
        "root, report, serve, export, doctor, clean, config, completion, demo, ui"
    )
    assert (
        result.err.strip()
        == f"error: command must be one of {known}, got {command!r}. {hint}".strip()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest"],
        ["ingest", "x.jsonl", "--session", "s"],
        ["ingest", "x.jsonl", "--session", "s", "--kind", "image"],
        ["sessions", "extra"],
    ],
)
def test_main_exits_with_two_for_wrong_arguments(call_main: CallMain, arguments: list[str]) -> None:
    result = call_main(*arguments)
    assert result.exit_code == 2
    assert "error:" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--debug", "sessions", "--database", "mysql://x/y"],
        ["sessions", "--database", "mysql://x/y", "--debug"],
    ],
)
def test_main_shows_the_traceback_with_debug_anywhere(
    call_main: CallMain, arguments: list[str]
) -> None:
    result = call_main(*arguments)
    assert result.exit_code == 2 and "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1].startswith("error: database.url must be sqlite:///FILE")


def test_main_shows_the_traceback_with_the_variable(
    call_main: CallMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNETRAIL_DEBUG", "1")
    assert "Traceback" in call_main("zzz").err


def test_main_leaves_the_signals_as_they_were(call_main: CallMain) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    call_main("--help")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.processes
def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tunetrail", "zzz"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("error: command must be one of")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("signal_number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_main_ends_with_the_code_of_the_signal(
    signal_number: int, exit_code: int, tmp_path: Path
) -> None:
    """The database's lock, held here, keeps the command waiting."""
    # A command that reads makes no database.
    (tmp_path / "tunetrail.db").touch()
    program = (
        "import sys, tunetrail.cli.sessions; from tunetrail.cli import main; "
        "print('up', flush=True); sys.exit(main(['sessions']))"
    )
    with open(tmp_path / "tunetrail.db.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal_number)
        _, printed = process.communicate(timeout=20)

    assert process.returncode == exit_code and b"Traceback" not in printed


@pytest.mark.processes
@pytest.mark.parametrize(
    ("signal_number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_in_a_destructor_is_not_lost(signal_number: int, exit_code: int) -> None:
    program = (
        "import os, sys, time; from tunetrail.cli import _signals_end_the_process\n"
        "class Interrupted:\n"
        "    def __del__(self): os.kill(os.getpid(), int(sys.argv[1])); time.sleep(0.01)\n"
        "class Broken:\n"
        "    def __del__(self): raise ValueError('of its own')\n"
        "with _signals_end_the_process():\n"
        "    Broken(); Interrupted(); time.sleep(30)\n"
        "print('went on')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(int(signal_number))],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (exit_code, "")
    assert "ValueError: of its own" in done.stderr and "SystemExit" not in done.stderr


def test_main_returns_the_code_instead_of_raising() -> None:
    assert main(["ui", "--port", "many"]) == 2


@pytest.mark.processes
def test_commands_know_the_families_of_installed_packages(tmp_path: Path) -> None:
    metadata = tmp_path / "packages" / "ticket_models-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ticket-models\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[tunetrail.families]\nticket = ticket_models:TICKET\nbroken = ticket_models:BROKEN\n"
    )
    (tmp_path / "packages" / "ticket_models.py").write_text(
        "import dataclasses\n"
        "from tunetrail.pipeline.families import EMBEDDING\n"
        "from tunetrail.samples import SampleKind, SampleShape, register_shape\n"
        "kind = SampleKind.register('ticket')\n"
        "register_shape(SampleShape(name='ticket', kind=kind, required=('subject',)))\n"
        "TICKET = dataclasses.replace(EMBEDDING, name='ticket', kind=kind)\n"
    )
    (tmp_path / "tickets.jsonl").write_text('{"subject": "my invoice"}\n')
    paths = os.pathsep.join([str(tmp_path / "packages"), *filter(None, sys.path)])

    command = ["ingest", "tickets.jsonl", "--session", "s1", "--kind", "ticket"]
    done = subprocess.run(
        [sys.executable, "-m", "tunetrail", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "1 added to session s1" in done.stdout
    (warning,) = [line for line in done.stderr.splitlines() if "family" in line]
    assert "the model family 'broken' of the package ticket-models 1.0 can't be used" in warning

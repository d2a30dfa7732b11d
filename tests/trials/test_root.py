"""Root under stress: killed moves, moves by hand, deleted versions, and folders in the way."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.commands import CallMain
from tests.roots import REFUSE, WAIT, Workplace

from tunetrail.deployment import promotion, root_moves
from tunetrail.deployment.doctor import Doctor, repair_all
from tunetrail.deployment.root_alias import RootAlias, RootMovedError
from tunetrail.deployment.root_decisions import forbid, promote, roll_back
from tunetrail.errors import ConfigError, UserError
from tunetrail.scratch import PREFIXES, scratch_folder, sweep
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord
from tunetrail.stores.runs.mlflow_survey import MlflowSurvey


@pytest.fixture
def place(workplace: Path, tiny_embedding_model: str) -> Workplace:
    """Return a workplace without versions."""
    return Workplace(folder=workplace, base=tiny_embedding_model)


def doctor(place: Workplace) -> Doctor:
    return Doctor(
        database=place.database,
        store=MlflowSurvey(place.registry.tracker),
        model_dir=place.models,
        output_dir=place.folder / "training_output",
    )


def stop_at(
    patched: pytest.MonkeyPatch, owner: object, name: str, *, call: int = 1, after: bool = False
) -> None:
    """End the process, as it were, at the call of a function: before it, or once it is done."""
    function, calls = getattr(owner, name), iter(range(1, 1000))

    def stopped(*arguments: object, **keywords: object) -> object:
        is_last = next(calls) == call
        if is_last and not after:
            raise KeyboardInterrupt
        result = function(*arguments, **keywords)
        if is_last:
            raise KeyboardInterrupt
        return result

    patched.setattr(owner, name, stopped)


@pytest.mark.parametrize(
    ("owner", "name", "call", "after", "root"),
    [
        (DatabaseManager, "record_promotion", 1, False, "1"),
        (DatabaseManager, "record_promotion", 1, True, "1"),
        (RootAlias, "move", 1, False, "1"),
        (RootAlias, "move", 1, True, "2"),
        (DatabaseManager, "record_promotion", 2, False, "2"),
        (DatabaseManager, "record_promotion", 2, True, "2"),
    ],
)
def test_whoever_comes_after_a_killed_move_finishes_it_or_takes_it_back(
    place: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    call: int,
    after: bool,
    root: str,
) -> None:
    place.train(1)
    candidate = place.candidate(2)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_at(patched, owner, name, call=call, after=after)
        place.deploy(candidate)

    place.moves.settle()

    place.check()
    assert place.exported() == root
    decided = [version for version, decision, _ in place.lines() if decision == "promoted"]
    assert decided == (["1", "2"] if root == "2" else ["1"])

    # The interrupted run comes to its end, whoever settled its move.
    place.deploy(candidate)
    place.check()
    assert place.exported() == "2"
    assert [line for line in place.lines() if line[1] == "promoted"] == [
        ("1", "promoted", None),
        ("2", "promoted", "1"),
    ]
    repair_all(doctor(place).findings())
    assert doctor(place).findings() == []


def test_a_refused_training_settles_the_move_that_a_killed_one_began(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.train(1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_at(patched, RootAlias, "move", after=True)
        place.train(2)

    place.train(3, REFUSE)

    assert place.lines() == [
        ("1", "promoted", None),
        ("2", "promoted", "1"),
        ("3", "refused", "2"),
    ]
    assert "a process died while it moved root from version 1 to version 2" in caplog.text


def test_a_late_resume_writes_a_line_of_its_own_for_each_move(place: Workplace) -> None:
    first = place.candidate(1)
    place.deploy(first)
    place.train(2)

    place.deploy(first)

    assert place.lines() == [
        ("1", "promoted", None),
        ("2", "promoted", "1"),
        ("1", "promoted", "2"),
    ]
    place.check()


def test_the_slower_of_two_trainings_has_its_line_and_can_be_resumed(place: Workplace) -> None:
    slower = place.candidate(2)
    place.train(1)
    with pytest.raises(RootMovedError, match=r"it was none, it is now version 1.*resume the run"):
        place.deploy(slower, to_beat=None)
    assert place.lines()[1:] == [("2", "refused", None)]

    place.deploy(slower)

    assert place.lines()[2:] == [("2", "promoted", "1")]
    place.check()


def test_an_alias_that_was_moved_in_mlflow_is_written_down_and_followed(
    place: Workplace, caplog: pytest.LogCaptureFixture, call_main: CallMain
) -> None:
    place.train(1)
    place.train(2)
    place.registry.tracker.client.set_registered_model_alias("embedding", "root", "1")

    result = call_main("root", "--json")

    assert json.loads(result.out)["roots"][0]["root"]["version"] == "1"
    assert place.lines()[2:] == [("1", "moved by hand", "2")]
    assert "root of embedding is version 1, and the ledger knew version 2" in caplog.text
    place.check()


def test_a_deleted_root_stops_everything_until_somebody_names_another(
    place: Workplace, call_main: CallMain
) -> None:
    place.train(1)
    place.train(2)
    place.registry.tracker.client.delete_model_version("embedding", "2")

    with pytest.raises(
        UserError, match="rollback embedding 1 --reason TEXT` names another"
    ) as gone:
        place.moves.settle()
    assert "must be version 2, as the ledger says" in str(gone.value)
    assert "rollback embedding base --reason TEXT` begins again" in str(gone.value)
    assert call_main("root").exit_code == 0

    assert call_main("root", "rollback", "embedding", "--reason", "2 is lost").exit_code == 0
    place.check()
    assert place.exported() == "1"


@pytest.mark.parametrize("lost", ["version", "model"])
def test_a_deleted_root_may_be_followed_by_no_root(
    place: Workplace, call_main: CallMain, lost: str
) -> None:
    """As the error proposes, which nothing else gets past if there was no root before."""
    place.train(1)
    client = place.registry.tracker.client
    if lost == "version":
        client.delete_model_version("embedding", "1")
    else:
        client.delete_registered_model("embedding")

    done = call_main("root", "rollback", "embedding", "base", "--reason", "1 is lost")
    again = call_main("root", "rollback", "embedding", "base", "--reason", "1 is lost")

    assert done.exit_code == 0
    assert again.exit_code == 2 and "it is root already" in again.err
    assert place.lines() == [("1", "promoted", None), ("base", "rolled back", "1")]
    place.check()
    place.train(2)
    place.check()


def test_a_rollback_to_no_root_begins_again(place: Workplace) -> None:
    place.train(1)
    roll_back(place.moves, "base", "wrong from the start")
    assert (place.registry.root(), place.exported()) == (None, None)

    place.train(2)

    place.check()
    assert place.lines()[1:] == [("base", "rolled back", "1"), ("2", "promoted", None)]


def test_a_rollback_restores_the_exact_bytes_even_of_a_version_that_is_not_exported(
    place: Workplace,
) -> None:
    digests = {}
    for seed in range(1, 5):
        version = place.train(seed)
        digests[version.version] = place.digest()
    assert len(set(digests.values())) == 4
    assert not (place.models / "embedding/versions/1").exists()

    for target in (None, None, "1", "4"):
        roll_back(place.moves, target, "worse in production")
        place.check()
        assert place.digest() == digests[place.exported() or ""]

    assert [line[0] for line in place.lines()[4:]] == ["3", "2", "1", "4"]


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_version_with_other_files_than_registered_does_not_become_root_again(
    place: Workplace, call_main: CallMain, is_gone: bool
) -> None:
    """Even if the exported folder still has the right ones: others load from the registry."""
    for seed in (1, 2):
        place.train(seed)
    location = place.registry.tracker.client.get_model_version_download_uri("embedding", "1")
    (weights,) = Path(location.removeprefix("file://")).rglob("*.safetensors")
    content = weights.read_bytes()
    if is_gone:
        shutil.rmtree(Path(location.removeprefix("file://")))
    else:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = place.lines()

    refused = call_main("root", "rollback", "embedding", "--reason", "worse")
    forced = call_main("root", "promote", "embedding/1", "--force", "--reason", "better")

    words = "must have its files, got none" if is_gone else "got others (changed: "
    for result in (refused, forced):
        # The bars of the trainings stand before it.
        error_line = result.err.splitlines()[-1]
        assert result.exit_code == 1
        assert "models:/embedding/1" in error_line and words in error_line
    assert place.lines() == before
    place.check()


def test_a_resumed_run_does_not_undo_a_rollback(place: Workplace) -> None:
    place.train(1)
    place.train(2)
    roll_back(place.moves, None, "worse in production")
    reason = root_moves.blocked_reason(place.moves.lines(), "2")
    assert reason is not None and "embedding/2 was rolled back: worse in production" in reason
    assert root_moves.blocked_reason(place.moves.lines(), "1") is None


def test_a_forbidden_version_is_never_root_again(place: Workplace) -> None:
    place.train(1)
    place.train(2)
    with pytest.raises(UserError, match="version must not be root"):
        forbid(place.moves, "2", "leaks names")
    roll_back(place.moves, None, "leaks names")
    forbid(place.moves, "2", "leaks names")

    with pytest.raises(UserError, match=r"version must not be forbidden.*leaks names"):
        promote(place.moves, "2", "please", force=True)
    with pytest.raises(UserError, match="version must not be forbidden"):
        roll_back(place.moves, "2", "please")
    assert "is forbidden" in (root_moves.blocked_reason(place.moves.lines(), "2") or "")
    place.check()


def test_a_waiting_candidate_becomes_root_by_an_approval(place: Workplace) -> None:
    place.train(1)
    place.train(2, WAIT)
    assert place.exported() == "1"

    promote(place.moves, "2", "looks good")

    place.check()
    assert place.lines()[1:] == [("2", "waiting", "1"), ("2", "promoted", "1")]
    line = place.database.promotions()[-1]
    assert (line.improvement, line.reason) == (0.1, "looks good (the gate: better)")
    assert line.details is not None


def test_a_promotion_against_the_gate_needs_force_and_says_so(place: Workplace) -> None:
    place.train(1)
    place.train(2, REFUSE)
    place.train(3, WAIT)
    place.train(4)

    with pytest.raises(UserError, match=r"it was refused: not better\. --force promotes it"):
        promote(place.moves, "2", "I know better")
    with pytest.raises(UserError, match="compared with version 1, and root is version 4 now"):
        promote(place.moves, "3", "I know better")
    promote(place.moves, "2", "I know better", force=True)

    assert place.lines()[-1] == ("2", "forced", "4")
    place.check()


def test_a_root_that_is_a_folder_is_refused_before_a_training(place: Workplace) -> None:
    place.train(1)
    root = place.models / "embedding/root"
    copied = root.resolve()
    root.unlink()
    copied.rename(root)

    with pytest.raises(
        ConfigError, match=r"embedding/root is a link of tunetrail.*Move it away \(mv "
    ):
        place.moves.settle()

    root.rename(place.models / "embedding/root-before")
    place.moves.settle()
    place.check()


def test_a_root_that_was_deleted_is_exported_again(place: Workplace) -> None:
    place.train(1)
    (place.models / "embedding/root").unlink()
    place.moves.settle()
    place.check()


def test_an_old_version_that_is_a_link_fails_no_promotion(place: Workplace) -> None:
    place.train(1)
    (place.models / "embedding/versions/0").symlink_to("1")
    place.train(2)
    place.train(3)
    place.check()
    assert not (place.models / "embedding/versions/0").exists()


LEFTOVER = """
import os, pathlib, signal, sys
from tunetrail.scratch import scratch_folder
with scratch_folder(sys.argv[2], pathlib.Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_bytes(b"half")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("prefix", PREFIXES)
def test_folders_of_dead_processes_are_swept_and_those_of_others_stay(
    tmp_path: Path, prefix: str
) -> None:
    (tmp_path / "tunetrail-projects").mkdir()
    command = [sys.executable, "-c", LEFTOVER, str(tmp_path), prefix]
    left = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    assert Path(left).is_dir()

    with scratch_folder(prefix, tmp_path) as mine:
        assert sweep(tmp_path) == [Path(left)]
        assert mine.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["tunetrail-projects"]


def test_doctor_finds_and_repairs_what_crashes_leave(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, call_main: CallMain, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    place.train(1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_at(patched, promotion, "_move_or_refuse")
        place.train(2)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_at(patched, RootAlias, "move", after=True)
        place.train(3)
    tracker = place.registry.tracker
    for run in tracker.client.search_runs([tracker.experiment_id], "status = 'RUNNING'"):
        tracker.run(run.info.run_id).finish("interrupted")
    command = [
        sys.executable,
        "-c",
        LEFTOVER,
        str(place.models / "embedding/versions"),
        ".writing-",
    ]
    subprocess.run(command, capture_output=True, check=False)

    found = call_main("doctor", "--json")
    assert found.exit_code == 1
    texts = json.loads(found.out)["found"]
    assert any("a move to 3 has no decision" in text for text in texts)
    assert any("embedding/2 has no decision" in text for text in texts)
    assert any(".writing-" in text for text in texts)

    assert call_main("doctor", "--fix").exit_code == 0
    clean = call_main("doctor")
    assert (clean.exit_code, "nothing is wrong" in clean.out) == (0, True)
    assert "exported models:" in clean.out and "GB free" in clean.out
    assert place.lines()[1:] == [("3", "promoted", "1"), ("2", "abandoned", None)]
    place.check()


def test_root_commands_answer_from_the_ledger(place: Workplace, call_main: CallMain) -> None:
    place.train(1)
    place.train(2)

    shown = call_main("root")
    log = call_main("root", "log", "embedding", "--json")
    version = call_main("root", "--json", "show", "models:/embedding/2")
    difference = call_main("root", "diff", "embedding/1", "embedding/2", "--json")

    assert "embedding/2" in shown.out and "+0.1000" in shown.out
    assert [line["version"] for line in json.loads(log.out)["decisions"]] == ["2", "1"]
    assert json.loads(version.out)["evidence"]["compared_with"] == "1"
    assert json.loads(difference.out)["configuration"] == {"seed": [1, 2]}
    for command in (
        ("log", "embedding"),
        ("show", "embedding/1"),
        ("diff", "embedding/1", "embedding/2"),
    ):
        assert call_main("root", *command).exit_code == 0

    lines = [
        " ".join(line.split()) for line in call_main("root", "show", "embedding/2").out.splitlines()
    ]
    assert "seed 2 42" in lines and "ndcg_at_10 0.6000" in lines
    assert not any(line.startswith("gate.") for line in lines)

    forbid(place.moves, "1", "leaks names")
    newest, promoted, _ = call_main("root", "log", "embedding").out.split("embedding/")[1:]
    assert "forbidden" in newest and "root before" not in newest
    assert "root before: 1" in promoted


BAD_WORDS = [
    (("show", "embedding/9"), "version must be in the ledger, got 'embedding/9'"),
    (("show", "../embedding/1"), "version must be a version such as embedding/3"),
    (("show", "embedding/../1"), "version must be a version such as embedding/3"),
    (("log", "embeding"), "Did you mean 'embedding'?"),
    (("diff", "embedding/1", "llm/1"), "versions must be of one family"),
    (("rollback", "embedding", "llm/1", "--reason", "x"), "version must be one of embedding"),
    (("rollback", "embedding", "9", "--reason", "x"), "version must be in MLflow"),
    (("rollback", "embedding", "1", "--reason", "x"), "it is root already"),
    (("rollback", "embedding", "--reason", "x"), "must have an earlier root"),
    (("promote", "embedding/9", "--reason", "x", "--force"), "version must be in MLflow"),
    (("forbid", "embedding/1/2", "--reason", "x"), "version must be a version such as"),
]


def test_root_refuses_bad_versions_in_one_line(
    place: Workplace, call_main: CallMain, capsys: pytest.CaptureFixture[str]
) -> None:
    place.train(1)
    capsys.readouterr()
    for arguments, message in BAD_WORDS:
        result = call_main("root", *arguments)
        assert (result.exit_code, message in result.error_line) == (2, True), result.err
    assert place.lines() == [("1", "promoted", None)]


@pytest.mark.processes
def test_reading_root_imports_neither_mlflow_nor_torch(place: Workplace, workplace: Path) -> None:
    place.train(1)
    program = (
        "import sys; from tunetrail.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not {'mlflow', 'torch', 'pandas', 'numpy', 'jsonschema'} & set(sys.modules), 'slow'\n"
        "sys.exit(code)"
    )
    for command in (["root"], ["root", "log", "embedding"], ["root", "show", "embedding/1"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *command],
            cwd=workplace,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TUNETRAIL_DATABASE_URL": ""},
        )
        assert done.returncode == 0, done.stderr


def test_experiments_with_a_prefix_have_roots_of_their_own(
    place: Workplace, tiny_embedding_model: str, workplace: Path
) -> None:
    shop = Workplace(folder=workplace, base=tiny_embedding_model, name="shop-embedding")
    place.train(1)
    shop.train(2)
    shop.train(3)
    place.check()
    shop.check()
    assert (place.exported(), shop.exported()) == ("1", "2")


def test_a_line_of_the_ledger_needs_no_later_columns(place: Workplace) -> None:
    """Lines of earlier versions know no actor, no details and no move."""
    old = PromotionRecord(model_name="llm", version="1", decision="promoted", reason="better")
    place.database.record_promotion(old)
    (line,) = place.database.promotions("llm")
    assert (line.event, line.move_id, line.actor, line.details) == ("decision", None, None, None)

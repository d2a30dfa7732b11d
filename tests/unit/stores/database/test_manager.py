import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC
from itertools import chain

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, text

from tunetrail.errors import ConfigError, DatabaseError, SampleError, SessionError
from tunetrail.locks import file_lock
from tunetrail.samples import BrokenRow, LeftOut, SampleKind, parse_sample
from tunetrail.stores.database.connection import (
    HEAD_REVISION,
    VERSION_TABLE,
    DatabaseConnection,
    json_text,
)
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord, RunState
from tunetrail.stores.database.packed_row_ids import pack_row_ids, unpack_row_ids
from tunetrail.stores.database.tables import Base
from tunetrail.stores.processes import ProcessIdentity

PAIRS = [{"anchor": f"question {number}", "positive": f"answer {number}"} for number in range(25)]
ROWS = {
    "pair": {"anchor": "a", "positive": "b", "negative": "c"},
    "score": {"sentence1": "a", "sentence2": "b", "score": 0.5},
    "label": {"text": "a", "label": "x", "group": "g", "origin": {"page": 3}},
    "vector": {"text": "a", "embedding": [0.25, -1.0]},
    "text": {"text": "naïve 😀\x00"},
    "completion": {"input": "a", "output": "b"},
    "chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "document": {"text": "a"},
    "preference": {"prompt": "a", "chosen": "b", "rejected": "c", "weight": 0.1},
}
LLM_SHAPES = ("completion", "chat", "document", "preference")


def kind_of(shape):
    return SampleKind.LLM if shape in LLM_SHAPES else SampleKind.EMBEDDING


@pytest.fixture
def session(manager):
    manager.ingest("session_1", PAIRS, SampleKind.EMBEDDING)
    return "session_1"


def run_python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("shape", ROWS)
def test_ingest_brings_every_shape_back_unchanged(manager, shape):
    kind = kind_of(shape)
    manager.ingest("s1", [ROWS[shape]], kind)
    (chunk,) = manager.read_samples("s1", kind)
    assert [stored.sample for stored in chunk] == [parse_sample(ROWS[shape], kind)]
    assert chunk[0].sample.shape == shape


def test_ingest_twice_adds_nothing_and_keeps_duplicates_within_a_file(manager):
    rows = [*PAIRS, PAIRS[0], PAIRS[0]]
    first = manager.ingest("s1", rows, SampleKind.EMBEDDING, chunk_size=4)
    second = manager.ingest("s1", rows, SampleKind.EMBEDDING, chunk_size=10)
    assert first.to_dict() == {"received": 27, "added": 27, "already_present": 0, "rejected": 0}
    assert second.to_dict() == {"received": 27, "added": 0, "already_present": 27, "rejected": 0}
    assert manager.session_summary("s1").samples["embedding"] == 27


def test_ingest_that_was_interrupted_can_be_repeated(manager):
    def interrupted():
        yield from PAIRS[:15]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manager.ingest("s1", interrupted(), SampleKind.EMBEDDING, chunk_size=10)
    assert manager.session_summary("s1").samples["embedding"] == 10
    assert manager.ingest("s1", PAIRS, SampleKind.EMBEDDING).added == 15


def test_ingest_reports_progress_after_each_chunk(manager):
    heard = []
    manager.ingest("s1", PAIRS, SampleKind.EMBEDDING, chunk_size=10, on_progress=heard.append)
    assert heard == [10, 20, 25]


def test_ingest_keeps_malformed_rows_once_with_their_reason(manager):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    rows = [
        PAIRS[0],
        {"anchor": "a", "positive": 3},
        BrokenRow(text='{"anchor": \x00', reason="line 3 is not JSON"),
        ["a list"],
        {"text": "a", "group": "\ud800"},
        {"sentence1": "a", "sentence2": "b", "score": 10**400},
        {"text": "a", "remark": nested},
        {"text": "a", "moment": float("inf")},
    ]
    for _ in range(2):
        report = manager.ingest("s1", rows, SampleKind.EMBEDDING, source="rows.jsonl")
        assert (report.received, report.rejected) == (8, 6)
    rejected = manager.rejected_samples("s1")
    assert [row.row_number for row in rejected] == [2, 3, 4, 5, 6, 7]
    assert rejected[0].reason == "positive must be a string, got int (3)."
    assert json.loads(rejected[0].row) == rows[1]
    assert rejected[1].row == '{"anchor": \\x00'
    assert {row.source for row in rejected} == {"rows.jsonl"}
    json.dumps(rejected[0].to_dict())


def test_ingest_keeps_the_timestamp_and_ignores_it_in_a_repeated_ingest(manager):
    moment, later = "2026-11-24T12:00:00+00:00", "2026-11-25T12:00:00+00:00"
    assert (
        manager.ingest(
            "s1", [{"text": "a", "timestamp": moment}, {"text": "b"}], SampleKind.LLM
        ).added
        == 2
    )
    assert (
        manager.ingest("s1", [{"text": "a", "timestamp": later}], SampleKind.LLM).already_present
        == 1
    )
    (chunk,) = manager.read_samples("s1", SampleKind.LLM)
    assert [stored.sample.timestamp for stored in chunk] == [moment, None]
    assert [stored.sample.metadata for stored in chunk] == [{}, {}]


def test_ingest_derived_stores_samples_of_both_kinds_and_what_is_left_out(manager):
    def derive(row):
        if "text" not in row:
            raise SampleError("text must be there.")
        yield parse_sample({"text": row["text"], "group": row.get("group")}, SampleKind.LLM)
        yield parse_sample({"text": row["text"]}, SampleKind.EMBEDDING)
        yield LeftOut(
            kind=SampleKind.EMBEDDING, row={"half": row["text"][:1]}, reason="only a half\x00"
        )

    nested = []
    for _ in range(100_000):
        nested = [nested]
    rows = [
        {"text": "ab"},
        {"other": 1},
        BrokenRow(text="{", reason="line 3 is not JSON"),
        ["a list"],
        {"text": "cd", "group": "\ud800"},
        {"text": "ef"},
        {"other": nested},
    ]
    heard = []
    for added in (4, 0):
        report = manager.ingest_derived(
            "s1", rows, derive, source="logs", on_progress=heard.append, chunk_size=4
        )
        assert (report.received, report.added, report.already_present, report.rejected) == (
            11,
            added,
            4 - added,
            7,
        )
    summary = manager.session_summary("s1")
    assert (summary.samples["embedding"], summary.samples["llm"], summary.rejected) == (2, 2, 7)
    assert heard == [4, 8, 11, 4, 8, 11]
    rejected = manager.rejected_samples("s1")
    assert [(row.row_number, row.kind) for row in rejected] == [
        (1, "embedding"),
        (2, "llm"),
        (3, "llm"),
        (4, "llm"),
        (5, "llm"),
        (6, "embedding"),
        (7, "llm"),
    ]
    assert (rejected[0].row, rejected[0].reason) == ('{"half": "a"}', "only a half\\x00")
    assert rejected[1].reason == "text must be there."
    with pytest.raises(ConfigError, match="session_id must be 1 to 128 letters"):
        manager.ingest_derived("../x", rows, derive)


def test_a_session_is_discarded_only_if_it_has_no_samples(manager):
    manager.ingest("bad", [{"text": 3}], "llm")
    manager.ingest("good", [{"text": 3}, {"text": "a"}], "llm")
    assert manager.has_session("bad") and not manager.has_session("absent")

    for session_id in ("bad", "good", "absent"):
        manager.discard_session_without_samples(session_id)

    assert not manager.has_session("bad")
    assert len(manager.rejected_samples("good")) == 1


def test_ingest_refuses_an_unsafe_session_id(manager):
    with pytest.raises(ConfigError, match="session_id must be 1 to 128 letters"):
        manager.ingest("../x", PAIRS, SampleKind.EMBEDDING)


def test_add_samples_counts_what_is_there_already(manager, session):
    samples = [parse_sample(row, SampleKind.EMBEDDING) for row in (*PAIRS[:2], ROWS["label"])]
    report = manager.add_samples(session, samples)
    assert (report.added, report.already_present) == (1, 2)


def test_read_samples_streams_in_the_order_of_rows(manager, session):
    chunks = list(manager.read_samples(session, SampleKind.EMBEDDING, chunk_size=10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 5]
    stored = [item for chunk in chunks for item in chunk]
    assert [item.sample.content for item in stored] == PAIRS
    assert [item.row_id for item in stored] == sorted(item.row_id for item in stored)


def test_read_samples_ignores_rows_that_arrive_meanwhile(manager, session):
    chunks = manager.read_samples(session, SampleKind.EMBEDDING, chunk_size=10)
    first = next(chunks)
    manager.ingest(session, [ROWS["text"]], SampleKind.EMBEDDING)
    assert len(first) + sum(len(chunk) for chunk in chunks) == 25


def test_samples_up_to_a_row_are_those_of_a_moment(manager, session):
    kind = SampleKind.EMBEDDING
    then = manager.snapshot_samples(session, kind)
    samples = list(chain.from_iterable(manager.read_samples(session, kind)))
    shapes = manager.count_shapes(session, kind)
    manager.ingest(session, [{"text": "this came later"}], kind)

    now = manager.snapshot_samples(session, kind)

    assert (now.rows, manager.snapshot_samples(session, kind, then.last_id)) == (
        then.rows + 1,
        then,
    )
    read = chain.from_iterable(manager.read_samples(session, kind, last_id=then.last_id))
    assert list(read) == samples and len(samples) == then.rows
    assert manager.count_shapes(session, kind, then.last_id) == shapes
    assert manager.snapshot_samples(session, kind, 0).rows == 0
    assert list(manager.read_samples(session, kind, last_id=0)) == []


def test_read_samples_of_the_other_kind_gives_nothing(manager, session):
    assert list(manager.read_samples(session, SampleKind.LLM)) == []


def test_read_own_columns_returns_what_no_shape_knows(manager, monkeypatch):
    monkeypatch.setattr("tunetrail.stores.database.sessions._MOST_PARAMETERS", 2)
    rows = [{**pair, "source": f"web {index}", "price": index} for index, pair in enumerate(PAIRS)]
    manager.ingest("s1", rows, SampleKind.EMBEDDING)
    (chunk,) = manager.read_samples("s1", SampleKind.EMBEDDING)
    row_ids = [stored.row_id for stored in chunk]

    own_columns = manager.read_own_columns([*row_ids[:5], 10**6])

    expected = [{"source": f"web {index}", "price": index} for index in range(5)]
    assert own_columns == dict(zip(row_ids[:5], expected, strict=True))
    assert manager.read_own_columns([]) == {}


@pytest.mark.parametrize(
    "method", ["session_summary", "rejected_samples", "read_samples", "create_training_run"]
)
def test_unknown_session_is_named_with_the_nearest_known_one(manager, session, method):
    more = {"read_samples": (SampleKind.LLM,), "create_training_run": ("all",)}.get(method, ())
    with pytest.raises(SessionError, match=r"got 'sesion_1'\. Did you mean 'session_1'\?"):
        getattr(manager, method)("sesion_1", *more)


def test_unknown_session_in_an_empty_database_says_what_to_do(manager):
    with pytest.raises(SessionError, match="There are none yet: ingest samples first"):
        manager.session_summary("s1")


def test_session_summary_counts_shapes_rejections_and_runs(manager, session):
    manager.ingest(session, [ROWS["chat"], ROWS["document"], {"bad": 1}], SampleKind.LLM)
    manager.ingest("s0", [ROWS["document"]], SampleKind.LLM)
    run_id = manager.create_training_run(session, "all")
    manager.update_training_run(run_id, state="running")
    summary = manager.session_summary(session)
    assert summary.shapes == {"embedding": {"pair": 25}, "llm": {"chat": 1, "document": 1}}
    assert (
        summary.samples["embedding"],
        summary.samples["llm"],
        summary.rejected,
        summary.state,
    ) == (
        25,
        2,
        1,
        "running",
    )
    assert summary.created_at.tzinfo is UTC
    assert summary.last_training is not None
    assert [item.session_id for item in manager.sessions()] == ["session_1", "s0"]
    assert manager.sessions()[0] == summary
    assert (manager.sessions()[1].state, manager.sessions()[1].last_training) == ("new", None)
    json.dumps(summary.to_dict())


def test_a_run_that_never_began_does_not_hide_the_last_training(manager, session):
    mistaken = manager.create_training_run(session, "embedding")
    manager.update_training_run(mistaken, state="failed", reason="there is no model minilmm")
    assert manager.session_summary(session).reason == "there is no model minilmm"

    trained = manager.create_training_run(session, "embedding")
    manager.update_training_run(trained, state="running", mlflow_run_id="m1")
    manager.update_training_run(trained, state="succeeded")
    mistaken = manager.create_training_run(session, "embedding")
    manager.update_training_run(mistaken, state="failed", reason="there is no model minilmm")

    summary = manager.session_summary(session)
    (run,) = [run for run in manager.training_runs(session) if run.run_id == trained]
    assert (summary.state, summary.reason) == ("succeeded", None)
    assert summary.last_training == run.created_at


def test_training_run_keeps_what_is_set(manager, session):
    run_id = manager.create_training_run(session, "all")
    manager.update_training_run(run_id, state="running", mlflow_run_id="m1")
    manager.update_training_run(
        run_id, state=RunState.SUCCEEDED, result={"loss": float("nan"), "steps": 3}
    )
    (run,) = manager.training_runs(session)
    assert (run.run_id, run.state, run.mlflow_run_id, run.reason) == (
        run_id,
        "succeeded",
        "m1",
        None,
    )
    assert run.result == {"loss": None, "steps": 3}
    assert run.process == ProcessIdentity.current()
    assert run.updated_at > run.created_at
    assert manager.training_runs("other") == []
    json.dumps(run.to_dict())


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ((), "succeeded"),
        ((), "pending"),
        (("running",), "pending"),
        (("running",), "running"),
        (("running", "succeeded"), "failed"),
        (("failed",), "running"),
        (("interrupted",), "succeeded"),
    ],
)
def test_training_run_refuses_an_illegal_transition(manager, session, path, refused):
    run_id = manager.create_training_run(session, "embedding")
    for state in path:
        manager.update_training_run(run_id, state=state)
    present = path[-1] if path else "pending"
    with pytest.raises(DatabaseError, match=f"is {present} and can't become {refused}"):
        manager.update_training_run(run_id, state=refused)


def test_training_run_that_is_unknown_is_refused(manager):
    with pytest.raises(DatabaseError, match="run_id must name a training run"):
        manager.update_training_run("nothing", reason="x")


@pytest.mark.parametrize("path", [(), ("running",), ("failed",), ("running", "interrupted")])
def test_reopen_training_run_lets_it_go_on_in_this_process(manager, session, path):
    run_id = manager.create_training_run(session, "all")
    for state in path:
        manager.update_training_run(run_id, state=state, reason="because")
    run = manager.training_run(run_id)
    manager.reopen_training_run(run)
    reopened = manager.training_run(run_id)
    assert (reopened.state, reopened.reason, reopened.process) == (
        "running",
        None,
        ProcessIdentity.current(),
    )
    manager.update_training_run(run_id, state="succeeded")


def test_reopen_training_run_gives_it_to_one_process_only(manager, session):
    run_id = manager.create_training_run(session, "all")
    manager.update_training_run(run_id, state="failed", reason="x")
    seen = manager.training_run(run_id)
    manager.reopen_training_run(seen)
    with pytest.raises(DatabaseError, match="has been changed by another process"):
        manager.reopen_training_run(seen)
    manager.update_training_run(run_id, state="failed", reason="again")
    with pytest.raises(DatabaseError, match="has been changed by another process"):
        manager.reopen_training_run(seen)


def test_reopen_training_run_refuses_one_that_succeeded(manager, session):
    run_id = manager.create_training_run(session, "all")
    for state in ("running", "succeeded"):
        manager.update_training_run(run_id, state=state)
    with pytest.raises(DatabaseError, match="has been changed"):
        manager.reopen_training_run(manager.training_run(run_id))
    assert (
        manager.training_run(run_id).state == "succeeded"
        and manager.training_run("nothing") is None
    )


@pytest.mark.processes
def test_mark_interrupted_runs_finds_the_run_of_a_killed_process(manager, session, url):
    code = (
        "import sys, time\n"
        "from tunetrail.stores.database.manager import DatabaseManager\n"
        "manager = DatabaseManager(sys.argv[1])\n"
        "run_id = manager.create_training_run('session_1', 'all')\n"
        "manager.update_training_run(run_id, state='running')\n"
        "print(run_id, flush=True)\n"
        "time.sleep(60)\n"
    )
    mine = manager.create_training_run(session, "llm")
    with run_python(code, url) as child:
        run_id = child.stdout.readline().strip()
        assert manager.mark_interrupted_runs() == []
        child.send_signal(signal.SIGKILL)
    (marked,) = manager.mark_interrupted_runs()
    assert (marked.run_id, marked.state) == (run_id, RunState.INTERRUPTED)
    assert "ended unexpectedly while the run was running" in marked.reason
    assert {run.run_id: run.state for run in manager.training_runs()} == {
        mine: "pending",
        run_id: "interrupted",
    }
    assert manager.mark_interrupted_runs() == []


def test_promotions_come_back_in_order(manager):
    measured = {
        "metric": "nDCG@10",
        "before": 0.5,
        "after": 0.75,
        "improvement": 0.25,
        "lower": 0.125,
        "upper": 0.375,
    }
    origin = {"run_id": "r", "mlflow_run_id": "f", "session_id": "s", "previous_version": "1"}
    promoted = PromotionRecord(
        model_name="m",
        version="2",
        decision="promoted",
        reason="better",
        test_rows=["0a", "1b"],
        **measured,
        **origin,
    )
    refused = PromotionRecord(model_name="n", version="1", decision="refused", reason="worse")
    assert [manager.record_promotion(record) for record in (promoted, refused)] == [1, 2]
    first, second = manager.promotions()
    assert first == dataclasses.replace(promoted, record_id=1, created_at=first.created_at)
    assert first.created_at.tzinfo is UTC
    assert second.previous_version is None
    assert manager.promotions("n") == [second]
    json.dumps(first.to_dict())


def test_learnt_rows_come_back_of_the_version_that_learnt_them(manager):
    row_ids = [*range(5, 4_000, 3), 1, 10**12]
    lines = [("1", None), ("2", pack_row_ids(row_ids)), ("2", None), ("3", pack_row_ids([]))]
    for version, learnt_rows in lines:
        manager.record_promotion(
            PromotionRecord(
                model_name="m",
                version=version,
                decision="promoted",
                reason="better",
                learnt_rows=learnt_rows,
            )
        )

    assert manager.learnt_rows("m", "2").tolist() == sorted(row_ids)
    assert manager.learnt_rows("m", "3").tolist() == []
    assert manager.learnt_rows("m", "1") is None and manager.learnt_rows("n", "2") is None
    # Lines of the ledger are read often, and without the ids.
    assert all(promotion.learnt_rows is None for promotion in manager.promotions("m"))


def test_row_ids_take_a_few_bits_each():
    drawn = np.random.default_rng(0).random(100_000) < 0.7
    row_ids = 1_000_000 + np.flatnonzero(drawn)
    assert len(pack_row_ids(row_ids)) < 40_000
    assert unpack_row_ids(pack_row_ids(row_ids)).tolist() == row_ids.tolist()


def test_sessions_in_range_are_those_with_samples_in_it(manager):
    for session_id in ("a", "b", "c"):
        manager.ingest(session_id, [{"text": f"{session_id}{row}"} for row in range(3)], "llm")
    ids = [chunk[0].row_id for name in "abc" for chunk in manager.read_samples(name, "llm")]
    assert manager.sessions_in_range("llm", ids[0], ids[1]) == ["a", "b"]
    assert manager.sessions_in_range("llm", ids[2], ids[2] + 100) == ["c"]
    assert manager.sessions_in_range("embedding", 0, 100) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE promotions SET decision = 'x'",
        "DELETE FROM promotions",
        # SQLite's way to replace a line fires no trigger of UPDATE or DELETE.
        "INSERT OR REPLACE INTO promotions (id, created_at, model_name, version, decision, reason) "
        "VALUES (1, '2026-01-01', 'm', '1', 'x', 'y')",
    ],
)
def test_promotions_refuse_every_change(manager, url, statement):
    if "REPLACE" in statement and not url.startswith("sqlite"):
        pytest.skip("only SQLite has INSERT OR REPLACE")

    manager.record_promotion(
        PromotionRecord(model_name="m", version="1", decision="refused", reason="worse")
    )
    with (
        pytest.raises(DatabaseError, match="ledger of promotions is append-only"),
        DatabaseConnection(url).transaction() as connection,
    ):
        connection.execute(text(statement))
    assert manager.promotions()[0].decision == "refused"


@pytest.mark.processes
def test_fresh_database_survives_four_processes_at_once(url):
    code = (
        "import sys\n"
        "from tunetrail.samples import SampleKind\n"
        "from tunetrail.stores.database.manager import DatabaseManager\n"
        "sys.stdin.readline()\n"
        "rows = [{'text': f'{number}'} for number in range(200)]\n"
        "print(DatabaseManager(sys.argv[1]).ingest('s1', rows, SampleKind.LLM, chunk_size=20).added)\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert sum(map(int, outputs)) == 200
    assert DatabaseManager(url).session_summary("s1").samples["llm"] == 200


def test_a_training_run_of_several_sessions_is_a_run_of_each(manager, session):
    manager.ingest("other", PAIRS, SampleKind.EMBEDDING)
    run_id = manager.create_training_run(["other", session], "embedding")
    manager.update_training_run(run_id, state="running")

    run = manager.training_run(run_id)
    assert (run.session_id, run.session_ids) == ("other", ("other", session))
    assert [manager.training_runs(name) for name in ("other", session)] == [[run], [run]]
    assert {summary.state for summary in manager.sessions()} == {"running"}
    assert run.to_dict()["session_ids"] == ["other", session]


def test_a_training_run_of_an_unknown_session_is_not_stored(manager, session):
    with pytest.raises(SessionError, match="got 'othr'"):
        manager.create_training_run([session, "othr"], "embedding")
    assert manager.training_runs() == []


def test_migrations_make_exactly_the_tables(url):
    with DatabaseConnection(url).transaction() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert context.get_current_revision() == HEAD_REVISION
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_bring_a_database_of_the_first_tables_up_to_date(manager, session, url):
    before = list(manager.read_samples(session, SampleKind.EMBEDDING))
    run_id = manager.create_training_run(session, "embedding")
    with DatabaseConnection(url).transaction() as connection:
        connection.execute(text("ALTER TABLE samples DROP COLUMN timestamp"))
        connection.execute(text("ALTER TABLE samples DROP COLUMN weight"))
        connection.execute(text("ALTER TABLE promotions DROP COLUMN test_rows"))
        connection.execute(text("ALTER TABLE promotions DROP COLUMN learnt_rows"))
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER promotions_refuse_replace"))
        connection.execute(text("DROP INDEX promotions_of_move"))
        for column in ("event", "move_id", "actor", "details"):
            connection.execute(text(f"ALTER TABLE promotions DROP COLUMN {column}"))
        connection.execute(text("ALTER TABLE promotions DROP COLUMN session_ids"))
        connection.execute(text("DROP TABLE training_run_sessions"))
        connection.execute(text("DROP TABLE study_logs"))
        connection.execute(text("ALTER TABLE promotions DROP COLUMN digest"))
        connection.execute(text("DROP TABLE benchmark_rows"))
        connection.execute(text("DROP TABLE log_entries"))
        connection.execute(text("DROP TABLE hook_deliveries"))
        connection.execute(text("ALTER TABLE sessions DROP COLUMN collected_entries"))
        connection.execute(text("ALTER TABLE samples DROP COLUMN logged"))
        connection.execute(text("ALTER TABLE training_runs DROP COLUMN started_by"))
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0001'"))  # noqa: S608
    with DatabaseManager(url) as reopened:
        assert list(reopened.read_samples(session, SampleKind.EMBEDDING)) == before
        assert reopened.training_run(run_id).session_ids == (session,)
        assert reopened.session_summary(session).state == "pending"
        report = reopened.ingest(
            session, [*PAIRS, ROWS["text"] | {"timestamp": 0}], SampleKind.EMBEDDING
        )
        assert (report.added, report.already_present) == (1, 25)


def test_migrations_of_a_newer_tunetrail_are_not_touched(manager, session, url):
    with DatabaseConnection(url).transaction() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608
    with pytest.raises(DatabaseError, match="another version of tunetrail"):
        DatabaseManager(url).sessions()


def test_database_manager_opens_again_after_close(manager, session):
    manager.close()
    assert manager.session_summary(session).samples["embedding"] == 25


def test_database_manager_waits_for_another_writer(tmp_path):
    manager = DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db")
    manager.ingest("s1", PAIRS, SampleKind.EMBEDDING)
    with sqlite3.connect(tmp_path / "tunetrail.db") as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.execute("BEGIN IMMEDIATE")
        assert len(manager.sessions()) == 1
    other.close()


def test_database_manager_makes_missing_folders(tmp_path):
    manager = DatabaseManager(f"sqlite:///{tmp_path}/new/folder/tunetrail.db")
    manager.ingest("s1", PAIRS, SampleKind.EMBEDDING)
    assert (tmp_path / "new/folder/tunetrail.db").is_file()


def test_database_manager_keeps_its_file_when_the_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = DatabaseManager("sqlite:///tunetrail.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    manager.ingest("s1", PAIRS, SampleKind.EMBEDDING)
    assert (tmp_path / "tunetrail.db").is_file()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("tunetrail.db", "got a value that is not a URL"),
        ("sqlite://", "got a database in memory"),
        ("sqlite:///:memory:", "got a database in memory"),
        ("mysql://a:secret@host/b", "got a URL that begins with mysql://"),
        ("postgresql://a:sec@ret@host/b", "Write an @ within the password as %40"),
    ],
)
def test_database_manager_refuses_a_wrong_url_at_once(url, message):
    with pytest.raises(ConfigError, match=message) as caught:
        DatabaseManager(url)
    assert "secret" not in str(caught.value)
    assert "ret@host" not in str(caught.value)


def test_database_manager_names_an_unreachable_server_without_its_password():
    manager = DatabaseManager("postgresql://user:secret@127.0.0.1:1/name?password=secret")
    with pytest.raises(
        DatabaseError, match=r"user:\*{3}@127\.0\.0\.1:1/name failed\. The server can.t be"
    ) as caught:
        manager.sessions()
    assert "secret" not in str(caught.value) + repr(manager)
    assert "\n" not in str(caught.value)


def test_database_manager_names_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match="a part of the path is a file"):
        DatabaseManager(f"sqlite:///{tmp_path}/file/folder/tunetrail.db").sessions()
    with pytest.raises(DatabaseError, match="a part of the path is a file"):
        DatabaseManager(f"sqlite:///{tmp_path}/file/tunetrail.db").sessions()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_database_manager_names_a_folder_that_can_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DatabaseError, match="Its folder can't be written"):
        manager = DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db")
        manager.ingest("s1", PAIRS, SampleKind.EMBEDDING)


def test_database_manager_names_a_path_that_is_a_folder(tmp_path):
    with pytest.raises(DatabaseError, match="can't be opened"):
        DatabaseManager(f"sqlite:///{tmp_path}").sessions()


def test_database_manager_names_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "tunetrail.db"
    path.write_text("not a database " * 100)
    with pytest.raises(DatabaseError, match="The file isn't a SQLite database"):
        DatabaseManager(f"sqlite:///{path}").sessions()
    assert path.read_text().startswith("not a database")


def test_database_manager_names_a_full_disk_and_goes_on_after_it(tmp_path):
    manager = DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db")
    manager.ingest("s1", PAIRS, SampleKind.EMBEDDING)
    engine = manager._database._engine

    def fill(connection, _record):
        connection.execute("PRAGMA max_page_count = 1")

    event.listen(engine, "connect", fill)
    rows = [{"text": f"{number} " * 1000} for number in range(200)]
    with pytest.raises(DatabaseError, match="The disk is full"):
        manager.ingest("s1", rows, SampleKind.EMBEDDING)
    event.remove(engine, "connect", fill)
    assert manager.session_summary("s1").samples["embedding"] == 25
    assert manager.ingest("s1", rows, SampleKind.EMBEDDING).added == 200


def test_database_manager_hides_the_content_of_samples_from_its_errors(manager, session, url):
    with (
        pytest.raises(DatabaseError) as caught,
        DatabaseConnection(url).transaction() as connection,
    ):
        connection.execute(
            text("INSERT INTO sessions (session_id, created_at) VALUES (:name, NULL)"),
            {"name": "a private text"},
        )
    assert "private" not in str(caught.value)


@pytest.mark.processes
def test_database_manager_imports_neither_torch_nor_mlflow():
    code = "import sys, tunetrail.stores.database.manager; print([n for n in ('torch', 'mlflow', 'hydra') if n in sys.modules])"
    with run_python(code) as child:
        assert child.stdout.read().strip() == "[]"


def test_a_database_that_another_process_makes_is_awaited_as_long_as_configured(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TUNETRAIL_LOCK_SECONDS", "0.2")
    with (
        file_lock(tmp_path / "t.db.lock"),
        DatabaseManager(f"sqlite:///{tmp_path}/t.db") as manager,
        pytest.raises(DatabaseError, match="TUNETRAIL_LOCK_SECONDS"),
    ):
        manager.ingest("s", [{"text": "a text"}], SampleKind.LLM)


def test_json_text_makes_every_value_plain():
    value = {"a": float("inf"), 2: {3}, "c": ("x", None), "d": UTC, "e": 1.5}
    assert json.loads(json_text(value)) == {
        "a": None,
        "2": [3],
        "c": ["x", None],
        "d": "UTC",
        "e": 1.5,
    }

"""Feedback becomes preferences and verdicts, and a rejected answer is never learnt as accepted."""

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.commands import CallMain

from tunetrail.data.conversations.conversations import derive
from tunetrail.data.conversations.feedback import verdict_of
from tunetrail.data.conversations.preferences import PreferenceFinder
from tunetrail.data.rows import rows_frame
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.samples import Sample, SampleKind
from tunetrail.stores.database.manager import DatabaseManager

pytestmark = pytest.mark.usefixtures("empty_database")

ACCEPTED = ({"feedback": "up"}, {"annotation": {"rating": 1}}, {"isUpvoted": True}, {"rating": 5})
REJECTED = (
    {"feedback": {"rating": "thumbsDown"}},
    {"annotation": {"rating": -1}},
    {"isUpvoted": False},
    {"rating": 1},
)


def answer(text: str, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **keys}


def chat(name: str, question: str, *answers: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": question}, *answers]}


def preferences_of(rows: list[dict[str, Any]]) -> list[Sample]:
    finder = PreferenceFinder()
    judged = [sample for row in rows for sample in derive(row, finder).judged]
    return [sample for sample in judged if sample.shape.startswith("preference")]


def test_preferences_of_a_planted_log_are_found() -> None:
    generator = random.Random(0)
    rows, planted = [], set()
    for index in range(1000):
        question, up = f"How do I fix problem {index} of my order?", generator.choice(ACCEPTED)
        good, bad = f"Press button {index}.", f"No idea about {index}."
        down, plan = generator.choice(REJECTED), index % 5
        if plan == 0:
            rows.append(chat(f"c{index}", question, answer(bad, **down), answer(good, **up)))
        elif plan == 1:
            rows.append(chat(f"c{index}", question, answer(bad, **down)))
            rows.append(chat(f"d{index}", f" {question.upper()}  ", answer(good, **up)))
        elif plan == 2:
            rows.append(chat(f"c{index}", question, answer(good, **up)))
        elif plan == 3:
            rows.append(chat(f"c{index}", question, answer(bad, **down)))
        else:
            rows.append(chat(f"c{index}", question, answer(bad, **down), answer(good)))
        if plan < 2:
            planted.add((good, bad))

    found = [
        (sample.content["chosen"], sample.content["rejected"]) for sample in preferences_of(rows)
    ]
    right = planted.intersection(found)
    assert len(right) >= 0.98 * len(found) and len(right) >= 0.98 * len(planted)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("key", ["edited_output", "correction", "edited"])
def test_an_edit_is_preferred_to_the_answer_and_learnt(key: str) -> None:
    derived = derive(chat("c", "Capital of Peru?", answer("Quito.", **{key: "Lima."})))
    preference = derived.judged[0]
    assert dict(preference.content) == {
        "prompt": "Capital of Peru?",
        "chosen": "Lima.",
        "rejected": "Quito.",
    }
    learnt = [str(sample.content) for sample in derived.samples]
    assert learnt and all("Quito" not in text for text in learnt)


@pytest.mark.parametrize(("verdict", "accepted"), [(ACCEPTED[1], True), (REJECTED[1], False)])
def test_a_single_verdict_is_learnt_as_what_it_is(verdict: dict[str, Any], accepted: bool) -> None:
    (sample,) = derive(chat("c", "Opening hours?", answer("No idea.", **verdict))).judged
    assert sample.shape == "verdict" and sample.content["accepted"] is accepted


def test_later_questions_keep_the_turns_before_them() -> None:
    row = chat("c", "Capital of Peru?", answer("Lima."))
    row["messages"] += [{"role": "user", "content": "And of Chile?"}]
    row["messages"] += [answer("Lima.", feedback="down"), answer("Santiago.", feedback="up")]
    (preference,) = preferences_of([row])
    assert preference.shape == "preference_chat"
    contents = [turn["content"] for turn in preference.content["prompt_messages"]]
    assert contents == ["Capital of Peru?", "Lima.", "And of Chile?"]


def test_a_verdict_on_a_later_answer_keeps_the_turns_before_it() -> None:
    row = chat("c", "Capital of Peru?", answer("Lima."))
    row["messages"] += [{"role": "user", "content": "And of Chile?"}]
    row["messages"] += [answer("Lima.", feedback="down")]
    (verdict,) = derive(row).judged
    assert verdict.shape == "verdict_chat"
    contents = [turn["content"] for turn in verdict.content["prompt_messages"]]
    assert contents == ["Capital of Peru?", "Lima.", "And of Chile?"]
    assert (verdict.content["completion"], verdict.content["accepted"]) == ("Lima.", False)


def test_verdicts_on_answers_to_one_later_question_are_twins_and_no_copies() -> None:
    samples = []
    for text, verdict in (("Lima.", "down"), ("Santiago.", "up")):
        row = chat("c", "What is the capital of Peru, the country?", answer("It is Lima."))
        row["messages"] += [{"role": "user", "content": "And which one is that of Chile?"}]
        row["messages"] += [answer(text, feedback=verdict)]
        samples += derive(row).judged
    frame = rows_frame(enumerate(samples))
    assert set(frame["shape"]) == {"verdict_chat"}
    assert pd.Series(cluster_keys(frame, 0.8)).nunique() == 1


def test_a_preference_and_the_chats_of_its_question_are_twins() -> None:
    finder = PreferenceFinder()
    rows = [
        chat("c1", "How do I reset my password?", answer("No idea.", feedback="down")),
        chat("c2", "how do I  reset my password?", answer("Click here.", feedback="up")),
    ]
    samples = [
        sample
        for row in rows
        for derived in [derive(row, finder)]
        for sample in (*derived.judged, *derived.samples)
    ]
    frame = rows_frame(enumerate(samples))
    assert {"preference", "verdict", "chat"} <= set(frame["shape"])
    assert pd.Series(cluster_keys(frame, 0.8)).nunique() == 1


def test_answers_to_the_same_words_under_another_system_turn_are_not_compared() -> None:
    rows = []
    for system, verdict in (("Answer in French.", "down"), ("Answer in German.", "up")):
        row = chat(system, "The weather today?", answer(system, feedback=verdict))
        row["messages"].insert(0, {"role": "system", "content": system})
        rows.append(row)
    assert preferences_of(rows) == []


def judged_in_file(call_main: CallMain, ratings: list[Any]) -> tuple[dict[int, bool], str]:
    """Return the verdict on the answer of each row that has one, and what `ingest` printed."""
    rows = []
    for index, rating in enumerate(ratings):
        rated = {} if rating is None else {"rating": rating}
        question = f"How do I solve problem {index}?"
        rows.append(chat(f"c{index}", question, answer(str(index), **rated)))
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call_main("ingest", "rows.jsonl", "--session", "s", "--kind", "conversation")
    assert result.exit_code == 0, result.err
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        chunks = list(manager.read_samples("s", SampleKind.LLM))
    samples = [stored.sample for chunk in chunks for stored in chunk]
    verdicts = [sample.content for sample in samples if sample.shape == "verdict"]
    return {int(row["completion"]): row["accepted"] for row in verdicts}, result.out


@pytest.mark.parametrize(
    ("ratings", "verdicts", "scale"),
    [
        ([1, 3, 2], {0: False, 1: True, 2: False}, "1 to 5 stars"),
        ([1, -1], {0: True, 1: False}, "votes of 1, 0 and -1"),
        ([1, 1, 0, -1.0], {0: True, 1: True, 3: False}, "votes of 1, 0 and -1"),
        (["1", "-1"], {0: True, 1: False}, "votes of 1, 0 and -1"),
        ([1, 0], {0: True}, "votes of 1 and -1"),
        ([0, 4, 5, 10], {0: False, 1: False, 2: True, 3: True}, "0 to 10 points"),
        ([5, 49.5, 50, 90], {0: False, 1: False, 2: True, 3: True}, "percentages"),
        ([{"value": 1}, {"value": -1}], {0: True, 1: False}, "votes of 1, 0 and -1"),
        ([1] * 1500 + [-1], dict.fromkeys(range(1500), True) | {1500: False}, "votes of 1, 0"),
    ],
)
def test_a_rating_is_read_on_the_scale_of_its_file(
    call_main: CallMain, ratings: list[Any], verdicts: dict[int, bool], scale: str
) -> None:
    found, printed = judged_in_file(call_main, ratings)
    assert found == verdicts and f"numbers under rating are read as {scale}" in printed


@pytest.mark.parametrize(("late", "accepted"), [([1, -1], True), ([9, 2], True), ([1, 5], False)])
def test_a_scale_is_found_that_only_rows_after_the_first_thousand_show(
    call_main: CallMain, late: list[int], accepted: bool
) -> None:
    unrated = [None] * 1500
    found, printed = judged_in_file(call_main, [*unrated, *late])
    assert found == {1500: accepted, 1501: not accepted}
    assert printed.count("numbers under rating are read as") == 1


def test_a_file_that_is_damaged_after_its_first_rating_is_refused(call_main: CallMain) -> None:
    rows = [chat(f"c{n}", f"How do I solve problem {n}?", answer(str(n))) for n in range(1500)]
    rows.append(chat("rated", "Opening hours?", answer("No idea.", rating=1)))
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    Path("rows.jsonl").write_bytes(content + b"\xff\n")
    result = call_main("ingest", "rows.jsonl", "--session", "s", "--kind", "conversation")
    assert result.exit_code == 2 and "rows.jsonl must be UTF-8" in result.err


def ingest_chats(call_main: CallMain, name: str, *rows: dict[str, Any]) -> list[tuple[str, str]]:
    """Ingest chats into one session, and return all of its preferences."""
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call_main("ingest", name, "--session", "s", "--kind", "conversation")
    assert result.exit_code == 0, result.err
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        chunks = list(manager.read_samples("s", SampleKind.LLM))
    samples = [stored.sample for chunk in chunks for stored in chunk]
    return [
        (sample.content["chosen"], sample.content["rejected"])
        for sample in samples
        if sample.shape == "preference"
    ]


@pytest.mark.parametrize("rejected_first", [True, False])
def test_answers_of_two_ingests_into_a_session_are_compared(
    call_main: CallMain, rejected_first: bool
) -> None:
    bad = chat("c1", "How do I reset my password?", answer("No idea.", feedback="down"))
    good = chat("c2", "how do I  reset my password?", answer("Click here.", feedback="up"))
    first, second = (bad, good) if rejected_first else (good, bad)
    other = chat("c3", "Opening hours?", answer("From nine.", feedback="up"))

    assert ingest_chats(call_main, "first.jsonl", first) == []
    assert ingest_chats(call_main, "second.jsonl", other, second) == [("Click here.", "No idea.")]
    # Whatever is ingested again adds nothing.
    for name, rows in {"first.jsonl": [first], "second.jsonl": [other, second]}.items():
        assert len(ingest_chats(call_main, name, *rows)) == 1
    assert len(ingest_chats(call_main, "both.jsonl", bad, good)) <= 2


def test_answers_to_a_later_question_are_compared_over_two_ingests(call_main: CallMain) -> None:
    rows = []
    for name, text, verdict in (("c1", "Lima.", "down"), ("c2", "Santiago.", "up")):
        row = chat(name, "Capital of Peru?", answer("Lima."))
        row["messages"].insert(0, {"role": "system", "content": "Be brief."})
        row["messages"] += [{"role": "user", "content": "And which one is that of Chile?"}]
        rows.append({**row, "messages": [*row["messages"], answer(text, feedback=verdict)]})
    ingest_chats(call_main, "first.jsonl", rows[0])
    ingest_chats(call_main, "second.jsonl", rows[1])

    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        (chunk,) = manager.read_samples("s", SampleKind.LLM)
    (preference,) = [
        stored.sample.content for stored in chunk if stored.sample.shape == "preference_chat"
    ]
    assert (preference["chosen"], preference["rejected"]) == ("Santiago.", "Lima.")
    roles = [turn["role"] for turn in preference["prompt_messages"]]
    assert roles == ["system", "user", "assistant", "user"]


def test_a_file_that_has_grown_adds_only_the_preferences_of_its_new_answers(
    call_main: CallMain,
) -> None:
    rows = [
        chat("c1", "Opening hours?", answer("No idea.", feedback="down")),
        chat("c2", "Opening hours?", answer("From nine.", feedback="up")),
        chat("c3", "Opening hours?", answer("From ten.", feedback="down")),
    ]
    assert ingest_chats(call_main, "a.jsonl", *rows[:2]) == [("From nine.", "No idea.")]
    grown = ingest_chats(call_main, "a.jsonl", *rows)
    assert grown == [("From nine.", "No idea."), ("From nine.", "From ten.")]
    assert ingest_chats(call_main, "a.jsonl", *rows) == grown


@pytest.mark.parametrize("kind", ["llm", "conversation"])
def test_a_vote_of_1_under_rating_is_learnt(call_main: CallMain, kind: str) -> None:
    rows = [chat("a", "Capital of Peru?", answer("Lima.")) | {"rating": 1}]
    rows.append(chat("b", "Capital of Chile?", answer("Lima.")) | {"rating": -1})
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call_main("ingest", "rows.jsonl", "--session", "s", "--kind", kind).exit_code == 0

    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        (chunk,) = manager.read_samples("s", SampleKind.LLM)
        rejected = [row.reason for row in manager.rejected_samples("s")]
    chats = [stored.sample for stored in chunk if stored.sample.shape == "chat"]
    assert ["Peru" in str(sample.content) for sample in chats] == [True]
    assert all("-1" in reason for reason in rejected) and rejected


def langfuse(name: str, value: Any, **keys: Any) -> dict[str, Any]:
    return {"scores": [{"name": "toxicity", "value": 0.2}, {"name": name, "value": value, **keys}]}


def argilla(value: Any, status: str = "submitted") -> dict[str, Any]:
    return {"responses": [{"values": {"rating": {"value": value}}, "status": status}]}


@pytest.mark.parametrize(
    ("record", "accepted"),
    [
        (langfuse("user-feedback", 1), True),
        (langfuse("User Feedback", 0, dataType="BOOLEAN"), False),
        (langfuse("user_rating", 2, dataType="NUMERIC"), False),
        (langfuse("thumbs", 3, dataType="CATEGORICAL", stringValue="thumbs-up"), True),
        (langfuse("helpfulness of the retriever", 0), None),
        ({"scores": [0.1, 0.9]}, None),
        (argilla(4), True),
        (argilla(1), False),
        (argilla(1, "draft"), None),
        (argilla(1, "discarded"), None),
        ({"responses": ["one answer", "another one"]}, None),
        ({"rating": "4/5"}, True),
        ({"feedback": "2 / 5"}, False),
        ({"feedback": "7/10"}, True),
        ({"rating": "20 %"}, False),
        ({"feedback": "80%"}, True),
        ({"vote": "upvote"}, True),
        ({"feedback": "incorrect"}, False),
    ],
)
def test_feedback_of_tools_is_read(record: dict[str, Any], accepted: bool | None) -> None:
    verdict = verdict_of(record)
    assert (None if verdict is None else verdict.accepted) is accepted


def test_what_a_filter_of_open_webui_has_changed_is_no_edit() -> None:
    row = chat("c", "Capital of Peru?", answer("Lima [1].", originalContent="Lima."))
    assert derive(row).judged == ()


def test_a_rejecting_score_keeps_the_answer_from_being_learnt() -> None:
    row = chat("c", "Capital of Peru?", answer("Quito.", **langfuse("user-feedback", -1)))
    assert all("Quito" not in str(sample.content) for sample in derive(row).samples)


def test_a_rating_off_the_scale_of_its_file_is_named(call_main: CallMain) -> None:
    verdicts, printed = judged_in_file(call_main, [1, -1, 7])
    assert verdicts == {0: True, 1: False}
    assert "got 7. Write up or down" in printed
    assert "a `rating` like the others of this file (votes of 1, 0 and -1)" in printed

"""Feedback becomes preferences and verdicts, and a rejected answer is never learnt as accepted."""

import random
from typing import Any

import pandas as pd
import pytest

from tunetrail.data.conversations.conversations import derive
from tunetrail.data.conversations.preferences import PreferenceFinder
from tunetrail.data.rows import rows_frame
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.samples import Sample

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

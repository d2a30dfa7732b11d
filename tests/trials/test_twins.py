"""Copies and twins in the sessions that people bring: rows are told apart by their own words."""

import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.config import CleaningConfig, PreparationConfig, SplitConfig, ValidationConfig
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.rows import rows_frame
from tunetrail.data.sides import SIDES
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.samples import Sample, SampleKind

WORDS = [
    *[
        "the",
        "a",
        "my",
        "your",
        "order",
        "invoice",
        "card",
        "parcel",
        "please",
        "when",
        "where",
        "how",
        "is",
        "was",
        "not",
        "arrived",
    ],
    *[
        "since",
        "monday",
        "lost",
        "broken",
        "refund",
        "want",
        "need",
        "help",
        "with",
        "account",
        "login",
        "password",
        "reset",
    ],
    *[
        "change",
        "address",
        "delivery",
        "late",
        "wrong",
        "amount",
        "charged",
        "twice",
        "cancel",
        "contract",
        "phone",
    ],
    *[
        "number",
        "email",
        "update",
        "old",
        "new",
        "today",
        "yesterday",
        "again",
        "still",
        "store",
        "return",
        "item",
        "size",
    ],
]
LABELS = ("billing", "delivery", "returns", "account", "technical", "sales", "legal", "other")
NAMES = ("Anna", "Ben", "Carla", "Dora", "Emil", "Fritz", "Gerda", "Hans", "Ida", "Jan")


def words(generator: random.Random, least: int, most: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(least, most)))


def boilerplate(seed: int, length: int) -> str:
    generator = random.Random(f"boilerplate {seed}")
    return " ".join(
        generator.choices([*WORDS, *(f"term{index}" for index in range(200))], k=length)
    )


def frame(shape: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    kind = SampleKind.LLM if shape == "completion" else SampleKind.EMBEDDING
    return rows_frame(
        (row_id, Sample(kind=kind, shape=shape, content=dict(row)))
        for row_id, row in enumerate(rows, start=1)
    )


def prepared(
    shape: str, rows: Sequence[Mapping[str, Any]], folder: Path, **cleaning: Any
) -> PreparedSession:
    kind = SampleKind.LLM if shape == "completion" else SampleKind.EMBEDDING
    steps = ChunkSteps(
        kind=kind, validation=ValidationConfig(), cleaning=CleaningConfig(**cleaning)
    )
    config = PreparationConfig(workers=1, cache_gigabytes=0.0, chunk_rows=300)
    preparation = Preparation(steps=steps, split=SplitConfig(), config=config, seed=0)
    return preparation.run([frame(shape, rows)], folder)


def texts_keys(texts: Sequence[str]) -> list[str]:
    return cluster_keys(frame("text", [{"text": text} for text in texts]), 0.8)


def instruction_before(message: str) -> str:
    return f"{boilerplate(1, 45)} {message}"


def long_instruction(message: str) -> str:
    return f"{boilerplate(2, 130)} {message}"


def signature_after(message: str) -> str:
    return f"{message}\n{boilerplate(3, 60)}"


def on_both_sides(message: str) -> str:
    return f"{boilerplate(4, 45)}: {message}. {boilerplate(5, 45)}"


def one_of_eight(message: str) -> str:
    return f"{boilerplate(10 + len(message) % 8, 45)} {message}"


def few_shot(message: str) -> str:
    generator = random.Random(6)
    shots = [f"Message: {words(generator, 5, 10)}. Department: {label}." for label in LABELS * 3]
    return f"{' '.join(shots)} Message: {message}."


def drawn_shots(message: str) -> str:
    """Examples that are drawn for each row: no two rows have the same ones in the same order."""
    generator = random.Random(8)
    pool = [f"Message: {words(generator, 5, 10)}. Department: {label}." for label in LABELS * 3]
    shots = random.Random(message).sample(pool, 4)
    return f"{' '.join(shots)} Message: {message}."


def chinese(message: str) -> str:
    instruction = (
        "请阅读客户的以下留言并判断应该由公司的哪一个部门来回答这个问题然后只写出部门的名称:"
    )
    return instruction + "".join(chr(0x4E00 + WORDS.index(word)) for word in message.split())


@pytest.mark.parametrize("shape", ["completion", "label"])
@pytest.mark.parametrize(
    "fill",
    [
        instruction_before,
        long_instruction,
        signature_after,
        on_both_sides,
        one_of_eight,
        few_shot,
        drawn_shots,
        chinese,
    ],
)
def test_what_most_rows_share_makes_no_row_a_copy_and_no_split_uneven(
    shape: str, fill: Any, tmp_path: Path
) -> None:
    generator = random.Random(7)
    first, second = ("input", "output") if shape == "completion" else ("text", "label")
    messages = [words(generator, 5, 10) for _ in range(500)]
    rows = [{first: fill(message), second: generator.choice(LABELS)} for message in messages]

    session = prepared(shape, rows, tmp_path)

    assert session.step("cleaning").rows_out == 500
    shares = [session.sides[side] / 500 for side in SIDES]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.06)
    assert session.warnings == () and session.stopped is None


def tip(percent: int) -> dict[str, str]:
    question = (
        "At dinner with my friends last Friday the food was good and so was the service. "
        f"My bill came to $40 and I would like to leave a {percent}% tip. How much is it?"
    )
    return {"input": question, "output": f"The tip is {40 * percent / 100:g} dollars in total."}


def greeting(name: str) -> dict[str, str]:
    request = (
        f"Write a short and friendly birthday greeting for my dear colleague {name}, who has worked "
        "with us in the warehouse for years and likes cycling, good food and music very much."
    )
    wish = f"Dear {name}, all the best! We are glad to have you with us and wish you a good day."
    return {"input": request, "output": wish}


def product(operation: str) -> dict[str, str]:
    request = f"Work out step by step, and explain it to a pupil of ten years: 12 {operation} 4."
    return {"input": request, "output": "First look at both numbers, then do what the sign says."}


def question(number: int) -> dict[str, str]:
    asked = words(random.Random(f"question {number}"), 7, 9)
    return {
        "input": f"{boilerplate(20, 150)} Question: {asked}?",
        "output": "The text doesn't say anything about this.",
    }


@pytest.mark.parametrize(
    "rows",
    [
        [*map(tip, range(5, 55, 5))],
        [*map(greeting, NAMES)],
        [*map(greeting, NAMES[:3])],
        [*map(product, "+-*/")],
        [*map(question, range(4))],
    ],
    ids=["numbers", "names", "three names", "operations", "questions"],
)
def test_rows_that_ask_something_else_are_no_copies(
    rows: list[dict[str, str]], tmp_path: Path
) -> None:
    generator = random.Random(8)
    ordinary = [
        {"input": words(generator, 15, 40), "output": words(generator, 5, 20)} for _ in range(300)
    ]

    session = prepared("completion", [*rows, *ordinary], tmp_path)

    assert session.step("cleaning").set_aside == 0


# An edit in a short end leaves too few words on its two sides to tell that it is boilerplate.
LONG_OR_NO_ENDS = st.just(0) | st.integers(20, 80)


def edited(text: str, generator: random.Random) -> str:
    """Return the text with one word replaced, left out or added."""
    listed = text.split()
    position = generator.randrange(len(listed))
    end = position + generator.randrange(2)
    listed[position:end] = [] if end > position and generator.random() < 0.3 else ["moreover"]
    return " ".join(listed)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 80), st.integers(0, 80), st.integers(10, 40))
def test_real_copies_share_a_side_whatever_boilerplate_they_carry(
    seed: int, before: int, after: int, length: int
) -> None:
    generator = random.Random(seed)
    messages = [words(generator, length, length + 10) for _ in range(60)]
    bare_texts = [*messages, *(edited(message, generator) for message in messages)]
    start, end = boilerplate(seed, before), boilerplate(seed + 1, after)

    bare = texts_keys(bare_texts)
    carrying = texts_keys([f"{start} {text} {end}" for text in bare_texts])

    # What is a twin by its own words is one with the boilerplate, too.
    for position in range(60):
        if bare[position] == bare[60 + position]:
            assert carrying[position] == carrying[60 + position]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 80), LONG_OR_NO_ENDS, st.integers(10, 40))
def test_copies_share_a_side_wherever_the_boilerplate_was_edited(
    seed: int, before: int, after: int, length: int
) -> None:
    generator = random.Random(seed)
    messages = [words(generator, length, length + 10) for _ in range(60)]
    start, end = boilerplate(seed, before), boilerplate(seed + 1, after)
    # Each word of the last ten before the gap, and of the first ten after it, and any other one.
    copies = []
    for row_index, message in enumerate(messages):
        copied_start, copied_end = start.split(), end.split()
        side = copied_end if copied_end and row_index % 2 else copied_start
        distance = row_index // 2 % 10
        near_gap = distance if side is copied_end else -1 - distance
        position = near_gap if row_index < 40 else generator.randrange(len(side))
        if abs(position) < len(side):
            side[position] = "moreover"
        copies.append(" ".join([*copied_start, message, *copied_end]))

    keys = texts_keys([*(f"{start} {message} {end}" for message in messages), *copies])

    assert keys[:60] == keys[60:]


def test_many_edits_of_one_text_stay_one_cluster_of_twins() -> None:
    generator = random.Random(9)
    original = words(generator, 40, 40)
    copies = [edited(original, generator) for _ in range(60)]
    others = [words(generator, 20, 40) for _ in range(240)]

    keys = texts_keys([original, *copies, *others])

    assert len(set(keys[:61])) == 1 and len(set(keys)) == 241


def test_clusters_depend_neither_on_the_order_of_rows_nor_on_other_rows() -> None:
    generator = random.Random(10)
    texts = [one_of_eight(words(generator, 5, 10)) for _ in range(400)]
    rows = frame("text", [{"text": text} for text in texts])
    shuffled = rows.sample(frac=1.0, random_state=1).reset_index(drop=True)

    keys = dict(zip(rows["row_id"], cluster_keys(rows, 0.8), strict=True))

    assert keys == dict(zip(shuffled["row_id"], cluster_keys(shuffled, 0.8), strict=True))
    assert len(set(keys.values())) == 400


def test_keys_of_rows_with_an_instruction_stay_when_the_session_grows() -> None:
    generator = random.Random(11)
    texts = [instruction_before(words(generator, 5, 10)) for _ in range(900)]

    keys = texts_keys(texts)

    for size in (30, 300):
        assert texts_keys(texts[:size]) == keys[:size]


def test_dropping_most_of_a_session_is_an_error_that_shows_a_pair(tmp_path: Path) -> None:
    generator = random.Random(12)
    messages = [words(generator, 60, 80) for _ in range(30)]
    copies = [f"{message} {'so ' * count}" for message in messages for count in (1, 2, 3, 4)]

    session = prepared("text", [{"text": text} for text in (*messages, *copies)], tmp_path)

    finding = session.findings[-1]
    assert finding.check == "cleaning.max_share_dropped" and finding.severity == "error"
    dropped, original = (example.row_id for example in finding.examples)
    assert original <= 30 < dropped
    assert session.stopped is not None and session.warnings == ()
    for said in ("cleaning.near_duplicate_similarity=0.8", "for row", "raise cleaning.max_share"):
        assert said in session.stopped
    assert "split.near_duplicate_similarity" not in session.stopped


@pytest.mark.parametrize(
    ("copies", "limit", "severity"),
    [(9, 0.5, "passed"), (20, 0.5, "warning"), (20, 0.05, "error"), (15, 1.0, "passed")],
)
def test_a_share_of_dropped_rows_is_a_warning_from_a_fifth_of_its_limit(
    copies: int, limit: float, severity: str, tmp_path: Path
) -> None:
    generator = random.Random(13)
    rows = [{"text": words(generator, 40, 60)} for _ in range(100)]
    rows += [{"text": f"{row['text']} moreover"} for row in rows[:copies]]

    session = prepared("text", rows, tmp_path, max_share_dropped=limit)

    finding = session.findings[-1]
    assert (finding.severity, finding.rows) == (severity, copies)
    assert "cleaning.near_duplicate_similarity=0.8" in finding.message


@pytest.mark.parametrize("other", ["Positive", "postive", "POSITIVE", "positive ", "posittive"])
def test_labels_that_differ_in_case_or_a_letter_are_named(other: str, tmp_path: Path) -> None:
    generator = random.Random(14)
    labels = [*["negative"] * 300, *["positive"] * 270, *[other.strip()] * 15]
    rows = [{"text": words(generator, 15, 30), "label": label} for label in labels]

    session = prepared("label", rows, tmp_path)

    similar = [result for result in session.findings if result.check == "labels.similar"]
    if other.strip() == "positive":
        assert similar == []
    else:
        assert similar[0].severity == "warning" and similar[0].measure == 1.0
        assert f"{other!r} (15 rows) looks like 'positive' (270)" in similar[0].message


@pytest.mark.processes
def test_prepare_gives_a_sign_of_life_before_the_libraries_are_loaded(tmp_path: Path) -> None:
    # Broken on purpose: the first line has to come before torch is imported.
    (tmp_path / "torch.py").write_text("raise RuntimeError('imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "tunetrail", "prepare", "session_id=none"]

    result = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert result.returncode != 0
    assert result.stderr.splitlines()[0] == "prepare: loading the libraries ..."

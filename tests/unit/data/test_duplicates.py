import random
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.data.duplicates import cluster_keys, normalized
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind, parse_sample

WORDS = ["".join(random.Random(number).choices("abcdefghijklmnop", k=4 + number % 5)) for number in range(3000)]


def frame(shape: str, *contents: dict[str, Any], groups: list[str | None] | None = None) -> pd.DataFrame:
    kind = SampleKind.LLM if shape in ("completion", "chat", "document") else SampleKind.EMBEDDING
    return rows_frame(
        (number, Sample(kind=kind, shape=shape, content=content, group=groups[number] if groups else None))
        for number, content in enumerate(contents)
    )


def pattern(keys: list[str]) -> list[int]:
    """Return which cluster each row is in, numbered by first occurrence."""
    return [list(dict.fromkeys(keys)).index(key) for key in keys]


def sentence(generator: random.Random, words: int) -> str:
    return " ".join(generator.choices(WORDS, k=words))


def chat(*contents: str, system: str = "") -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"messages": [{"role": "system", "content": system}, *turns]}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  Hello,\n WORLD! ", "hello world"),
        ("don't", "dont"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("...", "..."),
        ("{}", "{}"),
        ("क्षि", "क्षि"),
        ("日本語、です", "日本語です"),
    ],
)
def test_normalized_folds_case_space_and_punctuation(text: str, wanted: str) -> None:
    assert normalized(text) == wanted


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (frame("text", {"text": "One two."}, {"text": "one  TWO"}, {"text": "three"}), [0, 0, 1]),
        (frame("label", *({"text": text, "label": "l"} for text in "abc")), [0, 1, 2]),
        (
            frame("pair", *({"anchor": a, "positive": b, "negative": "n"} for a, b in ["ab", "ac", "dc", "ef", "ge"])),
            [0, 0, 0, 1, 1],
        ),
        (
            frame("score", *({"sentence1": a, "sentence2": b, "score": 1.0} for a, b in ["ab", "ca", "de"])),
            [0, 0, 1],
        ),
        (frame("completion", *({"input": text, "output": "yes"} for text in "aab")), [0, 0, 1]),
        (frame("vector", *({"text": text, "embedding": [1.0]} for text in "ab")), [0, 1]),
        (frame("chat", *(chat(a, "yes", system="Be kind. " * 99) for a in ("left", "right", "left"))), [0, 1, 0]),
        (frame("text", *({"text": text} for text in "abcd"), groups=["g", None, "g", "h"]), [0, 1, 0, 2]),
        (frame("text", {"text": "{}"}, {"text": "..."}, {"text": "{}"}), [0, 1, 0]),
    ],
)
def test_cluster_keys_connect_twins_and_only_twins(rows: pd.DataFrame, wanted: list[int]) -> None:
    for similarity in (0.0, 0.8):
        assert pattern(cluster_keys(rows, similarity)) == wanted


def test_cluster_keys_are_hex_digests() -> None:
    assert all(len(key) == 64 and int(key, 16) >= 0 for key in cluster_keys(frame("text", {"text": "a"}), 0.8))
    assert cluster_keys(frame("text"), 0.8) == []


@pytest.mark.parametrize("words", [12, 15, 16, 20, 31, 33, 80])
def test_cluster_keys_find_near_duplicates_of_every_length(words: int) -> None:
    generator = random.Random(words)
    texts = [sentence(generator, words) for _ in range(60)]
    near = [text.rsplit(" ", 1)[0] for text in texts]
    keys = cluster_keys(frame("text", *({"text": text} for text in texts + near)), 0.7)
    assert keys[:60] == keys[60:] and len(set(keys)) == 60
    exact = cluster_keys(frame("text", *({"text": text} for text in texts + near)), 0.0)
    assert len(set(exact)) == 120


def test_cluster_keys_do_not_depend_on_the_order_of_rows() -> None:
    generator = random.Random(1)
    texts = [sentence(generator, 20) for _ in range(40)]
    rows = frame("text", *({"text": text} for text in texts + [f"{text} indeed" for text in texts]))
    shuffled = rows.iloc[np.random.default_rng(0).permutation(len(rows))]
    keys = dict(zip(rows["row_id"], cluster_keys(rows, 0.8), strict=True))
    assert [keys[row_id] for row_id in shuffled["row_id"]] == cluster_keys(shuffled.reset_index(drop=True), 0.8)


def test_cluster_keys_survive_a_newer_twin() -> None:
    generator = random.Random(2)
    texts = [sentence(generator, 20) for _ in range(50)]
    old = cluster_keys(frame("text", *({"text": text} for text in texts)), 0.8)
    grown = cluster_keys(frame("text", *({"text": text} for text in [*texts, *(f"{text} too" for text in texts)])), 0.8)
    assert grown[:50] == old and grown[50:] == old


def test_cluster_keys_of_20000_short_rows_take_seconds() -> None:
    generator = random.Random(3)
    texts = [sentence(generator, 10) for _ in range(16_000)]
    texts += [f"{text} x" for text in texts[:4000]]
    rows = frame("text", *({"text": text} for text in texts))
    started = time.perf_counter()
    keys = cluster_keys(rows, 0.8)
    assert time.perf_counter() - started < 15.0
    assert sum(keys[number] == keys[16_000 + number] for number in range(4000)) >= 3990


def test_cluster_keys_of_thousands_of_twins_do_not_take_their_square() -> None:
    generator = random.Random(4)
    base = sentence(generator, 80).split(" ")
    texts = []
    for _ in range(5000):
        base[generator.randrange(80)], kept = generator.choice(WORDS), list(base)
        texts.append(" ".join(base))
        base = kept
    started = time.perf_counter()
    assert len(set(cluster_keys(frame("text", *({"text": text} for text in texts)), 0.8))) == 1
    assert time.perf_counter() - started < 15.0


def test_cluster_keys_join_a_conversation_at_several_lengths_and_its_opening_as_a_completion() -> None:
    turns = [
        {"role": "user", "content": "How do I reset the password of my account?"},
        {"role": "assistant", "content": "Open the settings and choose reset."},
        {"role": "user", "content": "And where are these settings?"},
        {"role": "assistant", "content": "Behind the wheel in the upper corner."},
    ]
    contents = [
        {"messages": turns[:2]},
        {"messages": turns},
        {"input": turns[0]["content"], "output": "Open the settings."},
        {"messages": [{"role": "user", "content": "Something else entirely."}, turns[1]]},
    ]
    frame = rows_frame((number, parse_sample(each, SampleKind.LLM)) for number, each in enumerate(contents))
    keys = cluster_keys(frame, 0.8)
    assert keys[0] == keys[1] == keys[2] != keys[3]

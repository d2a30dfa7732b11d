import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunetrail.data.rows import rows_frame
from tunetrail.data.twins.duplicates import SketchBook, cluster_keys
from tunetrail.data.twins.sketching import sketch_rows
from tunetrail.samples import Sample, SampleKind, parse_sample

WORDS = [
    "".join(random.Random(index).choices("abcdefghijklmnop", k=4 + index % 5))
    for index in range(3000)
]
UNHURRIED = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def frame(
    shape: str, *contents: dict[str, Any], groups: list[str | None] | None = None
) -> pd.DataFrame:
    kind = (
        SampleKind.LLM
        if shape in ("completion", "chat", "document", "preference")
        else SampleKind.EMBEDDING
    )
    return rows_frame(
        (
            row_id,
            Sample(
                kind=kind, shape=shape, content=content, group=groups[row_id] if groups else None
            ),
        )
        for row_id, content in enumerate(contents)
    )


def texts(*values: str, groups: list[str | None] | None = None) -> pd.DataFrame:
    return frame("text", *({"text": value} for value in values), groups=groups)


def book_of(folder: Path, rows: pd.DataFrame, chunk_rows: int = 10_000) -> SketchBook:
    book = SketchBook(folder)
    for start in range(0, len(rows), chunk_rows):
        book.add(sketch_rows(rows.iloc[start : start + chunk_rows]))
    return book


def pattern(keys: list[str]) -> list[int]:
    """Return which cluster each row is in, numbered by first occurrence."""
    return [list(dict.fromkeys(keys)).index(key) for key in keys]


def sentence(generator: random.Random, words: int) -> str:
    return " ".join(generator.choices(WORDS, k=words))


def chat(*contents: str, system: str = "") -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    turns = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    return {"messages": [{"role": "system", "content": system}, *turns]}


def pair(anchor: str, positive: str, negative: str | None = None) -> dict[str, Any]:
    return {"anchor": anchor, "positive": positive, "negative": negative}


def score(first: str, second: str, value: float) -> dict[str, Any]:
    return {"sentence1": first, "sentence2": second, "score": value}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (frame("text", {"text": "One two."}, {"text": "one  TWO"}, {"text": "three"}), [0, 0, 1]),
        (frame("label", *({"text": text, "label": "l"} for text in "abc")), [0, 1, 2]),
        (
            frame(
                "pair", *(pair(a, b, "n") for a, b in map(tuple, ["ab", "ac", "dc", "ef", "ge"]))
            ),
            [0, 0, 0, 1, 1],
        ),
        (
            frame("score", *(score(a, b, 1.0) for a, b in map(tuple, ["ab", "ca", "de"]))),
            [0, 0, 1],
        ),
        (frame("completion", *({"input": text, "output": "yes"} for text in "aab")), [0, 0, 1]),
        (frame("vector", *({"text": text, "embedding": [1.0]} for text in "ab")), [0, 1]),
        (
            frame(
                "chat",
                *(chat(a, "yes", system="Be kind. " * 99) for a in ("left", "right", "left")),
            ),
            [0, 1, 0],
        ),
        (texts(*"abcd", groups=["g", None, "g", "h"]), [0, 1, 0, 2]),
        (texts("{}", "...", "{}"), [0, 1, 0]),
    ],
)
def test_cluster_keys_connect_twins_and_only_twins(rows: pd.DataFrame, expected: list[int]) -> None:
    for similarity in (0.0, 0.8):
        assert pattern(cluster_keys(rows, similarity)) == expected


def test_cluster_keys_are_hashes_of_the_group_or_text() -> None:
    keys = cluster_keys(texts("A, b!", "c", groups=[None, "g"]), 0.8)
    assert keys == [hashlib.sha256(b"text:a b").hexdigest(), hashlib.sha256(b"group:g").hexdigest()]
    assert cluster_keys(texts(), 0.8) == []


@pytest.mark.parametrize("words", [12, 15, 16, 20, 31, 33, 80])
def test_cluster_keys_find_near_duplicates_of_every_length(words: int) -> None:
    generator = random.Random(words)
    longer = [sentence(generator, words) for _ in range(60)]
    near = [text.rsplit(" ", 1)[0] for text in longer]

    keys = cluster_keys(texts(*longer, *near), 0.7)

    assert keys[:60] == keys[60:] and len(set(keys)) == 60
    assert len(set(cluster_keys(texts(*longer, *near), 0.0))) == 120


def test_cluster_keys_find_one_word_paraphrases_that_shingles_do_not() -> None:
    base = "please tell me how the new card works abroad"
    rows = [
        base.replace("abroad", "internationally"),
        base.replace("please ", ""),
        base.replace("card", "credit card"),
    ]
    far = [
        base.replace("new", "old").replace("works", "fails"),
        "how the new card works abroad please tell me",
    ]

    keys = cluster_keys(texts(base, *rows, *far), 0.99)

    assert len(set(keys[:4])) == 1 and len(set(keys)) == 3
    assert (
        len(set(cluster_keys(texts("how do i reset my card", "how do i lock my card"), 0.99))) == 2
    )


@settings(parent=UNHURRIED)
@given(st.data())
def test_all_copies_of_a_text_share_a_cluster(data: st.DataObject) -> None:
    generator = random.Random(data.draw(st.integers(0, 10**6)))
    bases = [
        sentence(generator, data.draw(st.integers(8, 50)))
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    values, origins = list(bases), list(range(len(bases)))
    for index, base in enumerate(bases):
        words = base.split(" ")
        cut = data.draw(st.integers(0, len(words) - 1))
        values += [
            base,
            f"  {base.upper()}!\n",
            " ".join([*words[:cut], "otherwise", *words[cut + 1 :]]),
            " ".join([*words[:cut], "otherwise", *words[cut:]]),
            " ".join(words[:cut] + words[cut + 1 :]),
            sentence(generator, 9),
        ]
        origins += [index] * 6
    groups: list[str | None] = [None] * len(values)
    for position in range(len(bases) + 5, len(values), 6):
        groups[position] = f"group {origins[position]}"
        groups[origins[position]] = f"group {origins[position]}"
    order = data.draw(st.permutations(range(len(values))))
    rows = texts(*values, groups=groups).iloc[order].reset_index(drop=True)

    keys = cluster_keys(rows, 0.8)

    assert pattern(keys) == pattern([str(origins[position]) for position in order])
    assert keys[order.index(0)] == hashlib.sha256(b"group:group 0").hexdigest()


SHAPED = st.one_of(
    st.builds(lambda a, b: ("pair", pair(a, b)), st.sampled_from("abcd"), st.sampled_from("abcd")),
    st.builds(
        lambda a, b: ("label", {"text": f"{a} one two three four five six", "label": b}),
        st.sampled_from("abcAB"),
        st.sampled_from("xy"),
    ),
)


@settings(parent=UNHURRIED)
@given(
    st.lists(SHAPED, min_size=1, max_size=25), st.integers(1, 9), st.randoms(use_true_random=False)
)
def test_nothing_depends_on_chunks_or_the_order_of_rows(
    rows: list[tuple[str, dict[str, Any]]], chunk_rows: int, shuffler: random.Random
) -> None:
    framed = rows_frame(
        (row_id * 2, Sample(kind=SampleKind.EMBEDDING, shape=shape, content=content, group=None))
        for row_id, (shape, content) in enumerate(rows)
    )
    order = list(range(len(rows)))
    shuffler.shuffle(order)
    results = []

    for rows_in_order, size in (
        (framed, 10_000),
        (framed, chunk_rows),
        (framed.iloc[order], chunk_rows),
    ):
        with tempfile.TemporaryDirectory() as folder:
            book = book_of(Path(folder), rows_in_order, size)
            ids = np.append(book.row_ids, -1)
            twins = {
                "exact": ids[book.exact_duplicates()],
                "near": ids[book.near_duplicates(0.8)],
                "contradictions": book.contradictions(),
                "clusters": ids[book.clusters(0.8)],
                "keys": book.cluster_keys(0.8),
            }
            by_age = np.argsort(book.row_ids)
            results.append(
                {name: np.asarray(values)[by_age].tolist() for name, values in twins.items()}
            )

    assert results[0] == results[1] == results[2]


@settings(parent=UNHURRIED)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=12), st.integers(1, 11))
def test_cluster_keys_of_old_rows_stay_when_rows_come_that_merge_nothing(
    letters: list[str], cut: int
) -> None:
    values = [f"{letter} {letter * 3} {letter * 9}" for letter in letters]
    cut = min(cut, len(values))
    assert cluster_keys(texts(*values), 0.8)[:cut] == cluster_keys(texts(*values[:cut]), 0.8)


def test_cluster_keys_survive_a_newer_twin() -> None:
    generator = random.Random(2)
    values = [sentence(generator, 20) for _ in range(50)]
    old = cluster_keys(texts(*values), 0.8)
    grown = cluster_keys(texts(*values, *(f"{text} too" for text in values)), 0.8)
    assert grown[:50] == old and grown[50:] == old


def test_cluster_keys_of_20000_short_rows_take_seconds() -> None:
    generator = random.Random(3)
    values = [sentence(generator, 10) for _ in range(16_000)]
    values += [f"{text} x" for text in values[:4000]]
    rows = texts(*values)

    keys = cluster_keys(rows, 0.8)

    assert keys[:4000] == keys[16_000:]


def test_cluster_keys_of_thousands_of_twins_do_not_take_their_square() -> None:
    generator = random.Random(4)
    base = sentence(generator, 80).split(" ")
    values = []
    for _ in range(5000):
        base[generator.randrange(80)], unchanged = generator.choice(WORDS), list(base)
        values.append(" ".join(base))
        base = unchanged

    assert len(set(cluster_keys(texts(*values), 0.8))) == 1


def test_cluster_keys_join_a_conversation_at_several_lengths_and_its_opening_as_a_completion() -> (
    None
):
    turns = [
        {"role": "user", "content": "How do I reset the password of my account?"},
        {"role": "assistant", "content": "Open the settings and choose reset."},
        {"role": "user", "content": "And where are these settings?"},
        {"role": "assistant", "content": "Behind the wheel in the upper corner."},
    ]
    contents: list[dict[str, Any]] = [
        {"messages": turns[:2]},
        {"messages": turns},
        {"input": turns[0]["content"], "output": "Open the settings."},
        {"messages": [{"role": "user", "content": "Something else entirely."}, turns[1]]},
    ]

    keys = cluster_keys(
        rows_frame(
            (row_id, parse_sample(content, SampleKind.LLM))
            for row_id, content in enumerate(contents)
        ),
        0.8,
    )

    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_exact_duplicates_are_of_the_oldest_row(tmp_path: Path) -> None:
    rows = texts("a", "b", "a", "A", "a", groups=[None, None, "g", None, None])
    rows["row_id"] = [5, 4, 3, 2, 1]

    book = book_of(tmp_path, rows, 2)

    assert book.exact_duplicates().tolist() == [4, -1, 4, -1, -1]

    included = np.array([True, True, True, True, False])
    assert book.exact_duplicates(included).tolist() == [2, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (texts("a b", "A B.", "a b", "c"), [-1, 0, -1, -1]),
        (frame("label", {"text": "a b", "label": "x"}, {"text": "A b", "label": "y"}), [-1, -1]),
        (
            frame(
                "score",
                *(
                    {"sentence1": a, "sentence2": "b", "score": s}
                    for a, s in [("a", 1.0), ("A", 0.0)]
                ),
            ),
            [-1] * 2,
        ),
        (frame("pair", pair("a", "b c"), pair("a b", "c"), pair("A", "B c")), [-1, -1, 0]),
        (frame("pair", pair("a", "b", "c"), pair("a", "b")), [-1, -1]),
        (frame("chat", chat("a", "b"), chat("A", "b"), chat("A", "b", system="s")), [-1, 0, -1]),
    ],
)
def test_near_duplicates_are_equal_in_all_that_is_fixed(
    tmp_path: Path, rows: pd.DataFrame, expected: list[int]
) -> None:
    assert book_of(tmp_path, rows).near_duplicates(0.8).tolist() == expected


def test_near_duplicates_need_every_text_to_be_similar(tmp_path: Path) -> None:
    generator = random.Random(7)
    prompt = sentence(generator, 120)
    near = prompt.rsplit(" ", 1)[0]
    rows = frame(
        "completion",
        {"input": prompt, "output": "yes"},
        {"input": near, "output": "no"},
        {"input": near, "output": "Yes."},
        {"input": sentence(generator, 120), "output": "yes"},
    )

    book = book_of(tmp_path, rows)

    assert book.near_duplicates(0.8).tolist() == [-1, -1, 0, -1]
    assert book.near_duplicates(0.0).tolist() == [-1] * 4
    assert book.near_duplicates(0.8, np.array([False, True, True, True])).tolist() == [-1] * 4


def test_contradictions_are_found_on_both_sides(tmp_path: Path) -> None:
    contents = [("A b", "x"), ("a b!", "y"), ("c", "x"), ("c", "x"), ("a b", "x")]
    book = book_of(
        tmp_path, frame("label", *({"text": text, "label": label} for text, label in contents)), 2
    )

    assert book.contradictions().tolist() == [True, True, False, False, True]
    assert book.contradictions(np.array([True, False, True, True, True])).tolist() == [False] * 5


def preference(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_preferences_contradict_their_opposites_only(tmp_path: Path) -> None:
    rows = frame(
        "preference",
        preference("ask", "one", "two"),
        preference("Ask!", "Two", "one"),
        preference("ask", "three", "two"),
        preference("other", "two", "one"),
        preference("ask", "One.", "two"),
    )

    book = book_of(tmp_path, rows, 2)

    assert book.contradictions().tolist() == [True, True, False, False, True]
    assert book.near_duplicates(0.8).tolist() == [-1, -1, -1, -1, 0]

    keys = book.cluster_keys(0.8)
    assert keys[0] == keys[1] == keys[2] == keys[4] != keys[3]


def test_clusters_leave_out_what_is_not_included(tmp_path: Path) -> None:
    book = book_of(tmp_path, frame("pair", pair("a", "b"), pair("b", "c"), pair("c", "d")))
    assert book.clusters(0.8).tolist() == [0, 0, 0]
    assert book.clusters(0.8, np.array([True, False, True])).tolist() == [0, -1, 2]
    assert book.cluster_keys(0.8, np.array([True, False, True]))[1] == ""


def test_an_empty_book_finds_nothing(tmp_path: Path) -> None:
    book = SketchBook(tmp_path)
    answers = [
        book.exact_duplicates(),
        book.near_duplicates(0.8),
        book.contradictions(),
        book.clusters(0.8),
        book.row_ids,
    ]

    assert len(book) == 0 and [len(answer) for answer in answers] == [0] * 5
    assert book.cluster_keys(0.8, np.array([], dtype=bool)) == []


def test_a_book_sees_what_is_added_after_a_question(tmp_path: Path) -> None:
    rows = texts("a", "b", "A")
    book = book_of(tmp_path, rows.iloc[:2])
    assert book.clusters(0.8).tolist() == [0, 1]
    book.add(sketch_rows(rows.iloc[2:]))
    assert book.clusters(0.8).tolist() == [0, 1, 0]


def test_a_form_filled_in_again_and_again_is_no_cluster_of_twins() -> None:
    names = ["".join(random.Random(seed).choices("abcdefghijklmnop", k=7)) for seed in range(40)]
    rows = texts(*(f"how can the new {name} be sent back today" for name in names))

    keys = cluster_keys(rows, 0.8)

    assert len(set(keys)) == 31 and len(set(keys[:10])) == 1
    assert (
        cluster_keys(rows.iloc[:25].reset_index(drop=True), 0.8) == keys[:25]
    )  # more of them change no older row's key

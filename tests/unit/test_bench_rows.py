import json

import pytest
from bench.__main__ import main
from bench.engine.quality import final_number, is_right, score_model
from bench.engine.rows import made_records, read_records, shared_words, texts_of_file, training_rows
from bench.quality import pairs_of_label
from bench.results import Options

from tunetrail.errors import SampleError


def test_scored_pairs_may_be_csv_without_a_header(tmp_path):
    path = tmp_path / "scored.csv"
    path.write_text('A plane takes off.,"An air plane, taking off.",5.0\nOne man.,Two men.,1.25\n')

    assert read_records(path, "score") == [
        {"sentence1": "A plane takes off.", "sentence2": "An air plane, taking off.", "score": 5.0},
        {"sentence1": "One man.", "sentence2": "Two men.", "score": 1.25},
    ]
    assert texts_of_file(path) == [
        "A plane takes off.",
        "An air plane, taking off.",
        "One man.",
        "Two men.",
    ]


@pytest.mark.parametrize(
    ("name", "text", "shape", "row"),
    [
        (
            "a.csv",
            "text,category\nwhere is it?,arrival\n",
            "label",
            {"text": "where is it?", "label": "arrival"},
        ),
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": "#### 2"}',
            "completion",
            {"input": "1+1?", "output": "#### 2"},
        ),
        (
            "a.jsonl",
            '{"question": "1+1?", "answer": "two"}',
            "pair",
            {"anchor": "1+1?", "positive": "two"},
        ),
        (
            "a.jsonl",
            '{"anchor": "a", "positive": "b", "n": 1}',
            "pair",
            {"anchor": "a", "positive": "b"},
        ),
        (
            "a.jsonl",
            '{"sentence1": "a", "sentence2": "b", "score": 1}',
            "score",
            {"sentence1": "a", "sentence2": "b", "score": 1.0},
        ),
    ],
)
def test_read_records_takes_the_columns_that_files_have(tmp_path, name, text, shape, row):
    (tmp_path / name).write_text(text)
    assert read_records(tmp_path / name, shape) == [row]


def test_read_records_says_which_columns_are_wanted(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "only one"}\n{"sentence1": "a", "sentence2": "b", "score": "high"}'
    )
    with pytest.raises(SampleError, match="sentence1 and sentence2 and score or label"):
        read_records(tmp_path / "a.jsonl", "score")


def test_training_rows_are_whole_batches_apart_from_the_held_out_ones(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n".join(json.dumps({"anchor": f"a{n}", "positive": f"b{n}"}) for n in range(30))
    )
    options = Options(data=path)
    split = training_rows("pair", options, rows=100, batch_size=4, held_out=5)

    assert (split.name, len(split.train), len(split.held_out)) == (
        f"{tmp_path.name}/a.jsonl",
        24,
        5,
    )

    anchors = [row["anchor"] for row in (*split.train, *split.held_out)]
    assert len(set(anchors)) == 29
    assert anchors != sorted(anchors)
    assert training_rows("pair", options, rows=100, batch_size=4, held_out=5) == split

    fewer = training_rows("pair", Options(data=path, rows=9), rows=100, batch_size=4, held_out=5)
    assert fewer.train == split.train[:8]
    with pytest.raises(
        SampleError, match="at least 45 rows, two batches of 20 and 5 held out, got 30"
    ):
        training_rows("pair", options, rows=100, batch_size=20, held_out=5)


def test_made_records_are_of_their_shape_and_scored_by_shared_words_of_all_sizes():
    pairs, completions, made = (made_records(shape) for shape in ("pair", "completion", "score"))

    assert len(pairs) == len(completions) > 1000
    assert (pairs[0]["anchor"], pairs[0]["positive"]) == (
        completions[0]["output"],
        completions[0]["input"],
    )
    assert made == made_records("score")
    for row in made[:200]:
        assert row["score"] == pytest.approx(
            5.0 * shared_words(row["sentence1"], row["sentence2"]), abs=1e-3
        )

    scores = sorted(row["score"] for row in made)
    assert scores[0] < 0.2
    assert scores[-1] > 2.5
    assert len(set(scores)) > 50


def test_passages_of_package_descriptions_have_20_to_300_words():
    rows = made_records("passage")

    lengths = [len(row["positive"].split()) for row in rows]
    assert min(lengths) >= 20 and max(lengths) <= 300
    assert len({row["anchor"] for row in rows}) == len(rows) > 100
    assert rows == made_records("passage")


def test_pairs_of_label_pairs_each_text_with_another_of_its_label():
    rows = [
        {"text": f"{label}{n}", "label": label}
        for label, count in (("a", 4), ("b", 2), ("c", 1))
        for n in range(count)
    ]
    pairs = pairs_of_label(rows)

    assert sorted(pair["anchor"] for pair in pairs) == ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert all(
        pair["anchor"][0] == pair["positive"][0] and pair["anchor"] != pair["positive"]
        for pair in pairs
    )
    assert pairs == pairs_of_label(rows)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48/2 = <<48/2=24>>24 clips.\n#### 72", 72.0),
        ("#### 1,080", 1080.0),
        ("first 3, so it is -4.5.", -4.5),
        ("nothing", None),
    ],
)
def test_final_number_is_the_marked_or_the_last_one(text, number):
    assert final_number(text) == number


def test_an_answer_is_right_by_its_number_alone():
    assert is_right("That makes 72", "24+48\n#### 72")
    assert not is_right("72 and 3 left", "#### 72")
    assert not is_right("none", "none")


def test_score_model_measures_neighbours_and_rank_correlation(tmp_path, tiny_embedding_model):
    rows = [{"text": letter * 20, "label": letter} for letter in "abc" for _ in range(5)]
    pairs = [{"sentence1": "a" * 9, "sentence2": "a" * 9, "score": 5.0}] + [
        {"sentence1": "a" * 9, "sentence2": letter * 9, "score": 1.0} for letter in "xyz"
    ]
    for name, written in (("labels", rows), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, written)))
    labels = str(tmp_path / "labels.jsonl")
    measure = {"max_length": 32, "kind": "neighbours", "test": labels, "neighbours": labels}

    assert score_model(model=tiny_embedding_model, measure=measure, folder="")["score"] == 1.0

    measure = {"max_length": 32, "kind": "spearman", "test": str(tmp_path / "pairs.jsonl")}
    assert score_model(model=tiny_embedding_model, measure=measure, folder="")["score"] > 0.7


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("quality", "Give DATA=... and TEST=..."),
        ("gradcache", "must have the columns anchor or query"),
    ],
)
def test_bench_says_in_one_line_what_it_lacks(tmp_path, capsys, only, message):
    (tmp_path / "texts.jsonl").write_text('{"text": "only one"}')
    output = tmp_path / "results.json"

    assert (
        main(["--only", only, "--data", str(tmp_path / "texts.jsonl"), "--output", str(output)])
        == 1
    )
    assert message in capsys.readouterr().out
    assert not output.exists()

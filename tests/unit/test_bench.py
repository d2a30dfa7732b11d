import json
import random

import pytest
from bench.__main__ import main, table_of
from bench.corpus import MadeRow, made_rows, similarity_of
from bench.results import Figure, Result, merge

from tunetrail.config import PrivacyConfig
from tunetrail.data.privacy import Scrubber


@pytest.fixture(scope="module")
def rows() -> list[MadeRow]:
    return list(made_rows(3000, seed=1))


@pytest.mark.processes
def test_made_rows_depends_on_the_seed_alone(rows):
    assert list(made_rows(50, seed=1)) == rows[:50]
    assert list(made_rows(50, seed=2)) != rows[:50]


@pytest.mark.processes
def test_made_rows_plants_copies_of_the_similarity_that_it_names(rows):
    texts = {row.row_id: row.text for row in rows}
    for planted, low, high in (
        ("near_copy", 0.8, 1.0),
        ("hard_non_copy", 0.5, 0.7),
        ("exact_copy", 1.0, 1.01),
    ):
        copies = [row for row in rows if row.planted == planted]
        assert 0.003 * len(rows) < len(copies) < 0.04 * len(rows)
        for copy in copies:
            assert copy.source < copy.row_id
            assert low <= similarity_of(texts[copy.source], copy.text) == copy.similarity < high


@pytest.mark.processes
def test_made_rows_plants_personal_data_of_the_kind_that_it_names(rows):
    scrubber = Scrubber(PrivacyConfig())
    planted = [row for row in rows if row.kind]

    assert {row.kind for row in planted} == {
        "EMAIL",
        "PHONE",
        "CARD",
        "IBAN",
        "IP_ADDRESS",
        "SECRET",
    }
    for row in planted:
        assert row.kind in scrubber.scrub(row.text)[1], row.text


@pytest.mark.processes
def test_made_rows_are_20_to_200_words_long_but_for_what_is_planted(rows):
    plain = [len(row.text.split()) for row in rows if row.planted == "plain"]
    assert min(plain) >= 20
    assert max(plain) <= 200


@pytest.mark.parametrize(
    ("bounds", "is_met"),
    [({}, None), ({"at_least": 2.0}, True), ({"at_least": 2.1}, False), ({"at_most": 1.9}, False)],
)
def test_a_figure_is_met_by_its_median(bounds, is_met):
    figure = Figure(name="speed", unit="MB/s", values=[1.0, 9.0, 2.0], **bounds)
    assert (figure.median, figure.spread, figure.is_met) == (2.0, 8.0, is_met)


def test_merge_replaces_the_result_of_the_same_name_and_keeps_the_others(tmp_path):
    path = tmp_path / "results.json"
    for name, value in (("one", 1.0), ("other", 2.0), ("one", 3.0)):
        merge([Result(name=name, figures=[Figure(name="time", unit="s", values=[value])])], path)
    results = json.loads(path.read_text())

    assert {name: result["figures"]["time"]["median"] for name, result in results.items()} == {
        "one": 3.0,
        "other": 2.0,
    }
    assert {"commit", "machine", "versions", "python", "measured_at"} <= results["one"].keys()


def test_table_of_names_a_missed_target():
    table = table_of(
        Result(name="case", figures=[Figure(name="time", unit="s", values=[2.0], at_most=1.0)])
    )
    assert "missed" in str(next(iter(table.columns[-1].cells)))


@pytest.mark.slow
def test_bench_measures_the_preparation(tmp_path):
    output = tmp_path / "results.json"
    main(["--only", "prepare", "--rows", "2000", "--output", str(output)])

    flow = json.loads(output.read_text())["prepare, 2,000 rows"]
    assert {"time", "speed", "peak memory, resident", "near-duplicate recall"} <= flow[
        "figures"
    ].keys()
    assert flow["figures"]["near-duplicate recall"]["median"] >= 0.95
    assert flow["figures"]["near-duplicate precision"]["median"] >= 0.99
    assert flow["details"]["account"][0]["rows_in"] == 2000


@pytest.mark.slow
def test_bench_measures_a_file_of_ones_own(tmp_path):
    words = [f"word{index}" for index in range(500)]
    rng = random.Random(3)
    lines = [
        {"anchor": " ".join(rng.sample(words, 12)), "positive": " ".join(rng.sample(words, 30))}
        for _ in range(90)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"unknown": 1}])))
    output = tmp_path / "results.json"

    main(["--only", "prepare", "--data", str(tmp_path / "own.jsonl"), "--output", str(output)])

    assert (
        json.loads(output.read_text())["prepare of own.jsonl, 90 rows"]["details"]["account"][0][
            "rows_in"
        ]
        == 90
    )


@pytest.mark.slow
def test_bench_measures_the_overhead(tmp_path):
    output = tmp_path / "results.json"
    main(["--only", "overhead", "--rows", "80", "--rounds", "1", "--output", str(output)])

    figures = json.loads(output.read_text())["overhead, 20 steps"]["figures"]
    whole, bare = (
        figures[f"{name}, step"]["median"] for name in ("ordinary training", "bare loop")
    )
    assert figures["Lightning, logging and tracking, step"]["median"] == pytest.approx(whole - bare)
    assert min(whole, bare) > 0

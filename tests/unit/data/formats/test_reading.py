import gzip
import json
from datetime import UTC, datetime

import pandas
import pytest

from tunetrail.data.formats import check_rows, count_rows, peek_rows, read_rows
from tunetrail.errors import SampleError
from tunetrail.samples import BrokenRow, SampleKind, find_shape, parse_sample

ROWS = [
    {"anchor": f"question {index}\nmore, “quoted” text", "positive": f"answer {index}"}
    for index in range(25)
]


def check_columns(path, kind):
    check_rows(read_rows(path), lambda row: find_shape(row, kind), f"{kind} samples", path)


def written(path, rows=ROWS):
    frame = pandas.DataFrame(rows)
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        frame.to_csv(path, index=False)
    elif name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "A.JSONL", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.parquet"]
)
def test_read_rows_gives_the_same_rows_in_every_format(tmp_path, name):
    path = written(tmp_path / name)
    assert list(read_rows(path)) == ROWS
    assert count_rows(path) == (50 if ".csv" in name else 25)


def test_read_rows_goes_on_after_broken_lines_of_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    deep = "[" * 100_000
    path.write_text(
        f'\ufeff{{"text": "a"}}\n{{"text": \n\n[1]\n{deep}\n{"1" * 5000}\n{{"text": "b\u2028"}}'
    )

    rows = list(read_rows(path))

    broken = [row for row in rows if isinstance(row, BrokenRow)]
    assert [row["text"] for row in rows if not isinstance(row, BrokenRow)] == ["a", "b\u2028"]
    assert broken[0] == BrokenRow(
        text='{"text":', reason=broken[0].reason, source=str(path), position=2
    )
    assert broken[0].reason.startswith("line 2 is not JSON: Expecting value")
    assert [row.reason for row in broken[1:3]] == [
        "line 4 must be a JSON object, got list.",
        "line 5 is JSON nested too deeply.",
    ]
    assert broken[3].reason.startswith("line 6 is not JSON: Exceeds the limit")
    assert count_rows(path) == 7


def test_read_rows_goes_on_after_broken_rows_of_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('input,output\na,b\nc\nd,e,f\n"g"x,h\n\ni,j\n"k,l\nm,n\n')

    rows = list(read_rows(path))

    assert [row for row in rows if isinstance(row, dict)] == [
        {"input": "a", "output": "b"},
        {"input": "i", "output": "j"},
        {"input": "m", "output": "n"},
    ]
    assert [row.reason for row in rows if isinstance(row, BrokenRow)] == [
        "line 3 ends a row of 1 cells, but the header has 2.",
        "line 4 ends a row of 3 cells, but the header has 2.",
        "line 5 is not CSV: ',' expected after '\"'.",
        "line 8 is not CSV: a quote is not closed.",
    ]
    assert [row.text for row in rows if isinstance(row, BrokenRow)][1:3] == [
        '["d", "e", "f"]',
        '"g"x,h',
    ]


def test_read_rows_gives_csv_cells_their_types(tmp_path):
    path = tmp_path / "a.csv"
    moment = "2026-11-24T12:00:00Z"
    messages = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
    pandas.DataFrame(
        [
            {
                "score": "0.5",
                "embedding": "[1, 2]",
                "messages": messages,
                "negative": "n",
                "group": "7",
                "text": "NA",
            },
            {
                "score": "high",
                "embedding": "[1, 2",
                "messages": "",
                "negative": "",
                "group": "",
                "text": "",
            },
        ]
    ).assign(timestamp=[moment, ""], weight=["2.5", ""]).to_csv(path, index=False)

    first, second = read_rows(path)

    assert (first["score"], first["weight"]) == (0.5, 2.5)
    assert first["embedding"] == [1, 2]
    assert first["messages"][1] == {"role": "assistant", "content": "a"}
    assert (first["negative"], first["group"], first["text"], first["timestamp"]) == (
        "n",
        "7",
        "NA",
        moment,
    )
    assert second == {"score": "high", "embedding": "[1, 2", "messages": "", "text": ""}


def test_read_rows_reads_long_csv_cells(tmp_path):
    path = written(tmp_path / "a.csv", [{"text": "word " * 100_000}])
    assert len(next(read_rows(path))["text"]) == 500_000


def test_read_rows_gives_parquet_values_that_samples_take(tmp_path):
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    path = written(
        tmp_path / "a.parquet",
        [{"text": "a", "embedding": [0.5, 1.0], "seen": moment}, {"text": "b", "seen": None}],
    )

    first, second = read_rows(path)

    assert parse_sample(first, SampleKind.EMBEDDING).content == {
        "text": "a",
        "embedding": [0.5, 1.0],
    }
    assert parse_sample(second, SampleKind.EMBEDDING).shape == "text"


def test_read_rows_streams(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 5000 + b"\xff\n")
    rows = read_rows(path)
    assert [next(rows) for _ in range(3)] == [{"text": "a"}] * 3
    rows.close()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n \n", "has no rows"),
        ("a.csv", b"input,output\n", "has no rows"),
        ("a.csv", b"text,text\na,b\n", "must name each column once, got 'text' twice"),
        ("a.csv", b'"text"x,b\na,b\n', "has a broken header"),
        ("a.csv", "text\né\n".encode("latin-1"), "must be UTF-8, got byte 0xe9 in line 2"),
        ("a.jsonl", b'{"text": "a"}\n\xff\xfe', "must be UTF-8, got byte 0xff in line 2"),
        ("a.jsonl.gz", b'{"text": "a"}', "is not a complete gzip file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-9],
            "is not a complete gzip file",
        ),
        ("a.parquet", b"PAR1 nothing PAR1", "is not a complete Parquet file"),
        ("a.parquet", b"text", "is not a complete Parquet file"),
        ("a.doc", b"text", r"suffix must be one of \.jsonl, \.ndjson, \.csv, \.parquet"),
        ("a.parquet.gz", b"text", "suffix must be one of"),
        ("a", b"text", "suffix must be one of"),
    ],
)
def test_read_rows_names_a_file_that_can_not_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SampleError, match=message) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value)


def test_read_rows_names_a_damaged_page_of_parquet(tmp_path):
    path = written(tmp_path / "a.parquet", [{"text": f"{index} " * 50} for index in range(2000)])
    content = bytearray(path.read_bytes())
    content[200:2000] = b"\xff" * 1800
    path.write_bytes(content)

    with pytest.raises(SampleError, match=r"a\.parquet"):
        list(read_rows(path))


@pytest.mark.parametrize("function", [read_rows, count_rows])
def test_sources_name_a_missing_file_and_a_folder_at_once(tmp_path, function):
    with pytest.raises(SampleError, match=r"b\.csv doesn't exist"):
        function(tmp_path / "b.csv")
    (tmp_path / "c.csv").mkdir()
    with pytest.raises(SampleError, match=r"c\.csv must hold files with rows"):
        function(tmp_path / "c.csv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_file_with_the_columns_of_no_shape_is_refused(tmp_path, name):
    path = written(tmp_path / name, [{"ancor": "a", "positive": "b"}] * 30)
    with pytest.raises(
        SampleError, match=rf"{name} has no row .*got \[ancor, positive\]\. Did you mean 'anchor'\?"
    ):
        check_columns(path, SampleKind.EMBEDDING)


def test_one_good_row_among_the_first_twenty_is_enough(tmp_path):
    path = tmp_path / "a.jsonl"
    good, bad = '{"text": "a"}\n', "broken\n"
    path.write_text(bad * 19 + good)
    check_columns(path, SampleKind.LLM)
    path.write_text(bad * 20 + good)

    with pytest.raises(SampleError, match="line 1 is not JSON"):
        check_columns(path, SampleKind.LLM)


def test_check_rows_passes_when_one_of_the_first_rows_does(tmp_path):
    def check(row):
        if row["anchor"] != "the one":
            raise SampleError("not the one.")

    path = written(tmp_path / "a.jsonl", [*ROWS[:19], {"anchor": "the one"}])
    check_rows(read_rows(path), check, "ones", path)
    with pytest.raises(
        SampleError, match=r"a\.jsonl has no row from which ones can be made: not the one\."
    ):
        rows = read_rows(written(path, [*ROWS[:20], {"anchor": "the one"}]))
        check_rows(rows, check, "ones", path)


def test_looking_at_the_first_rows_takes_none_away(tmp_path):
    path = written(tmp_path / "a.jsonl", [{"text": str(index)} for index in range(1500)])
    first_rows, rows = peek_rows(read_rows(path))
    assert len(first_rows) == 1000
    assert [row["text"] for row in rows] == [str(index) for index in range(1500)]

    path = written(tmp_path / "b.jsonl", [{"text": "x" * 5_000_000}] * 9)
    first_rows, rows = peek_rows(read_rows(path))
    assert len(first_rows) == 4 and len(list(rows)) == 9


@pytest.mark.parametrize(
    "text", ['[{"text": "a"}, {"text": "b"}]', '{\n"text": "a"}\n{"text": "b"}']
)
def test_only_files_of_lines_are_counted_by_their_lines(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    assert count_rows(path) is None and len(list(read_rows(path))) == 2

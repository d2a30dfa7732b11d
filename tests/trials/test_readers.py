"""Files that people bring, in whatever format and state: every row is read, or named with its line."""

import functools
import gzip
import http.server
import json
import sqlite3
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from tests.commands import CallMain

from tunetrail.data.formats import DatabaseQuery, count_rows, read_rows, reading_notes
from tunetrail.data.formats import files as formats_files
from tunetrail.errors import SampleError
from tunetrail.samples import BrokenRow, SampleKind
from tunetrail.stores.database.manager import DatabaseManager

PAIRS = [{"anchor": f"question {n}, “quoted”", "positive": f"answer {n}"} for n in range(12)]
TABLE = pyarrow.Table.from_pylist(PAIRS)


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def separated(rows: list[dict[str, str]], delimiter: str) -> str:
    cells = [["anchor", "positive"], *[list(row.values()) for row in rows]]
    return "".join(delimiter.join(f'"{cell}"' for cell in line) + "\r\n" for line in cells)


def arrow_file(make: Any) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with make(sink, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=5)
    return bytes(sink.getvalue().to_pybytes())


def parquet_file(table: pyarrow.Table, **options: Any) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, **options)
    return bytes(sink.getvalue().to_pybytes())


def zstandard(content: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content.encode())
    return bytes(sink.getvalue().to_pybytes())


FILES = {
    "a.jsonl": lines(PAIRS),
    "a.ndjson": "\ufeff" + lines(PAIRS).replace("\n", "\r\n"),
    "array.json": json.dumps(PAIRS, indent=2),
    "array.jsonl": json.dumps(PAIRS),
    "pretty.jsonl": "\n".join(json.dumps(row, indent=1) for row in PAIRS),
    "lines.json": lines(PAIRS),
    "objects.json": " ".join(json.dumps(row, indent=1) for row in PAIRS),
    "a.csv": separated(PAIRS, ","),
    "semicolons.csv": separated(PAIRS, ";"),
    "tabs.csv": separated(PAIRS, "\t"),
    "a.tsv": separated(PAIRS, "\t"),
    "a.jsonl.gz": gzip.compress(lines(PAIRS).encode()),
    "a.json.gz": gzip.compress(json.dumps(PAIRS).encode()),
    "a.jsonl.zst": zstandard(lines(PAIRS)),
    "a.csv.zst": zstandard(separated(PAIRS, ",")),
    "a.parquet": parquet_file(TABLE),
    "a.arrow": arrow_file(pyarrow.ipc.new_file),
    "stream.arrow": arrow_file(pyarrow.ipc.new_stream),
    "a.feather": arrow_file(pyarrow.ipc.new_file),
}


@pytest.mark.parametrize("name", FILES)
def test_a_row_is_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, FILES[name])
    assert [dict(row) for row in read_rows(path)] == PAIRS


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("array.jsonl", "is read as a JSON array, not one object a line"),
        ("pretty.jsonl", "is read as JSON objects over several lines"),
        ("semicolons.csv", "is read as separated by semicolons"),
        ("tabs.csv", "is read as separated by tabs"),
    ],
)
def test_a_form_that_the_suffix_does_not_tell_is_said_aloud(
    workplace: Path, call_main: CallMain, name: str, note: str
) -> None:
    save(workplace / name, FILES[name])
    result = call_main("ingest", name, "--session", "s", "--kind", "embedding")
    assert result.exit_code == 0
    assert f"{name} {note}" in result.out and "12 added" in result.out


def test_lines_of_text_are_texts(tmp_path: Path) -> None:
    path = save(tmp_path / "a.txt", "one\r\n\n two “x”\nthree")
    rows = list(read_rows(path))
    assert [row["text"] for row in rows if not isinstance(row, BrokenRow)] == [
        "one",
        " two “x”",
        "three",
    ]
    assert [row.position for row in rows] == [1, 3, 4]


def test_a_folder_and_a_glob_are_read_in_order_and_name_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / ".git").mkdir()
    save(tmp_path / "b.jsonl", lines([{"text": "second"}]))
    save(tmp_path / "a.csv", "text\nfirst\n")
    save(tmp_path / "deeper" / "c.txt", "third\n")
    save(tmp_path / "notes.md", "# no rows")
    save(tmp_path / "empty.jsonl", "")
    save(tmp_path / ".git" / "x.txt", "hidden")

    rows = list(read_rows(tmp_path))
    texts = [row["text"] for row in rows if not isinstance(row, BrokenRow)]
    assert texts == ["first", "second", "third"]
    assert rows[1].source == str(tmp_path / "b.jsonl")
    (note,) = reading_notes(tmp_path)
    assert "notes.md" in note and "empty.jsonl" in note
    assert [dict(row) for row in read_rows(tmp_path / "*.csv")] == [{"text": "first"}]  # type: ignore[call-overload]
    assert count_rows(tmp_path / "*.csv") == 1


@pytest.mark.parametrize("splits", [[], ["train", "test"]])
def test_a_saved_dataset_is_read_without_its_package(tmp_path: Path, splits: list[str]) -> None:
    for folder in [tmp_path / split for split in splits] or [tmp_path]:
        folder.mkdir(exist_ok=True)
        # In the order of the listing, not of the names.
        names = ["data-1.arrow", "data-0.arrow"]
        for name in names:
            save(folder / name, arrow_file(pyarrow.ipc.new_stream))
        state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
        save(folder / "state.json", json.dumps(state))
        save(folder / "dataset_info.json", "{}")
    if splits:
        save(tmp_path / "dataset_dict.json", json.dumps({"splits": splits}))

    rows = list(read_rows(tmp_path))
    assert [dict(row) for row in rows] == PAIRS * 2 * max(1, len(splits))  # type: ignore[call-overload]
    assert rows[0].source.endswith("data-1.arrow")


def test_a_saved_dataset_can_not_name_files_elsewhere(tmp_path: Path) -> None:
    state = {"_data_files": [{"filename": "../other.arrow"}]}
    save(tmp_path / "state.json", json.dumps(state))
    with pytest.raises(SampleError, match="must name files of its folder"):
        list(read_rows(tmp_path))


def test_urls_are_read_and_their_secrets_are_not_shown(workplace: Path) -> None:
    import fsspec

    with fsspec.open("memory://bucket/a.jsonl.gz", "wb") as stream:
        stream.write(gzip.compress(lines(PAIRS).encode()))
    with fsspec.open("memory://bucket/a.parquet", "wb") as stream:
        stream.write(parquet_file(TABLE))

    for name in ("a.jsonl.gz", "a.parquet"):
        assert [dict(row) for row in read_rows(f"memory://bucket/{name}")] == PAIRS  # type: ignore[call-overload]
    with pytest.raises(SampleError, match=r"memory://bucket/b\.jsonl doesn't exist") as caught:
        list(read_rows("memory://me:SECRET@bucket/b.jsonl?signature=SECRET"))
    assert "SECRET" not in str(caught.value)
    with pytest.raises(SampleError, match=r"must name a single file\.$"):
        list(read_rows("memory://bucket/*.parquet"))
    with pytest.raises(SampleError, match=r"'memory://bucket/rows'\. Name a single file\.$"):
        list(read_rows("memory://bucket/rows"))


@pytest.mark.parametrize(
    ("url", "way_out"),
    [
        ("s3://bucket/a.jsonl", r"pip install 'tunetrail\[remote\]'\.$"),
        ("gs://bucket/a.jsonl", r"[Ii]nstall gcsfs to access Google Storage\.$"),
    ],
)
def test_a_store_whose_package_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, url: str, way_out: str
) -> None:
    # As if they weren't installed, whether they are or not.
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SampleError, match=f"package for {url[:2]}:// is missing.*{way_out}"):
        list(read_rows(url))


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A server like Python's own, which doesn't send parts of a file."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize("name", ["a.jsonl", "array.json", "a.csv.zst", "a.parquet", "a.arrow"])
def test_a_web_server_without_ranges_is_enough(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, FILES[name])
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            rows = list(read_rows(f"http://127.0.0.1:{server.server_port}/{name}"))
        finally:
            server.shutdown()
            thread.join()
    assert [dict(row) for row in rows] == PAIRS  # type: ignore[call-overload]


LONE_QUOTES = {
    "text,label": ('"so he said and left,a', "a"),
    "label,text": ('a,"open', "a"),
    "text": ('"left', ""),
}


@pytest.mark.parametrize("header", LONE_QUOTES)
@pytest.mark.parametrize("last", [False, True])
def test_a_lone_quote_breaks_its_own_line_only(tmp_path: Path, header: str, last: bool) -> None:
    broken, _ = LONE_QUOTES[header]
    good = [f"row {n},l" if "," in header else f"row {n}" for n in range(1000)]
    position = 1000 if last else 10
    content = "\n".join([header, *good[:position], broken, *good[position:], ""])

    rows = list(read_rows(save(tmp_path / "a.csv", content)))

    (rejected,) = [row for row in rows if isinstance(row, BrokenRow)]
    assert len(rows) == 1001
    assert rejected.text == broken and rejected.position == position + 2
    assert f"line {position + 2} is not CSV: a quote is not closed" in rejected.reason


def test_rows_between_two_lone_quotes_are_kept_whole_and_named(tmp_path: Path) -> None:
    swallowed = ['"so he said,a', *[f"row {n},l" for n in range(50)], 'and left",b']
    content = "\n".join(["text,label", "first,l", *swallowed, "last,l", ""])

    rows = list(read_rows(save(tmp_path / "a.csv", content)))

    assert [row["text"] for row in rows if not isinstance(row, BrokenRow)] == ["first", "last"]
    (rejected,) = [row for row in rows if isinstance(row, BrokenRow)]
    assert rejected.text.splitlines() == swallowed
    assert "line 3 opens a quote that is closed in line 54" in rejected.reason


def test_a_quote_that_a_later_quote_breaks_costs_one_row(tmp_path: Path) -> None:
    content = 'anchor,positive\n"a","b"\nc,"open\n' + "r,s\n" * 500 + '"x","y, z"\n'
    rows = list(read_rows(save(tmp_path / "a.csv", content)))
    assert len(rows) == 503
    assert [row.position for row in rows if isinstance(row, BrokenRow)] == [3]
    assert dict(rows[-1]) == {"anchor": "x", "positive": "y, z"}  # type: ignore[call-overload]


def test_cells_of_several_lines_stay_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", 'text,label\n"a\r\nb, c\n\nd ""e""",x\nf,y\n')
    rows = list(read_rows(path))
    assert dict(rows[0]) == {"text": 'a\r\nb, c\n\nd "e"', "label": "x"}  # type: ignore[call-overload]
    assert [row.position for row in rows] == [2, 6]


def test_tabs_without_quoting_are_read_literally(tmp_path: Path) -> None:
    content = 'text\tlabel\n"Quoted" word\tx\n"lone\ty\n5" pipe\tz\n"two\nlines"\tq\n'
    rows = list(read_rows(save(tmp_path / "a.tsv", content)))
    texts = [row["text"] for row in rows if not isinstance(row, BrokenRow)]
    assert texts == ['"Quoted" word', '"lone', '5" pipe', "two\nlines"]


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("a.jsonl", '{"a": 1, "a": 2}\n{"a": 3}\n', "a"),
        ("a.jsonl", '{"m": [{"role": "x", "role": "y"}]}\n{"a": 3}\n', "role"),
        ("a.json", '[{"a": {"b": 1, "b": 1}}, {"a": 3}]', "b"),
    ],
)
def test_a_key_that_is_there_twice_breaks_its_row(
    tmp_path: Path, name: str, content: str, key: str
) -> None:
    broken, good = read_rows(save(tmp_path / name, content))
    assert isinstance(broken, BrokenRow) and f"got the key {key!r} twice" in broken.reason
    assert good == {"a": 3}


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, name: str, nested: bool) -> None:
    texts = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    table = pyarrow.table(texts, names=["text", "text"])
    if nested:
        struct = pyarrow.StructArray.from_arrays(texts, names=["text", "text"])
        table = pyarrow.table({"row": struct})
    if name == "a.parquet":
        save(tmp_path / name, parquet_file(table))
    else:
        with pyarrow.ipc.new_file(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)

    with pytest.raises(SampleError, match="must name each column once, got 'text' twice"):
        list(read_rows(tmp_path / name))


MOMENTS = {
    "microseconds": pyarrow.array([260_000_000_000_000_000, 0], pyarrow.timestamp("us")),
    "zone": pyarrow.array([260_000_000_000_000_000, 0], pyarrow.timestamp("us", "Europe/Oslo")),
    "days": pyarrow.array([2**30, 0], pyarrow.date32()),
    "duration": pyarrow.array([2**62, 0], pyarrow.duration("s")),
    "list": pyarrow.array([[2**60], [0]], pyarrow.list_(pyarrow.timestamp("us"))),
    "struct": pyarrow.array(
        [{"at": 2**60}, {"at": 0}], pyarrow.struct([("at", pyarrow.timestamp("us"))])
    ),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_moment_that_python_can_not_hold_does_not_stop_the_file(
    workplace: Path, call_main: CallMain, name: str
) -> None:
    table = pyarrow.table({"text": ["a", "b"], "when": MOMENTS[name]})
    save(workplace / "a.parquet", parquet_file(table))

    first, second = read_rows("a.parquet")
    result = call_main("ingest", "a.parquet", "--session", "s", "--kind", "embedding")

    assert not isinstance(first, BrokenRow) and not isinstance(second, BrokenRow)
    assert not isinstance(first["when"], datetime) and first["when"]
    assert result.exit_code == 0 and "2 added" in result.out
    if name == "microseconds":
        assert first["when"].startswith("10209-") and second["when"] == datetime(1970, 1, 1)


CHINESE = "请把订单号发到客服邮箱我们会在三天内处理您的问题。"
JAPANESE = "注文番号をお問い合わせ窓口までお送りください。三日以内に対応します。"
RUSSIAN = "Пришлите номер заказа, и мы ответим в течение трёх дней."
ENCODED = [
    ("text,label\nhéllo,b\n", "utf-16", "UTF-16"),
    ('{"text": "hello world"}\n', "utf-16-le", "UTF-16LE"),
    ("text,label\nhello,b\n", "utf-16-be", "UTF-16BE"),
    ("text\nhello\n", "utf-32", "UTF-32"),
    (f"text\n{CHINESE}\n", "gb18030", "GB18030"),
    ("text,label\n你好,好\n", "gb18030", "GB18030"),
    ('{"text": "請把訂單號發到客服郵箱我們會在三天內處理"}\n', "big5", "BIG5"),
    (f"text\n{JAPANESE}\n", "shift_jis", "SHIFT_JIS"),
    (f"text\n{RUSSIAN}\n", "cp1251", "WINDOWS-1251"),
    ("text\nDas Café schließt um zwölf Uhr.\n", "cp1252", "WINDOWS-1252"),
]


@pytest.mark.parametrize(("content", "encoding", "name"), ENCODED)
def test_another_encoding_is_named(tmp_path: Path, content: str, encoding: str, name: str) -> None:
    path = save(tmp_path / "a.csv", content.encode(encoding))
    with pytest.raises(SampleError, match="must be UTF-8") as caught:
        list(read_rows(path))
    assert f"`iconv -f {name} -t UTF-8`" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "has no rows"),
        ("a.json", '[{"a": 1}, {"a": 2}', "the array has no end"),
        ("a.json", '[\n{"a": 1},\n{"a": \n', "got line 3, which is not JSON"),
        ("a.json", '[{"a": 1}] and more', "text follows the end of the array"),
        ("a.json", '[{"a": 1} {"a": 2}]', "a comma or the end of the array is missing"),
        ("a.csv", "anchor;positive\na\nd;e;f\n", "got a header that is separated by semicolons"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "got a gzip file. Add .gz to its name"),
        ("a.csv", b"PK\x03\x04", "got a ZIP archive or a spreadsheet"),
        ("a.jsonl.zst", zstandard(lines(PAIRS * 500))[:-9], "is not a complete Zstandard file"),
        ("a.arrow", b"no arrow at all", "is not a complete Arrow file"),
        ("a.arrow", arrow_file(pyarrow.ipc.new_stream)[:-60], "is not a complete Arrow file"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = save(tmp_path / name, content)
    with pytest.raises(SampleError, match=message) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("form", ["file.arrow", "stream.arrow", "a.parquet"])
def test_a_column_whose_name_is_damaged_is_refused_in_one_line(
    tmp_path: Path, form: str, nested: bool
) -> None:
    value = {"named_column": "a"} if nested else "a"
    table = pyarrow.table({"outer" if nested else "named_column": [value]})
    if form == "a.parquet":
        # Without Arrow's own copy of the names, which wouldn't be damaged.
        content = parquet_file(table, store_schema=False)
    else:
        make = pyarrow.ipc.new_file if form == "file.arrow" else pyarrow.ipc.new_stream
        sink = pyarrow.BufferOutputStream()
        with make(sink, table.schema) as writer:
            writer.write_table(table)
        content = sink.getvalue().to_pybytes()
    assert b"named_column" in content

    path = save(tmp_path / form, content.replace(b"named_column", b"nam\xef\xfd_column"))
    with pytest.raises(SampleError, match=r"is not a complete (Arrow|Parquet) file") as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_broken_element_of_an_array_does_not_end_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", '[\n {"a": 1},\n {"a": oops, "b": "]}"},\n 7,\n {"a": 2}\n]')
    rows = list(read_rows(path))
    assert [dict(row) for row in rows if not isinstance(row, BrokenRow)] == [{"a": 1}, {"a": 2}]
    broken = [row for row in rows if isinstance(row, BrokenRow)]
    assert [row.text for row in broken] == ['{"a": oops, "b": "]}"}', "7"]
    assert [row.position for row in rows] == [2, 3, 4, 5]


def test_a_rejected_row_has_the_line_of_an_editor(workplace: Path, call_main: CallMain) -> None:
    save(workplace / "a.csv", 'anchor,positive\n"two\nlines",b\n\nc\nd,e\n')
    save(
        workplace / "b.jsonl",
        '\n{"anchor": "a", "positive": "b"}\n\n{"anchor": 3, "positive": "c"}',
    )

    first = call_main("ingest", "a.csv", "--session", "s", "--kind", "embedding")
    second = call_main("ingest", "b.jsonl", "--session", "s", "--kind", "embedding")

    assert "(line 5 of a.csv)" in first.out and "(line 4 of b.jsonl)" in second.out
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        rejected = manager.rejected_samples("s")
    assert [(row.source, row.row_number) for row in rejected] == [("a.csv", 5), ("b.jsonl", 4)]


def test_a_small_file_that_claims_to_be_large_is_refused_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limits themselves take seconds to reach.
    monkeypatch.setattr(formats_files, "_EXPANSION_FROM", 1 << 20)
    zeros = save(tmp_path / "zeros.jsonl.gz", gzip.compress(b"\0" * (64 << 20)))
    blank = save(tmp_path / "blank.csv.gz", gzip.compress(b"text\n" + b"\n" * (3 << 20)))

    with pytest.raises(SampleError, match=r"must have lines of at most 16 MiB|must expand"):
        list(read_rows(zeros))
    with pytest.raises(SampleError, match="must expand to at most 300 times its size"):
        list(read_rows(blank))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt"])
def test_a_line_that_is_too_long_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as stream:
        stream.write(b'[{"text":\n"' if name == "a.json" else b"text\n")
        stream.truncate(40 << 20)
    with pytest.raises(SampleError, match="must have lines of at most 16 MiB, got more in line 2"):
        list(read_rows(path))


def test_a_giant_cell_of_parquet_is_named_before_it_is_a_text(tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["a", "x" * (17 << 20)]})
    path = save(tmp_path / "a.parquet", parquet_file(table))
    with pytest.raises(SampleError, match="got 17 MiB in the column 'text' of row 2"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json", "txt"])
def test_a_file_that_is_cut_while_it_is_read_ends_with_an_error(
    tmp_path: Path, suffix: str
) -> None:
    rows = [{"text": f"row {n} " + "x" * 100} for n in range(60_000)]
    contents = {"jsonl": lines(rows), "json": json.dumps(rows, indent=0)}
    texts = "\n".join(["text", *[row["text"] for row in rows]])
    path = save(tmp_path / f"a.{suffix}", contents.get(suffix, texts))

    reader = read_rows(path)
    next(reader)
    with path.open("r+b") as stream:
        stream.truncate(3_000)
    with pytest.raises(SampleError, match=r"was cut while it was read|the array has no end"):
        list(reader)


def test_a_file_name_is_no_markup(workplace: Path, call_main: CallMain) -> None:
    (workplace / "a[").mkdir()
    (workplace / "[link=x]").mkdir()
    for name in ("a[/b].jsonl", "[link=x]/[red].jsonl", "[b.jsonl"):
        save(workplace / name, lines(PAIRS))
        result = call_main("ingest", name, "--session", "s", "--kind", "embedding")
        assert result.exit_code == 0 and "12 rows read" in result.out


def test_what_csv_takes_every_format_takes(workplace: Path, call_main: CallMain) -> None:
    scores = [{"sentence1": "a", "sentence2": "b", "score": "0.5"}]
    labels: list[dict[str, Any]] = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    chats = [{"messages": json.dumps(messages)}]
    for kind, rows in (("embedding", scores), ("embedding", labels), ("llm", chats)):
        save(workplace / "a.jsonl", lines(rows))
        save(workplace / "a.parquet", parquet_file(pyarrow.Table.from_pylist(rows)))
        pyarrow.Table.from_pylist(rows).to_pandas().to_csv(workplace / "a.csv", index=False)
        for name in ("a.jsonl", "a.parquet", "a.csv"):
            result = call_main("ingest", name, "--session", "s", "--kind", kind)
            assert result.exit_code == 0 and "0 rejected" in result.out, (name, result)

    # The same row in each of the formats: stored once.
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        (embedding,) = manager.read_samples("s", SampleKind.EMBEDDING)
        (llm,) = manager.read_samples("s", SampleKind.LLM)
    contents = [dict(stored.sample.content) for stored in (*embedding, *llm)]
    assert contents == [
        {"sentence1": "a", "sentence2": "b", "score": 0.5},
        {"text": "a", "label": "True"},
        {"text": "b", "label": "False"},
        {"messages": messages},
    ]


@pytest.fixture
def application(workplace: Path) -> Path:
    path = workplace / "application.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE faq (question TEXT, answer TEXT, id INTEGER)")
        rows = [(f"q:{n}", f"a% {n}", n) for n in range(2500)]
        connection.executemany("INSERT INTO faq VALUES (?, ?, ?)", rows)
    connection.close()
    return path


def test_a_query_on_an_application_is_ingested(application: Path, call_main: CallMain) -> None:
    query = "SELECT question AS anchor, answer AS positive FROM faq WHERE answer LIKE 'a%' -- all;"
    arguments = ("ingest", f"sqlite:///{application}", "--session", "s", "--kind", "embedding")

    result = call_main(*arguments, "--query", query)
    again = call_main(*arguments, "--query", query)

    assert result.exit_code == 0 and "2500 added" in result.out
    assert "0 added" in again.out


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("DELETE FROM faq", "must be one SELECT"),
        ("SELECT 1; DELETE FROM faq", "must be one SELECT"),
        ("WITH x AS (SELECT 1) DELETE FROM faq", "attempt to write a readonly database"),
        ("PRAGMA query_only = OFF", "must be one SELECT"),
        ("ATTACH 'other.db' AS other", "must be one SELECT"),
        ("SELECT question, question FROM faq", "got 'question' twice"),
        ("SELECT missing FROM faq", "no such column: missing"),
        ("SELECT question FROM faq WHERE 0", "has no rows"),
    ],
)
def test_a_query_changes_nothing(application: Path, query: str, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        list(read_rows(DatabaseQuery(f"sqlite:///{application}", query)))
    with sqlite3.connect(application) as connection:
        assert connection.execute("SELECT count(*) FROM faq").fetchone() == (2500,)
    connection.close()


@pytest.mark.parametrize(
    "url",
    ["mysql://u:SECRET@h/d", "u:SECRET@h", "postgresql://u:SECRET@127.0.0.1:1/d?password=SECRET"],
)
def test_a_query_shows_no_password(workplace: Path, call_main: CallMain, url: str) -> None:
    arguments = ("--session", "s", "--kind", "embedding", "--query", "SELECT 1 AS text")
    result = call_main("ingest", url, *arguments)
    assert result.exit_code == 2
    assert "SECRET" not in result.out + result.err

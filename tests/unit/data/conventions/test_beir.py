import gzip
import json
from pathlib import Path

import pytest

from tunetrail.data.conventions.beir import beir_rows, is_beir_folder
from tunetrail.errors import SampleError
from tunetrail.samples import BrokenRow


def make_folder(folder: Path, judgements: str, name: str = "qrels/test.tsv") -> Path:
    texts = {"corpus": [("d1", "One"), ("d2", "")], "queries": [("q1", None)]}
    for file, entries in texts.items():
        lines = []
        for text_id, title in entries:
            row = {"_id": text_id, "text": f"text of {text_id}"}
            lines.append(json.dumps(row if title is None else {**row, "title": title}) + "\n")
        with gzip.open(folder / f"{file}.jsonl.gz", "wt") as stream:
            stream.writelines(lines)

    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(judgements)
    return folder


def test_beir_rows_takes_compressed_texts_and_documents_without_a_title(tmp_path):
    folder = make_folder(tmp_path, "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t2\n")
    assert is_beir_folder(folder)
    assert list(beir_rows(folder)) == [
        {"anchor": "text of q1", "positive": "One text of d1"},
        {"anchor": "text of q1", "positive": "text of d2"},
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\td1\t0", "score must be above 0"),
        ("q1\td1\tx", "score must be above 0 to make a pair, got 'x'"),
        ("q2\td1\t1", "query-id must be in queries.jsonl.gz, got 'q2'"),
        ("q1\td3\t1", "corpus-id must be in corpus.jsonl.gz, got 'd3'"),
    ],
)
def test_beir_rows_names_a_judgement_without_a_pair(tmp_path, line, reason):
    (row,) = beir_rows(make_folder(tmp_path, line + "\n", "qrels.tsv"))
    assert isinstance(row, BrokenRow) and reason in row.reason


def test_beir_rows_takes_the_form_of_trec_and_refuses_others(tmp_path):
    folder = make_folder(tmp_path, "q1\t0\td1\t1\n")
    assert [row["positive"] for row in beir_rows(folder)] == ["One text of d1"]

    make_folder(tmp_path, "q1 d1 1\n")
    with pytest.raises(SampleError, match=r"line 1 of .*test.tsv must have query-id, corpus-id, s"):
        list(beir_rows(folder))


def test_a_folder_without_judgements_is_no_data_set_of_beir(tmp_path):
    folder = make_folder(tmp_path, "")
    (folder / "qrels/test.tsv").unlink()
    assert not is_beir_folder(folder) and not is_beir_folder(folder / "absent")


def test_judgements_in_another_encoding_are_named_with_their_line(tmp_path):
    folder = make_folder(tmp_path, "")
    (folder / "qrels/test.tsv").write_bytes(b"query-id\tcorpus-id\tscore\r\nq1\td\xfc\t1\r\n")
    with pytest.raises(SampleError, match=r"test.tsv must be UTF-8, got byte 0xfc in line 2"):
        list(beir_rows(folder))

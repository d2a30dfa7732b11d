"""Ten public data sets, in files made in their own form: what a newcomer gets from `ingest`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.commands import CallMain

from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

pytestmark = pytest.mark.usefixtures("empty_database")

ROWS = 12
Content = dict[str, Any]


def write_jsonl(name: str, rows: list[Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def alpaca() -> str:
    rows = [
        {
            "instruction": f"Add 1 to {n}.",
            "input": "" if n % 2 else f"n = {n}",
            "output": str(n + 1),
        }
        for n in range(ROWS)
    ]
    return write_jsonl("alpaca_data.jsonl", rows)


def dolly() -> str:
    rows = [
        {
            "instruction": f"Who is number {n}?",
            "context": f"Number {n} is Ann {n}.",
            "response": f"Ann {n}",
            "category": "closed_qa",
        }
        for n in range(ROWS)
    ]
    return write_jsonl("databricks-dolly-15k.jsonl", rows)


def sharegpt() -> str:
    rows = [
        {
            "id": f"id{n}",
            "conversations": [
                {"from": "human", "value": f"Question {n}"},
                {"from": "gpt", "value": f"Answer {n}"},
            ],
        }
        for n in range(ROWS)
    ]
    return write_jsonl("sharegpt.jsonl", rows)


def ultrafeedback() -> str:
    rows = []
    for n in range(ROWS):
        question = {"role": "user", "content": f"Question {n}"}
        answers = [{"role": "assistant", "content": f"{word} {n}"} for word in ("Good", "Bad")]
        rows.append(
            {
                "prompt": f"Question {n}",
                "prompt_id": f"{n:04x}",
                "chosen": [question, answers[0]],
                "rejected": [question, answers[1]],
                "messages": [question, answers[0]],
                "score_chosen": 8.0,
                "score_rejected": 3.5,
            }
        )
    pd.DataFrame(rows).to_parquet("train_prefs.parquet")
    return "train_prefs.parquet"


def hh_rlhf() -> str:
    start = "\n\nHuman: Question {n}\n\nAssistant: What exactly?\n\nHuman: All of it"
    rows = [
        {
            "chosen": start.format(n=n) + f"\n\nAssistant: Good {n}",
            "rejected": start.format(n=n) + f"\n\nAssistant: Bad {n}",
        }
        for n in range(ROWS)
    ]
    return write_jsonl("hh-rlhf.jsonl", rows)


def beir() -> str:
    Path("nfcorpus/qrels").mkdir(parents=True)
    documents = [
        {"_id": f"MED-{n}", "title": f"Title {n}", "text": f"Text {n}", "metadata": {"url": "x"}}
        for n in range(ROWS)
    ]
    write_jsonl("nfcorpus/corpus.jsonl", documents)
    queries = [{"_id": f"PLAIN-{n}", "text": f"Query {n}", "metadata": {}} for n in range(ROWS)]
    write_jsonl("nfcorpus/queries.jsonl", queries)
    lines = ["query-id\tcorpus-id\tscore", *(f"PLAIN-{n}\tMED-{n}\t2" for n in range(ROWS))]
    Path("nfcorpus/qrels/train.tsv").write_text("\n".join(lines) + "\n")
    return "nfcorpus"


def all_nli() -> str:
    rows = []
    for n in range(ROWS):
        for label, word in enumerate(("follows", "is open", "is false")):
            rows.append({"premise": f"Premise {n}", "hypothesis": f"{n} {word}", "label": label})
    pd.DataFrame(rows).to_parquet("all-nli.parquet")
    return "all-nli.parquet"


def sts() -> str:
    frame = pd.DataFrame(
        {
            "sentence1": [f"first {n}" for n in range(ROWS)],
            "sentence2": [f"second {n}" for n in range(ROWS)],
            "score": [n / ROWS for n in range(ROWS)],
        }
    )
    frame.to_csv("stsb.csv", index=False)
    return "stsb.csv"


def quora() -> str:
    frame = pd.DataFrame(
        {
            "id": range(ROWS),
            "qid1": range(ROWS),
            "qid2": range(ROWS),
            "question1": [f"How, {n}?" for n in range(ROWS)],
            "question2": [f"In which way, {n}?" for n in range(ROWS)],
            "is_duplicate": [n % 2 for n in range(ROWS)],
        }
    )
    frame.to_csv("questions.csv", index=False)
    return "questions.csv"


def flag_embedding() -> str:
    rows = [
        {
            "query": f"Query {n}",
            "pos": [f"Positive {n}"],
            "neg": [f"Negative {n} {m}" for m in range(3)],
            "prompt": "Represent this sentence for searching relevant passages: ",
        }
        for n in range(ROWS)
    ]
    return write_jsonl("toy_finetune_data.jsonl", rows)


FORMATS: list[tuple[Callable[[], str], str, str, int, list[str], Content]] = [
    (alpaca, "llm", "Alpaca", ROWS, [], {"input": "Add 1 to 0.\n\nn = 0", "output": "1"}),
    (
        dolly,
        "llm",
        "Dolly",
        ROWS,
        ["category"],
        {"input": "Who is number 0?\n\nNumber 0 is Ann 0.", "output": "Ann 0"},
    ),
    (
        sharegpt,
        "llm",
        "ShareGPT",
        ROWS,
        ["id"],
        {
            "messages": [
                {"role": "user", "content": "Question 0"},
                {"role": "assistant", "content": "Answer 0"},
            ]
        },
    ),
    (
        ultrafeedback,
        "llm",
        "UltraFeedback",
        ROWS,
        ["prompt_id", "messages", "score_chosen", "score_rejected"],
        {"prompt": "Question 0", "chosen": "Good 0", "rejected": "Bad 0"},
    ),
    (
        hh_rlhf,
        "llm",
        "HH-RLHF",
        ROWS,
        [],
        {
            "prompt_messages": [
                {"role": "user", "content": "Question 0"},
                {"role": "assistant", "content": "What exactly?"},
                {"role": "user", "content": "All of it"},
            ],
            "chosen": "Good 0",
            "rejected": "Bad 0",
        },
    ),
    (beir, "embedding", "BEIR", ROWS, [], {"anchor": "Query 0", "positive": "Title 0 Text 0"}),
    (
        all_nli,
        "embedding",
        "NLI",
        ROWS,
        [],
        {"anchor": "Premise 0", "positive": "0 follows", "negative": "0 is false"},
    ),
    (
        sts,
        "embedding",
        "",
        ROWS,
        [],
        {"sentence1": "first 0", "sentence2": "second 0", "score": 0.0},
    ),
    (
        quora,
        "embedding",
        "Quora",
        ROWS,
        ["id", "qid1", "qid2"],
        {"sentence1": "How, 0?", "sentence2": "In which way, 0?", "score": 0.0},
    ),
    (
        flag_embedding,
        "embedding",
        "FlagEmbedding",
        3 * ROWS,
        ["prompt"],
        {"anchor": "Query 0", "positive": "Positive 0", "negative": "Negative 0 0"},
    ),
]


@pytest.mark.parametrize(
    ("make", "kind", "name", "added", "unused", "first"),
    FORMATS,
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_public_data_set_gives_the_rows_that_one_expects(
    call_main: CallMain,
    make: Callable[[], str],
    kind: str,
    name: str,
    added: int,
    unused: list[str],
    first: Content,
) -> None:
    source = make()
    result = call_main("ingest", source, "--session", "s", "--kind", kind)

    assert result.exit_code == 0, result.err
    assert f"{added} added to session s" in result.out
    assert not name or f"read as {name}: " in result.out

    named = [line for line in result.out.splitlines() if line.startswith("kept, not learnt from: ")]
    assert sorted(line.split()[4].rstrip(",") for line in named) == sorted(unused)

    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        chunk = next(manager.read_samples("s", SampleKind(kind)))
    assert dict(chunk[0].sample.content) == first

    again = call_main("ingest", source, "--session", "s", "--kind", kind)
    assert again.exit_code == 0 and f"0 added to session s, {added} already there" in again.out

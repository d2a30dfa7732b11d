"""Files that people bring, in the columns of their own: what is learnt, and what is said of the rest."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.commands import CallMain, CommandResult

from tunetrail.errors import SampleError
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager, RejectedSample

pytestmark = pytest.mark.usefixtures("empty_database")

URL = "sqlite:///tunetrail.db"


def write_jsonl(name: str, rows: list[Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def ingest(call_main: CallMain, rows: list[Any], kind: str, *options: str) -> CommandResult:
    file = write_jsonl("rows.jsonl", rows)
    return call_main("ingest", file, "--session", "s", "--kind", kind, *options)


def contents(kind: str) -> list[dict[str, Any]]:
    """Return the content of each stored sample, in order."""
    with DatabaseManager(URL) as manager:
        chunks = list(manager.read_samples("s", SampleKind(kind)))
    return [dict(stored.sample.content) for chunk in chunks for stored in chunk]


def rejected() -> list[RejectedSample]:
    with DatabaseManager(URL) as manager:
        return manager.rejected_samples("s")


def chat(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Answer in French only."}
TRIPLET = {"anchor": "q", "positive": "p", "negative": "n"}

LANGUAGE_MODEL_ROWS = [
    (
        "Alpaca",
        {
            "instruction": "Translate to German.",
            "input": "the red house",
            "output": "das rote Haus",
        },
        {"input": "Translate to German.\n\nthe red house", "output": "das rote Haus"},
    ),
    (
        "Alpaca",
        {"instruction": "Name a colour.", "input": "", "output": "red"},
        {"input": "Name a colour.", "output": "red"},
    ),
    (
        "Alpaca",
        {"instruction": "Name a colour.", "output": "red"},
        {"input": "Name a colour.", "output": "red"},
    ),
    (
        "Alpaca",
        {"instruction": "Sum up.", "input": "A long day.", "response": "Long."},
        {"input": "Sum up.\n\nA long day.", "output": "Long."},
    ),
    (
        "Alpaca",
        {"instruction": "Three?", "input": "", "output": "trois", "system": SYSTEM["content"]},
        {"messages": [SYSTEM, *chat("Three?", "trois")]},
    ),
    (
        "Alpaca",
        {"instruction": "And four?", "output": "quatre", "history": [["Three?", "trois"]]},
        {"messages": chat("Three?", "trois", "And four?", "quatre")},
    ),
    (
        "Dolly",
        {"instruction": "Who won?", "context": "Ann beat Ben.", "response": "Ann"},
        {"input": "Who won?\n\nAnn beat Ben.", "output": "Ann"},
    ),
    (
        "input/output after a system turn",
        {"input": "Three?", "output": "trois", "system": SYSTEM["content"]},
        {"messages": [SYSTEM, *chat("Three?", "trois")]},
    ),
    (
        "prompt/completion",
        {"prompt": "The sky is", "completion": " blue."},
        {"input": "The sky is", "output": " blue."},
    ),
    (
        "prompt/completion",
        {"prompt": chat("Colour?"), "completion": chat("", "Blue.")[1:]},
        {"messages": chat("Colour?", "Blue.")},
    ),
    (
        "prompt/completion",
        {"prompt": "Three?", "completion": "trois", "system": SYSTEM["content"]},
        {"messages": [SYSTEM, *chat("Three?", "trois")]},
    ),
    ("question/answer", {"question": "1+1?", "answer": "2"}, {"input": "1+1?", "output": "2"}),
    (
        "ShareGPT",
        {
            "conversations": [
                {"from": "human", "value": "Number 3 in French?"},
                {"from": "gpt", "value": "trois"},
            ],
            "system": SYSTEM["content"],
        },
        {"messages": [SYSTEM, *chat("Number 3 in French?", "trois")]},
    ),
    (
        "OpenAI chats",
        {"messages": chat("Number 3?", "trois"), "system": SYSTEM["content"]},
        {"messages": [SYSTEM, *chat("Number 3?", "trois")]},
    ),
    (
        "",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Number 3?"}]},
                {"role": "assistant", "content": "trois"},
            ]
        },
        {"messages": chat("Number 3?", "trois")},
    ),
    ("", {"input": "a", "output": "b"}, {"input": "a", "output": "b"}),
    (
        "KTO",
        {"prompt": "a", "completion": "b", "label": False},
        {"prompt": "a", "completion": "b", "accepted": False},
    ),
    (
        "KTO",
        {"prompt": chat("a"), "completion": [{"role": "assistant", "content": "b"}], "label": 1},
        {"prompt": "a", "completion": "b", "accepted": True},
    ),
    (
        "KTO",
        {"prompt": chat("a", "b", "c"), "completion": chat("", "d")[1:], "label": False},
        {"prompt_messages": chat("a", "b", "c"), "completion": "d", "accepted": False},
    ),
    (
        "KTO",
        {"prompt": "Three?", "completion": "trois", "kto_tag": True, "system": SYSTEM["content"]},
        {"prompt_messages": [SYSTEM, *chat("Three?")], "completion": "trois", "accepted": True},
    ),
    (
        "UltraFeedback",
        {"prompt": "Hi", "chosen": chat("Hi", "Hello!"), "rejected": chat("Hi", "No.")},
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."},
    ),
    (
        "UltraFeedback",
        {
            "prompt": "Cold in Oslo?",
            "chosen": [{"role": "assistant", "content": "Yes."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        },
        {"prompt": "Cold in Oslo?", "chosen": "Yes.", "rejected": "No."},
    ),
    (
        "UltraFeedback",
        {"prompt": chat("Hi"), "chosen": chat("", "Hello!")[1:], "rejected": chat("", "No.")[1:]},
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."},
    ),
    (
        "HH-RLHF",
        {
            "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
            "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
        },
        {"prompt_messages": chat("a", "b", "c"), "chosen": "d", "rejected": "e"},
    ),
    (
        "prompt/completion",
        {"prompt": chat("a", "b", "c"), "completion": [{"role": "assistant", "content": "d"}]},
        {
            "messages": [
                *chat("a"),
                {"role": "assistant", "content": "b", "weight": 0.0},
                *chat("c", "d"),
            ]
        },
    ),
    (
        "prompt/completion",
        {"prompt": "[1, 2]", "completion": "[2, 1]"},
        {"input": "[1, 2]", "output": "[2, 1]"},
    ),
    (
        "OpenAI chats",
        {"messages": [SYSTEM, *chat("Three?", "trois")], "system": "Be brief."},
        {
            "messages": [
                {"role": "system", "content": f"Be brief.\n\n{SYSTEM['content']}"},
                *chat("Three?", "trois"),
            ]
        },
    ),
    (
        "HH-RLHF",
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nwith a second paragraph",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Go away",
        },
        {"prompt": "Hi", "chosen": "Hello\n\nwith a second paragraph", "rejected": "Go away"},
    ),
]

EMBEDDING_ROWS = [
    ("question/answer", {"question": "q", "answer": "p"}, [{"anchor": "q", "positive": "p"}]),
    ("query/passage", {"query": "q", "passage": "p"}, [{"anchor": "q", "positive": "p"}]),
    ("text1/text2", {"text1": "q", "text2": "p"}, [{"anchor": "q", "positive": "p"}]),
    ("FlagEmbedding", {"query": "q", "pos": ["p"], "neg": ["n"]}, [TRIPLET]),
    (
        "FlagEmbedding",
        {"query": "q", "pos": ["p1", "p2"], "neg": ["n1", "n2", "n3"], "pos_scores": [1, 2]},
        [
            {"anchor": "q", "positive": "p1", "negative": "n1"},
            {"anchor": "q", "positive": "p2", "negative": "n2"},
            {"anchor": "q", "positive": "p1", "negative": "n3"},
        ],
    ),
    ("FlagEmbedding", {"query": "q", "pos": '["p"]', "neg": '["n"]'}, [TRIPLET]),
    (
        "question/answer",
        {"question": "Sort 2, 1.", "answer": "[1, 2]"},
        [{"anchor": "Sort 2, 1.", "positive": "[1, 2]"}],
    ),
    (
        "pairs with several negatives",
        {"anchor": "q", "positive": "p", "negative_1": "n1", "negative_2": "n2"},
        [TRIPLET | {"negative": "n1"}, TRIPLET | {"negative": "n2"}],
    ),
    (
        "pairs with several negatives",
        {"anchor": "q", "positive": "p", "negatives": ["n1", "n2"]},
        [TRIPLET | {"negative": "n1"}, TRIPLET | {"negative": "n2"}],
    ),
    (
        "STS",
        {"sentence1": "a", "sentence2": "b", "label": 1},
        [{"sentence1": "a", "sentence2": "b", "score": 1.0}],
    ),
    (
        "STS",
        {"text1": "a", "text2": "b", "score": "3.5"},
        [{"sentence1": "a", "sentence2": "b", "score": 3.5}],
    ),
    (
        "Quora",
        {"question1": "a", "question2": "b", "is_duplicate": 0},
        [{"sentence1": "a", "sentence2": "b", "score": 0.0}],
    ),
    (
        "Quora",
        {"question1": "a", "question2": "b", "is_duplicate": "True"},
        [{"sentence1": "a", "sentence2": "b", "score": 1.0}],
    ),
]


@pytest.mark.parametrize(("name", "row", "content"), LANGUAGE_MODEL_ROWS)
def test_rows_for_language_models_keep_their_task(
    call_main: CallMain, name: str, row: dict[str, Any], content: dict[str, Any]
) -> None:
    result = ingest(call_main, [row], "llm")

    assert result.exit_code == 0, result.err
    assert not name or f"read as {name}: 1 row\n" in result.out
    assert contents("llm") == [content]


@pytest.mark.parametrize(("name", "row", "expected"), EMBEDDING_ROWS)
def test_rows_for_embeddings_keep_all_their_texts(
    call_main: CallMain, name: str, row: dict[str, Any], expected: list[dict[str, Any]]
) -> None:
    result = ingest(call_main, [row], "embedding")

    assert result.exit_code == 0, result.err
    assert f"read as {name}: 1 row\n" in result.out
    assert contents("embedding") == expected


@pytest.mark.parametrize("labels", [("entailment", "contradiction", "neutral"), (0, 2, 1)])
def test_nli_pairs_entailment_with_contradiction_of_the_same_premise(
    call_main: CallMain, labels: tuple[Any, ...]
) -> None:
    entailment, contradiction, neutral = labels
    rows = [
        {"premise": "A dog runs.", "hypothesis": "An animal moves.", "label": entailment},
        {"premise": "A man eats.", "hypothesis": "Nobody eats.", "label": contradiction},
        {"premise": "A cat sleeps.", "hypothesis": "A pet rests.", "label": entailment},
        {"premise": "A dog runs.", "hypothesis": "It is sunny.", "label": neutral},
        {"premise": "A dog runs.", "hypothesis": "The dog sits.", "label": contradiction},
    ]
    result = ingest(call_main, rows, "embedding")

    assert result.exit_code == 0
    assert "read as NLI: 5 rows" in result.out and "5 rows read: 2 added" in result.out
    assert contents("embedding") == [
        {"anchor": "A dog runs.", "positive": "An animal moves.", "negative": "The dog sits."},
        {"anchor": "A cat sleeps.", "positive": "A pet rests."},
    ]
    assert sorted(row.row_number for row in rejected()) == [2, 4]


def test_beir_folder_gives_a_pair_for_each_positive_judgement(
    call_main: CallMain, workplace: Path
) -> None:
    Path("scifact/qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": f"Title {n}", "text": f"text {n}"} for n in range(3)]
    write_jsonl("scifact/corpus.jsonl", documents)
    write_jsonl("scifact/queries.jsonl", [{"_id": "1", "text": "first?"}, {"_id": 2, "text": "b?"}])
    judgements = "query-id\tcorpus-id\tscore\n1\td0\t1\n1\td1\t0\n2\td2\t2\n3\td2\t1\n"
    Path("scifact/qrels/train.tsv").write_text(judgements)

    result = call_main("ingest", "scifact", "--session", "s", "--kind", "embedding")

    assert result.exit_code == 0, result.err
    assert "read as BEIR: 4 rows" in result.out and "4 rows read: 2 added" in result.out
    assert contents("embedding") == [
        {"anchor": "first?", "positive": "Title 0 text 0"},
        {"anchor": "b?", "positive": "Title 2 text 2"},
    ]
    reasons = [row.reason for row in rejected()]
    assert [reason.partition(",")[0] for reason in reasons] == [
        "score must be above 0 to make a pair",
        "query-id must be in queries.jsonl",
    ]


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"messages": chat("Hours?", "No idea."), "label": False}, "llm", "label must confirm"),
        ({"messages": chat("Hours?", "No idea."), "kto_tag": "false"}, "llm", "kto_tag must"),
        ({"messages": chat("Hours?", "No."), "label": False}, "conversation", "label must confirm"),
        ({"conversations": chat("Hi", "No."), "kto_tag": 0}, "conversation", "kto_tag must"),
        ({"messages": chat("Hours?", "No idea."), "feedback": "down"}, "llm", "feedback must"),
        (
            {"messages": [*chat("a"), {"role": "assistant", "content": "b", "rating": 1}]},
            "llm",
            "feedback must accept the answer",
        ),
        ({"prompt": "a", "completion": "b", "label": None}, "llm", "label is missing"),
        ({"query": "a", "passage": "b", "label": None}, "embedding", "label is missing"),
        ({"instruction": "a", "output": "b", "label": 0}, "llm", "label must confirm"),
        ({"input": "a", "output": "b", "accepted": False}, "llm", "accepted must confirm"),
        ({"anchor": "a", "positive": "b", "label": 0}, "embedding", "label must confirm"),
        ({"query": "a", "passage": "b", "relevance": 0}, "embedding", "relevance must confirm"),
        ({"instruction": None, "input": "x", "output": "y"}, "llm", "instruction is missing"),
        ({"instruction": " ", "input": "x", "output": "y"}, "llm", "instruction must have a text"),
        ({"sentence1": "a", "sentence2": "b", "score": None}, "embedding", "score is missing"),
        ({"text1": "a", "text2": "b", "score": None}, "embedding", "score is missing"),
        ({"anchor": "a", "positive": None}, "embedding", "positive is missing"),
        (
            {"chosen": chat("a", "b", "c"), "rejected": chat("a", "d", "c")},
            "llm",
            "chosen and rejected must differ in their last answer only",
        ),
    ],
)
def test_rows_that_teach_the_wrong_thing_are_not_learnt_and_end_with_two(
    call_main: CallMain, row: dict[str, Any], kind: str, reason: str
) -> None:
    result = ingest(call_main, [row] * 3, kind)

    assert result.exit_code == 2
    assert f"rows.jsonl must have a row that can be learnt from, got 3 rows: {reason}" in result.err
    assert f"  3 rows: {reason}" in result.out and "(lines 1, 2, 3 of rows.jsonl)" in result.out
    assert "no sessions yet" in call_main("sessions").out


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([{"text": f"row {n}", "timestamp": f"{n + 1:02}/03/2026 soon"} for n in range(20)], "llm"),
        ([{"text": n} for n in range(20)], "embedding"),
        (
            [{"messages": [{"role": "user", "content": f"Hi {n}"}]} for n in range(20)],
            "conversation",
        ),
    ],
)
def test_a_file_of_rejected_rows_leaves_no_session_and_one_line_per_reason(
    call_main: CallMain, rows: list[Any], kind: str
) -> None:
    result = ingest(call_main, rows, kind)

    assert result.exit_code == 2
    assert result.out.count("  20 rows: ") == 1 and "(lines 1, 2, 3, … of rows.jsonl)" in result.out
    assert "no sessions yet" in call_main("sessions").out


def test_an_existing_session_stays_if_nothing_of_a_file_can_be_stored(call_main: CallMain) -> None:
    assert ingest(call_main, [{"text": "good"}], "llm").exit_code == 0
    assert ingest(call_main, [{"text": 3}], "llm").exit_code == 2
    assert contents("llm") == [{"text": "good"}]


def test_columns_from_which_nothing_is_learnt_are_named_with_their_rows(
    call_main: CallMain,
) -> None:
    row = {"anchor": "a", "positive": "b", "product": "x"}
    result = ingest(call_main, [row, {**row, "created_at": "2026-01-01"}], "embedding")

    assert result.exit_code == 0
    assert "kept, not learnt from: product, 2 rows\n" in result.out
    assert "kept, not learnt from: created_at (is it timestamp?), 1 row\n" in result.out


@pytest.mark.parametrize("column", ["category", "intent", "class"])
def test_a_label_under_another_name_is_suggested(call_main: CallMain, column: str) -> None:
    rows = [{"text": "My card is lost.", column: "card"}]
    result = ingest(call_main, rows, "embedding")
    assert f"kept, not learnt from: {column} (is it label?), 1 row" in result.out

    again = ingest(call_main, rows, "embedding", "--columns", f"label={column}")
    assert again.exit_code == 0 and "not learnt from" not in again.out
    assert contents("embedding")[-1] == {"text": "My card is lost.", "label": "card"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("ancor=frage,positive=antwort", "got 'ancor'. Did you mean 'anchor'?"),
        ("anchor=frge,positive=antwort", "got 'frge'. Did you mean 'frage'? The file has"),
        ("anchor,positive=antwort", "--columns must be a list of NAME=COLUMN, got 'anchor'"),
        ("anchor=frage,anchor=antwort", "--columns must map anchor once"),
    ],
)
def test_a_wrong_mapping_is_refused_in_one_line(
    call_main: CallMain, columns: str, message: str
) -> None:
    rows = [{"frage": "q", "antwort": "p"}]
    result = ingest(call_main, rows, "embedding", "--columns", columns)
    assert result.exit_code == 2 and message in result.error_line


def test_mapped_columns_are_read_under_their_new_names(call_main: CallMain) -> None:
    rows = [{"frage": "q", "antwort": "p", "negative_1": "n"}]
    result = ingest(call_main, rows, "embedding", "--columns", "anchor=frage,positive=antwort")
    assert result.exit_code == 0 and contents("embedding") == [TRIPLET]


def test_a_label_that_accepts_is_not_called_unused(call_main: CallMain) -> None:
    rows = [{"messages": chat("Who are you?", "A model."), "label": True, "model": "m"}]
    for kind in ("llm", "conversation"):
        result = ingest(call_main, rows, kind)
        assert (
            "kept, not learnt from: model, 1 row" in result.out and "from: label" not in result.out
        )


def test_mapped_columns_of_chat_logs_are_read(call_main: CallMain) -> None:
    rows = [{"dialog": chat("Who are you?", "A model."), "conversation_id": "1"}]
    result = ingest(call_main, rows, "conversation", "--columns", "messages=dialog")
    assert result.exit_code == 0 and "1 pair and 1 chat\n" in result.out


@pytest.mark.parametrize("name", ["1.10", "1e3", "007", "2026_11_24", "true", "null"])
def test_a_session_keeps_the_name_that_was_typed(call_main: CallMain, name: str) -> None:
    file = write_jsonl("rows.jsonl", [{"text": f"A text of {name}."}])
    call_main("ingest", file, "--session", name, "--kind", "embedding")
    call_main("ingest", file, "--session", "1.1", "--kind", "embedding")

    listed = [line.split()[0] for line in call_main("sessions").out.splitlines() if line.strip()]
    prepared = call_main("prepare", f"session_id={name}", "output_dir=look")

    assert {name, "1.1"} <= set(listed)
    assert "session_id must name a session" not in prepared.err
    assert Path("look/report.html").exists()


def test_python_reads_a_dataframe_of_alpaca_rows(workplace: Path) -> None:
    frame = pd.DataFrame({"instruction": ["Add."], "input": ["1, 2"], "output": ["3"], "id": [7]})

    with DatabaseManager(URL) as manager:
        report = manager.ingest("s", frame, SampleKind.LLM)
        mapped = manager.ingest(
            "s",
            [{"q": "a", "p": "b"}],
            SampleKind.EMBEDDING,
            columns={"anchor": "q", "positive": "p"},
        )
        with pytest.raises(SampleError, match="Did you mean 'anchor'"):
            manager.ingest("s", [], SampleKind.EMBEDDING, columns={"anchr": "q"})

    assert (report.added, mapped.added) == (1, 1)
    assert report.account.read_as == {"Alpaca": 1} and report.account.unused == {"id": 1}
    assert contents("llm") == [{"input": "Add.\n\n1, 2", "output": "3"}]

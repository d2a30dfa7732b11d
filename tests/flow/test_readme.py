"""Every command and snippet of the README and of docs/, run as written except for tiny models."""

import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.documents import DOCUMENTS, README, REPOSITORY, blocks, commands

from tunetrail import DatabaseManager
from tunetrail.cli import main
from tunetrail.cli.composed_run import run_composed
from tunetrail.collecting import collect
from tunetrail.config import TrainRequest

MAKEFILE = REPOSITORY / "Makefile"


def write_samples(folder: Path) -> None:
    # support.csv, as the tutorial's reader makes it
    (snippet,) = blocks("python", REPOSITORY / "docs/tutorial.md")
    exec(compile(snippet, "tutorial.md", "exec"), {})  # noqa: S102 - our own text
    words = ["river", "stone", "cloud", "paper", "engine", "garden", "silver", "window"]
    rows = [
        {
            "anchor": f"{words[n % 8]} number {n} asks {n * 7}",
            "positive": f"{n * 7} answers {words[n % 8]} {n}",
        }
        for n in range(60)
    ]
    (folder / "samples.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    questions = ["frage,antwort", *(f"{row['anchor']},{row['positive']}" for row in rows)]
    (folder / "faq.csv").write_text("\n".join(questions))
    chats = [
        {"input": f"say {n} {words[n % 8]}", "output": f"{words[n % 8]} {n}"} for n in range(60)
    ]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps(row) for row in chats))
    conversations = [
        {
            "conversation_id": f"c{n}",
            "messages": [
                {"role": "user", "content": f"what does the {words[n % 8]} of {n * 3} say"},
                {"role": "assistant", "content": f"the {words[n % 8]} says {n * 11}"},
            ],
        }
        for n in range(60)
    ]
    (folder / "conversations.jsonl").write_text("\n".join(json.dumps(row) for row in conversations))


@pytest.fixture
def session(workplace: Path) -> Path:
    write_samples(workplace)
    for file, kind in (("samples.jsonl", "embedding"), ("chats.jsonl", "llm")):
        assert main(["ingest", file, "--session", "session_123", "--kind", kind]) == 0
    return workplace


def test_readme_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", MAKEFILE.read_text(), flags=re.MULTILINE)
    documented = [words[1] for words in commands() if words[0] == "make"]
    assert documented and set(documented) <= set(targets)


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_documents_link_to_what_exists() -> None:
    links = [
        (document, *link)
        for document in DOCUMENTS
        for link in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", document.read_text())
    ]

    assert len(links) >= 20
    for document, target, anchor in links:
        linked = document.parent / target if target else document
        assert linked.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{document.name} links to #{anchor}"


def test_documented_extras_exist() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    page = (REPOSITORY / "docs/install.md").read_text()
    installed = [
        extra
        for document in DOCUMENTS
        for extras_text in re.findall(
            r"pip install [^\n`]*(?<!mlflow)\[([a-z,]+)\]", document.read_text()
        )
        for extra in extras_text.split(",")
    ]

    assert set(re.findall(r"^\| `([a-z]+)` \|", page, flags=re.MULTILINE)) == extras
    assert len(installed) >= 8 and set(installed) <= extras
    assert project["requires-python"] == ">=3.11" and "Python 3.11 or newer" in page


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 120


def failed_run(folder: Path, small: list[str]) -> str:
    """A run whose last step failed, and could be done now."""
    blocked = folder / "blocked" / "models" / "embedding" / "versions"
    blocked.parent.mkdir(parents=True)
    blocked.touch()
    arguments = [
        "session_id=session_123",
        "model_type=embedding",
        "model_dir=blocked/models",
        "gate=point",
    ]
    assert main(["train", *arguments, "gate.minimum_improvement=-10", *small]) == 1
    blocked.unlink()
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        return manager.training_runs()[-1].run_id


def options_of_comparison(words: list[str]) -> list[str]:
    """Return the options of a documented comparison, except the metric of another family."""
    options = words[next((n for n, word in enumerate(words) if word[:2] == "--"), len(words)) :]
    if "--metric" in options:
        position = options.index("--metric")
        del options[position : position + 2]
    return options


@pytest.mark.processes
def test_readme_commands_run(
    session: Path,
    tiny_embedding_model: str,
    tiny_language_model: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = [
        f"embedding.model={tiny_embedding_model}",
        f"llm.model={tiny_language_model}",
        "embedding.training.max_steps=2",
        "embedding.training.warmup_steps=0",
        "cross_validation.n_splits=2",
    ]
    ran = []

    for words in commands():
        # A server would run on, and of so few rows nothing becomes root, which `export` needs.
        if words[0] != "tunetrail" or words[1] in ("export", "serve", "ui"):
            continue
        if words[1] == "resume":
            words = [*words[:2], failed_run(session, small)]
        if words[1] == "compare":
            words = [*words[:2], "base", "embedding@root", *options_of_comparison(words)]
        if words[1] == "report":
            # The run that was resumed, under a gate that promotes all. `clean` may have removed others.
            words = [*words[:2], "embedding@root"]
        assert (
            main([*words[1:], *(small if words[1] in ("train", "plan", "prepare") else [])]) == 0
        ), " ".join(words)
        ran.append(words[1])

    assert ran.count("train") == 4 and {
        "ingest",
        "plan",
        "prepare",
        "resume",
        "sessions",
        "compare",
        "report",
    } <= set(ran)
    assert "nDCG@10" in capsys.readouterr().out


@pytest.mark.processes
def test_readme_snippet_runs(
    session: Path,
    tiny_embedding_model: str,
    tiny_language_model: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (snippet,) = blocks("python", README)
    snippet = snippet.replace(
        '"sentence-transformers/all-MiniLM-L6-v2"', repr(tiny_embedding_model)
    )
    snippet = snippet.replace('"smollm2-135m"', repr(tiny_language_model))
    small = '        training_config={"embedding": {"num_epochs": 1}, "llm": {"num_epochs": 1}},\n'
    snippet = snippet.replace(
        "    ),\n    db_manager",
        f"{small}        pipeline_config={{'n_splits': 0}},\n    ),\n    db_manager",
    )

    exec(compile(snippet, "README.md", "exec"), {})  # noqa: S102 - our own text

    assert "embedding  nDCG@10 ↑" in capsys.readouterr().out


def recipes() -> list[list[str]]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    split_lines = [shlex.split(line, comments=True) for line in lines]
    # Without what starts the command on several nodes.
    return [words[words.index("tunetrail") :] for words in split_lines if words]


@pytest.mark.processes
def test_recipes_compose(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests: list[TrainRequest] = []
    Path("form.schema.json").write_text('{"type": "object"}')

    def remember(request: TrainRequest, overrides: Sequence[str]) -> dict[str, str]:
        requests.append(request)
        return {}

    for words in recipes():
        assert words[:2] == ["tunetrail", "train"]
        if "--cfg" in words:
            assert main(words[1:]) == 0
            assert "learning_rate: " in capsys.readouterr().out
        else:
            run_composed(words[2:], remember)

    assert len(requests) >= 8
    trainings = [request.embedding.training for request in requests]
    assert any(each.batch_size == each.learning_rate == "auto" for each in trainings)
    (all_weights,) = [each.llm for each in requests if each.llm.adapter.kind == "none"]
    assert all_weights.neftune_alpha == 5.0
    named = [list(request.trainer.callbacks) for request in requests if request.trainer.callbacks]
    assert named == [["device_stats"], ["limit"], ["stop"]]


def test_configuration_snippet_runs() -> None:
    (snippet,) = blocks("python", REPOSITORY / "docs/configuration.md")
    exec(compile(snippet, "configuration.md", "exec"), {})  # noqa: S102 - our own text


def test_three_lines_of_an_application_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNETRAIL_DATABASE_URL", raising=False)
    (snippet,) = blocks("python", REPOSITORY / "docs/applications.md")
    variables: dict[str, Any] = {}

    exec(compile(snippet, "applications.md", "exec"), variables)  # noqa: S102 - our own text
    assert variables["session"].close()
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        collect(manager, "support-2026-11")
        shapes = manager.session_summary("support-2026-11").shapes

    assert shapes == {"embedding": {"pair": 1}, "llm": {"chat": 1, "verdict": 1}}


# What Lightning advises about a training of two batches on a CPU.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_snippet_with_a_trainer_of_ones_own_runs(
    workplace: Path, tiny_embedding_model: str
) -> None:
    (snippet,) = blocks("python", REPOSITORY / "docs/training.md")
    snippet = snippet.replace('"path/to/model"', repr(tiny_embedding_model))
    records = [
        {"anchor": f"question {row}", "positive": f"the answer is {row * 7}"} for row in range(64)
    ]

    variables = {"records": records, "held_out": records[:8]}
    exec(compile(snippet, "training.md", "exec"), variables)  # noqa: S102 - our own text

    assert "train/loss" in variables["trainer"].callback_metrics
    assert "val/loss" in variables["trainer"].callback_metrics

"""Python's door on tiny models: a training, its result, and the questions that follow it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.tracking import client_of

import tunetrail
from tunetrail.errors import SampleError, UserError
from tunetrail.samples import SampleKind

pytestmark = pytest.mark.processes


@pytest.fixture
def settings(workplace: Path, tiny_embedding_model: str) -> dict[str, Any]:
    """Settings of a training of three steps, as Python's users write them."""
    training = {"max_steps": 3, "warmup_steps": 0, "num_epochs": 1}
    return {
        "tracking": {"uri": f"sqlite:///{workplace}/mlflow.db"},
        "embedding": {"model": tiny_embedding_model, "training": training},
        "cross_validation": "off",
        "gate": "point",
        "gate.minimum_improvement": -10,
        "evaluation": {"bootstrap_samples": 100},
    }


def test_train_leads_to_a_root_that_can_be_listed_compared_and_loaded(
    session: str, settings: dict[str, Any], workplace: Path
) -> None:
    uri = settings["tracking"]["uri"]

    result = tunetrail.train(session, "embedding", verbose=0, **settings)

    family = result.families["embedding"]
    assert (family.decision, family.version, family.is_root) == ("promoted", "1", True)
    assert client_of(uri).get_run(family.run_id).info.status == "FINISHED"
    assert result.run_id == family.run_id and result.page is not None
    assert result.report is not None and Path(result.report).is_file()
    assert json.loads(json.dumps(result)) == result.to_dict()
    assert "promoted" in repr(result) and "<td>promoted</td>" in result._repr_html_()

    frame = tunetrail.runs(tracking_uri=uri)
    assert list(frame["run_id"]) == [result.run_id] and list(frame["decision"]) == ["promoted"]
    assert frame.loc[0, "embedding.training.max_steps"] == 3
    assert frame.loc[0, "embedding/after"] == pytest.approx(family.comparison.after)
    assert isinstance(frame.loc[0, "started"], pd.Timestamp)
    assert tunetrail.runs(where="state=failed", tracking_uri=uri).empty
    with pytest.raises(UserError, match="must name a fact, setting or metric"):
        tunetrail.runs(sort="batch_sice", tracking_uri=uri)

    comparison = tunetrail.compare("base", "embedding@root", tracking_uri=uri)
    assert comparison.pairs[0].comparison.after == pytest.approx(family.comparison.after)
    model = tunetrail.load_root("embedding", tracking_uri=uri)
    assert model.encode(["a text"]).shape == (1, 32)


def test_prepare_returns_the_account_and_the_rows(
    session: str, settings: dict[str, Any], workplace: Path
) -> None:
    prepared = tunetrail.prepare(session, "embedding", verbose=0, **settings)

    assert prepared.folder == Path("prepared/s1") and (prepared.folder / "report.html").is_file()
    assert "split by content: train" in repr(prepared)
    assert "<td>cleaning</td><td>48</td>" in prepared._repr_html_()
    assert len(prepared.frame("train")) == prepared.sides["train"] > 0


def test_prepare_raises_what_the_command_says_of_an_error_finding(
    session: str, settings: dict[str, Any], workplace: Path
) -> None:
    with tunetrail.DatabaseManager("sqlite:///tunetrail.db") as manager:
        manager.ingest(session, [{"anchor": "", "positive": "x"}], SampleKind.EMBEDDING)

    with pytest.raises(SampleError, match=r"rows\.empty: 1 of .* See look/report\.html\.$"):
        tunetrail.prepare(
            session,
            "embedding",
            output_dir="look",
            overrides=["validation.rows.empty.threshold=0.001"],
            verbose=0,
            **settings,
        )
    assert Path("look/report.html").is_file()


SCRIPT = """\
import json, logging, os, sys
import tunetrail

settings = json.loads(sys.argv[1])
result = tunetrail.train("s1", "embedding", verbose=int(sys.argv[2]), **settings)
assert logging.root.handlers == [] and logging.getLogger("tunetrail").handlers == []
assert "TUNETRAIL_VERBOSE" not in os.environ
print(json.dumps({"decision": result.families["embedding"].decision}))
"""


@pytest.mark.parametrize("verbose", [0, 1])
def test_script_shows_our_lines_and_bars_only(
    verbose: int, session: str, settings: dict[str, Any], workplace: Path
) -> None:
    script = workplace / "script.py"
    script.write_text(SCRIPT)
    # MLflow leaves its own variables behind in the process of earlier tests.
    foreign = ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI", "TUNETRAIL_VERBOSE")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}

    done = subprocess.run(
        [sys.executable, str(script), json.dumps(settings), str(verbose)],
        env=environment | {"COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    # Bars and lines are on stderr: what the script prints can be piped.
    assert json.loads(done.stdout) == {"decision": "promoted"}
    if verbose:
        assert "INFO    loading the libraries ..." in done.stderr and "epoch 1 of " in done.stderr
    else:
        assert "INFO" not in done.stderr and "epoch" not in done.stderr
    for stranger in ("INFO mlflow", "INFO alembic", "Downloading", "View run", "\x1b["):
        assert stranger not in done.stderr


def test_documented_snippet_runs(
    settings: dict[str, Any],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = (Path(__file__).parents[2] / "docs/python.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)
    lines = ["frage,antwort", *(f"what is {n} times {n},it is {n * n}" for n in range(60))]
    (workplace / "faq.csv").write_text("\n".join(lines))
    # The snippet uses the default store, which MLflow keeps open for each relative address.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings["tracking"]["uri"])
    snippet = snippet.replace('experiments="quick"', "**settings")
    snippet = snippet.replace('("faq", "embedding")', '("faq", "embedding", **settings)')
    for call in ("runs(", "compare(", "load_root("):
        snippet = snippet.replace(f"tunetrail.{call}", f"tunetrail.{call}tracking_uri=uri, ")
    snippet = snippet.replace('compare(tracking_uri=uri, "base"', 'compare("base"').replace(
        '{family.version}")', '{family.version}", tracking_uri=uri)'
    )
    snippet = snippet.replace('uri, "embedding")', 'uri, family="embedding")')

    variables = {"settings": settings, "uri": settings["tracking"]["uri"]}
    exec(compile(snippet, "python.md", "exec"), variables)  # noqa: S102 - our own text

    printed = capsys.readouterr().out
    assert "60 rows" in printed and "promoted 1" in printed and "(1, 32)" in printed

"""The page of a training: all of its parts, texts that look like HTML, and what old runs lack."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.evaluation.embedding_map import EmbeddingMap
from tunetrail.evaluation.example_rows import REFERENCE, ExampleRows, ScoredRun
from tunetrail.evaluation.report.page import render_report
from tunetrail.evaluation.report.run_report import ModelReport, RunReport
from tunetrail.evaluation.slices import attributes_of, score_slices

ROWS = 60
HOSTILE = '<script>alert("1")</script>'
COMPARISON = {
    "metric": "ndcg_at_10",
    "before": 0.5,
    "after": 0.6,
    "improvement": 0.1,
    "lower": 0.05,
    "upper": 0.15,
    "confidence": 0.95,
    "examples": ROWS,
    "bootstrap_samples": 1000,
    "better_share": 0.5,
    "worse_share": 0.25,
    "against": "base",
}
DEPLOYMENT = {"promote": True, "reason": "it is better", "version": "3"}


def example_rows(label: str = "blue") -> ExampleRows:
    generator = np.random.default_rng(0)
    before = generator.uniform(0.2, 0.8, ROWS)
    labels = [label if row % 2 else "red" for row in range(ROWS)]
    table = pd.DataFrame(
        {
            "side": "test",
            "fold": None,
            "row_id": pd.array(range(ROWS), "Int64"),
            "text_hash": list(map(str, range(ROWS))),
            "cluster": list(map(str, range(ROWS))),
            "label": labels,
            "source": ["web" if row % 3 else label for row in range(ROWS)],
            "predicted_label": labels[::-1],
            REFERENCE + "predicted_label": labels,
            "ndcg_at_10": before + 0.1,
            REFERENCE + "ndcg_at_10": before,
        }
    )
    run = ScoredRun(
        model_type="embedding",
        shape="label",
        metric="ndcg_at_10",
        against="base",
        run_id="r1",
        metrics={"ndcg_at_10": 0.6},
        reference_metrics={"ndcg_at_10": 0.5},
        own_columns=("source",),
    )
    return ExampleRows(run=run, table=table)


@pytest.fixture
def make_model() -> Callable[..., ModelReport]:
    """A model type with everything that a run keeps, in which `text` stands wherever data can."""

    def make(text: str = "blue", **changes: Any) -> ModelReport:
        rows = example_rows(text)
        slices = score_slices(
            rows.scores(REFERENCE),
            rows.scores(),
            attributes_of(rows.table, ["source"]),
            confidence=0.95,
            seed=0,
        )
        example = {
            "row_id": 1,
            "before": 0.5,
            "after": 0.25,
            "content": f'{{"text": {text!r}, "label": "x"}}'.replace("'", '"'),
            "first_instead": text,
            "label": text,
            "predicted_label": text,
        }
        points = np.random.default_rng(1).normal(size=(ROWS, 4))
        coordinates = pd.DataFrame(points, columns=["before_x", "before_y", "after_x", "after_y"])
        history = {
            "train/loss": [[1, 2.0], [2, 1.5], [3, 1.2]],
            "val/loss": [[3, 1.4]],
            "val/ndcg_at_10": [[1, 0.4], [3, 0.5]],
        }
        report = ModelReport(
            model_type="embedding",
            run_id="r1",
            steps={
                "comparison": {
                    **COMPARISON,
                    "earlier_sessions": {text: COMPARISON},
                    "general_set": {"faq.jsonl": COMPARISON},
                },
                "deployment": {**DEPLOYMENT, "reason": text},
                "training": {
                    "history": history,
                    "monitor": "val/ndcg_at_10",
                    "best_step": 3,
                    "base_model": text,
                    "steps": 3,
                    "seconds": 75.0,
                },
                "evaluation": {
                    "candidate": {
                        "metrics": {"ndcg_at_10": 0.6, "new_metric": 7.0},
                        "intervals": {"ndcg_at_10": [0.51, 0.69]},
                    },
                    "reference": {"metrics": {"ndcg_at_10": 0.5}},
                },
            },
            rows=rows,
            slices=slices,
            examples={
                "rule": "a rule",
                **dict.fromkeys(["fixed", "broken", "right", "wrong"], 2),
                **dict.fromkeys(["fixes", "breaks", "worst"], [example] * 5),
            },
            answers=pd.DataFrame(
                {
                    "row_id": [5],
                    **{name: [text] for name in ("prompt", "expected", "before", "after")},
                    "chrf_before": [0.2],
                    "chrf_after": [0.4],
                }
            ),
            tokens=pd.DataFrame(
                {
                    "row_id": [7, 8],
                    "text_before": [text, "only the "],
                    "token": [text, "older one"],
                    "text_after": [text, " has this"],
                    "bits_before": [3.0, 4.0],
                    "bits_after": [12.345, None],
                },
                dtype=object,
            ),
            embedding_map=EmbeddingMap(
                table=coordinates.assign(row_id=range(ROWS)), before_share=0.3, after_share=0.4
            ),
        )
        return dataclasses.replace(report, **changes)

    return make


def page_of(*models: ModelReport, name: str = "s1 (all)") -> str:
    return render_report(RunReport(name=name, run_id="p1", started="today", models=models)).html


def test_the_page_says_everything_that_the_run_kept(
    make_model: Callable[..., ModelReport],
) -> None:
    rendered = render_report(
        RunReport(name="s1", run_id="p1", started="today", models=[make_model()])
    )

    assert set(rendered.pictures["embedding"]) == {
        "losses",
        "monitor",
        "slices",
        "forgetting",
        "confusion",
        "map_before",
        "map_after",
    }
    html = rendered.html
    alternatives = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', html)
    assert len(alternatives) == html.count("<img") == 7
    # The decision is read before anything else.
    assert html.index("Promoted to root") < html.index("<h2>") < html.index("Metrics</h3>")
    for words in (
        "0.510 … 0.690",
        "new_metric",
        "step 3, by val/ndcg_at_10",
        "75 s",
        "2 rows fixed, 2 broken",
        "ranked first instead",
        "source = web",
        "coloured by label",
        "Written answers",
        "12.35",
        "<h3>Sessions</h3>",
        "general set faq.jsonl",
        "tunetrail compare r1 embedding@root",
    ):
        assert words in html, words
    assert "older one" not in html
    assert "default-src 'none'" in html and "http" not in re.sub(r"http-equiv", "", html)


def test_data_is_escaped(make_model: Callable[..., ModelReport]) -> None:
    html = page_of(make_model(HOSTILE), name=HOSTILE)

    assert "<script" not in html
    # As text it is there: in the name, the reason, a slice, an example, an answer and a session.
    assert html.count("&lt;script&gt;") > 15


def test_formulas_and_unreadable_names_are_drawn_as_they_are(
    make_model: Callable[..., ModelReport],
) -> None:
    html = page_of(make_model("$x^{2$ \x00 \u202e \U0001f40d"))

    assert html.count("<img") == 7
    assert "\x00" not in html and "\u202e" not in html


def test_what_an_old_run_lacks_is_named(make_model: Callable[..., ModelReport]) -> None:
    """The first versions kept the comparison and the decision only."""
    old = make_model(
        steps={"comparison": COMPARISON, "deployment": DEPLOYMENT},
        rows=None,
        slices=None,
        examples=None,
        answers=None,
        tokens=None,
        embedding_map=None,
        missing=["slices", "the scores of each row"],
    )

    html = page_of(old)

    assert "Promoted to root" in html and "<img" not in html
    assert "<li>slices</li>" in html and "<li>the scores of each row</li>" in html
    for words in ("The run has no curves", "Off for this run", "kept no slices", "no examples"):
        assert words in html


def test_a_run_that_ended_before_its_deployment_has_no_decision(
    make_model: Callable[..., ModelReport],
) -> None:
    model = make_model()
    steps = {name: step for name, step in model.steps.items() if name != "deployment"}

    html = page_of(dataclasses.replace(model, steps=steps))

    assert "Not decided: nDCG@10 is 0.6000 against 0.5000 of the base model" in html


def test_several_model_types_have_a_section_each(make_model: Callable[..., ModelReport]) -> None:
    html = page_of(make_model(), make_model(model_type="llm"))

    assert html.count("<section id=") == 2
    assert '<a href="#section-2">llm</a>' in html


def test_a_refused_candidate_is_marked(make_model: Callable[..., ModelReport]) -> None:
    model = make_model()
    steps = {**model.steps, "deployment": {**DEPLOYMENT, "promote": False}}

    html = page_of(dataclasses.replace(model, steps=steps))

    assert '<p class="verdict warning">Refused, root stays: ' in html


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("embedding minilm on s1", "<h1>embedding minilm on s1</h1>\n"),
        (
            "learning_rate=3e-05, and 4 more: embedding minilm on s1",
            '<h1>embedding minilm on s1</h1>\n<p class="muted">learning_rate=3e-05, and 4 more</p>',
        ),
    ],
)
def test_the_heading_is_what_was_trained_and_the_settings_follow(
    name: str, heading: str, make_model: Callable[..., ModelReport]
) -> None:
    html = page_of(make_model(), name=name)

    assert heading in html
    assert ("and 4 more" in html) is ("and 4 more" in name)

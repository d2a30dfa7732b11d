import copy
import json
from typing import Any

import pytest
from tests.results import training_results

from tunetrail import TrainingResult
from tunetrail.evaluation.comparison import Comparison


def results(**deployment: Any) -> dict[str, Any]:
    return training_results(deployment={"name": "shop-embedding", **deployment})


def result(**deployment: Any) -> TrainingResult:
    return TrainingResult(
        results(**deployment), run_id="a" * 32, report="report.html", page="http://host/run"
    )


def test_training_result_is_the_documented_mapping() -> None:
    training = result()

    assert training == results()
    assert training["results"]["steps"]["deployment"]["embedding"]["version"] == "3"
    assert json.loads(json.dumps(training)) == results()


def test_training_result_has_typed_attributes() -> None:
    training = result()
    family = training.families["embedding"]

    assert (training.session_id, training.model_type) == ("s1", "embedding")
    assert (training.run_id, training.report, training.page) == (
        "a" * 32,
        "report.html",
        "http://host/run",
    )
    assert (family.decision, family.version, family.is_root) == ("promoted", "3", True)
    assert (family.name, family.run_id, family.report) == (
        "shop-embedding",
        "c" * 32,
        "report.html",
    )
    assert isinstance(family.comparison, Comparison) and family.comparison.improvement == 0.125
    assert family.steps["comparison"]["after"] == 0.625


def test_training_result_gives_a_dict_of_its_own() -> None:
    training = result()
    plain = training.to_dict()
    assert type(plain) is dict and plain == results()

    plain["results"]["steps"]["deployment"]["embedding"]["version"] = "9"

    assert training.families["embedding"].version == "3"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_training_result_survives_a_copy(duplicate: Any) -> None:
    other = duplicate(result())
    assert (other, other.run_id, other.page) == (result(), "a" * 32, "http://host/run")


def test_training_result_shows_a_table() -> None:
    head, rule, row, sentence, report, page = repr(result()).splitlines()

    assert head.split() == [
        *("model", "metric", "before", "after", "improvement", "decision", "version")
    ]
    assert set(rule) == {"-", " "}
    assert row == "embedding  nDCG@10 ↑  0.5000  0.6250  +0.0500 … +0.2000  promoted  3 = root"
    assert sentence.startswith("embedding: before is the base model; 95% interval over 40 test")
    assert (report, page) == ("Report: report.html", "Run: http://host/run")


HOSTILE = "<script>alert('x')</script>\x1b[31m & \u202e"


def test_training_result_shows_a_hostile_reason_as_text() -> None:
    training = result(reason=HOSTILE, decision="<b>refused</b>")
    page, text = training._repr_html_(), repr(training)

    assert "<script" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page and "&amp;" in page
    assert "\x1b" not in page + text and "\u202e" not in page + text
    assert "\n" not in text.splitlines()[3]


def test_training_result_shows_html_for_jupyter() -> None:
    page = result()._repr_html_()
    assert "<th>model</th>" in page and "<td>3 = root</td>" in page
    assert "<div>Run: http://host/run</div>" in page

"""The card of a model, with names of users in it that would like to be markup."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard as HubCard

from tunetrail.deployment.model_card import LONGEST_DESCRIPTION, ModelCard, licence_of
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.report.run_report import ModelReport

HOSTILE = '# <img src=x onerror=alert(1)> | [a](http://evil) "q": {x} `c` ---'


def card(
    name: str = "s1", *, base_model: str = "owner/base", ancestors: tuple[str, ...] = ("2", "1")
) -> ModelCard:
    comparison = Comparison(
        metric="ndcg_at_10",
        before=0.5,
        after=0.6,
        improvement=0.1,
        lower=0.02,
        upper=0.18,
        confidence=0.95,
        examples=100,
        bootstrap_samples=2000,
        better_share=0.4,
        worse_share=0.2,
    )
    worst = {"attribute": "source", "value": name, "rows": 20, "after": 0.4, "improvement": -0.05}
    lost = {"corrected_lower": -0.1, "corrected_upper": 0.01}
    step = {
        **comparison.to_dict(),
        "against": "models:/embedding/2",
        "error_analysis": {"worst_slice": {**worst, **lost}, "weakest_slice": None},
        "earlier_sessions": {name: {**comparison.to_dict(), "improvement": -0.04}},
    }
    candidate = {"metrics": {"mrr_at_10": 0.7}, "intervals": {"mrr_at_10": [0.65, 0.75]}}
    evaluation = {"candidate": candidate, "reference": {"metrics": {"mrr_at_10": 0.6}}}
    report = ModelReport(
        model_type="embedding",
        run_id="0f8fad5b",
        steps={"comparison": step, "evaluation": evaluation},
    )
    return ModelCard(
        report=report,
        decision=f"Promoted to root: {name}.",
        base_model=base_model,
        licence="apache-2.0",
        session=name,
        sides={"train": (80, "d1"), "test": (100, "d2")},
        started_from="models:/embedding/2",
        ancestors=ancestors,
        max_length=128,
        configuration={"query_prompt": f"```\n{name}"},
        warnings=[name],
    )


def test_the_card_says_what_the_model_is(tmp_path: Path) -> None:
    readme = card().to_readme()
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    loaded = HubCard.load(tmp_path / "README.md")

    data = loaded.data.to_dict()
    assert data["license"] == "apache-2.0" and data["base_model"] == "owner/base"
    assert data["library_name"] == "sentence-transformers"
    assert data["pipeline_tag"] == "sentence-similarity"
    figures = {result.metric_type: result.metric_value for result in loaded.data.eval_results}
    assert figures == {"ndcg_at_10": 0.6, "mrr_at_10": 0.7}
    assert (
        readme.isascii() is False and "| nDCG@10 | 0.6000 | 0.5000 | +0.1000 (+0.0200 …" in readme
    )
    assert "| MRR@10 | 0.7000 (0.6500 … 0.7500) | 0.6000 | +0.1000 |" in readme
    assert "| train | 80 | `d1` |" in readme
    assert "| largest loss | source = s1 | 20 | 0.4000 | -0.0500 (-0.1000 … +0.0100) |" in readme
    assert "It has lost on s1: -0.0400" in readme
    assert "this model ← embedding/2 ← embedding/1 ← owner/base" in readme
    assert "at most 128 tokens" in readme


def test_text_of_users_is_no_markup_and_no_yaml(tmp_path: Path) -> None:
    readme = card(HOSTILE).to_readme()
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    loaded = HubCard.load(tmp_path / "README.md")
    prose = loaded.content.partition("\n# ")[2].partition("## Configuration")[0]

    assert loaded.data.eval_results[0].dataset_name == HOSTILE
    assert "<img" not in prose.replace("\\<img", "") and "[a]" not in prose.replace("\\[a\\]", "")
    rows = [line for line in prose.splitlines() if line.startswith("| largest loss")]
    assert rows[0].replace("\\|", "").count("|") == 6
    # The block is opened and closed by more backticks than any text in it has.
    assert readme.rstrip().endswith("````") and readme.count("````") == 2


def test_a_local_base_model_is_named_without_its_path() -> None:
    readme = card(base_model="/home/somebody/secret-project/base").to_readme()

    assert "/home/somebody" not in readme and "base_model:" not in readme
    assert "Base model: base (a local folder), licence: apache-2.0." in readme


@pytest.mark.parametrize("session", ["s1", "s" * 4000])
def test_the_description_ends_with_a_whole_section(session: str) -> None:
    description = card(session).to_description()

    assert len(description) <= LONGEST_DESCRIPTION
    assert description.startswith("Promoted to root: s") and "## Configuration" not in description
    assert ("## Lineage" in description) == (session == "s1")
    # No section is cut in the middle: what is there is there as in the whole card.
    assert description in card(session).to_readme()


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n# A", "mit"),
        ("# No YAML", None),
        ("---\n[unclosed\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("---\nlicense:\n---\n", None),
    ],
)
def test_licence_of_reads_the_card_of_the_base_model(
    tmp_path: Path, text: str, licence: str | None
) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path) == licence
    assert licence_of(tmp_path / "nowhere") is None

"""A finished training, compared again from the rows that it kept."""

from typing import Any

import pytest
from tests.tracking import client_of, top_run

from tunetrail import compare


@pytest.mark.parametrize("model_type", ["embedding", "llm"])
def test_comparison_from_the_rows_is_that_of_the_run(trained: Any, model_type: str) -> None:
    step = trained.results["results"]["steps"]["comparison"][model_type]
    options: dict[str, Any] = {
        "tracking_uri": trained.settings.tracking.uri,
        "bootstrap_samples": step["bootstrap_samples"],
        "seed": trained.settings.seed,
    }

    result = compare("base", f"{model_type}/1", **options)

    assert result.metric == step["metric"] and result.documents == step["documents"]
    comparison = result.pairs[0].comparison
    for name in ("before", "after", "improvement"):
        assert getattr(comparison, name) == pytest.approx(step[name], abs=1e-12)
    assert (comparison.lower, comparison.upper) == pytest.approx((step["lower"], step["upper"]))
    assert (comparison.clusters, comparison.examples) == (step["clusters"], step["examples"])

    # On the folds, it is the comparison of the cross-validation.
    folds = compare("base", f"{model_type}/1", rows="folds", **options)
    gain = trained.results["results"]["steps"]["cross_validation"][model_type]["gain"]["comparison"]
    of_folds = folds.pairs[0].comparison
    assert folds.folds == 2 and of_folds.examples == gain["examples"]
    assert of_folds.improvement == pytest.approx(gain["improvement"], abs=1e-12)
    assert (of_folds.lower, of_folds.upper) == pytest.approx((gain["lower"], gain["upper"]))

    # The run of both model types, by its name.
    client = client_of(trained.settings.tracking.uri)
    experiment = client.get_experiment_by_name(trained.settings.tracking.experiment)
    name = top_run(client.search_runs([experiment.experiment_id])).info.run_name
    by_name = compare("base", name, model_type=model_type, **options)
    assert by_name.pairs[0].comparison == comparison

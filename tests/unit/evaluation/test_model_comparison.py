import dataclasses
import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.errors import UserError
from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.comparison_page import comparison_page
from tunetrail.evaluation.comparison_plots import comparison_pictures
from tunetrail.evaluation.example_rows import CANDIDATE, FOLD, REFERENCE, ExampleRows, ScoredRun
from tunetrail.evaluation.fold_gain import paired_gain, pool_folds
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.metric import Floats
from tunetrail.evaluation.model_comparison import ModelComparison, compare_models
from tunetrail.evaluation.scored_models import ScoredModel, same_rows
from tunetrail.evaluation.scores import Scores, scores_from, similarity_scores

ROWS = 60


def example_rows(
    run_id: str, after: Floats, before: Floats | None = None, **changes: Any
) -> ExampleRows:
    """Rows of a retrieval whose texts are the numbers 0, 1, ..., unless `texts` names others."""
    texts = changes.pop("texts", [str(row) for row in range(len(after))])
    clusters = changes.pop("clusters", [f"c{text}" for text in texts])
    metric = changes.get("metric", "ndcg_at_10")
    before = np.zeros(len(after)) if before is None else before
    run = ScoredRun(
        **{
            "model_type": "embedding",
            "shape": "pair",
            "metric": "ndcg_at_10",
            "against": "base",
            "run_id": run_id,
            "metrics": {metric: float(np.mean(after))},
            "reference_metrics": {metric: float(np.mean(before))},
            "documents": 500,
            "corpus": "corpus-1",
            **changes,
        }
    )
    table = pd.DataFrame(
        {
            "side": "test",
            "fold": None,
            "row_id": range(len(after)),
            "text_hash": texts,
            "cluster": clusters,
            metric: after,
            REFERENCE + metric: before,
        }
    )
    return ExampleRows(run=run, table=table)


def model(name: str, values: Floats, **changes: Any) -> ScoredModel:
    return ScoredModel(name=name, rows=example_rows(f"run-{name}", values, **changes))


@pytest.fixture(scope="module")
def three() -> list[ScoredModel]:
    generator = np.random.default_rng(0)
    values = generator.uniform(0.2, 0.7, size=ROWS)
    return [
        model("a", values),
        model("b", values + 0.1 + generator.normal(scale=0.05, size=ROWS)),
        model("c", values + generator.normal(scale=0.05, size=ROWS)),
    ]


@pytest.fixture(scope="module")
def result(three: list[ScoredModel]) -> ModelComparison:
    return compare_models(three, bootstrap_samples=2000)


def test_the_better_model_is_named_and_equal_ones_are_not(result: ModelComparison) -> None:
    assert [pair.better for pair in result.pairs] == ["b", None, "b"]
    first, second, third = result.pairs
    assert first.verdict == "b is better than a" and third.verdict == "b is better than c"
    assert re.fullmatch(
        r"a and c can't be told apart: a difference of 0\.\d{4} would be found in four of five such tests",
        second.verdict,
    )
    # The sign follows the order of the names.
    assert first.comparison.improvement > 0 > third.comparison.improvement
    assert first.wins is not None and first.losses is not None
    assert first.wins + (first.ties or 0) + first.losses == ROWS and first.wins > first.losses


def test_the_interval_is_that_of_the_gate(
    three: list[ScoredModel], result: ModelComparison
) -> None:
    before, after = (scored.rows.scores() for scored in three[:2])
    expected = compare(before, after, bootstrap_samples=2000, confidence=0.95, seed=0)
    assert result.pairs[0].comparison == expected


def test_p_values_of_several_pairs_are_corrected(result: ModelComparison) -> None:
    for pair in result.pairs:
        assert pair.adjusted_p_value >= pair.p_value
    smallest = min(result.pairs, key=lambda pair: pair.p_value)
    assert smallest.adjusted_p_value == pytest.approx(3.0 * smallest.p_value)


def test_three_models_are_ranked(result: ModelComparison) -> None:
    assert result.rank_test is not None and result.rank_test.p_value < 0.001
    ranks = [scored.mean_rank for scored in result.models]
    assert ranks[1] == min(rank for rank in ranks if rank is not None)
    assert result.models[0].value == pytest.approx(0.45, abs=0.05)


def test_the_order_of_the_rows_does_not_matter(three: list[ScoredModel]) -> None:
    a, b, _ = three
    shuffled = b.rows.table.sample(frac=1.0, random_state=0)
    other = dataclasses.replace(b, rows=dataclasses.replace(b.rows, table=shuffled))

    result = compare_models([a, other], bootstrap_samples=200)

    assert result == compare_models([a, b], bootstrap_samples=200)


def test_candidate_and_reference_of_one_run_are_two_models() -> None:
    rows = example_rows("run-1", np.linspace(0.5, 1.0, ROWS), np.linspace(0.4, 0.9, ROWS))
    base = ScoredModel(name="base", rows=rows, column=REFERENCE)
    candidate = ScoredModel(name="new", rows=rows, column=CANDIDATE)

    result = compare_models([base, candidate], bootstrap_samples=200)

    assert result.pairs[0].better == "new"
    assert [scored.source for scored in result.models] == [
        "base model of run run-1",
        "candidate of run run-1",
    ]


def test_right_or_wrong_gets_mcnemars_test() -> None:
    before, after = np.array([0.0] * 12 + [1.0] * 20), np.ones(32)
    models = [
        model(name, values, metric="recall_at_1", shape="text")
        for name, values in (("a", before), ("b", after))
    ]

    pair = compare_models(models, bootstrap_samples=200).pairs[0]

    assert pair.mcnemar_p_value == pytest.approx(2.0 * 0.5**12)
    assert (pair.wins, pair.ties, pair.losses) == (12, 20, 0)


def test_lower_is_better_where_the_metric_says_so() -> None:
    nats = np.linspace(50.0, 90.0, ROWS)
    files = []
    for run_id, factor in (("a", 1.0), ("b", 0.8)):
        rows = example_rows(run_id, factor * nats / 100.0, metric="bits_per_byte", shape="document")
        table = rows.table.assign(nats=factor * nats, bytes=100.0)
        table = table.assign(reference_nats=nats, reference_bytes=100.0)
        files.append(dataclasses.replace(rows, table=table))
    a, b = (ScoredModel(name=rows.run.run_id, rows=rows) for rows in files)

    pair = compare_models([a, b], bootstrap_samples=200).pairs[0]

    assert pair.better == "b" and pair.wins == ROWS
    assert pair.comparison.after < pair.comparison.before
    assert pair.effect_size is not None and pair.effect_size > 0.0


def test_a_correlation_has_no_values_of_rows() -> None:
    generator = np.random.default_rng(0)
    gold = generator.uniform(size=ROWS)
    models = []
    for name, noise in (("a", 1.0), ("b", 0.1), ("c", 0.1)):
        cosine = gold + generator.normal(scale=noise, size=ROWS)
        rows = example_rows(name, cosine, metric="cosine", shape="score")
        table = rows.table.assign(gold=gold, reference_gold=gold)
        run = dataclasses.replace(rows.run, metric="spearman")
        models.append(ScoredModel(name=name, rows=ExampleRows(run=run, table=table)))

    result = compare_models(models, bootstrap_samples=500)

    pair = result.pairs[0]
    assert pair.better == "b" and result.rank_test is None
    assert (pair.wins, pair.effect_size, pair.mcnemar_p_value) == (None, None, None)
    assert list(comparison_pictures(result)) == ["pairs"]
    json.dumps(result.to_dict(), allow_nan=False)


def test_one_row_and_ties_alone_can_not_be_decided() -> None:
    one = compare_models([model("a", np.array([0.2])), model("b", np.array([0.9]))])
    assert one.pairs[0].better is None and one.pairs[0].p_value == 1.0
    assert one.pairs[0].verdict == (
        "a and b can't be told apart: only 1 of 1 test group changed, and a 95% interval needs 6"
    )
    assert one.rows_in_words == "1 test row in 1 group among 500 documents"

    same = np.linspace(0.0, 1.0, ROWS)
    ties = compare_models([model(name, same) for name in "abc"])
    for pair in ties.pairs:
        assert pair.better is None and pair.adjusted_p_value == 1.0
        assert "no row changed among 60 test groups" in pair.verdict
    assert ties.rank_test is not None and ties.rank_test.p_value == 1.0
    for result in (one, ties):
        json.dumps(result.to_dict(), allow_nan=False)
        page = comparison_page(result, comparison_pictures(result))
        assert page.startswith("<!DOCTYPE html>")


def test_scores_that_are_not_finite_are_refused() -> None:
    broken = np.linspace(0.0, 1.0, ROWS)
    broken[[3, 7]] = np.nan
    message = "ndcg_at_10 must be finite on every row, got 2 of 60 rows of b that are not"
    with pytest.raises(UserError, match=message):
        compare_models([model("a", np.zeros(ROWS)), model("b", broken)])


def test_rows_without_a_written_answer_are_no_rows_of_its_metrics() -> None:
    written = np.arange(ROWS) % 3 == 0
    before, after = (np.where(written, right, np.nan) for right in (0.0, 1.0))
    changes = {"metric": "exact_match", "shape": "completion", "corpus": None, "documents": None}
    models = [model("a", before, **changes), model("b", after, **changes)]

    pair = compare_models(models, bootstrap_samples=200).pairs[0]

    assert pair.better == "b" and (pair.wins, pair.ties, pair.losses) == (20, 0, 0)
    assert pair.mcnemar_p_value == pytest.approx(2.0 * 0.5**20)
    fewer = np.where(np.arange(ROWS) < 30, after, np.nan)
    with pytest.raises(UserError, match="got 20 rows of a, 10 rows of c, of which all share 10"):
        compare_models([models[0], model("c", fewer, **changes)])


VALUES = np.linspace(0.0, 1.0, ROWS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"corpus": "corpus-2", "documents": 90},
            "same documents, got 500 documents of a, 90 documents of b, which differ; .* they share 60",
        ),
        (
            {"texts": [f"new {row}" for row in range(ROWS)]},
            "test rows in common, got 60 rows of a, 60 rows of b and none that all share",
        ),
        (
            {"texts": [str(row + 20) for row in range(ROWS)]},
            "same test rows, got 60 rows of a, 60 rows of b, of which all share 40. Add --common",
        ),
        ({"model_type": "llm"}, "same family, got embedding of a, llm of b"),
        ({"shape": "text"}, "same shape of rows, got pair of a, text of b"),
        (
            {"metric": "recall_at_1"},
            "same primary metric, got ndcg_at_10 of a, recall_at_1 of b. .*no metric is in all files",
        ),
    ],
)
def test_what_can_not_be_compared_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        compare_models([model("a", VALUES), model("b", VALUES, **changes)])
    assert "\n" not in str(error.value)


def test_common_rows_are_compared_on_request_and_counted() -> None:
    texts = [str(row + 20) for row in range(ROWS)]
    models = [model("a", VALUES), model("b", VALUES + 0.1, texts=texts)]

    result = compare_models(models, common=True, bootstrap_samples=200)

    assert (result.examples, result.left_out) == (40, 40)
    # Text 20 has the value 20/59 in a, and 0/59 + 0.1 in b.
    assert result.pairs[0].comparison.improvement == pytest.approx(0.1 - 20 / 59)
    assert "left out: 40 further rows that not all models share" in result.rows_in_words
    with pytest.raises(UserError, match="same documents"):
        compare_models([models[0], model("b", VALUES, corpus="corpus-2")], common=True)


def test_the_coarser_clusters_count() -> None:
    finer, coarser = (
        model("a", VALUES),
        model("b", VALUES + 0.1, clusters=[f"{row // 2}" for row in range(ROWS)]),
    )
    for models in ([finer, coarser], [coarser, finer]):
        assert compare_models(models, bootstrap_samples=200).clusters == ROWS // 2


def test_equal_texts_are_matched_in_their_order() -> None:
    texts = ["same"] * ROWS
    result = compare_models(
        [model("a", VALUES, texts=texts), model("b", VALUES, texts=texts)], bootstrap_samples=200
    )
    assert result.examples == ROWS and result.pairs[0].ties == ROWS


def test_the_same_model_twice_is_refused() -> None:
    rows = example_rows("run-1", VALUES)
    twice = [ScoredModel(name=name, rows=rows) for name in ("embedding@root", "embedding/2")]
    message = "must be different, got embedding@root and embedding/2, which are both the candidate"
    with pytest.raises(UserError, match=message):
        compare_models(twice)


def test_an_unknown_metric_names_the_nearest() -> None:
    message = r"metric must be one .* \(ndcg_at_10\), got 'ndcg_at_1'. Did you mean 'ndcg_at_10'\?"
    with pytest.raises(UserError, match=message):
        compare_models([model("a", VALUES), model("b", VALUES)], metric="ndcg_at_1")


def test_same_rows_asks_for_rows_and_documents() -> None:
    a = model("a", VALUES)
    assert same_rows([a, model("b", VALUES)])
    assert not same_rows([a, model("b", VALUES, corpus="corpus-2")])
    assert not same_rows([a, model("b", VALUES[:10])])


def test_the_mean_is_that_of_the_rows(three: list[ScoredModel], result: ModelComparison) -> None:
    for scored, outcome in zip(three, result.models, strict=True):
        logged = scores_from(
            {"ndcg_at_10": scored.rows.table["ndcg_at_10"].to_numpy()}, "ndcg_at_10"
        )
        assert outcome.value == pytest.approx(logged.value, abs=1e-12)


def test_page_escapes_names_and_needs_no_network(three: list[ScoredModel]) -> None:
    named = [
        dataclasses.replace(scored, name=f"<script>{scored.name}</script>") for scored in three
    ]

    compared = compare_models(named, bootstrap_samples=200)
    page = comparison_page(compared, comparison_pictures(compared))

    assert "<script>" not in page and "&lt;script&gt;b&lt;/script&gt; is better than" in page
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_pictures_are_the_same_each_time(result: ModelComparison) -> None:
    pictures = comparison_pictures(result)
    assert list(pictures) == ["pairs", "critical_difference"]
    assert comparison_pictures(result) == pictures


def test_a_comparison_says_of_how_many_rows_it_is(three: list[ScoredModel]) -> None:
    assert compare_models(three, bootstrap_samples=100).rows_in_words.startswith("60 test rows in")
    counts = {"scored_rows": 70, "side_rows": 76}
    counted = [
        dataclasses.replace(
            scored,
            rows=dataclasses.replace(
                scored.rows, run=dataclasses.replace(scored.rows.run, **counts)
            ),
        )
        for scored in three
    ]
    fewer = model("d", np.linspace(0.2, 0.7, ROWS - 10), **counts)

    whole = compare_models(counted, bootstrap_samples=100)
    shared = compare_models([counted[0], fewer], common=True, bootstrap_samples=100)

    assert whole.rows_in_words.startswith("70 of 76 test rows (60 queries) in 60 groups")
    assert shared.rows_in_words.startswith("50 test rows in 50 groups")


def test_table_has_a_line_for_each_pair(result: ModelComparison) -> None:
    table = result.table()
    assert table[["first", "second"]].values.tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert table["improvement"].tolist() == [pair.comparison.improvement for pair in result.pairs]


def test_a_comparison_says_that_it_counts_no_looks(result: ModelComparison) -> None:
    assert "Not corrected for looks" in result.caveat
    assert result.to_dict()["caveat"] == result.caveat
    assert result.caveat.replace("'", "&#39;") in comparison_page(result, {})


def recipe(name: str, values: Floats, folds: int = 3, first_fold: int = 1) -> ScoredModel:
    """A recipe whose rows were held out in turns: row 0 in the first fold, row 1 in the next."""
    scored = model(name, values, fold_corpus="folds-1")
    fold_of = [(first_fold - 1 + row) % folds + 1 for row in range(ROWS)]
    # Test rows of the same run, which must not be mixed with those of the folds.
    held_out = scored.rows.table.assign(side="fold", fold=fold_of)
    table = pd.concat([scored.rows.table.head(5).assign(fold=0), held_out], ignore_index=True)
    rows = dataclasses.replace(scored.rows, table=table.astype({"fold": "Int64"}))
    return dataclasses.replace(scored, rows=rows, side=FOLD)


def test_recipes_are_compared_on_the_rows_of_all_folds() -> None:
    noise = np.random.default_rng(1).normal(scale=0.02, size=ROWS)
    recipes = [recipe("a", VALUES), recipe("b", VALUES + 0.1 + noise)]

    result = compare_models(recipes, bootstrap_samples=200)

    assert (result.examples, result.folds, result.documents) == (ROWS, 3, None)
    assert result.pairs[0].better == "b"
    assert result.rows_in_words.startswith(f"{ROWS} held-out rows of 3 folds in {ROWS} groups")
    assert result.models[0].source == "recipe on the folds of run run-a"
    base = dataclasses.replace(recipes[0], name="base", column=REFERENCE)
    assert compare_models([base, *recipes], bootstrap_samples=200).models[0].value == 0.0


def test_other_folds_are_refused() -> None:
    message = "models must have the same folds, got 60 of 60 shared rows of a and b in other folds"
    for common in (False, True):
        with pytest.raises(UserError, match=message):
            compare_models([recipe("a", VALUES), recipe("b", VALUES, first_fold=2)], common=common)

    other_corpus = recipe("b", VALUES)
    run = dataclasses.replace(other_corpus.rows.run, fold_corpus="folds-2")
    other_corpus = dataclasses.replace(
        other_corpus, rows=dataclasses.replace(other_corpus.rows, run=run)
    )
    with pytest.raises(UserError, match="must have ranked the same documents"):
        compare_models([recipe("a", VALUES), other_corpus])


def test_a_run_without_folds_is_refused() -> None:
    without = dataclasses.replace(model("b", VALUES), side=FOLD)
    message = r"models must have rows of folds, got none of b \(recipe .* run-b\)\. Train it with"
    with pytest.raises(UserError, match=message):
        compare_models([recipe("a", VALUES), without])


def test_correlations_of_folds_are_pooled_as_in_the_cross_validation() -> None:
    drawn = np.random.default_rng(2)
    gold = drawn.uniform(size=ROWS)

    def fold_scores(noise: float, fold: int) -> Scores:
        # Each fold's model has a scale of its own.
        rows = np.arange(ROWS)[fold::2]
        angles = (1.0 - gold[rows] + drawn.normal(scale=noise, size=len(rows))) / (2.0 + fold)
        vectors = np.column_stack([np.cos(angles), np.sin(angles)])
        scores = similarity_scores(np.tile([1.0, 0.0], (len(rows), 1)), vectors, gold[rows])
        return scores.identified([{"row_id": int(row)} for row in rows])

    before, after = ([fold_scores(noise, fold) for fold in range(2)] for noise in (0.4, 0.1))
    pooled = pool_folds(before, after, [1, 2])
    run = example_rows("run-a", np.zeros(1), metric="spearman").run
    table = pd.DataFrame(
        {
            "side": "fold",
            "fold": pd.array(pooled.folds, "Int64"),
            "row_id": pooled.after.row_ids,
            "text_hash": list(map(str, pooled.after.row_ids or ())),
            "cluster": None,
            **pooled.after.per_example,
            **{REFERENCE + name: values for name, values in pooled.before.per_example.items()},
        }
    )
    rows = ExampleRows(run=run, table=table)
    models = [
        ScoredModel(name=name, rows=rows, column=column, side=FOLD)
        for name, column in (("base", REFERENCE), ("a", CANDIDATE))
    ]

    draws = {"bootstrap_samples": 200, "confidence": 0.95, "seed": 0}
    comparison = compare_models(models, **draws).pairs[0].comparison

    gain = paired_gain(before, after, budget=0.2, test_ratio=1.0, **draws)
    assert comparison.improvement == pytest.approx(gain.comparison.improvement, abs=1e-12)
    assert comparison.lower == pytest.approx(gain.comparison.lower, abs=1e-12)
    with pytest.raises(UserError, match=r"one that all models have \(spearman\), got 'pearson'"):
        compare_models(models, metric="pearson")


def language_rows(run_id: str, scored_bytes: list[float], nats: Floats) -> ExampleRows:
    counts = np.array(scored_bytes)
    scores = language_scores(nats, counts, counts)
    changes: dict[str, Any] = {"shape": "completion", "metric": "bits_per_byte"}
    rows = example_rows(run_id, scores.per_example["bits_per_byte"], documents=None, **changes)
    values = {name: scores.per_example[name] for name in ("nats", "tokens", "bytes")}
    values |= {REFERENCE + name: column for name, column in values.items()}
    return dataclasses.replace(rows, table=rows.table.assign(**values))


def test_rows_of_which_the_tokenizers_read_different_bytes_are_left_out() -> None:
    nats = np.random.default_rng(0).uniform(50.0, 60.0, ROWS)
    whole = [100.0] * ROWS
    # The second tokenizer reads half of ten texts, and its model would seem twice as good there.
    cut = [50.0] * 10 + whole[10:]
    models = [
        ScoredModel(name=run_id, rows=language_rows(run_id, scored_bytes, nats))
        for run_id, scored_bytes in (("a", whole), ("b", cut))
    ]

    result = compare_models(models, bootstrap_samples=200)

    assert (result.examples, result.cut_rows, result.bytes) == (ROWS - 10, 10, 100 * (ROWS - 10))
    assert result.pairs[0].comparison.improvement == 0.0
    assert (
        "5,000 bytes; left out: 10 rows that the tokenizers cut at different bytes"
        in result.rows_in_words
    )
    nothing = ScoredModel(name="c", rows=language_rows("c", [60.0] * ROWS, nats))
    with pytest.raises(UserError, match="same bytes of some rows, got none of 60 rows"):
        compare_models([models[0], nothing], bootstrap_samples=200)

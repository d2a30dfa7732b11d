"""The options of the losses, and what is refused: by the configuration, for the records, for the model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses as library
from torch import Tensor, nn

from tunetrail.config import EmbeddingConfig
from tunetrail.config.embedding import LossConfig
from tunetrail.config.loss_choice import choose_loss
from tunetrail.config.losses import EMBEDDING_LOSSES, LOSSES
from tunetrail.errors import ConfigError, SampleError
from tunetrail.learning.embedding.losses import (
    build_vector_loss,
    check_loss,
    check_matryoshka,
    check_records,
)

ROWS = 6
LOSS_OPTIONS = {
    field.name: [loss.name for loss in LOSSES.values() if field.name in loss.all_options]
    for field in dataclasses.fields(LossConfig)
}
"""The losses that have an option, by its field in `LossConfig`."""
OPTIONS: dict[str, Any] = {
    "scale": 7.0,
    "temperature": 0.3,
    "similarity": "dot",
    "distance": "cosine",
    "margin": 0.7,
    "margin_strategy": "relative",
    "positive_margin": 0.9,
    "negative_margin": -0.5,
    "directions": ["query_to_doc", "doc_to_query"],
    "partition_mode": "per_direction",
    "hardness_mode": "in_batch_negatives",
    "hardness_strength": 5.0,
    "contrast_anchors": False,
    "contrast_positives": False,
    "orthogonality": 500.0,
}
TOGETHER: dict[str, dict[str, Any]] = {
    "distance": {"margin": 0.7},
    "margin_strategy": {"margin": 0.7},
    "partition_mode": {"directions": ["query_to_doc", "doc_to_query"]},
    "hardness_mode": {"hardness_strength": 5.0},
    "hardness_strength": {"hardness_mode": "all_negatives"},
}
"""What an option needs beside it to change anything."""
DEFAULTS: dict[tuple[str, str], Any] = {
    ("margin_mse", "similarity"): "cosine",
    ("distill_kl_div", "similarity"): "cosine",
    ("contrastive", "distance"): "euclidean",
    ("online_contrastive", "distance"): "euclidean",
}
"""Where the value above is the library's default."""


class Given(nn.Module):
    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(features)


def vectors_of(columns: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, 8, generator=draws) for _ in range(columns)]


def batch_of(shape: str, name: str) -> tuple[list[Tensor], Tensor | None]:
    columns = (
        2 if name in ("mega_batch_margin", "simcse") else {"pair": 3, "score": 2}.get(shape, 1)
    )
    draws = torch.Generator().manual_seed(2)
    if name in ("margin_mse", "distill_kl_div"):
        return vectors_of(columns), torch.randn(ROWS, 2, generator=draws)
    if name == "gist_embed":
        return vectors_of(columns), torch.randn(columns * ROWS, 5, generator=draws)
    if shape in ("vector", "text") and name != "simcse":
        return vectors_of(columns), torch.randn(ROWS, 8, generator=draws)
    target = {
        "score": torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0]),
        "label": torch.tensor([0, 1, 0, 1, 2, 2]),
    }
    return vectors_of(columns), target.get(shape)


def shape_of(name: str) -> str:
    return next(shape for shape, losses in EMBEDDING_LOSSES.items() if name in losses)


@pytest.mark.parametrize(
    ("option", "name"), [(option, name) for option, its in LOSS_OPTIONS.items() for name in its]
)
def test_each_option_reaches_each_loss_that_has_it(option: str, name: str) -> None:
    beside = {
        key: value for key, value in TOGETHER.get(option, {}).items() if name in LOSS_OPTIONS[key]
    }
    plain = {} if option.startswith("hardness") else beside
    batch = batch_of(shape_of(name), name)
    value = DEFAULTS.get((name, option), OPTIONS[option])
    default = build_vector_loss(shape_of(name), name, LossConfig(**plain))(*batch)
    changed = build_vector_loss(shape_of(name), name, LossConfig(**{**beside, option: value}))(
        *batch
    )
    assert bool(torch.isfinite(changed))
    assert changed.item() != pytest.approx(default.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        (
            "multiple_negatives_ranking",
            {"scale": 3.0, "similarity": "dot", "directions": ["query_to_doc", "doc_to_doc"]},
            lambda model: library.MultipleNegativesRankingLoss(
                model,
                scale=3.0,
                similarity_fct=util.dot_score,
                directions=("query_to_doc", "doc_to_doc"),
            ),
        ),
        (
            "multiple_negatives_ranking",
            {"hardness_mode": "all_negatives", "hardness_strength": 4.0},
            lambda model: library.MultipleNegativesRankingLoss(
                model, hardness_mode="all_negatives", hardness_strength=4.0
            ),
        ),
        (
            "triplet",
            {"margin": 0.4, "distance": "manhattan"},
            lambda model: library.TripletLoss(
                model, distance_metric=library.TripletDistanceMetric.MANHATTAN, triplet_margin=0.4
            ),
        ),
        (
            "mega_batch_margin",
            {"positive_margin": 0.9, "negative_margin": 0.1},
            lambda model: library.MegaBatchMarginLoss(
                model, 0.9, 0.1, use_mini_batched_version=False
            ),
        ),
        (
            "contrastive",
            {"margin": 2.0, "distance": "euclidean"},
            lambda model: library.ContrastiveLoss(
                model, library.SiameseDistanceMetric.EUCLIDEAN, margin=2.0
            ),
        ),
        (
            "online_contrastive",
            {"margin": 9.0, "distance": "manhattan"},
            lambda model: library.OnlineContrastiveLoss(
                model, library.SiameseDistanceMetric.MANHATTAN, margin=9.0
            ),
        ),
        (
            "batch_semi_hard_triplet",
            {"margin": 0.2, "distance": "cosine"},
            lambda model: library.BatchSemiHardTripletLoss(
                model, library.BatchHardTripletLossDistanceFunction.cosine_distance, margin=0.2
            ),
        ),
        (
            "distill_kl_div",
            {"temperature": 2.0},
            lambda model: library.DistillKLDivLoss(model, temperature=2.0),
        ),
        (
            "margin_mse",
            {"similarity": "cosine"},
            lambda model: library.MarginMSELoss(model, similarity_fct=util.pairwise_cos_sim),
        ),
        ("angle", {"scale": 5.0}, lambda model: library.AnglELoss(model, scale=5.0)),
    ],
)
def test_options_mean_what_the_librarys_mean(
    name: str, options: dict[str, Any], theirs: Callable[..., Any]
) -> None:
    vectors, target = batch_of(shape_of(name), name)
    expected = theirs(Given())([{"sentence_embedding": each} for each in vectors], target)
    found = build_vector_loss(shape_of(name), name, LossConfig(**options))(vectors, target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_orthogonality_adds_the_regularisation_of_every_column() -> None:
    vectors, _ = batch_of("pair", "multiple_negatives_ranking")
    plain = build_vector_loss("pair", "auto")(vectors, None)
    added = build_vector_loss("pair", "auto", LossConfig(orthogonality=0.5))(vectors, None)
    terms = library.GlobalOrthogonalRegularizationLoss(Given())(
        [{"sentence_embedding": each} for each in vectors]
    )
    assert added.item() == pytest.approx(
        plain.item() + 0.5 * sum(term.item() for term in terms.values()), rel=1e-6
    )


@pytest.mark.parametrize(
    "options", [{"hardness_mode": "hard_negatives", "hardness_strength": 1.0}, {}]
)
def test_options_that_need_whole_negatives_refuse_a_batch_with_some(
    options: dict[str, Any],
) -> None:
    options = options or {"directions": ["query_to_doc", "doc_to_doc"]}
    loss = build_vector_loss("pair", "auto", LossConfig(**options))
    anchors, positives, negatives = vectors_of(3)
    assert bool(torch.isfinite(loss([anchors, positives], None)))
    with pytest.raises(
        SampleError,
        match="in every row for the loss multiple_negatives_ranking with hardness_mode or doc_to_doc, got 4 for 6",
    ):
        loss([anchors, positives, negatives[:4]], None)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        (option, name)
        for option, its in LOSS_OPTIONS.items()
        for name in dict.fromkeys(name for names in EMBEDDING_LOSSES.values() for name in names)
        if name not in its
    ],
)
def test_option_that_the_loss_does_not_have_is_refused(option: str, name: str) -> None:
    beside = TOGETHER[option] if option.startswith("hardness") else {}
    options = LossConfig(**{**beside, option: OPTIONS[option]})
    with pytest.raises(
        ConfigError,
        match=rf"loss_options\.\w+ must be null for the loss {name}, got .*Its options are",
    ):
        build_vector_loss(shape_of(name), name, options)


def test_embedding_config_refuses_options_of_another_loss() -> None:
    with pytest.raises(
        ConfigError,
        match=r"loss_options\.margin must be null for the loss cosent, got 0\.5\. Its opt",
    ):
        EmbeddingConfig(loss="cosent", loss_options=LossConfig(margin=0.5))


def test_manhattan_distance_is_refused_where_the_library_has_none() -> None:
    with pytest.raises(
        ConfigError,
        match="distance for the loss batch_all_triplet must be one of cosine, euclidean",
    ):
        EmbeddingConfig(loss="batch_all_triplet", loss_options=LossConfig(distance="manhattan"))


def test_every_option_has_its_losses() -> None:
    options = [option for loss in LOSSES.values() for option in loss.all_options]

    assert all(LOSS_OPTIONS.values())
    assert set(options) == set(LOSS_OPTIONS) == set(OPTIONS)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"scale": 0.0}, r"loss_options\.scale must be above 0, got 0\.0"),
        ({"scale": float("inf")}, r"loss_options\.scale must be above 0, got inf"),
        ({"temperature": float("nan")}, r"loss_options\.temperature must be above 0, got nan"),
        ({"margin": -0.1}, r"loss_options\.margin must be at least 0, got -0\.1"),
        ({"orthogonality": -1.0}, r"loss_options\.orthogonality must be at least 0"),
        ({"positive_margin": 1.5}, r"loss_options\.positive_margin must be between -1 and 1"),
        ({"negative_margin": -1.5}, r"loss_options\.negative_margin must be between -1 and 1"),
        (
            {"similarity": "cosin"},
            r"loss_options\.similarity must be one of cosine, dot, .* Did you mean 'cosine'",
        ),
        (
            {"distance": "l1"},
            r"loss_options\.distance must be one of cosine, euclidean, manhattan, got 'l1'",
        ),
        (
            {"margin_strategy": "x"},
            r"loss_options\.margin_strategy must be one of absolute, relative",
        ),
        (
            {"partition_mode": "x"},
            r"loss_options\.partition_mode must be one of joint, per_direction",
        ),
        (
            {"hardness_mode": "x"},
            r"loss_options\.hardness_mode must be one of in_batch_negatives, ",
        ),
        (
            {"directions": ["query_to_dog"]},
            r"directions must be one of .* Did you mean 'query_to_doc'",
        ),
        (
            {"directions": []},
            r"directions must be all different, query_to_doc among them, got \[\]",
        ),
        (
            {"directions": ["doc_to_doc"]},
            r"directions must be all different, query_to_doc among them",
        ),
        (
            {"directions": ["query_to_doc"] * 2},
            r"directions must be all different, query_to_doc among them",
        ),
        (
            {"directions": ["query_to_doc", "doc_to_doc"], "partition_mode": "per_direction"},
            r"partition_mode must be joint with the directions doc_to_doc",
        ),
        (
            {"hardness_mode": "all_negatives"},
            r"hardness_strength must be above 0 with a hardness_mode, got None",
        ),
        (
            {"hardness_strength": 1.0},
            r"hardness_strength must be null without a hardness_mode, got 1\.0",
        ),
    ],
)
def test_loss_options_refuse_a_value_out_of_range(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^embedding\.{rule}" if rule.startswith("loss_options") else rule
    ):
        LossConfig(**options)


@pytest.mark.parametrize(
    ("shape", "default", "taught"),
    [
        ("pair", "multiple_negatives_ranking", "gist_embed"),
        ("score", "cosent", None),
        ("label", "supervised_contrastive", None),
        ("vector", "mse", None),
        ("text", "simcse", "mse"),
    ],
)
def test_auto_is_the_first_of_the_shape_and_with_a_teacher_the_first_that_learns_from_it(
    shape: str, default: str, taught: str | None
) -> None:
    assert choose_loss(shape, "auto").name == default
    if taught is not None:
        assert choose_loss(shape, "auto", "minilm").name == taught
    else:
        with pytest.raises(
            ConfigError,
            match=f"embedding.teacher must be null for the loss auto on {shape} samples",
        ):
            choose_loss(shape, "auto", "minilm")


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (
            {"loss": "gist_embed"},
            "embedding.teacher must be a model's name or folder for the loss gist_embed on pair",
        ),
        (
            {"loss": "margin_mse", "shape": "pair"},
            "must be a model's name or folder for the loss margin_mse on pair",
        ),
        (
            {"loss": "mse", "shape": "text"},
            "must be a model's name or folder for the loss mse on text samples",
        ),
        (
            {"loss": "mse", "shape": "vector", "teacher": "minilm"},
            "must be null for the loss mse on vector samples",
        ),
        (
            {"loss": "cosent", "teacher": "minilm"},
            "must be null for the loss cosent on score samples, got 'minilm'. L",
        ),
        (
            {"loss": "auto", "shape": "label", "teacher": "minilm"},
            "must be null for the loss auto on label samples",
        ),
        ({"teacher": ""}, "embedding.teacher must be null or a model's name or folder, got ''"),
        ({"loss": "cosnt"}, "embedding.loss must be one of auto, .* Did you mean 'cosent'"),
        (
            {"loss": "mse", "shape": "pair"},
            "loss for pair samples must be one of multiple_negatives_ranking, .* 'mse'",
        ),
        (
            {"matryoshka_dimensions": [64, 0]},
            "embedding.matryoshka_dimensions must be different numbers, each at leas",
        ),
        (
            {"matryoshka_dimensions": [64, 64]},
            "embedding.matryoshka_dimensions must be different numbers, each at lea",
        ),
        ({"matryoshka_weights": [1.0]}, "matryoshka_weights must be null or 0 numbers above 0"),
        (
            {"matryoshka_dimensions": [8, 4], "matryoshka_weights": [1.0]},
            "matryoshka_weights must be null or 2 number",
        ),
        (
            {"matryoshka_dimensions": [8], "matryoshka_weights": [0.0]},
            "matryoshka_weights must be null or 1 numbers a",
        ),
    ],
)
def test_embedding_config_refuses_a_loss_that_can_not_be(config: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        EmbeddingConfig(**config)


@pytest.mark.parametrize(
    "config",
    [
        {"loss": "mse"},
        {"loss": "mse", "teacher": "minilm"},
        {"loss": "auto", "teacher": "minilm"},
        {
            "loss": "gist_embed",
            "teacher": "minilm",
            "loss_options": LossConfig(margin=0.0, temperature=0.02),
        },
        {"matryoshka_dimensions": [64, 1], "matryoshka_weights": [1.0, 0.1]},
    ],
)
def test_embedding_config_takes_what_may_still_fit(config: dict[str, Any]) -> None:
    built = EmbeddingConfig(**config)
    assert {name: getattr(built, name) for name in config} == config


PAIRS = [{"anchor": "a", "positive": "b", "negative": "c"}, {"anchor": "d", "positive": "e"}]
SCORES = [{"sentence1": "a", "sentence2": "b", "score": score} for score in (0.0, 1.0, 0.5)]


@pytest.mark.parametrize(
    ("name", "records", "rule"),
    [
        (
            "triplet",
            PAIRS,
            "negative must be in every row for the loss triplet, got 1 for 2 rows. Give each row a negative",
        ),
        ("margin_mse", PAIRS, "negative must be in every row for the loss margin_mse"),
        (
            "distill_kl_div",
            [{**PAIRS[0], "negative": ""}],
            "negative must be in every row for the loss distill_kl_div",
        ),
        ("mega_batch_margin", PAIRS, "negative must be in no row for the loss mega_batch_margin"),
        (
            "contrastive",
            SCORES,
            r"score must be 0 \(different\) or 1 \(equal\) for the loss contrastive, got 0.5. Ro",
        ),
        (
            "online_contrastive",
            SCORES,
            "score must be 0 .* for the loss online_contrastive, got 0.5",
        ),
        (
            "cosine_similarity",
            [{"score": 1.5}],
            "score must be between -1 and 1 for the loss cosine_similarity, got 1",
        ),
    ],
)
def test_records_that_lack_what_the_loss_needs_are_refused(
    name: str, records: list[Any], rule: str
) -> None:
    with pytest.raises(SampleError, match=rule):
        check_records(LOSSES[name], records)


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("triplet", PAIRS[:1]),
        ("mega_batch_margin", PAIRS[1:]),
        ("multiple_negatives_ranking", PAIRS),
        ("gist_embed", PAIRS),
        ("contrastive", SCORES[:2]),
        ("cosine_similarity", SCORES),
        ("cosent", [{"score": 5.0}]),
        ("triplet", []),
        ("contrastive", []),
    ],
)
def test_records_that_the_loss_can_take_pass(name: str, records: list[Any]) -> None:
    check_records(LOSSES[name], records)


def test_matryoshka_dimensions_above_the_models_are_refused() -> None:
    check_matryoshka([384, 64], 384)
    check_matryoshka([], 384)
    with pytest.raises(
        ConfigError,
        match="matryoshka_dimensions must be at most the model's 384 dimensions, got 512",
    ):
        check_matryoshka([64, 512], 384)


def test_check_loss_names_the_loss_and_checks_all_of_it() -> None:
    assert check_loss(EmbeddingConfig(teacher="minilm"), "pair", PAIRS, 32).name == "gist_embed"
    assert (
        check_loss(EmbeddingConfig(matryoshka_dimensions=[32, 8]), "text", [{"text": "a"}], 32).name
        == "simcse"
    )
    with pytest.raises(ConfigError, match="must be at most the model's 32 dimensions, got 64"):
        check_loss(EmbeddingConfig(matryoshka_dimensions=[64]), "pair", PAIRS, 32)
    with pytest.raises(ConfigError, match="margin must be null for the loss cosent"):
        check_loss(EmbeddingConfig(loss_options=LossConfig(margin=0.5)), "score", SCORES, 32)
    with pytest.raises(SampleError, match="negative must be in every row"):
        check_loss(EmbeddingConfig(loss="triplet"), "pair", PAIRS, 32)
    whole = LossConfig(directions=["query_to_doc", "doc_to_doc"])
    assert (
        check_loss(EmbeddingConfig(loss_options=whole), "pair", PAIRS[:1], 32).name
        == "multiple_negatives_ranking"
    )
    assert (
        check_loss(EmbeddingConfig(loss_options=whole), "pair", PAIRS[1:], 32).name
        == "multiple_negatives_ranking"
    )
    with pytest.raises(
        SampleError,
        match="for the loss multiple_negatives_ranking with hardness_mode or doc_to_doc, got 1 for 2",
    ):
        check_loss(EmbeddingConfig(loss_options=whole), "pair", PAIRS, 32)
    with pytest.raises(
        ConfigError, match="must be a model's name or folder for the loss mse on text"
    ):
        check_loss(EmbeddingConfig(loss="mse"), "text", [{"text": "a"}], 32)

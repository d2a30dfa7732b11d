import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tunetrail.errors import ConfigError
from tunetrail.sweeps.space import SearchSpace
from tunetrail.sweeps.swept_overrides import split_overrides


def space_of(*overrides: str) -> SearchSpace:
    return split_overrides(OverridesParser.create().parse_overrides(list(overrides)))[0]


def grid_of(*overrides: str) -> list[tuple[str, ...]]:
    space = space_of(*overrides)
    return [space.overrides(values) for values in space.grid()]


def test_values_that_vary_and_what_jobs_share_are_told_apart() -> None:
    parsed = OverridesParser.create().parse_overrides(
        ["a=1,2", "seed=1", "dimensions=[256,128]", "+b={x:1,y:2}", "~c", "text='one,two'"]
    )
    space, shared = split_overrides(parsed)
    assert [parameter.name for parameter in space.parameters] == ["a"]
    assert shared == ("seed=1", "dimensions=[256,128]", "+b={x:1,y:2}", "~c", "text='one,two'")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=1,2", ["a=1", "a=2"]),
        ("a=choice(x,y)", ["a=x", "a=y"]),
        ("a=1e-5,auto,null,true", ["a=1e-05", "a=auto", "a=null", "a=True"]),
        ("a=[1,2],[3]", ["a=[1,2]", "a=[3]"]),
        ("a={x:1},{x:2}", ["a={x:1}", "a={x:2}"]),
        ("a='1,5',2", ["a='1,5'", "a=2"]),
        ("a=range(1,4)", ["a=1", "a=2", "a=3"]),
        ("a=range(4,0,-2)", ["a=4", "a=2"]),
        ("a=sort(3,1,2)", ["a=1", "a=2", "a=3"]),
        ("+a=x,y", ["+a=x", "+a=y"]),
        ("a@b=x,y", ["a@b=x", "a@b=y"]),
    ],
)
def test_listed_values_make_a_grid(override: str, expected: list[str]) -> None:
    assert [overrides for (overrides,) in grid_of(override)] == expected


def test_shuffled_values_are_all_there() -> None:
    shuffled = grid_of("a=shuffle(range(0,20))")
    assert sorted(shuffled) == sorted(grid_of("a=range(0,20)"))


def test_last_parameter_of_a_grid_varies_fastest_and_the_last_override_of_a_key_counts() -> None:
    assert grid_of("b=9,8", "a=1,2", "b=x,y") == [
        ("b=x", "a=1"),
        ("b=x", "a=2"),
        ("b=y", "a=1"),
        ("b=y", "a=2"),
    ]
    with pytest.raises(ConfigError, match="a sweep must be over at least one key"):
        grid_of("a=1,2", "a=3")


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("a=tag(log,interval(1e-6,1e-3))", FloatDistribution(1e-6, 1e-3, log=True)),
        ("a=int(interval(1,8))", IntDistribution(1, 8)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(2,9,2)", IntDistribution(2, 8, step=2)),
        ("a=tag(log,range(1,5))", IntDistribution(1, 4, log=True)),
        ("a=range(0.1,0.45,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("a=1e-5,3e-5", CategoricalDistribution([1e-5, 3e-5])),
        ("a=adamw,sgd,1", CategoricalDistribution(["adamw", "sgd", 1])),
    ],
)
def test_values_have_a_distribution(
    override: str,
    distribution: FloatDistribution | IntDistribution | CategoricalDistribution,
) -> None:
    (parameter,) = space_of(override).parameters
    assert parameter.distribution == distribution


def test_values_of_an_interval_are_written_as_numbers() -> None:
    (rate, rank) = space_of("rate=interval(0,1)", "rank=int(interval(1,8))").parameters
    assert rate.override(1e-7) == "rate=1e-07" and rank.override(3) == "rank=3"
    assert rate.is_interval and not space_of("a=1,2").parameters[0].is_interval


def test_value_of_a_range_is_the_nearest_of_those_that_hydra_lists() -> None:
    (share,) = space_of("share=range(0.1,0.6,0.1)").parameters
    assert share.override(0.3) == "share=" + share.texts[2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=range(3,1)", "a must be at least one value, got 'a=range"),
        ("a=1,2,1.0", "a must be different values, got 'a=1,2,1.0'"),
        ("a=interval(2,1)", "a must be an interval whose end is above its start"),
        (
            "a=tag(log,interval(0,1))",
            "a must be an interval that starts above 0, as it has the tag log",
        ),
        ("a=tag(log,range(2,9,2))", "in steps of 1 with the tag log"),
        ("a=tag(log,choice(1,2))", "a must be an interval or a range with the tag log"),
        ("a=tag(lgo,interval(1,2))", "a must have no tag except log, as in a=tag"),
        ("a=5", "a sweep must be over at least one key with several values, .* got 'a=5'"),
    ],
)
def test_values_that_cannot_be_searched_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(override)


def test_space_comes_back_from_plain_values() -> None:
    space = space_of("a=1,2", "+b=interval(0,1)", "c=range(1,4)", "d=tag(log,int(interval(1,9)))")
    assert SearchSpace.from_plain(space.to_plain()) == space


def test_probes_hold_every_value_and_both_ends() -> None:
    space = space_of("a=1,2,3", "b=x,y", "c=interval(0,1)")
    probes = [space.overrides(values) for values in space.probes()]
    assert {text for probe in probes for text in probe} == {
        *("a=1", "a=2", "a=3", "b=x", "b=y", "c=0.0", "c=1.0")
    }
    assert len(probes) == 6 and probes[-1] == ("a=3", "b=y", "c=1.0")

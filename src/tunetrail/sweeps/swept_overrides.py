"""Hydra's overrides of a sweep: which of them vary, and over which values."""

from collections.abc import Sequence
from decimal import Decimal

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tunetrail.config.checks import check
from tunetrail.errors import ConfigError
from tunetrail.sweeps.space import Parameter, SearchSpace, value_of

_LOG = "log"


def split_overrides(overrides: Sequence[Override]) -> tuple[SearchSpace, tuple[str, ...]]:
    """Return the parameters that vary, and the overrides that all jobs share.

    Args:
        overrides: What Hydra's parser has read; of several for the same key, the last one counts.

    Raises:
        ConfigError: Nothing varies, or a parameter has no values or values that can't be searched.
    """
    last = {override.get_key_element(): override for override in overrides}
    parameters, shared = [], []
    for key, override in last.items():
        if override.is_sweep_override():
            parameters.append(_parameter(key, override))
        else:
            shared.append(override.input_line or key)

    check(
        len(parameters) > 0,
        "a sweep",
        "over at least one key with several values, as in seed=1,2",
        " ".join(shared),
        "Leave out -m to train once.",
    )
    return SearchSpace(tuple(parameters)), tuple(shared)


def _parameter(key: str, override: Override) -> Parameter:
    typed = override.input_line or key
    sweep = override._value
    has_log = isinstance(sweep, Sweep) and sweep.tags == {_LOG}
    if isinstance(sweep, Sweep) and sweep.tags and not has_log:
        raise ConfigError(
            f"{key} must have no tag except log, as in {key}=tag(log,interval(1e-5,1e-3)), got "
            f"{typed}."
        )

    if isinstance(sweep, IntervalSweep):
        return Parameter(key=key, distribution=_interval(key, sweep, typed, has_log))

    texts = tuple(override.sweep_string_iterator())
    check(len(texts) > 0, key, "at least one value", typed, "It matches nothing.")
    values = list(map(value_of, texts))
    check(len(set(values)) == len(values), key, "different values", typed)
    if isinstance(sweep, RangeSweep):
        distribution = _range(key, sweep, len(texts), typed, has_log)
        return Parameter(key=key, distribution=distribution, texts=texts)

    check(not has_log, key, "an interval or a range with the tag log", typed)
    return Parameter(key=key, distribution=CategoricalDistribution(values), texts=texts)


def _interval(
    key: str, sweep: IntervalSweep, typed: str, has_log: bool
) -> FloatDistribution | IntDistribution:
    start, end = sweep.start, sweep.end
    assert start is not None and end is not None
    check(start < end, key, "an interval whose end is above its start", typed)
    if has_log:
        check(start > 0, key, "an interval that starts above 0, as it has the tag log", typed)

    # Hydra makes floats of the ends, unless the user wrote int(interval(1,8)).
    if isinstance(start, int) and isinstance(end, int):
        return IntDistribution(start, end, log=has_log)
    return FloatDistribution(start, end, log=has_log)


def _range(
    key: str, sweep: RangeSweep, count: int, typed: str, has_log: bool
) -> FloatDistribution | IntDistribution:
    first, step = Decimal(str(sweep.start)), Decimal(str(sweep.step))
    # As decimals: 0.1 + 2 * 0.1 is no multiple of 0.1 in binary, and Optuna would say so.
    low, high = sorted((first, first + step * (count - 1)))
    is_whole = all(isinstance(bound, int) for bound in (sweep.start, sweep.stop, sweep.step))
    if has_log:
        is_searchable = is_whole and abs(step) == 1 and low > 0
        check(is_searchable, key, "whole numbers above 0 in steps of 1 with the tag log", typed)

    if is_whole:
        return IntDistribution(int(low), int(high), log=has_log, step=int(abs(step)))
    return FloatDistribution(float(low), float(high), step=float(abs(step)))

"""Figures of a comparison: tunetrail next to its peer, round by round. Measures nothing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results import Figure, Result

Runs = Sequence[Mapping[str, Any]]
"""One arm's results, a round each."""
OURS = "tunetrail"
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """What a comparison must show; None for no target.

    Attributes:
        ratio: Least speed, as a multiple of each peer's by the peer's name.
        mfu: Least share of the machine's peak that tunetrail's model operations take.
        padding: Largest share of padding among the tokens that tunetrail computes.
        memory: Largest peak memory, as a multiple of each peer's by the peer's name.
    """

    ratio: Mapping[str, float]
    mfu: float | None = None
    padding: float | None = None
    memory: Mapping[str, float] | None = None


def comparison(
    name: str,
    runs: Mapping[str, Runs],
    *,
    speed: str,
    unit: str,
    targets: Targets,
    before: float,
    details: Mapping[str, Any],
) -> Result:
    """Return the result of trainings of the same task by tunetrail and by peers.

    Args:
        name: Of the result.
        runs: By arm, `tunetrail` among them, what each round measured (`Measured.to_dict()`).
        speed: Key of the speed that is compared, more being better.
        unit: Of that speed.
        targets: What must be reached.
        before: Loss of the untrained model on the held-out rows.
        details: Kept next to the figures.
    """
    own = runs[OURS]
    peers = [arm for arm in runs if arm != OURS]
    figures = [
        Figure(name=f"{arm}, speed", unit=unit, values=_values(found, speed))
        for arm, found in runs.items()
    ]
    figures += [
        Figure(
            name=f"speed against {peer}",
            unit="x",
            values=ratios(own, runs[peer], speed),
            at_least=least,
        )
        for peer in peers
        for least in [targets.ratio.get(peer)]
    ]
    for key, title, most, least in (
        ("mfu", "MFU", None, targets.mfu),
        ("padding_share", "padding", targets.padding, None),
    ):
        figures += [
            Figure(
                name=f"{arm}, {title}",
                unit="",
                values=_values(found, key),
                at_least=least if arm == OURS else None,
                at_most=most if arm == OURS else None,
            )
            for arm, found in runs.items()
        ]
    figures += memory_figures(runs, targets.memory or {})
    figures.append(Figure(name="held-out loss before", unit="", values=[before]))
    figures += [
        Figure(name=f"held-out loss, {arm}", unit="", values=_values(found, "held_out_loss"))
        for arm, found in runs.items()
    ]
    for place, title in ((0, "first"), (-1, "last")):
        figures += [
            Figure(
                name=f"{title} training loss, {arm}",
                unit="",
                values=[each["losses"][place][1] for each in found],
            )
            for arm, found in runs.items()
        ]
    measured = {arm: _account(found) for arm, found in runs.items()}
    return Result(name=name, figures=figures, details={**details, "measured": measured})


def memory_figures(runs: Mapping[str, Runs], most: Mapping[str, float]) -> list[Figure]:
    """Return the peak memory of each arm, and that of tunetrail as a multiple of each peer's."""
    figures = [
        Figure(
            name=f"{arm}, peak memory", unit="GiB", values=[each["memory"] / GIB for each in found]
        )
        for arm, found in runs.items()
    ]
    return figures + [
        Figure(
            name=f"peak memory against {peer}",
            unit="x",
            values=ratios(runs[OURS], found, "memory"),
            at_most=most.get(peer),
        )
        for peer, found in runs.items()
        if peer != OURS
    ]


def ratios(own: Runs, other: Runs, key: str) -> list[float]:
    """Return own / other round by round, for as many rounds as both have."""
    return [one[key] / another[key] for one, another in zip(own, other, strict=False)]


def _values(runs: Runs, key: str) -> list[float]:
    return [float(each[key]) for each in runs]


def _account(runs: Runs) -> dict[str, Any]:
    """Return what proves that an arm did the same work, and its losses in the last round."""
    keys = ("rows", "tokens", "supervised_tokens", "steps")
    return {
        **{key: runs[-1][key] for key in keys},
        "peak_gflops": statistics.median(each["peak_gflops"] for each in runs),
        "losses": runs[-1]["losses"],
    }

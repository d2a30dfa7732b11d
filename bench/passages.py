"""Pairs of a short name and a long body, on which padding costs less: else as `pairs`."""

from bench.pairs import run_on
from bench.results import Options, Result

_RATIOS = {128: 2.3, 256: 4.0}
"""Least speed against the peer, by maximum length."""


def run(options: Options) -> list[Result]:
    """Train MiniLM on names and passages by both sides."""
    return run_on("passage", "passages", options, _RATIOS)

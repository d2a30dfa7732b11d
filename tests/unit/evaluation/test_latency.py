import numpy as np
import pytest

from tunetrail.evaluation.latency import REQUESTS, Latency, measure_latencies


class Clock:
    """A clock that goes on by given times, each while a text is computed."""

    def __init__(self, seconds: list[float]) -> None:
        self.now, self.seconds, self.asked = 0.0, iter(seconds), 0

    def __call__(self) -> float:
        self.asked += 1
        if self.asked % 2 == 0:
            self.now += next(self.seconds)
        return self.now


@pytest.mark.parametrize(("fast", "slow"), [(0.01, 0.02), (0.005, 0.5)])
def test_measure_latencies_lets_models_take_turns_and_leaves_the_first_texts_out(
    fast: float, slow: float
) -> None:
    asked: list[str] = []
    rounds = REQUESTS + 3
    # The first three of each are slow; who begins alternates.
    seconds = [9.0] * 6
    for number in range(3, rounds):
        seconds += [fast, slow] if number % 2 == 0 else [slow, fast]

    first, second = measure_latencies(
        [lambda text: asked.append(f"a {text}"), lambda text: asked.append(f"b {text}")],
        ["one", "two"],
        clock=Clock(seconds),
    )

    assert asked[:6] == ["a one", "b one", "b two", "a two", "a one", "b one"]
    assert (first.requests, second.requests) == (REQUESTS, REQUESTS)
    assert first.median == pytest.approx(1000.0 * fast)
    assert second.upper == pytest.approx(1000.0 * slow)
    assert Latency.from_dict(first.to_dict()) == first


def test_the_interval_of_the_median_holds_it_as_often_as_it_says() -> None:
    generator, held = np.random.default_rng(0), 0
    for _ in range(400):
        seconds = generator.lognormal(size=REQUESTS + 3).tolist()
        (latency,) = measure_latencies([str], ["text"], clock=Clock(seconds))
        held += latency.lower <= 1000.0 <= latency.upper

    # 95 % at least, with three standard errors of 400 draws.
    assert 0.93 <= held / 400 <= 0.99


def test_measure_latencies_needs_a_text() -> None:
    with pytest.raises(ValueError, match="texts must be at least one"):
        measure_latencies([str], [])

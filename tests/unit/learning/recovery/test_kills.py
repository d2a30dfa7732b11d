"""Trainings that are killed at drawn places by signals, on one rank or two, and then resumed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from tests.unit.learning.recovery.forked_ranks import (
    LEARNING_RATES,
    MODELS,
    Kill,
    Outcome,
    RankServer,
    Run,
    Training,
    outcome_of,
)

pytestmark = pytest.mark.processes

CASES = 120
TOLERANCE = 1e-6
"""Largest difference of a weight between numbers of ranks."""
MOMENTUM_TOLERANCE = TOLERANCE / LEARNING_RATES["sgd"]
"""The momentum times the learning rate is what moves a weight."""
CURVE_TOLERANCE = 1e-4
"""Largest relative difference of a loss or norm, which is small where its terms cancel out."""
CHANGES = ((1, 2), (2, 1))
"""Ranks before and after a kill, if their number changes."""


@dataclass(frozen=True, kw_only=True)
class DrawnKill:
    """A kill whose place is known, but not yet when it is reached.

    Attributes:
        way: As in `Kill`.
        place: As in `Kill`.
        share: Share of the times that the training comes to the place after which it is killed.
        ranks: As in `Kill`.
        seconds: As in `Kill`.
    """

    way: str
    place: str
    share: float
    ranks: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training, and what happens to it.

    Attributes:
        training: The training.
        workers: As in `Run`.
        every_steps: As in `Run`.
        preflight: As in `Run`.
        ranks: Number of ranks of each run.
        kills: One for each run except the last.
    """

    training: Training
    workers: int
    every_steps: int
    preflight: bool
    ranks: tuple[int, ...]
    kills: tuple[DrawnKill, ...]


def drawn_case(seed: int) -> Case:
    """Draw a case."""
    draw = random.Random(seed)
    runs = draw.choice((2, 2, 2, 3))
    ranks = draw.choice(((1, 1), (1, 1), (2, 2), (2, 2), *CHANGES))
    is_changing = ranks in CHANGES
    # With three runs, the second change undoes the first.
    ranks = (*ranks, ranks[0])[:runs]

    model = draw.choice(MODELS)
    validations, every_steps = draw.choice((0, 1, 1, 2)), draw.choice((0, 1, 2, 3))
    training = Training(
        model=model,
        accumulate=draw.choice((1, 2, 3)),
        validations=validations,
        mini_batch_size=draw.choice((0, 3)),
        patience=draw.choice((0, 0, 1, 2)) if validations else 0,
        # Each rank draws its own dropout, and Adam makes rounding errors as large as its rate.
        dropout=0.0 if is_changing else draw.choice((0.0, 0.1, 0.1)),
        optimizer="sgd" if is_changing or model == "labels" else draw.choice(("adamw", "sgd")),
    )
    saves = validations or every_steps
    places = ["step", "step", "optimizer", "sink", "epoch"]
    places += ["validation", "validation", "val_sink", "validated"] if validations else []
    places += ["saving"] if saves else []
    drawn_kills = [_drawn_kill(draw, places, count) for count in ranks[:-1]]
    kills = []
    for kill, count in zip(sorted(drawn_kills, key=attrgetter("share")), ranks, strict=False):
        # A run on one rank has no other that could be killed.
        kills.append(replace(kill, ranks=tuple(filter(count.__gt__, kill.ranks)) or (0,)))
    return Case(
        training=training,
        workers=draw.choice((0, 0, 0, 2)),
        every_steps=every_steps,
        preflight=draw.choice((False, False, True)),
        ranks=ranks,
        kills=tuple(kills),
    )


def _drawn_kill(draw: random.Random, places: list[str], ranks: int) -> DrawnKill:
    everyone = tuple(range(ranks))
    return DrawnKill(
        way=draw.choice(("stop", "stop", "stop", "crash", "crash", "crash", "anywhere")),
        place=draw.choice(places),
        share=draw.random(),
        ranks=draw.choice(((0,), everyone[-1:], everyone)),
        seconds=draw.uniform(0.001, 0.05),
    )


class Trainings:
    """Runs cases, each uninterrupted training once.

    Args:
        server: Runs the trainings.
        root: Folder of their folders.
    """

    def __init__(self, server: RankServer, root: Path) -> None:
        self.server = server
        self.root = root
        self.uninterrupted = cache(self._uninterrupted)
        self._folders = 0

    def _uninterrupted(self, training: Training, ranks: int) -> Outcome:
        run = Run(training=training, folder=self._new_folder(), ranks=ranks)
        assert self.server.run(run) == [0] * ranks
        return outcome_of(run.folder)

    def killed(self, case: Case) -> list[Outcome]:
        """Kill a training and resume it, and return what each rank of the last run has left."""
        expected = self.uninterrupted(case.training, case.ranks[-1])
        run = Run(
            training=case.training,
            folder=self._new_folder(),
            workers=case.workers,
            every_steps=case.every_steps,
            preflight=case.preflight,
        )
        for index, drawn in enumerate(case.kills):
            # A checkpoint isn't written after every step, but long before the last one.
            place, share = (
                ("step", drawn.share / 2) if drawn.place == "saving" else (drawn.place, drawn.share)
            )
            passed = expected.passed[place]
            kill = Kill(
                way=drawn.way,
                place=drawn.place,
                finished=passed[int(share * len(passed))],
                ranks=drawn.ranks,
                seconds=drawn.seconds,
            )
            codes = self.server.run(replace(run, ranks=case.ranks[index], kill=kill))
            # A signal that comes at some time, or after another kill, may come too late.
            assert any(codes) or index or kill.way == "anywhere"
            # Nobody has to be killed because a neighbour was.
            assert -9 not in [code for rank, code in enumerate(codes) if rank not in kill.ranks]

        assert self.server.run(replace(run, ranks=case.ranks[-1])) == [0] * case.ranks[-1]
        return [outcome_of(run.folder, rank) for rank in range(case.ranks[-1])]

    def _new_folder(self) -> Path:
        self._folders += 1
        return self.root / str(self._folders)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    root = tmp_path_factory.mktemp("kills")
    with RankServer(root / "server") as server:
        yield Trainings(server, root)


def assert_close(outcome: Outcome, expected: Outcome) -> None:
    """Compare trainings on different numbers of ranks, whose sums are rounded differently."""
    assert outcome.numbers.keys() == expected.numbers.keys()
    for name, numbers in expected.numbers.items():
        tolerance = MOMENTUM_TOLERANCE if name.endswith("/momentum_buffer") else TOLERANCE
        np.testing.assert_allclose(
            outcome.numbers[name], numbers, rtol=0, atol=tolerance, err_msg=name
        )

    assert outcome.history.keys() == expected.history.keys()
    for name, curve in expected.history.items():
        # Each rank reads and pads its own rows.
        if name not in ("train/padding_share", "train/tokens"):
            np.testing.assert_allclose(
                outcome.history[name], curve, rtol=CURVE_TOLERANCE, atol=TOLERANCE, err_msg=name
            )

    result, expected_result = dict(outcome.result), dict(expected.result)
    if result["best_validation_loss"] is not None:
        best, expected_best = (
            values.pop("best_validation_loss") for values in (result, expected_result)
        )
        assert best == pytest.approx(expected_best, rel=CURVE_TOLERANCE)
    assert result == expected_result


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(CASES))
def test_killed_by_a_signal_and_resumed_it_is_the_same_training(
    trainings: Trainings, seed: int
) -> None:
    case = drawn_case(seed)

    outcomes = trainings.killed(case)

    expected = trainings.uninterrupted(case.training, case.ranks[-1])
    assert len({(outcome.final, outcome.best) for outcome in outcomes}) == 1
    if len(set(case.ranks)) > 1:
        assert_close(outcomes[0], expected)
    else:
        assert outcomes[0].final == expected.final
        assert outcomes[0].best == expected.best
        assert outcomes[0].history == expected.history
        assert outcomes[0].result == expected.result


@pytest.mark.parametrize("validations", [0, 1])
def test_killed_at_the_end_of_an_epoch_and_of_the_last_one_it_has_no_epoch_more(
    trainings: Trainings, validations: int
) -> None:
    ends = [
        DrawnKill(way="crash", place="epoch", share=share, ranks=(0,), seconds=0.0)
        for share in (0.0, 0.9)
    ]
    case = Case(
        training=Training(model="pairs", accumulate=2, validations=validations),
        workers=0,
        every_steps=1,
        preflight=False,
        ranks=(1, 1, 1),
        kills=tuple(ends),
    )

    (outcome,) = trainings.killed(case)

    expected = trainings.uninterrupted(case.training, 1)
    assert outcome.result == expected.result
    assert outcome.final == expected.final
    assert outcome.history == expected.history

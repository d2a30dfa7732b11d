"""Requests that wait at the same time are computed together, as far as they go together."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from tunetrail.pipeline.root_sources import LoadedVersion
from tunetrail.serving.model_queue import ModelQueue
from tunetrail.serving.refusals import RefusedError
from tunetrail.serving.text_batches import TextBatches, Vectors

ROOT = LoadedVersion(name="embedding", version="1", model=None)
NEXT_ROOT = LoadedVersion(name="embedding", version="2", model=None)

Ask = tuple[LoadedVersion, Sequence[str], str | None]


class Encoder:
    """Gives each text its length as its vector; the first call waits until it is let go."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(
        self, loaded: LoadedVersion, texts: Sequence[str], prompt_name: str | None
    ) -> tuple[Vectors, Sequence[int]]:
        assert self.may_go_on.wait(10.0)
        self.batches.append(list(texts))
        if "broken" in texts:
            raise ValueError("it can't be read")
        vectors = np.array([[len(text)] for text in texts], dtype=np.float32)
        return vectors, [len(text.split()) for text in texts]


def answers_to(encoder: Encoder, asks: Sequence[Ask], waiting: int = 64) -> list[object]:
    """Return the answers, or errors, to requests that come while the first is computed."""

    async def ask_all() -> list[object]:
        batches = TextBatches(queue=ModelQueue(waiting), encode=encoder)
        tasks = [asyncio.ensure_future(batches.vectors(*ask)) for ask in asks]
        # Once each has begun, all except the first one wait.
        await asyncio.sleep(0)
        encoder.may_go_on.set()
        answers: list[object] = await asyncio.gather(*tasks, return_exceptions=True)
        batches.queue.close()
        return answers

    return asyncio.run(ask_all())


def test_waiting_requests_are_computed_together_and_answered_in_their_order() -> None:
    encoder = Encoder()
    asks: list[Ask] = [(ROOT, [f"text {'x' * n}", f"{n} more"], None) for n in range(1, 7)]

    answers = answers_to(encoder, asks)

    # The first one may have been alone, or have found others already.
    assert len(encoder.batches) <= 2
    for (_, texts, _), answer in zip(asks, answers, strict=True):
        assert isinstance(answer, tuple)
        vectors, tokens = answer
        assert vectors.tolist() == [[len(text)] for text in texts] and tokens == 4


@pytest.mark.parametrize(
    "other",
    [
        (NEXT_ROOT, ["another text"], None),
        (ROOT, ["another text"], "query"),
        (ROOT, ["a text that is very much longer than all of the others" * 9], None),
        (ROOT, ["another text"] * 32, None),
    ],
    ids=["version", "prompt", "length", "number"],
)
def test_what_does_not_go_together_is_computed_apart(other: Ask) -> None:
    encoder = Encoder()
    asks: list[Ask] = [(ROOT, ["a first text"], None), (ROOT, ["a later text"] * 2, None), other]

    answers = answers_to(encoder, asks)

    assert other[1] in encoder.batches
    assert not any(isinstance(answer, Exception) for answer in answers)


def test_a_request_that_fails_takes_no_other_with_it() -> None:
    encoder = Encoder()
    texts = ["first", "second", "broken", "fourth"]

    answers = answers_to(encoder, [(ROOT, [text], None) for text in texts])

    assert [isinstance(answer, ValueError) for answer in answers] == [False, False, True, False]


def test_a_refused_request_is_not_computed() -> None:
    encoder = Encoder()
    texts = ["first", "second", "third"]

    answers = answers_to(encoder, [(ROOT, [text], None) for text in texts], waiting=1)

    assert [isinstance(answer, RefusedError) for answer in answers] == [False, False, True]
    assert "third" not in [text for batch in encoder.batches for text in batch]

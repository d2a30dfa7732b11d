"""TextBatches: requests for vectors that wait at the same time are computed together."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunetrail.pipeline.root_sources import LoadedVersion
from tunetrail.serving.model_queue import ModelQueue

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Encode = Callable[[LoadedVersion, Sequence[str], str | None], tuple[Vectors, Sequence[int]]]
"""Returns the vectors [texts, dimensions] of texts under a prompt, and the tokens of each text."""

# Texts of several requests that are computed together: one step of the model.
_MOST_TEXTS = 32
# How many times as long as its texts a batch may be once each is as long as the longest.
_MOST_PADDING = 2.0


@dataclass(eq=False, kw_only=True, slots=True)
class _WaitingRequest:
    """A request that waits for its vectors.

    Attributes:
        loaded: The version that was root when it came.
        prompt_name: The prompt that is put before its texts.
        texts: Its texts.
        answer: The vectors and the number of tokens; None until they are computed.
    """

    loaded: LoadedVersion
    prompt_name: str | None
    texts: Sequence[str]
    answer: tuple[Vectors, int] | None = None

    def goes_with(self, other: "_WaitingRequest") -> bool:
        """Tell whether one step of the model can answer both."""
        return self.loaded is other.loaded and self.prompt_name == other.prompt_name


@dataclass(kw_only=True)
class TextBatches:
    """Lets requests wait for the model, and computes those that go together at once.

    Every request has a turn of its own in the queue. The first turn also answers what waits by
    then, so most requests find their vectors when their turn comes.

    Attributes:
        queue: The queue of the model.
        encode: Computes vectors.
    """

    queue: ModelQueue
    encode: Encode
    _waiting: list[_WaitingRequest] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    async def vectors(
        self, loaded: LoadedVersion, texts: Sequence[str], prompt_name: str | None
    ) -> tuple[Vectors, int]:
        """Return the vectors [texts, dimensions] of a request, and how many tokens were read.

        Raises:
            RefusedError: Too many requests are waiting.
        """
        request = _WaitingRequest(loaded=loaded, prompt_name=prompt_name, texts=texts)
        with self._lock:
            self._waiting.append(request)
        try:
            return await self.queue.run(lambda: self._turn(request))
        finally:
            self._take_out([request])

    def _turn(self, request: _WaitingRequest) -> tuple[Vectors, int]:
        """Answer a request, and what waits with it, in the thread of the model."""
        if request.answer is None:
            batch = self._batch_of(request)
            try:
                self._compute(batch)
            except Exception:
                # What another request asks for must not fail this one.
                if len(batch) == 1:
                    raise
                self._compute([request])
        assert request.answer is not None
        return request.answer

    def _batch_of(self, request: _WaitingRequest) -> list[_WaitingRequest]:
        """Return a request with the waiting ones that a single step can answer together with it."""
        with self._lock:
            candidates = [other for other in self._waiting if other is not request]

        batch = [request]
        for other in candidates:
            if request.goes_with(other) and _fit_together([*batch, other]):
                batch.append(other)
        self._take_out(batch)
        return batch

    def _take_out(self, requests: Sequence[_WaitingRequest]) -> None:
        with self._lock:
            self._waiting = [request for request in self._waiting if request not in requests]

    def _compute(self, batch: Sequence[_WaitingRequest]) -> None:
        texts = [text for request in batch for text in request.texts]
        vectors, tokens = self.encode(batch[0].loaded, texts, batch[0].prompt_name)

        start = 0
        for request in batch:
            end = start + len(request.texts)
            request.answer = vectors[start:end], sum(tokens[start:end])
            start = end


def _fit_together(requests: Sequence[_WaitingRequest]) -> bool:
    """Tell whether texts are few enough, and similar enough in length, for one step."""
    lengths = [len(text) for request in requests for text in request.texts]
    # The model fills each text up to the longest one.
    filled_up = len(lengths) * max(lengths)
    return len(lengths) <= _MOST_TEXTS and filled_up <= _MOST_PADDING * sum(lengths)

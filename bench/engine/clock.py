"""When optimizer steps end and how many tokens were computed by then, seen from outside of any trainer alike."""

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What happened in the last steps of a training.

    Attributes:
        steps: How many they were.
        seconds: From the end of the step before them to the end of the last one.
        computed_tokens: Positions that went through the model meanwhile, padding included; 0 where
            not counted.
    """

    steps: int
    seconds: float
    computed_tokens: int


class StepClock:
    """Watches, within its `with` block, every optimizer's steps and the look-ups in embedding tables.

    Both trainers are watched by the same two hooks of torch, and neither knows of them. Of the
    tables the one with the most look-ups counts: the words' (padded batches look up their positions
    once for all rows).

    Args:
        counts_tokens: Whether look-ups are counted; each costs about two microseconds per module
            called.
        borders: Numbers of the steps that begin or end a window. A GPU is still computing when a
            step returns, so these steps wait for it, and no others.
    """

    def __init__(self, *, counts_tokens: bool = True, borders: Collection[int] = ()) -> None:
        self._counts_tokens = counts_tokens
        self._borders = frozenset(borders)
        self._moments: list[float] = []
        self._tokens_by_then: list[int] = []
        self._lookups: Counter[int] = Counter()

    def __enter__(self) -> "StepClock":
        self._handles = [register_optimizer_step_post_hook(self._stepped)]
        if self._counts_tokens:
            self._handles.append(register_module_forward_pre_hook(self._called))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def steps(self) -> int:
        """Optimizer steps seen."""
        return len(self._moments)

    def last(self, steps: int) -> Window:
        """Return the window of the last `steps` steps; there must be one more before them, the warm-up."""
        if not 0 < steps < len(self._moments):
            raise ValueError(f"steps must be between 1 and {len(self._moments) - 1}, got {steps}.")
        return Window(
            steps=steps,
            seconds=self._moments[-1] - self._moments[-1 - steps],
            computed_tokens=self._tokens_by_then[-1] - self._tokens_by_then[-1 - steps],
        )

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if len(self._moments) + 1 in self._borders and torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self._moments.append(time.perf_counter())
        self._tokens_by_then.append(max(self._lookups.values(), default=0))

    def _called(self, module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Embedding) and inputs:
            self._lookups[id(module)] += inputs[0].numel()

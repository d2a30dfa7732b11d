"""Lets a causal language model write after prompts, batch by batch."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from tunetrail.learning.out_of_memory import RowIndices, compute_batches
from tunetrail.learning.training.batching import length_batches
from tunetrail.reporting.progress import progress_console

# What tokens decode to that end within a character.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
OnText = Callable[[str], None]
"""Takes the next piece of an answer; what it raises ends the writing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenAnswer:
    """An answer and what it took.

    Attributes:
        text: The answer, without white space around it.
        prompt_tokens: Tokens of the prompt.
        tokens: Tokens of the answer, without its end.
        is_cut_off: Whether it ends because no further token was allowed.
    """

    text: str
    prompt_tokens: int
    tokens: int
    is_cut_off: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GreedyWriter:
    """Writes the likeliest token, again and again.

    Attributes:
        model: The model, on the device that it computes on.
        tokenizer: Its tokenizer.
        ends: Ids of tokens that end an answer, in addition to those that the model itself names.
        max_new_tokens: Tokens after which an answer is cut off.
        show_progress: Whether a bar on the terminal shows how many prompts are answered.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: Collection[int]
    max_new_tokens: int
    show_progress: bool = True

    def write(self, prompts: Sequence[Sequence[int]], batch_size: int) -> list[str]:
        """Return what the model writes after each prompt, without the end and white space around.

        It is empty after a prompt without tokens, or one that leaves the model no position.

        Args:
            prompts: Token ids.
            batch_size: Prompts per batch; it changes no answer.
        """
        limits = list(map(self._limit, prompts))

        def write_batch(rows: RowIndices) -> list[list[int]]:
            limit = limits[int(rows[0])]
            return self._tokens_after([prompts[row] for row in rows], limit)

        answers = [""] * len(prompts)
        batches = list(_batches(list(map(len, prompts)), limits, batch_size))
        console, is_hidden = progress_console(), not self.show_progress
        progress = track(batches, "Writing", console=console, transient=True, disable=is_hidden)
        with torch.inference_mode(), _plain_decoding(self.model):
            for rows, written in compute_batches(progress, write_batch):
                for row, tokens in zip(rows, written, strict=True):
                    answers[row] = self._text(tokens).strip()
        return answers

    def write_one(self, prompt: Sequence[int], on_text: OnText | None = None) -> WrittenAnswer:
        """Return what the model writes after one prompt, as `write` does.

        Args:
            prompt: Token ids.
            on_text: Called with each piece of the text as soon as it is certain. The pieces are the
                answer's text.
        """
        limit = self._limit(prompt)
        tokens: list[int] = []
        streamer = None if on_text is None else _Streamer(self._text, self._all_ends(), on_text)
        if limit:
            with torch.inference_mode(), _plain_decoding(self.model):
                (tokens,) = self._tokens_after([prompt], limit, streamer)
        return WrittenAnswer(
            text=self._text(tokens).strip(),
            prompt_tokens=len(prompt),
            tokens=len(tokens),
            is_cut_off=len(tokens) == limit,
        )

    def _limit(self, prompt: Sequence[int]) -> int:
        """Return how many tokens may follow a prompt."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        # A model with a fixed number of positions can't write beyond the last one.
        room = self.max_new_tokens if positions is None else max(positions - len(prompt), 0)
        return min(room, self.max_new_tokens) if prompt else 0

    def _text(self, tokens: Sequence[int]) -> str:
        # Old tokenizers would "clean up" spaces before punctuation by default.
        return str(
            self.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _all_ends(self) -> list[int]:
        return sorted({*self.ends, *end_tokens_of(self.model, self.tokenizer)})

    def _tokens_after(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        streamer: BaseStreamer | None = None,
    ) -> list[list[int]]:
        """Return the tokens after each prompt, up to the first end."""
        padding = int(self.tokenizer.pad_token_id)
        input_ids, mask = left_padded(prompts, padding, self.model.device)
        ends = self._all_ends()
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=limit,
            do_sample=False,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=padding,
        )
        sequences = self.model.generate(  # type: ignore[operator]
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=settings,
            streamer=streamer,
        )

        written = sequences[:, input_ids.shape[1] :].cpu()
        is_end = torch.isin(written, torch.tensor(ends))
        # The running count is 0 up to the first end, after which there is only padding.
        is_answer = is_end.cumsum(dim=1) == 0
        return [row[mask].tolist() for row, mask in zip(written, is_answer, strict=True)]


class _Streamer(BaseStreamer):
    """Passes an answer on while it is written.

    Everything is decoded again with each token, since a character may take several tokens, and a
    token may change the white space before it.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], ends: Collection[int], on_text: OnText
    ) -> None:
        self._decode, self._ends, self._on_text = decode, ends, on_text
        self._tokens: list[int] = []
        self._sent, self._is_prompt, self._is_over = 0, True, False

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then one token after the other."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.flatten().tolist():
            self._is_over = self._is_over or token in self._ends
            if not self._is_over:
                self._tokens.append(token)

        text = self._decode(self._tokens).lstrip()
        # The last character may be unfinished, and white space may turn out to be the last.
        if not text.endswith(_UNFINISHED):
            self._send(text.rstrip())

    def end(self) -> None:
        """Pass on what was held back."""
        self._send(self._decode(self._tokens).strip())

    def _send(self, text: str) -> None:
        if len(text) > self._sent:
            piece, self._sent = text[self._sent :], len(text)
            self._on_text(piece)


def left_padded(
    prompts: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return ids and mask of prompts, [prompts, tokens], padded so that all end in one place."""
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    rows = [torch.tensor(prompt, dtype=torch.int64) for prompt in prompts]
    input_ids = pad(rows, padding_value=padding)
    mask = pad(list(map(torch.ones_like, rows)))
    return input_ids.to(device), mask.to(device)


def end_tokens_of(model: Any, tokenizer: Any) -> list[int]:
    """Return the ids of the tokens at which a model says that its texts end."""
    known = model.generation_config.eos_token_id
    ends = known if isinstance(known, list) else [known, tokenizer.eos_token_id]
    return sorted({int(end) for end in ends if end is not None})


def add_end_token(model: Any, token_id: int | None) -> None:
    """Let `generate` stop at a token as well; None adds nothing."""
    known = model.generation_config.eos_token_id
    ends = list(known) if isinstance(known, list) else [known] if known is not None else []
    # The configuration of a model that stops there stays as it is.
    if token_id is not None and token_id not in ends:
        ends.append(token_id)
        model.generation_config.eos_token_id = ends if len(ends) > 1 else token_id


def _batches(lengths: Sequence[int], limits: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of rows with one limit and similar lengths; a row without room is in none."""
    for limit in sorted(set(limits) - {0}, reverse=True):
        rows = np.flatnonzero(np.asarray(limits) == limit)
        for batch in length_batches(np.asarray(lengths)[rows].tolist(), batch_size):
            yield rows[batch].tolist()


@contextmanager
def _plain_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Leave out a model's own penalties and sampling, which `generate` would add to ours."""
    own_settings = model.generation_config
    ends = own_settings.eos_token_id if own_settings is not None else None
    try:
        model.generation_config = GenerationConfig(eos_token_id=ends)  # type: ignore[no-untyped-call]
        yield
    finally:
        model.generation_config = own_settings

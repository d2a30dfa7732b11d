"""Generation: a causal language model writes one line about each text.

Every line has a random generator of its own, seeded from the seed, the request and its repetition.
So a line depends neither on the other texts nor on earlier lines, and no global generator is
touched.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tunetrail.learning.devices import CPU, placed_on
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.language_model.writing import end_tokens_of, left_padded
from tunetrail.learning.tokens.bounded_rendering import render_template
from tunetrail.reporting.progress import progress_console

SHOWN_FROM = 200
"""Lines from which writing shows a progress bar."""
LONGEST_PROMPT = 512
"""Tokens of instruction and text together; a longer text loses its end."""

_TOP_K = 50
_QUOTES = "\"'`\u201c\u201d\u2018\u2019"
# No tokenizer's tokens are longer on average, so later text needn't be tokenised to be cut.
_CHARACTERS_PER_TOKEN = 20


@dataclass(frozen=True, slots=True)
class _LineRequest:
    instruction: str
    opening: str
    text: str
    copy: int


@dataclass(frozen=True, kw_only=True)
class TextWriter:
    """Writes with a causal language model, using its chat template if it has one.

    Lines are sampled from the 50 likeliest tokens at `temperature` (0: the likeliest) by the
    Gumbel-max trick, which draws exactly from the softmax (Gumbel 1954; Maddison et al., "A*
    Sampling", 2014). Lines are remembered, so that the folds of a cross-validation don't write
    again.

    Attributes:
        model: The model with its tokenizer.
        seed: Decides, together with the request, what is written.
        max_new_tokens: Maximum length of a line in tokens.
        temperature: At least 0; the higher, the more varied are the lines.
        batch_size: Number of texts per batch.
        device: The device that the model computes on.
    """

    model: LanguageModel
    seed: int
    max_new_tokens: int = 48
    temperature: float = 0.7
    batch_size: int = 16
    device: torch.device = CPU
    _written: dict[_LineRequest, str] = field(default_factory=dict, repr=False, compare=False)

    def write(self, instruction: str, texts: Sequence[str], opening: str = "") -> list[str]:
        """Return one line for each text; a repeated text gets a new line each time.

        Args:
            instruction: What to do with a text.
            texts: Any texts; the end of a long one is not read.
            opening: The words that the answer begins with; they aren't returned.

        Returns:
            The first line of each answer, without quotes and white space around it. It is empty if
            the model wrote nothing, or hadn't finished after `max_new_tokens`.
        """
        copies: Counter[str] = Counter()
        requests = []
        for text in texts:
            request = _LineRequest(instruction, opening, text, copies[text])
            requests.append(request)
            copies[text] += 1

        # The longest prompts first, so that the texts of a batch have similar lengths.
        new_requests = [request for request in requests if request not in self._written]
        prompts = {request: self._prompt(request) for request in new_requests}
        new_requests.sort(key=lambda request: -len(prompts[request]))
        console, is_short = progress_console(), len(new_requests) < SHOWN_FROM
        starts = range(0, len(new_requests), self.batch_size)
        tracked = track(starts, "Writing", console=console, transient=True, disable=is_short)
        with placed_on(self.device, self.model.model):
            for start in tracked:
                batch = new_requests[start : start + self.batch_size]
                lines = self._lines([prompts[request] for request in batch], batch)
                self._written.update(zip(batch, lines, strict=True))
        return [self._written[request] for request in requests]

    def _prompt(self, request: _LineRequest) -> list[int]:
        """Return the tokens of the request, with as much of its text as there is room for."""
        positions = getattr(self.model.model.config, "max_position_embeddings", None)
        longest = max(1, min(LONGEST_PROMPT, (positions or LONGEST_PROMPT) - self.max_new_tokens))
        room = max(0, longest - len(self._tokens(self._render(request, ""))))
        # Encoded and decoded again: tokenizers refuse halves of surrogate pairs.
        text = request.text[: room * _CHARACTERS_PER_TOKEN].encode(errors="replace").decode()

        # Cutting changes the tokens at the end, so it may take more than one attempt.
        while True:
            tokens = self._tokens(self._render(request, text))
            surplus = len(tokens) - longest
            if surplus <= 0 or not text:
                # The end of a prompt is what has to stay: the opening of the answer.
                return tokens[-longest:]
            encoded = self.model.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True
            )
            offsets = encoded["offset_mapping"]
            text = text[: offsets[-surplus][0]] if surplus < len(offsets) else ""

    def _render(self, request: _LineRequest, text: str) -> str:
        question = f"{request.instruction}\n\n{text}"
        if not self.model.tokenizer.chat_template:
            return f"{question}\n\n{request.opening}"
        rendered = render_template(
            self.model.tokenizer,
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
        )
        return f"{rendered}{request.opening}"

    def _tokens(self, text: str) -> list[int]:
        # A chat template writes the special tokens itself.
        tokenizer = self.model.tokenizer
        has_template = bool(tokenizer.chat_template)
        encoded = tokenizer(text, add_special_tokens=not has_template, verbose=False)
        return list(encoded["input_ids"])

    def _lines(self, prompts: Sequence[list[int]], requests: Sequence[_LineRequest]) -> list[str]:
        """Return the lines written after a batch of prompts."""
        model, tokenizer = self.model.model, self.model.tokenizer

        padding = int(tokenizer.pad_token_id)
        input_ids, mask = left_padded(prompts, padding, model.device)
        width = input_ids.shape[1]
        ends = end_tokens_of(model, tokenizer)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            pad_token_id=padding,
            eos_token_id=ends,
        )
        sampling: Any = _SeededSampling(list(map(self._seed_of, requests)), self.temperature)
        with torch.inference_mode():
            written = model.generate(  # type: ignore[operator]
                input_ids=input_ids,
                attention_mask=mask,
                generation_config=settings,
                logits_processor=LogitsProcessorList([sampling] if self.temperature > 0 else []),
                stopping_criteria=StoppingCriteriaList([_FirstLine(tokenizer, width)]),
            )[:, width:]

        is_end = torch.isin(written, torch.tensor(ends, device=written.device))
        answers = tokenizer.batch_decode(written, skip_special_tokens=True)
        return list(map(_first_line, answers, is_end.any(dim=1).tolist()))

    def _seed_of(self, request: _LineRequest) -> int:
        fields = (self.seed, request.instruction, request.opening, request.text, request.copy)
        text = "\0".join(map(str, fields))
        digest = hashlib.sha256(text.encode(errors="replace")).digest()
        return int.from_bytes(digest[:16], "big")


class _SeededSampling(LogitsProcessor):
    """Leaves one token of each row possible, which the row's own generator draws."""

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._generators = list(map(np.random.default_rng, seeds))
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        likeliest = scores.topk(min(_TOP_K, scores.shape[1]), dim=1)
        tokens = likeliest.values.shape[1]
        # As many draws from each row's generator at each step, whatever the other rows do.
        draws = np.stack([generator.gumbel(size=tokens) for generator in self._generators])
        noise = torch.from_numpy(draws).to(scores.device)

        noisy_scores = likeliest.values.double() / self._temperature + noise
        drawn = likeliest.indices.gather(1, noisy_scores.argmax(dim=1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


class _FirstLine(StoppingCriteria):
    """Ends a row once its answer has a whole line."""

    def __init__(self, tokenizer: Any, start: int) -> None:
        self._tokenizer, self._start = tokenizer, start

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        # All of the answer each time: a line break may be part of a token, or come before the text.
        written = input_ids[:, self._start :]
        answers = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        has_line = ["\n" in answer.lstrip() for answer in answers]
        return torch.tensor(has_line, device=input_ids.device)


def _first_line(answer: str, has_ended: bool) -> str:
    """Return the answer's first line; empty if the model hadn't finished it."""
    line, line_break, _ = answer.lstrip().partition("\n")
    return line.strip().strip(_QUOTES).strip() if has_ended or line_break else ""

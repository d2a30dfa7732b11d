"""Generation: a causal language model writes one line about each text. Knows not what the lines are wanted for.

Every line is drawn by a generator of its own, seeded from the seed, the request and how often it was made: it depends
neither on the other texts nor on what was drawn before, and no global generator is touched.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tunetrail.learning.language_model.learner import LanguageModel

SHOWN_FROM = 200
"""Lines from which writing shows a progress bar."""
LONGEST_PROMPT = 512
"""Tokens of instruction and text together; what is longer loses the end of its text."""

_TOP_K = 50
_QUOTES = "\"'`\u201c\u201d\u2018\u2019"
_CHARACTERS_PER_TOKEN = (
    20  # no tokenizer packs more into one, so what lies beyond needn't be tokenised to be cut off
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    instruction: str
    opening: str
    text: str
    copy: int


@dataclass(frozen=True, kw_only=True)
class TextWriter:
    """Writes with a causal language model, through its chat template where it has one.

    Lines are sampled from the 50 likeliest tokens at `temperature` (0: the likeliest) by the Gumbel-max trick, which
    draws from the softmax exactly (Gumbel, 1954; Maddison et al., "A* Sampling", 2014). A line once written is kept,
    so that the folds of a cross-validation don't have it written again.

    Attributes:
        model: The model with its tokenizer.
        seed: Decides, with the request, what is written.
        max_new_tokens: Longest line, in tokens.
        temperature: Above 0: the higher, the more varied the lines.
        batch_size: Texts per batch.
    """

    model: LanguageModel
    seed: int
    max_new_tokens: int = 48
    temperature: float = 0.7
    batch_size: int = 16
    _written: dict[_Request, str] = field(default_factory=dict, repr=False, compare=False)

    def write(self, instruction: str, texts: Sequence[str], opening: str = "") -> list[str]:
        """Return one line for each text; a text that comes twice gets two, each drawn anew.

        Args:
            instruction: What to do with a text.
            texts: Any texts; the end of a long one is left unread.
            opening: The words that the answer begins with; they aren't returned.

        Returns:
            The first line of each answer without quotes and white space around it; empty where the model wrote nothing,
            or hadn't come to an end after `max_new_tokens`.
        """
        copies: Counter[str] = Counter()
        requests = []
        for text in texts:
            requests.append(
                _Request(instruction=instruction, opening=opening, text=text, copy=copies[text])
            )
            copies[text] += 1
        new = [request for request in requests if request not in self._written]
        prompts = [self._prompt(request) for request in new]
        order = sorted(range(len(new)), key=lambda number: -len(prompts[number]))
        starts = range(0, len(new), self.batch_size)
        hidden = len(new) < SHOWN_FROM
        for start in track(
            starts, "Writing", console=Console(stderr=True), transient=True, disable=hidden
        ):
            numbers = order[start : start + self.batch_size]
            lines = self._lines(
                [prompts[number] for number in numbers], [new[number] for number in numbers]
            )
            self._written.update(zip([new[number] for number in numbers], lines, strict=True))
        return [self._written[request] for request in requests]

    def _prompt(self, request: _Request) -> list[int]:
        """Return the tokens of the request, as much of its text as there is room for."""
        context = (
            getattr(self.model.model.config, "max_position_embeddings", None) or LONGEST_PROMPT
        )
        longest = max(1, min(LONGEST_PROMPT, context - self.max_new_tokens))
        room = longest - len(self._tokens(self._rendered(request, "")))
        text = (
            request.text[: max(0, room) * _CHARACTERS_PER_TOKEN].encode(errors="replace").decode()
        )
        while True:
            tokens = self._tokens(self._rendered(request, text))
            surplus = len(tokens) - longest
            if surplus <= 0 or not text:
                return tokens[-longest:]
            offsets = self.model.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True
            )["offset_mapping"]
            text = text[: offsets[-surplus][0]] if surplus < len(offsets) else ""

    def _rendered(self, request: _Request, text: str) -> str:
        asked = f"{request.instruction}\n\n{text}"
        if not self.model.tokenizer.chat_template:
            return f"{asked}\n\n{request.opening}"
        rendered = self.model.tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
        )
        return f"{rendered}{request.opening}"

    def _tokens(self, text: str) -> list[int]:
        special = not self.model.tokenizer.chat_template  # a template writes them itself
        return list(
            self.model.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        )

    def _lines(self, prompts: Sequence[list[int]], requests: Sequence[_Request]) -> list[str]:
        """Return the lines written after a batch of prompts, padded on the left so that all end in the same place."""
        model, tokenizer = self.model.model, self.model.tokenizer
        width, padding = max(map(len, prompts)), int(tokenizer.pad_token_id)
        ids = [[padding] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        ends = _ends(model, tokenizer)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            pad_token_id=padding,
            eos_token_id=ends,
        )
        sampling: Any = _SeededSampling(
            [self._seed_of(request) for request in requests], self.temperature
        )
        with torch.inference_mode():
            written = model.generate(  # type: ignore[operator]
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([sampling] if self.temperature > 0 else []),
                stopping_criteria=StoppingCriteriaList([_FirstLine(tokenizer, width)]),
            )[:, width:]
        ended = torch.isin(written, torch.tensor(ends, device=written.device)).any(dim=1).tolist()
        answers = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [_line(answer, is_ended) for answer, is_ended in zip(answers, ended, strict=True)]

    def _seed_of(self, request: _Request) -> int:
        parts = (
            str(self.seed),
            request.instruction,
            request.opening,
            request.text,
            str(request.copy),
        )
        return int.from_bytes(
            hashlib.sha256("\0".join(parts).encode(errors="replace")).digest()[:16], "big"
        )


class _SeededSampling(LogitsProcessor):
    """Leaves one token of each row possible: the one that the row's own generator draws."""

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._generators = [np.random.default_rng(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        likeliest = scores.topk(min(_TOP_K, scores.shape[1]), dim=1)
        noise = np.stack(
            [generator.gumbel(size=likeliest.values.shape[1]) for generator in self._generators]
        )
        noisy = likeliest.values.double() / self._temperature + torch.from_numpy(noise).to(
            scores.device
        )
        chosen = likeliest.indices.gather(1, noisy.argmax(dim=1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class _FirstLine(StoppingCriteria):
    """Ends a row once its answer holds a whole line."""

    def __init__(self, tokenizer: Any, start: int) -> None:
        self._tokenizer, self._start = tokenizer, start

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        answers = self._tokenizer.batch_decode(
            input_ids[:, self._start :], skip_special_tokens=True
        )
        return torch.tensor(
            ["\n" in answer.lstrip() for answer in answers], device=input_ids.device
        )


def _ends(model: Any, tokenizer: Any) -> list[int]:
    known = model.generation_config.eos_token_id
    ends = known if isinstance(known, list) else [known, tokenizer.eos_token_id]
    return sorted({int(end) for end in ends if end is not None})


def _line(answer: str, ended: bool) -> str:
    """Return the answer's first line; a line that neither it nor the model ended is half a thought and left out."""
    line, _, _ = answer.lstrip().partition("\n")
    whole = ended or "\n" in answer.lstrip()
    return line.strip().strip(_QUOTES).strip() if whole else ""

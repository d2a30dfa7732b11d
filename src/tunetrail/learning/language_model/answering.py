"""AnsweringModel: a causal language model that writes answers as it was trained to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.language_model.writing import GreedyWriter, OnText, WrittenAnswer
from tunetrail.learning.tokens.rendered_tokens import encode_rendered
from tunetrail.learning.tokens.rendering import answer_end, served_prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweringModel(LanguageModel):
    """A model and its tokenizer, with the prompts that training has used.

    Answers are greedy, so the same text always gets the same one; `model.generate` samples.

    Attributes:
        model: The transformers model.
        tokenizer: Its tokenizer, with the chat template.
    """

    def generate(self, text: str, *, max_new_tokens: int = 256) -> str:
        """Return the answer to a text, which is the only turn of a conversation."""
        message = {"role": "user", "content": text}
        return self.chat([message], max_new_tokens=max_new_tokens)

    def chat(self, messages: Sequence[Mapping[str, Any]], *, max_new_tokens: int = 256) -> str:
        """Return the next answer of a conversation, without white space around it.

        Args:
            messages: `role` and `content` of each message, the oldest first.
            max_new_tokens: Tokens after which the answer is cut off.

        Raises:
            SampleError: The chat template refuses the messages, or one has a control token of the
                model in it.
        """
        return self.answer(messages, max_new_tokens=max_new_tokens).text

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_new_tokens: int = 256,
        on_text: OnText | None = None,
    ) -> WrittenAnswer:
        """Return the next answer of a conversation, and how many tokens it took.

        Args:
            messages: `role` and `content` of each message, the oldest first.
            max_new_tokens: Tokens after which the answer is cut off.
            on_text: Called with each piece of the answer while it is written.

        Raises:
            SampleError: As `chat` does.
        """
        prompt = served_prompt(self.tokenizer, messages, None)
        tokens, _ = encode_rendered(self.tokenizer, prompt)
        end = answer_end(self.tokenizer)
        writer = GreedyWriter(
            model=self.model,
            tokenizer=self.tokenizer,
            ends=[] if end is None else [end],
            max_new_tokens=max_new_tokens,
            show_progress=False,
        )
        return writer.write_one(tokens, on_text)

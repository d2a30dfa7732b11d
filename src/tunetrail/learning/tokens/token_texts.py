"""Scored tokens as text, each with the text around it, for people to look at."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunetrail.learning.tokens.chat import TokenizedExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of the text around a token.
_BEFORE, _AFTER = 12, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenText:
    """A token as text.

    Attributes:
        text_before: The text before it, a few tokens long.
        token: The token; a part of a character is shown as the replacement character.
        text_after: The text after it.
    """

    text_before: str
    token: str
    text_after: str


def token_texts(tokenizer: "PreTrainedTokenizerBase", example: TokenizedExample) -> list[TokenText]:
    """Return each supervised token of an example, in the order of its text."""

    def text_of(begin: int, end: int) -> str:
        # Old tokenizers would "clean up" spaces before punctuation by default.
        return str(
            tokenizer.decode(example.input_ids[begin:end], clean_up_tokenization_spaces=False)
        )

    texts = []
    for position in example.supervised_positions:
        end = position + 1
        text = TokenText(
            text_before=text_of(max(position - _BEFORE, 0), position),
            token=text_of(position, end),
            text_after=text_of(end, end + _AFTER),
        )
        texts.append(text)
    return texts

"""Tokenizes a rendered chat: the prompt as it is served, and no marker that people wrote."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunetrail.errors import SampleError
from tunetrail.learning.tokens.markers import FILLER, markers_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


def encode_rendered(
    tokenizer: "PreTrainedTokenizerBase", text: str, start: int | None = None
) -> tuple[list[int], list[Span]]:
    """Return the token ids of a text with `FILLER`, and their spans in the text without it.

    Args:
        tokenizer: The tokenizer.
        text: The text; a chat template has written the special tokens into it.
        start: Where the last answer begins. The text before it is tokenized by itself.

    Raises:
        SampleError: The tokenizer recognises a marker in what people wrote.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    # The prompt by itself is what is served: the answer's first letters mustn't change its tokens.
    if start is not None and _needs_border(encoded, text, start):
        ids, offsets = [], []
        for begin, end in ((0, start), (start, len(text))):
            piece = tokenizer(
                text[begin:end], add_special_tokens=False, return_offsets_mapping=True
            )
            ids += piece["input_ids"]
            offsets += [(begin + left, begin + right) for left, right in piece["offset_mapping"]]
    return (ids, offsets) if FILLER not in text else _without_filler(tokenizer, text, ids, offsets)


def _needs_border(encoded: Any, text: str, position: int) -> bool:
    """Tell whether a prompt that ends here may have other tokens by itself."""
    if not 0 < position < len(text):
        return False
    # Many tokenizers split the last of several blanks or line breaks off, if a word follows.
    if text[max(position - 2, 0) : position].isspace() and position > 1:
        return True
    token = encoded.char_to_token(position)
    return token is not None and token == encoded.char_to_token(position - 1)


def _without_filler(
    tokenizer: "PreTrainedTokenizerBase", text: str, ids: Sequence[int], offsets: Sequence[Span]
) -> tuple[list[int], list[Span]]:
    """Return tokens and their places without the filler between a text and markers."""
    markers = markers_of(tokenizer)
    expected = 0 if markers.anywhere is None else len(markers.anywhere.findall(text))
    recognised = sum(map(markers.ids.__contains__, ids))

    fillers_before = [0]
    for character in text:
        fillers_before.append(fillers_before[-1] + (character == FILLER))
    clean_ids, clean_offsets, is_torn = [], [], recognised != expected
    for token_id, (begin, end) in zip(ids, offsets, strict=True):
        fillers = fillers_before[end] - fillers_before[begin]
        if fillers and fillers == end - begin:
            continue
        is_torn = is_torn or bool(fillers)
        clean_ids.append(token_id)
        clean_offsets.append((begin - fillers_before[begin], end - fillers_before[end]))
    if is_torn:
        raise SampleError(
            "texts must not hold the model's control tokens, which its tokenizer can't tell from "
            "the markers of its chat template. Leave the row out."
        )
    return clean_ids, clean_offsets

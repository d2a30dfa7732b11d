"""Types of the fields of requests."""

from typing import Annotated

from pydantic import AfterValidator


def _check_characters(text: str) -> str:
    # JSON can name half of a character, which no tokenizer reads.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid Unicode, got half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_check_characters)]
"""A text that a model can read."""

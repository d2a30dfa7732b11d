"""Chat templates: each model gets one in which every usual conversation has a form."""

import logging
from functools import lru_cache
from typing import TYPE_CHECKING

import jinja2

from tunetrail.learning.tokens.bounded_rendering import render_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
)
"""For a model without a chat template: each turn on lines of its own, an answer with an end."""

# Put before a template without a system role: the system's text opens the user's first turn.
_SYSTEM_TO_USER = (
    "{%- if messages[0]['role'] == 'system' and messages[1:] and messages[1]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + "
    "messages[1]['content']}] + messages[2:] -%}{%- endif -%}"
)
# What a template raises: its own refusals, and errors of expressions that meet unexpected values.
TEMPLATE_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError),
    *(OverflowError, RecursionError),
)


def prepare_template(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Give a tokenizer a chat template that every usual conversation has a form in, and say so.

    It is saved with the trained model, which is therefore served what it was trained on.

    Raises:
        BrokenModelError: The template takes too long or writes too much.
    """
    template = tokenizer.chat_template
    if template is None:
        _say_once(f"{name} has no chat template: turns are written on lines of their own")
        tokenizer.chat_template = PLAIN_TEMPLATE
    elif isinstance(template, str) and not _takes_system_turns(tokenizer):
        _say_once(
            f"the chat template of {name} has no system role: a system turn is written before "
            "the user's first turn"
        )
        tokenizer.chat_template = _SYSTEM_TO_USER + template


@lru_cache(maxsize=256)
def _say_once(message: str) -> None:
    _logger.warning(message)


def _takes_system_turns(tokenizer: "PreTrainedTokenizerBase") -> bool:
    exchange = [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
    ]

    try:
        render_template(tokenizer, exchange)
    except TEMPLATE_ERRORS:
        # Then it isn't the system turn that the template refuses.
        return True

    system = {"role": "system", "content": "instruction"}
    try:
        return "instruction" in render_template(tokenizer, [system, *exchange])
    except TEMPLATE_ERRORS:
        return False
